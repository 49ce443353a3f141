"""A program of its own: runs a command, and ends it and all that it started as soon as its own parent is gone.

``python process_guard.py GRACE_S COMMAND …``. Standard input is a pipe that the parent holds open. When it is closed,
by the parent or by the parent's death, whatever that was, the process group of the command gets SIGTERM, and after
``GRACE_S`` seconds SIGKILL. If the command ends by itself, so does this program, with its exit status.

It imports the standard library alone, so that it starts fast and stays small.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that are ignored, since the parent decides: a Ctrl-C at the terminal reaches this program too."""
POLL_INTERVAL_S = 0.2
"""Seconds between looks at the command where the system has no better way to wait for it."""


def guard(command: list[str], grace_s: float) -> int:
    """Run a command for as long as standard input is open. Returns its exit status."""
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: None)  # a handler, because what is ignored would be ignored by the command too
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f"cannot run {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    _wait(child)
    end_group(child, grace_s)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _wait(child: subprocess.Popen[bytes]) -> None:
    """Return when standard input is closed, or the command has ended."""
    sources = [sys.stdin.fileno()]
    interval: float | None = POLL_INTERVAL_S
    if hasattr(os, "pidfd_open"):
        with suppress(OSError):
            sources.append(os.pidfd_open(child.pid))
            interval = None
    while child.poll() is None:
        ready, _, _ = select.select(sources, [], [], interval)
        if sources[0] in ready and not os.read(sources[0], 4096):
            return


def end_group(child: subprocess.Popen[bytes], grace_s: float) -> None:
    """End the process group that a command leads, at first kindly."""
    deadline = time.monotonic() + grace_s
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


if __name__ == "__main__":
    sys.exit(guard(sys.argv[2:], float(sys.argv[1])))
