"""Processes forked from one that has imported the program already, which takes each of them a second or two otherwise.

They end with the process that started them, however that ends.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from node import chain_main, main
from tests.support.waiting import PATIENCE

FORKSERVER = multiprocessing.get_context("forkserver")
PRELOADED: list[str] = []
"""What the process imports that all others are forked from. There is one such process, and so one list."""


def preload(*modules: str) -> None:
    """Have modules imported before the first process is forked; what they are not, each process imports by itself."""
    PRELOADED.extend(modules)
    FORKSERVER.set_forkserver_preload(PRELOADED)


preload(
    "node", "chain.cli.audit_commands", "chain.cli.look", "chain.cli.prove", "openai", "p2p.dht.service",
    "p2p.host.network", "serving.backends.openai_compatible", "serving.cli.running.owner",
    "serving.cli.setup.own_server", "serving.cli.setup.start", "serving.daemon.lifecycle", "serving.logs.console",
    "serving.logs.file", "tests.support.commands", "tests.support.fake_backend", __name__,
)  # fmt: skip
PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Have the kernel kill this process when the one that forked it ends (Linux: prctl(2))."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class ForkedCommand:
    """``wwwserve`` or ``chain`` with arguments, in a process of its own; the interface is that of ``Popen``."""

    def __init__(
        self, argv: tuple[str, ...], stdout: Path, stderr: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start it; what it prints is appended to the files."""
        self.argv = argv
        self._process = FORKSERVER.Process(
            target=_run_main, args=(argv, stdout, stderr, dict(environment or {})), daemon=True
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit code, negative for the signal that ended it; None as long as it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it ends and return its exit code.

        Raises:
            subprocess.TimeoutExpired: it has not ended after ``timeout`` seconds.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.argv, timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def _run_main(argv: tuple[str, ...], stdout: Path, stderr: Path, environment: dict[str, str]) -> None:
    """What a forked process does: its own standard streams, then what the installed command does."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores for what runs in its background
    os.environ.update(environment)
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, stdout, append), (2, stderr, append)):
        os.dup2(os.open(path, flags, 0o600), number)
    sys.argv = list(argv)
    main() if argv[0] == "wwwserve" else chain_main()


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """What it printed. AssertionError unless it ended well, without a word on stderr."""
        assert (self.code, self.stderr) == (0, ""), self
        return self.stdout


def run_command(*arguments: object, command: str = "wwwserve") -> Result:
    """Run ``wwwserve`` or ``chain`` to its end, in a process of its own."""
    with tempfile.TemporaryDirectory() as directory:
        argv = (command, *map(str, arguments))
        stdout, stderr = Path(directory, "stdout"), Path(directory, "stderr")
        process = ForkedCommand(argv, stdout, stderr)
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"{argv} has not ended after {PATIENCE:.0f} s") from None
        return Result(argv, code, stdout.read_text(), stderr.read_text())


class ForkedServer:
    """A function that serves in a process of its own, and says what its callers need to know first."""

    def __init__(self, serve: Callable[..., None], *arguments: object) -> None:
        """``serve`` is called with a pipe's end, to which it sends one value, and ``arguments``."""
        ours, theirs = FORKSERVER.Pipe(duplex=False)
        self._process = FORKSERVER.Process(target=_serve, args=(serve, theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()
        if not ours.poll(PATIENCE):
            self.kill()
            raise AssertionError("a server did not start")
        self.told: str = ours.recv()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def _serve(serve: Callable[..., None], *arguments: object) -> None:
    end_with_parent()
    serve(*arguments)
