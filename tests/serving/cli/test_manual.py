"""docs/operating.md against the program: its commands exist, and so do the messages of its troubleshooting tables."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from typer.main import get_command

from serving.cli.app import build_wwwserve_app

ROOT = Path(__file__).resolve().parents[3]
MANUAL = (ROOT / "docs" / "operating.md").read_text()
PACKAGES = ("chain", "consensus", "p2p", "serving")


async def run_nothing(*_: object) -> None:
    """Stands for running a node."""


def find_fault(words: list[str]) -> str | None:
    """What of a command line the program does not know."""
    command = get_command(build_wwwserve_app(run_nothing))
    for number, word in enumerate(words):
        commands = getattr(command, "commands", None)
        if commands is None:
            options = {option for parameter in command.params for option in parameter.opts}
            own = words[number : words.index("--") if "--" in words else None]  # what follows is another program's
            return next((word for word in own if word.startswith("-") and word not in options), None)
        if word not in commands:
            return word
        command = commands[word]
    return None


def test_every_command_of_the_manual_exists() -> None:
    blocks = re.findall(r"^```\w*\n(.*?)^```$", MANUAL, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("wwwserve ")]
    assert len(commands) > 25
    assert [command for command in commands if find_fault(command[1:])] == []


def test_the_check_of_commands_finds_faults() -> None:
    assert find_fault(["wallet", "bond", "--data-dir", "DIR", "5"]) is None
    assert find_fault(["wallet", "lend", "5"]) == "lend"
    assert find_fault(["run", "--annonymous"]) == "--annonymous"


def test_every_message_of_the_manual_is_one_of_the_program() -> None:
    source = "\n".join(path.read_text() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # texts that go on in the next line
    section = MANUAL.partition("## Troubleshooting")[2].partition("## Damage")[0]
    messages = re.findall(r"^\| [^`|]*`([^`]+)`[^|]*\|", section, re.MULTILINE)
    assert len(messages) > 25
    for message in messages:
        # What stands for other words in the message: dots, names, numbers, addresses.
        parts = re.split(r"cannot (?=dial)|…|\bDIR\b|[0-9./]+|'[^']*'|: ", message)
        assert max(parts, key=len).strip() in source, message
