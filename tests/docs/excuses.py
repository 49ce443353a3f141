"""The commands of the documents that :mod:`tests.docs.player` does not play: the reason, and what does it instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from chain.cli.contract import ExitCode


class Excuse(NamedTuple):
    """A command, or how it begins; why it is not played; the file that does the same, or has it done."""

    command: str
    reason: str
    instead: str

    def covers(self, command: str) -> bool:
        """Whether a command is this one or begins like it."""
        return f"{command} ".startswith(f"{self.command} ")


EXCUSES = (
    Excuse("wwwserve calibrate", "takes a backend that scores, for minutes", "tests/serving/cli/test_calibrate.py"),
    Excuse("wwwserve chain restart", "half of the validators are gone for good", "tests/processes/test_restart.py"),
    Excuse("make", "a stage of CI, or hours of work; target and benchmarks are looked up", ".ci/run"),
    Excuse("pip install", "takes PyPI; make test-wheel installs what make wheel writes", "tests/wheel"),
)

REFUSED: Mapping[str, ExitCode] = {
    "wwwserve wallet retire -d DIR": ExitCode.REFUSED,  # the reader is no validator
    "wwwserve wallet withdraw -d DIR": ExitCode.REFUSED,  # the unbonding time is not over
}
"""Commands that are refused to this reader, as the page says, with their exit codes."""


def find_excuse(command: str) -> Excuse | None:
    """The excuse of a command, if it has one."""
    return next((excuse for excuse in EXCUSES if excuse.covers(command)), None)
