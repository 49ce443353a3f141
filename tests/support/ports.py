"""Ports of loopback that only one test run of this machine uses, for processes that must find one another again.

A port that the kernel picks (port 0) may be given to another program while its first owner is being restarted. These
come from below the kernel's own range, and each is locked by one byte of a file until the test process ends.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from itertools import count
from pathlib import Path

PORTS = range(10_000, 32_000)
"""Linux gives out ports from 32,768 on by itself."""

_places = (PORTS[place % len(PORTS)] for place in count(os.getpid() * 64))
_lock_file = os.open(
    Path(tempfile.gettempdir()) / f"wwwserve-test-ports-{os.getuid()}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
)
"""Open as long as the process: closing any descriptor of the file would give up its locks."""


def reserve_ports(number: int) -> list[int]:
    """Ports on which no process listens, and which no other process gets from here as long as this one runs."""
    found: list[int] = []
    while len(found) < number:
        port = next(_places)
        try:
            fcntl.lockf(_lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:  # locked by another test process, or in use by some other program
            continue
        found.append(port)
    return found
