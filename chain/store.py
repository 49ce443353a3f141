"""The seam to the disk: an ordered map of bytes with atomic, durable batches.

``LevelStore`` is LevelDB (through plyvel), opened so that damage is noticed when it is read; ``MemoryStore`` is a dict
with the same behaviour.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import plyvel

from chain.exceptions import StoreError, StoreInUse

Changes = Mapping[bytes, bytes | None]
"""What a batch writes: a value for each key, or None to delete it."""


class Store(Protocol):
    """An ordered map from bytes to bytes. Every method may raise :class:`StoreError` on damage."""

    def get(self, key: bytes) -> bytes | None:
        """The value of ``key``, or None."""

    def items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Every (key, value) whose key starts with ``prefix``, in the order of keys."""

    def write(self, changes: Changes) -> None:
        """Apply all of ``changes`` or none; they have reached the disk when this returns."""

    def close(self) -> None:
        """Release the files. Safe to call twice."""


class MemoryStore:
    """A store that lives as long as the process, for simulations."""

    def __init__(self) -> None:
        self._entries: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self._entries.get(key)

    def items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key in sorted(key for key in self._entries if key.startswith(prefix)):
            yield key, self._entries[key]

    def write(self, changes: Changes) -> None:
        for key, value in changes.items():
            if value is None:
                self._entries.pop(key, None)
            else:
                self._entries[key] = value

    def close(self) -> None:
        pass


class LevelStore:
    """A LevelDB database in the directory ``path``.

    Checksums are verified on every read. One process may have it open at a time.

    Raises:
        StoreInUse: another process has it open.
        StoreError: it is missing (with ``create=False``) or damaged.
    """

    def __init__(self, path: Path, create: bool = True) -> None:
        self._path = path
        if not create and not (path / "CURRENT").exists():
            raise StoreError(f"no database in {path}")
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._db = plyvel.DB(str(path), create_if_missing=create, paranoid_checks=True)
        except (plyvel.Error, OSError) as error:
            if "lock" in str(error).lower():
                raise StoreInUse(f"{path} is in use by another process") from error
            raise StoreError(f"cannot open {path}: {error}") from error

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._db.get(key, verify_checksums=True)
        except plyvel.Error as error:
            raise StoreError(f"{self._path} is damaged: {error}") from error
        return value

    def items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        try:
            yield from self._db.iterator(prefix=prefix, verify_checksums=True)
        except plyvel.Error as error:
            raise StoreError(f"{self._path} is damaged: {error}") from error

    def write(self, changes: Changes) -> None:
        try:
            with self._db.write_batch(transaction=True, sync=True) as batch:
                for key, value in changes.items():
                    if value is None:
                        batch.delete(key)
                    else:
                        batch.put(key, value)
        except plyvel.Error as error:
            raise StoreError(f"cannot write to {self._path}: {error}") from error

    def close(self) -> None:
        self._db.close()
