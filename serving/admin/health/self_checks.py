"""What is looked at once, when the owner asks: configuration, disk, ports and clock of the machine that a node runs on.

``doctor`` looks at them whether the node runs or not, and at more (:mod:`serving.cli.doctor.checks`); the dashboard has
a running node look (:func:`serving.admin.health.health.report_checks`). What is wrong has a code of
:mod:`serving.admin.health.troubles`.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from consensus.voting.disk import FAULT_FILE
from p2p.addresses import get_endpoint
from serving.admin.health.diagnosis import MIN_FREE_BYTES, SLOW_WRITE_S
from serving.admin.health.troubles import Trouble, describe, format_bytes
from serving.config.data_directory import CONFIG_FILE
from serving.config.fields import ConfigError
from serving.config.file import load_config
from serving.config.schema import NodeConfig

MAX_CLOCK_ERROR_MS = 5_000
"""A block that is newer than now by more says that the clock here is behind."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of a subject: that it is well (``text`` says how), or what is wrong with it."""

    subject: str
    text: str = ""
    trouble: Trouble | None = None

    def to_plain(self) -> dict[str, Any]:
        """For programs; the severity of what is well is ``ok``, and there is no code."""
        well = {"code": "", "severity": "ok", "text": self.text, "mend": "", "command": ""}
        return {**(well if self.trouble is None else asdict(self.trouble)), "subject": self.subject}


def find(code: str, *, of: str = "", **details: object) -> Finding:
    """The finding that something is wrong, with the details that the templates of the trouble name.

    ``of`` says which of several like things it is, such as the name of one backend.
    """
    trouble = describe(code, **details)
    return Finding(of or trouble.subject, trouble=trouble)


def check_config(directory: Path) -> tuple[NodeConfig | None, Finding]:
    """The configuration in a data directory, None if it cannot be used."""
    path = directory / CONFIG_FILE
    try:
        return load_config(path), Finding("config", str(path))
    except ConfigError as error:
        return None, find("config", reason=error, path=path)


def check_disk(directory: Path, clock: Callable[[], float]) -> Iterator[Finding]:
    """Space, speed, and marks of damage. ``clock`` tells seconds."""
    free_bytes = shutil.disk_usage(directory).free
    free = format_bytes(free_bytes)
    if free_bytes < MIN_FREE_BYTES:
        yield find("disk_full", free=free, directory=directory)
    else:
        yield _time_sync(directory, free, clock)
    fault = directory / "chain" / FAULT_FILE
    if fault.exists():
        yield find("database", reason=fault.read_text(errors="replace"), directory=directory)


def _time_sync(directory: Path, free: str, clock: Callable[[], float]) -> Finding:
    """How long a small file takes to be durable."""
    try:
        started = clock()
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        took = clock() - started
    except OSError as error:
        return find("disk_unwritable", directory=directory, reason=error.strerror)
    if took >= SLOW_WRITE_S:
        return find("disk_slow", free=free, took_ms=1000 * took)
    return Finding("disk", f"{free} free, fsync {1000 * took:.0f} ms")


def check_ports(config: NodeConfig, directory: Path, *, runs: bool, listens: bool = True) -> Iterator[Finding]:
    """Check that the ports of a running node (``runs``) are listened on, or that those of a stopped node are free.

    No connection is made: a port that is listened on is one that cannot be bound. Ports for peers are left out if it
    does not listen for them, whatever the file says.
    """
    well = []
    for key, host, port in _list_ports(config, listens):
        fault = _try_to_bind(host, port)
        if runs and fault is None:
            yield find("port_closed", key=key, host=host, port=port, directory=directory)
        elif fault is not None and (not runs or fault.errno not in (errno.EADDRINUSE, errno.EACCES)):
            yield find("port", key=key, host=host, port=port, reason=fault.strerror)
        else:
            well.append(f"{key} {port}")
    if well:
        yield Finding("port", f"{', '.join(well)}: {'listened on' if runs else 'free'}")


def _list_ports(config: NodeConfig, listens: bool) -> Iterator[tuple[str, str, int]]:
    """Key of the configuration, host and port of each listener; without those that the system chooses."""
    places = [("api.port", config.api.host, config.api.port), ("admin.port", config.admin.host, config.admin.port)]
    if config.dashboard.public:
        places.append(("dashboard.port", config.dashboard.host, config.dashboard.port))
    for address in config.listen if listens else ():
        try:
            host, port = get_endpoint(address)
        except ValueError:
            continue
        places.append(("listen", str(host), int(port)))
    return (place for place in places if place[2])


def _try_to_bind(host: str, port: int) -> OSError | None:
    """What keeps a program from listening there."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
    except OSError as error:
        return error
    return None


def check_clock(timestamp: int, now: int) -> Finding:
    """This machine's clock (ms), against the timestamp of the newest final block."""
    ahead = timestamp - now
    if ahead > MAX_CLOCK_ERROR_MS:
        return find("clock", ahead_s=ahead / 1000)
    return Finding("clock", "not behind the chain")
