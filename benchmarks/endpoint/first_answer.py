"""From nothing to the first answer: the README's first commands, word for word, with the time of each.

The commands are those under "The first answer" in README.md. A full run makes a clone of this repository and installs
it there; then it makes the wheel, installs that in an empty environment, and types the rest again. So it depends on the
network. A quick run begins with what is installed already. The line that starts the node is left running, as in a
terminal of its own, and is over when the node says that it is ready. Every command must succeed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.machine import ROOT
from benchmarks.pictures import Chart, Series
from benchmarks.report import Figure, Option, Run

SECTION = "## The first answer"
INSTALL = "make install"
MAKE_WHEEL, INSTALL_WHEEL = "make wheel", "pip install --find-links dist 'wwwserve[embedded]'"
"""As docs/operating.md has it, under "Install"."""
START = "wwwserve run"
READY = "Stop with Ctrl-C"
ANSWER = "wwwserve ask"
START_TIMEOUT_S = 300.0
ANSWER_GOAL_S = 120.0
"""Seconds from the first command to the first answer, the installation included."""
POLL_S = 0.02


def read_commands(readme: str) -> list[str]:
    """The commands of the first block under :data:`SECTION`, without their comments.

    Raises:
        ValueError: there is no such block.
    """
    _, found, rest = readme.partition(f"{SECTION}\n")
    block = re.search(r"^```bash\n(.*?)^```", rest, re.DOTALL | re.MULTILINE)
    if not found or block is None:
        raise ValueError(f"README.md has no block of commands under {SECTION!r}")
    return [line.partition(" #")[0].strip() for line in block[1].splitlines() if line.strip()]


class Shell:
    """A shell that a newcomer types into, in ``directory``; what its commands keep is in ``home``."""

    def __init__(self, directory: Path, home: Path) -> None:
        self.directory = directory
        self._log = home / "node.log"
        self._output = (home / "output").open("w+")
        environment = {**os.environ, "WWWSERVE_DATA_DIR": str(home / "node")}
        for name in ("DISPLAY", "WAYLAND_DISPLAY"):
            environment.pop(name, None)
        self._bash = subprocess.Popen(
            ("bash", "--norc"),
            cwd=directory, env=environment, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._output,
        )  # fmt: skip

    def run(self, command: str) -> float:
        """Run one command to its end, or until the node that it starts is ready. Returns the seconds that it took.

        Raises:
            SystemExit: it failed.
        """
        started = time.perf_counter()
        if command == START:
            self._type(f"{command} > {self._log} 2>&1 &")
            while READY not in (self._log.read_text() if self._log.exists() else ""):
                if time.perf_counter() > started + START_TIMEOUT_S:
                    raise SystemExit(f"the node is not ready:\n{self._log.read_text()}")
                time.sleep(POLL_S)
        elif code := self._type(f"{command} 1>&2"):
            self._output.seek(0)
            raise SystemExit(f"{command!r} ended with {code}:\n{self._output.read()[-2000:]}")
        return time.perf_counter() - started

    def _type(self, line: str) -> int:
        """Type a line, and wait for its exit code."""
        assert self._bash.stdin is not None and self._bash.stdout is not None
        self._bash.stdin.write(f"{line}\necho $?\n")
        self._bash.stdin.flush()
        return int(self._bash.stdout.readline())

    def close(self) -> None:
        """End the shell and all that it has started, in order."""
        self._bash.communicate("kill $(jobs -p) 2>/dev/null; wait\n")
        self._output.close()
        with suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGKILL)


@contextmanager
def open_shell(directory: Path | None = None) -> Iterator[Shell]:
    """A shell in ``directory`` (default: a new one, empty), whose commands keep what they keep elsewhere."""
    with tempfile.TemporaryDirectory() as name:
        home, empty = Path(name), Path(name, "empty")
        empty.mkdir()
        shell = Shell(directory or empty, home)
        try:
            yield shell
        finally:
            shell.close()


def type_all(shell: Shell, commands: Sequence[str]) -> dict[str, float]:
    """Type commands one after the other. Returns the seconds of each, but of those that only set a variable."""
    taken = {command: shell.run(command) for command in commands}
    return {command: seconds for command, seconds in taken.items() if not command.startswith("export ")}


def measure_from_nothing(commands: Sequence[str]) -> dict[str, dict[str, float]]:
    """Type all commands in a clone, and then those after its installation where its wheel is installed."""
    with tempfile.TemporaryDirectory() as name:
        clone = Path(name, "clone")
        subprocess.run(("git", "clone", "--quiet", str(ROOT), str(clone)), check=True)
        with open_shell(clone) as shell:
            taken = {"clone": type_all(shell, commands)}
            shell.run(MAKE_WHEEL)
        with open_shell() as shell:
            (shell.directory / "dist").symlink_to(clone / "dist")
            interpreter = Path(sys.executable).resolve()
            installing = (f"{interpreter} -m venv .venv", "export PATH=$PWD/.venv/bin:$PATH", INSTALL_WHEEL)
            rest = [command for command in commands if command != INSTALL]
            taken["wheel"] = type_all(shell, (*installing, *rest))
    return taken


def measure(commands: Sequence[str], is_from_nothing: bool) -> tuple[list[Figure], list[Chart]]:
    """Type all commands, from nothing or with what is installed."""
    if is_from_nothing:
        ways = measure_from_nothing(commands)
    else:
        with open_shell(ROOT) as shell:
            ways = {"installed": type_all(shell, [command for command in commands if command != INSTALL])}
    figures, charts = [], []
    for way, taken in ways.items():
        figures += [Figure(f"{way}: {describe(command)}", seconds, "s") for command, seconds in taken.items()]
        last = next(place for place, command in enumerate(taken) if command.startswith(ANSWER))
        until_answer = sum(list(taken.values())[: last + 1])
        limit = ANSWER_GOAL_S if is_from_nothing else None
        headline = f"from a {way} to the first answer" if is_from_nothing else ""
        figures.append(Figure(f"{way}: first answer", until_answer, "s", None, "", limit, headline=headline))
        bars = Series("s", (), tuple(taken.values()))
        charts.append(Chart(f"The first commands: {way}", "", "s", (bars,), tuple(map(describe, taken)), y_scale="log"))
    return figures, charts


def describe(command: str) -> str:
    """A command without what depends on the machine."""
    return "python -m venv .venv" if command.endswith(" -m venv .venv") else command


def main() -> None:
    """Command line."""
    run = Run(
        "first_answer",
        __doc__,
        Option("clone", 1, 0, "1: begin with a clone, and with a wheel, and install them; 0: with what is installed"),
    )
    commands = read_commands((ROOT / "README.md").read_text())
    run.finish(*measure(commands, bool(run.values["clone"])))


if __name__ == "__main__":
    main()
