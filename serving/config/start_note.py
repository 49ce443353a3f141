"""What a node does that is still starting, for commands: it cannot answer them yet.

The note is a file in the data directory, from when the node has locked that until it is ready. The note of a node that
ended while it started counts for nothing, since that node no longer holds the lock.
"""

from __future__ import annotations

import fcntl
import json
import time
from dataclasses import dataclass
from pathlib import Path

from serving.config.data_directory import LOCK_FILE

START_FILE = "start.json"
"""The note, in a data directory."""
_BEGAN_MS = round(1000 * time.time())
"""When this process began to start a node, in ms since the Unix epoch: it loads this module first."""


@dataclass(frozen=True, slots=True)
class Start:
    """A start under way: ``since_ms`` (since the Unix epoch), and what is being done, such as "opening its ledger"."""

    since_ms: int
    doing: str


def note_start(directory: Path, doing: str) -> None:
    """Say what the node does that this process starts; ``directory`` must be locked."""
    draft = directory / f"{START_FILE}.new"
    draft.write_text(json.dumps({"since_ms": _BEGAN_MS, "doing": doing}), encoding="utf-8")
    draft.replace(directory / START_FILE)


def end_start(directory: Path) -> None:
    """The node is ready, or has ended."""
    (directory / START_FILE).unlink(missing_ok=True)


def read_start(directory: Path) -> Start | None:
    """What the node in a directory does if it is starting; None if it is not."""
    try:
        content = json.loads((directory / START_FILE).read_text(encoding="utf-8"))
        start = Start(int(content["since_ms"]), str(content["doing"]))
        return start if _is_locked(directory / LOCK_FILE) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
