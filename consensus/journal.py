"""The vote journal: every vote of this node, durable before it is sent, so that no crash makes it contradict itself.

The file is a row of records of ``RECORD_SIZE`` bytes and nothing else:

====================  ======================================================
8 bytes, big-endian   the vote's epoch, so that a vote need not be decoded to find those of an epoch
2 bytes, big-endian   length of the vote's encoding
``PAYLOAD_SIZE``      the vote's canonical encoding, filled up with zeros
32 bytes              hash of the record before (or of chain id and key, for the first), and of all bytes above
====================  ======================================================

Records of one size leave no doubt about where the last one begins, and never straddle a disk sector. A shorter rest at
the end is a record whose write was cut off: its vote was never sent, and it is cut away. Anything else that does not
fit is damage. A file that ends early at a whole record looks right by itself; ``check_reaches`` compares it with the
length and hash that the ledger stored with its last final block. The loss of votes signed after that block stays
undetected.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from chain import crypto
from chain.exceptions import CodecError, StoreError, StoreInUse
from chain.votes import Vote

RECORD_SIZE = 256
HASH_SIZE = 32
PAYLOAD_SIZE = RECORD_SIZE - 10 - HASH_SIZE

_CHUNK = 4096 * RECORD_SIZE


class JournalDamaged(StoreError):
    """The journal is not what this node wrote; ``offset`` is the byte at which the first bad record begins."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"vote journal damaged at byte {offset}: {reason}")
        self.offset = offset
        self.reason = reason


class JournalFile(Protocol):
    """The file under a journal. Every method raises ``OSError`` when the disk fails."""

    def get_size(self) -> int:
        """Length in bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``; fewer only at the end."""

    def append(self, data: bytes) -> None:
        """Write all of ``data`` at the end."""

    def truncate(self, size: int) -> None:
        """Drop everything from byte ``size``."""

    def sync(self) -> None:
        """Return once all of it would survive a power failure."""

    def close(self) -> None:
        """Let go of the file and its lock."""


class DiskFile:
    """A :class:`JournalFile` on disk, locked against a second process.

    Raises:
        StoreInUse: another process holds it.
    """

    def __init__(self, path: Path) -> None:
        created = not path.exists()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if created:
                _sync_directory(path.parent)
        except BlockingIOError as error:
            self.close()
            raise StoreInUse(f"{path} is in use by another process") from error
        except OSError:
            self.close()
            raise

    def get_size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def append(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._descriptor, data) :]

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class MemoryFile:
    """A :class:`JournalFile` in memory, for simulations; it outlives its node as a disk does."""

    def __init__(self) -> None:
        self.data = bytearray()

    def get_size(self) -> int:
        return len(self.data)

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.data[offset : offset + size])

    def append(self, data: bytes) -> None:
        self.data += data

    def truncate(self, size: int) -> None:
        del self.data[size:]

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


