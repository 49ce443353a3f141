"""The vote journal: every vote of this node, durable before it is sent, so that no crash makes it contradict itself.

The file is a row of records of ``RECORD_SIZE`` bytes and nothing else:

====================  ======================================================
8 bytes, big-endian   the vote's epoch, so that old votes need not be decoded
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

REMEMBERED_EPOCHS = 2
"""How many of the latest epochs are kept in memory."""

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

    ``append`` blocks for the length of an fsync (some milliseconds). Votes of the latest epochs are kept in memory;
    older ones are read from the file.

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
        self._recent: list[Vote] = []
        self._first_recent = 0  # epoch; all votes of this and later ones are in memory
        self._is_usable = True
        self.length = 0
        """Number of votes."""
        self.head_hash = self._root
        """Hash of the last record, which covers all before it."""
        self._find_recent()
        for vote, record_hash in self._scan(self._first_recent):
            self.length, self.head_hash = self.length + 1, record_hash
            if vote is not None:
                self._recent.append(vote)
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
        self.length, self.head_hash = self.length + 1, record_hash
        if vote.epoch >= self._first_recent:
            self._recent.append(vote)
        if vote.epoch >= self._first_recent + REMEMBERED_EPOCHS:
            self._first_recent = vote.epoch - REMEMBERED_EPOCHS + 1
            self._recent = [other for other in self._recent if other.epoch >= self._first_recent]

    def votes(self, epoch: int) -> list[Vote]:
        """All votes of an epoch, in the order they were signed.

        Raises:
            JournalDamaged: an older epoch was asked for and the file changed since it was opened.
        """
        if epoch >= self._first_recent:
            return [vote for vote in self._recent if vote.epoch == epoch]
        return [vote for vote, _ in self._scan(epoch) if vote is not None and vote.epoch == epoch]

    def check_reaches(self, length: int, head_hash: bytes) -> None:
        """Whether the journal still holds what it held when its length and hash were noted.

        Raises:
            JournalDamaged: it is shorter, or was something else then.
        """
        if length > self.length:
            raise JournalDamaged(self.length * RECORD_SIZE, f"{self.length} votes where there were {length} before")
        found = self._root if length == 0 else self._file.read(length * RECORD_SIZE - HASH_SIZE, HASH_SIZE)
        if found != head_hash:
            raise JournalDamaged(max(0, length - 1) * RECORD_SIZE, "not the votes that were there before")

    def close(self) -> None:
        """Let go of the file."""
        self._is_usable = False
        self._file.close()

    def _find_recent(self) -> None:
        """The first epoch worth keeping in memory, by what the last whole record says."""
        whole = self._file.get_size() // RECORD_SIZE * RECORD_SIZE
        if whole:
            newest = int.from_bytes(self._file.read(whole - RECORD_SIZE, 8), "big")
            self._first_recent = max(0, newest - REMEMBERED_EPOCHS + 1)

    def _scan(self, first_epoch: int) -> Iterator[tuple[Vote | None, bytes]]:
        """Every whole record's hash, checked, and its vote if that is of ``first_epoch`` or later.

        Raises:
            JournalDamaged: at the first that does not fit.
        """
        offset, previous = 0, self._root
        while chunk := self._file.read(offset, _CHUNK):
            for start in range(0, len(chunk) - RECORD_SIZE + 1, RECORD_SIZE):
                content = chunk[start : start + RECORD_SIZE - HASH_SIZE]
                record_hash = chunk[start + RECORD_SIZE - HASH_SIZE : start + RECORD_SIZE]
                if crypto.hash_bytes("journal", previous, content) != record_hash:
                    where = offset + start
                    raise JournalDamaged(where, "wrong hash" if where else "wrong hash, or of another chain or key")
                is_recent = int.from_bytes(content[:8], "big") >= first_epoch
                yield self._decode(content, offset + start) if is_recent else None, record_hash
                previous = record_hash
            offset += _CHUNK

    @staticmethod
    def _decode(content: bytes, offset: int) -> Vote:
        try:
            return Vote.decode(content[10 : 10 + int.from_bytes(content[8:10], "big")])
        except CodecError as error:
            raise JournalDamaged(offset, f"not a vote: {error}") from error
