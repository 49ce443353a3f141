"""Man pages and files for completion, from the tree of commands: ``python -m serving.cli.man_pages DIRECTORY``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from typer._click.core import Context
from typer._completion_shared import get_completion_script
from typer.main import get_command

from chain.cli.contract import ExitCode
from chain.cli.text import print_line
from serving.cli.app import build_wwwserve_app

COLUMNS = 100
"""Width of the help in the reference."""
PROGRAM = "wwwserve"
COMPLETIONS = {"bash": PROGRAM, "zsh": f"_{PROGRAM}", "fish": f"{PROGRAM}.fish"}
"""Where each shell looks for the completion of a command."""
EXIT_CODES = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "failed",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.NO_NODE: "no node runs in the data directory, or it is starting or ending",
    ExitCode.REFUSED: "the ledger refuses the operation",
    ExitCode.FAULT: "a fault was found in a chain or a database",
    ExitCode.NOT_PROVEN: "nothing is wrong, but it is not proven",
    ExitCode.TIMEOUT: "the node does not answer, or not in time",
}


def find_commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group of commands with the words that call it."""
    yield from _walk((PROGRAM,), get_command(build_wwwserve_app()))


def _walk(path: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from _walk((*path, name), each)


def get_help(path: tuple[str, ...], command: Any) -> str:
    """The help of a command as a terminal of ``COLUMNS`` columns shows it."""
    context = Context(command, info_name=" ".join(path), terminal_width=COLUMNS, max_content_width=COLUMNS)
    text: str = command.get_help(context)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def write_man_page(path: tuple[str, ...], command: Any) -> str:
    """A command as a page of section 1 of the manual, in roff (man(7))."""
    name = "-".join(path)
    usage, _, rest = get_help(path, command).partition("\n\n")
    summary = (command.help or "").partition("\n")[0]
    lines = [
        f'.TH {_escape(name.upper())} 1 "" "wwwserve {version("wwwserve")}"',
        ".SH NAME",
        f"{_escape(name)} \\- {_escape(summary)}",
        ".SH SYNOPSIS",
        ".B " + _escape(re.sub(r"\s+", " ", usage.removeprefix("Usage: "))),
    ]
    is_within = False
    for line in rest.splitlines():
        if heading := re.fullmatch(r" {0,2}([A-Z][a-z]+):", line):
            lines += [*([".fi"] if is_within else []), f".SH {heading[1].upper()}", ".nf"]
            is_within = True
        elif not is_within:
            lines += [".SH DESCRIPTION", ".nf", _escape(line.strip())]
            is_within = True
        else:
            lines.append(_escape(line.removeprefix("  ")))
    lines += [*([".fi"] if is_within else []), ".SH EXIT STATUS"]
    for code, meaning in EXIT_CODES.items():
        lines += [".TP", str(int(code)), meaning]
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    """Text in which roff sees no request and no escape."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def write_pages(directory: Path) -> list[Path]:
    """Write all man pages and files for completion below a directory. Returns what was written."""
    written = []
    pages = directory / "man" / "man1"
    pages.mkdir(parents=True, exist_ok=True)
    for path, command in find_commands():
        written.append(pages / f"{'-'.join(path)}.1")
        written[-1].write_text(write_man_page(path, command))
    for shell, file in COMPLETIONS.items():
        (directory / "completions" / shell).mkdir(parents=True, exist_ok=True)
        written.append(directory / "completions" / shell / file)
        script = get_completion_script(prog_name=PROGRAM, complete_var=f"_{PROGRAM.upper()}_COMPLETE", shell=shell)
        written[-1].write_text(script + "\n")
    return written


if __name__ == "__main__":
    print_line(f"{len(write_pages(Path(sys.argv[1])))} files written below {sys.argv[1]}")
