"""Running a command line in this process as its entry point does, and what came of it."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import typer

from chain.cli.contract import run_command
from serving.cli.errors import describe_error


class Outcome(NamedTuple):
    """Exit code, and what was printed."""

    code: int
    stdout: str
    stderr: str


def run_cli(app: typer.Typer, *arguments: object) -> Outcome:
    """Run a command line."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        code = run_command(app, [str(argument) for argument in arguments], describe_error)
    return Outcome(code, stdout.getvalue(), stderr.getvalue())
