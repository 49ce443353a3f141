"""The interface to the disk: an ordered map of bytes with atomic, durable batches.

``LevelStore`` is LevelDB (through plyvel), opened so that damage is noticed when it is read; ``MemoryStore`` is a dict
with the same behaviour.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import plyvel

from chain.exceptions import StoreDamaged, StoreError, StoreInUse
from chain.histogram import Histogram

TROUBLES = tuple(
    os.strerror(number)
    for number in (
        errno.EACCES, errno.EPERM, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS,
        errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE,
    )
)  # fmt: skip
"""What the system says when the files may well be sound."""

CHAIN_DIRECTORY = "chain"
"""Where the database is in a node's data directory."""

WRITE_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"""Bounds of the histogram of times that a batch takes until it is on the disk."""

Changes = Mapping[bytes, bytes | None]
"""What a batch writes: a value for each key, or None to delete it."""


class Store(Protocol):
    """An ordered map from bytes to bytes. Every method may raise :class:`StoreError` on damage."""

    def get(self, key: bytes) -> bytes | None:
        """The value of ``key``, or None."""

    def items(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Every (key, value) whose key starts with ``prefix`` and comes after ``after``, in the order of keys, as of
        the first one asked for."""

    def last_keys(self, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        """The last ``limit`` keys from ``start`` to before ``stop``, the last first."""

    def snapshot(self) -> AbstractContextManager[Store]:
        """What is stored now, to read while others write, in another thread too; it must be left before the store is
        closed."""

    def write(self, changes: Changes, is_synced: bool = True) -> None:
        """Apply all of ``changes`` or none; they have reached the disk when this returns.

        If it need not be synced, a crash may take this batch back as long as no later one was synced.
        """

    def close(self) -> None:
        """Release the files. Safe to call twice."""


class MemoryStore:
    """A store that lives as long as the process, for simulations."""

    def __init__(self) -> None:
        self._entries: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self._entries.get(key)

    def items(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        yield from sorted(
            entry for entry in self._entries.items() if entry[0].startswith(prefix) and (not after or entry[0] > after)
        )

    def last_keys(self, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        return sorted((key for key in self._entries if start <= key < stop), reverse=True)[:limit]

    @contextmanager
    def snapshot(self) -> Iterator[MemoryStore]:
        copy = MemoryStore()
        copy._entries = dict(self._entries)
        yield copy

    def write(self, changes: Changes, is_synced: bool = True) -> None:
        for key, value in changes.items():
            if value is None:
                self._entries.pop(key, None)
            else:
                self._entries[key] = value

    def close(self) -> None:
        pass


class _LevelReader:
    """Reads of a LevelDB database, or of a snapshot of one; checksums are verified on every read."""

    def __init__(self, db: Any, path: Path) -> None:
        self._db = db
        self._path = path

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._db.get(key, verify_checksums=True)
        except plyvel.Error as error:
            raise self._to_store_error(error) from error
        return value

    def items(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        try:
            entries = self._db.iterator(prefix=prefix, verify_checksums=True)
            if after:
                entries.seek(after)
            for key, value in entries:
                if not after or key > after:
                    yield key, value
        except plyvel.Error as error:
            raise self._to_store_error(error) from error

    def last_keys(self, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        options = {"reverse": True, "include_value": False, "verify_checksums": True}
        try:
            with self._db.iterator(start=start, stop=stop, **options) as keys:
                return list(islice(keys, limit))
        except plyvel.Error as error:
            raise self._to_store_error(error) from error

    def _to_store_error(self, error: plyvel.Error) -> StoreError:
        """Whether what a read says means damage, or that this machine is in trouble."""
        reason = _describe(error)
        if not isinstance(error, plyvel.CorruptionError) and any(trouble in reason for trouble in TROUBLES):
            return StoreError(f"cannot read {self._path}: {reason}")
        damage = StoreDamaged(f"{self._path} is damaged: {reason}")
        self._note_damage(damage)
        return damage

    def _note_damage(self, damage: StoreDamaged) -> None:
        """Remember that a read found damage."""


class LevelSnapshot(_LevelReader):
    """What a database held at one moment, to read in any thread."""

    def __init__(self, store: LevelStore, snapshot: Any) -> None:
        super().__init__(snapshot, store.path)
        self._store = store

    @contextmanager
    def snapshot(self) -> Iterator[LevelSnapshot]:
        yield self

    def write(self, changes: Changes, is_synced: bool = True) -> None:
        raise StoreError(f"a snapshot of {self._path} cannot be written to")

    def close(self) -> None:
        pass

    def _note_damage(self, damage: StoreDamaged) -> None:
        self._store.fault = damage


class WriteTimer:
    """Times batches until they are on the disk, in any thread. ``clock`` tells seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.times = Histogram(WRITE_BOUNDS_S)
        """Seconds that batches took, without those that failed."""
        self._clock = clock
        self._lock = Lock()

    @contextmanager
    def run(self) -> Iterator[None]:
        """Time one batch, within the context."""
        started = self._clock()
        yield
        with self._lock:
            self.times.observe(self._clock() - started)


class LevelStore(_LevelReader):
    """A LevelDB database in the directory ``path``.

    Checksums are verified on every read. One process may have it open at a time, and only once: LevelDB drops its lock
    when the process that holds it tries again.

    What damage can do unnoticed: a lost log file or the lost end of a manifest takes the last batches with it, or
    leaves a hole where they were. A batch is still there as a whole or not at all; that what is found belongs together
    is for the reader to check, as :class:`chain.store.writer.ChainStore` does for the state and the audit for the rest.

    With a ``timer`` each write is timed.

    Raises:
        StoreInUse: another process has it open.
        StoreDamaged: its files are not what was written.
        StoreError: it is missing (with ``create=False``) or cannot be opened.
    """

    def __init__(self, path: Path, create: bool = True, timer: WriteTimer | None = None) -> None:
        self.path = path
        self.fault: StoreDamaged | None = None
        """The damage that the last failing read found, or None."""
        self._timer = timer
        if not (path / "CURRENT").exists():
            if any(path.glob("*.ldb")) or any(path.glob("*.log")):  # LevelDB would begin anew, and delete them
                raise StoreDamaged(f"{path} is damaged: its file CURRENT is missing")
            if not create:
                raise StoreError(f"no database in {path}")
        try:
            path.mkdir(parents=True, exist_ok=True)
            db = plyvel.DB(str(path), create_if_missing=create, paranoid_checks=True)
        except plyvel.CorruptionError as error:
            raise StoreDamaged(f"{path} is damaged: {_describe(error)}") from error
        except (plyvel.Error, OSError) as error:
            if _describe(error).startswith("IO error: lock "):
                raise StoreInUse(f"{path} is in use by another process") from error
            raise StoreError(f"cannot open {path}: {_describe(error)}") from error
        super().__init__(db, path)

    @contextmanager
    def snapshot(self) -> Iterator[LevelSnapshot]:
        with self._db.snapshot() as snapshot:
            yield LevelSnapshot(self, snapshot)

    def write(self, changes: Changes, is_synced: bool = True) -> None:
        try:
            with (
                self._timer.run() if self._timer and is_synced else nullcontext(),
                self._db.write_batch(transaction=True, sync=is_synced) as batch,
            ):
                for key, value in changes.items():
                    if value is None:
                        batch.delete(key)
                    else:
                        batch.put(key, value)
        except plyvel.CorruptionError as error:  # LevelDB noticed it when it merged tables
            raise self._to_store_error(error) from error
        except plyvel.Error as error:
            raise StoreError(f"cannot write to {self._path}: {_describe(error)}") from error

    def close(self) -> None:
        self._db.close()

    def _note_damage(self, damage: StoreDamaged) -> None:
        self.fault = damage


def _describe(error: Exception) -> str:
    """What LevelDB says, which plyvel passes on as bytes."""
    reason = error.args[0] if error.args else error
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(error)
