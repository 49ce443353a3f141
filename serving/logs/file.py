"""The log file in a data directory: one event a line, as JSON, in two files of bounded size.

The newer part is :data:`LOG_FILE`. When it is half as large as both may be together, it takes the place of the older
part. Only the owner may read them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from chain.files import SECRET_MODE

LOG_FILE = "node.log"
"""The newer part, in the data directory."""
OLDER_LOG_FILE = "node.log.1"
"""The older part."""


class LogFile:
    """Writes lines; both parts have at most ``max_bytes`` together, but for a line that is longer."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._path = directory / LOG_FILE
        self._older = directory / OLDER_LOG_FILE
        self._part_bytes = max_bytes // 2
        self._descriptor = _open(self._path)
        self._size = os.fstat(self._descriptor).st_size

    def write(self, line: str) -> None:
        """Write a line.

        Raises:
            OSError: the disk is full, or fails.
        """
        data = line.encode() + b"\n"
        if self._size and self._size + len(data) > self._part_bytes:
            with suppress(FileNotFoundError):  # it was moved, and no new one could be opened
                self._path.replace(self._older)
            full, self._descriptor = self._descriptor, _open(self._path)
            self._size = 0
            os.close(full)
        self._size += os.write(self._descriptor, data)

    def close(self) -> None:
        """Write no more."""
        os.close(self._descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, SECRET_MODE)


def read_events(directory: Path) -> Iterator[dict[str, Any]]:
    """The events of both parts, the oldest first. What is not a line of JSON is left out.

    Raises:
        OSError: they cannot be read; FileNotFoundError if there is no log.
    """
    try:
        with (directory / OLDER_LOG_FILE).open("rb") as older:
            yield from _parse(older)
    except FileNotFoundError:
        pass
    with (directory / LOG_FILE).open("rb") as newer:
        yield from _parse(newer)


class LogFollower:
    """Reads what is written from now on, also after the file has taken the place of the older part.

    Raises:
        OSError: there is no log.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOG_FILE
        self._file = self._path.open("rb")
        self._file.seek(0, os.SEEK_END)
        self._rest = b""

    def read(self) -> list[dict[str, Any]]:
        """The events since the last call."""
        found = self._read_part()
        try:
            is_newer = self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:  # in the middle of a change
            return found
        if is_newer:
            found += self._read_part()  # what came before it was replaced
            self._file.close()
            self._file, self._rest = self._path.open("rb"), b""
            found += self._read_part()
        return found

    def close(self) -> None:
        """Read no more."""
        self._file.close()

    def _read_part(self) -> list[dict[str, Any]]:
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        return [event for line in lines if (event := _parse_line(line)) is not None]


def _parse(file: BinaryIO) -> Iterator[dict[str, Any]]:
    for line in file:
        if (event := _parse_line(line)) is not None:
            yield event


def _parse_line(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None
