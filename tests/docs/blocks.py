"""The fenced blocks of the documents, read as what a reader makes of them: commands to type, files to write.

The documents show some things that are different for each reader by a stand-in (``12D3KooW…``). :data:`STAND_INS` is
all of them; a test puts in what its own network has.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
"""All documents but ``docs/reference``, which is written from the code with its examples (``test_contract.py``)."""
SHELL = "bash"

ADDRESS = "12D3KooWQvTxaoyGqNKYT9hek1DhLxZJzC8ykN71NWKJREaB5oXb"
PEER = f"/ip4/203.0.113.9/tcp/4001/p2p/{ADDRESS}"
BLOCK = "5f0c" * 16
STAND_INS: Mapping[str, str] = {
    "/ip4/…/p2p/12D3KooW…": PEER,
    "/ip4/203.0.113.9/tcp/4001/p2p/12D3KooW…": PEER,
    "/ip4/192.168.1.10/tcp/4001/p2p/12D3KooW…": PEER,
    "12D3KooW…": ADDRESS,
    "ADDRESS": ADDRESS,
    "INVITATION": "invitation.txt",
    "12800:5f0c…": f"12800:{BLOCK}",
}
"""What stands in the documents for what each reader has of their own, with an example of it. Longer ones come first."""


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: the page, the line of its fence, the heading above it, its language, and its text."""

    page: str
    line: int
    heading: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """The command lines of a shell block, without comments; one that goes on after a backslash is one."""
        assert self.language == SHELL
        lines = self.text.replace("\\\n", " ").splitlines()
        return [command for line in lines if (command := strip_comment(line))]


@cache
def read_blocks(page: str) -> tuple[Block, ...]:
    """The blocks of a page, in order. AssertionError if the last one has no end."""
    blocks, heading, start = [], "", None
    lines = (ROOT / page).read_text().splitlines()
    for number, line in enumerate(lines, 1):
        fence = line.lstrip(" >").startswith(("```", "~~~"))
        if start is None and line.startswith("#"):
            heading = line.lstrip("# ")
        elif fence and start is None:
            start = number
        elif fence and start is not None:
            language = lines[start - 1].lstrip(" >`~").strip()
            blocks.append(Block(page, start, heading, language, "\n".join(lines[start : number - 1]) + "\n"))
            start = None
    assert start is None, f"{page}:{start}: this block has no end"
    return tuple(blocks)


def is_program(block: Block) -> bool:
    """Whether a block is a program that asks a node."""
    return block.language == "python" and "base_url=" in block.text


def find_blocks(*languages: str) -> list[Block]:
    """The blocks of all pages in one of these languages."""
    return [block for page in PAGES for block in read_blocks(page) if block.language in languages]


def strip_comment(line: str) -> str:
    """A command line without its comment, which begins with a ``#`` after a space and outside of quotes."""
    quote = ""
    for place, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "#" and (place == 0 or line[place - 1].isspace()):
            return line[:place].strip()
    return line.strip()


def fill_in(text: str, stand_ins: Mapping[str, str] = STAND_INS) -> str:
    """``text`` with what a reader has in place of the stand-ins, each as a word of its own."""
    names = "|".join(map(re.escape, sorted(stand_ins, key=len, reverse=True)))
    return re.sub(rf"(?<![\w-])(?:{names})(?![\w-])", lambda found: stand_ins[found[0]], text)


def split_words(command: str) -> list[str]:
    """The words of a command; what a shell would put in place of ``$(cat FILE)`` is the file's name, and where its
    output goes is left out."""
    words = shlex.split(re.sub(r"\$\(cat ([^)]*)\)", r"\1", command))
    return words[: words.index(">")] if ">" in words else words