class Journal:
    """The votes of one key on one chain, in the order they were signed.

    ``append`` blocks for the length of an fsync (some milliseconds). In memory is only where each epoch lies in the
    file: a node that starts from an empty chain passes through all of them again.

    Args:
        file: what lies under it.
        chain_id, public_key: whose votes these are; a journal of another chain or key counts as damaged.

    Raises:
        JournalDamaged: what is on disk is not what was written.
    """

    def __init__(self, file: JournalFile, chain_id: bytes, public_key: bytes) -> None:
        self._file = file
        self._public_key = public_key
        self._root = crypto.hash_bytes("journal", chain_id, public_key)
        self._spans: dict[int, tuple[int, int]] = {}
        # By epoch the numbers of its first record and of the one after its last; others may lie between.
        self._is_usable = True
        self.length = 0
        """Number of votes."""
        self.head_hash = self._root
        """Hash of the last record, which covers all before it."""
        for content, record_hash in self._scan(0, file.get_size() // RECORD_SIZE):
            self._note(int.from_bytes(content[:8], "big"), record_hash)
        if file.get_size() > self.length * RECORD_SIZE:
            file.truncate(self.length * RECORD_SIZE)
            file.sync()

    @classmethod
    def open(cls, path: Path, chain_id: bytes, public_key: bytes) -> Journal:
        """Open the journal at ``path``, or begin one.

        Raises:
            StoreInUse: another process has it open.
            JournalDamaged: what is on disk is not what was written.
        """
        file = DiskFile(path)
        try:
            return cls(file, chain_id, public_key)
        except BaseException:
            file.close()
            raise

    def append(self, vote: Vote) -> None:
        """Add a vote; it is durable when this returns.

        Raises:
            StoreError: the disk failed. Whether the vote is durable is unknown: it must not be sent, and the journal
                takes no more until it is opened again.
        """
        if not self._is_usable:
            raise StoreError("the vote journal failed before: open it again")
        if vote.signer != self._public_key:
            raise ValueError("a journal holds the votes of one key")
        payload = vote.encode()
        record = vote.epoch.to_bytes(8, "big") + len(payload).to_bytes(2, "big") + payload.ljust(PAYLOAD_SIZE, b"\0")
        record_hash = crypto.hash_bytes("journal", self.head_hash, record)
        try:
            self._file.append(record + record_hash)
            self._file.sync()
        except OSError as error:
            self._is_usable = False  # after a failed fsync the kernel may have dropped the pages
            raise StoreError(f"cannot write the vote journal: {error}") from error
        self._note(vote.epoch, record_hash)

    def votes(self, epoch: int) -> list[Vote]:
        """All votes of an epoch, in the order they were signed.

        Raises:
            JournalDamaged: the file changed since it was opened.
        """
        first, end = self._spans.get(epoch, (0, 0))
        votes = []
        for number, (content, _) in enumerate(self._scan(first, end), start=first):
            if int.from_bytes(content[:8], "big") == epoch:
                votes.append(self._decode(content, number * RECORD_SIZE))
        return votes

    def check_reaches(self, length: int, head_hash: bytes) -> None:
        """Whether the journal still holds what it held when its length and hash were noted.

        Raises:
            JournalDamaged: it is shorter, or was something else then.
        """
        if length > self.length:
            raise JournalDamaged(self.length * RECORD_SIZE, f"{self.length} votes where there were {length} before")
        if self._get_hash(length) != head_hash:
            raise JournalDamaged(max(0, length - 1) * RECORD_SIZE, "not the votes that were there before")

    def close(self) -> None:
        """Let go of the file."""
        self._is_usable = False
        self._file.close()

    def _note(self, epoch: int, record_hash: bytes) -> None:
        """Count one more record at the end."""
        first, _ = self._spans.get(epoch, (self.length, 0))
        self.length, self.head_hash = self.length + 1, record_hash
        self._spans[epoch] = first, self.length

    def _get_hash(self, number: int) -> bytes:
        """The hash before record ``number``: that of the record before it."""
        return self._file.read(number * RECORD_SIZE - HASH_SIZE, HASH_SIZE) if number else self._root

    def _scan(self, first: int, end: int) -> Iterator[tuple[bytes, bytes]]:
        """Content and hash, checked, of the records from number ``first`` to before ``end``.

        Raises:
            JournalDamaged: at the first that does not fit.
        """
        previous = self._get_hash(first)
        for offset in range(first * RECORD_SIZE, end * RECORD_SIZE, _CHUNK):
            size = min(_CHUNK, end * RECORD_SIZE - offset)
            chunk = self._file.read(offset, size)
            for start in range(0, size, RECORD_SIZE):
                content = chunk[start : start + RECORD_SIZE - HASH_SIZE]
                record_hash = chunk[start + RECORD_SIZE - HASH_SIZE : start + RECORD_SIZE]
                if crypto.hash_bytes("journal", previous, content) != record_hash:
                    where = offset + start
                    raise JournalDamaged(where, "wrong hash" if where else "wrong hash, or of another chain or key")
                yield content, record_hash
                previous = record_hash

    @staticmethod
    def _decode(content: bytes, offset: int) -> Vote:
        try:
            return Vote.decode(content[10 : 10 + int.from_bytes(content[8:10], "big")])
        except CodecError as error:
            raise JournalDamaged(offset, f"not a vote: {error}") from error
