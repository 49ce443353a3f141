"""The vote journal: every vote of this node, durable before it is sent, so that no crash makes it contradict itself.

The file is a row of records of ``RECORD_BYTES`` bytes and nothing else. The first says where the row begins
(:class:`JournalStart`), every other holds one vote:

====================  ======================================================
8 bytes, big-endian   the vote's epoch, so that a vote need not be decoded to find those of an epoch (first record: 0)
2 bytes, big-endian   length of the encoding that follows
``PAYLOAD_BYTES``      the canonical encoding of the vote (first record: of the start), filled up with zeros
32 bytes              hash of the vote before (for the oldest, what the start names; for the start, of chain id and
                      key) and of all bytes above
====================  ======================================================

Records of one size leave no doubt about where the last one begins, and never straddle a disk sector. A shorter rest at
the end is a record whose write was cut off: its vote was never sent, and it is cut away. So is a last record of nothing
but zeros, as some file systems leave it when power fails between a write and its sync. Anything else that does not fit
is damage. A file that ends early at a whole record, or after the cut, looks right by itself; ``validate_mark`` compares
it with the length and hash that the ledger's database holds (the *mark*), which is never behind what was sent.

Votes are counted and hashed as if none had ever been dropped: dropping old ones changes neither ``length`` nor
``head_hash``, so that the mark in the ledger's database stays comparable.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Protocol

from chain import crypto
from chain.codec import Bounds, Hash, Natural, Record
from chain.exceptions import CodecError, StoreError, StoreInUse
from chain.types.votes import Vote
from consensus.voting.lockout import HANDED_OVER, NONCE_BYTES

RECORD_BYTES = 256
"""Length of a record of the file."""
HASH_BYTES = 32
"""Length of the hash at the end of a record."""
PAYLOAD_BYTES = RECORD_BYTES - 10 - HASH_BYTES
"""Room for the payload in a record, after epoch and length."""

PRUNE_AT_RECORDS = 4096
"""Old votes worth rewriting the file to be rid of."""

_CHUNK_BYTES = 4096 * RECORD_BYTES


class JournalDamaged(StoreError):
    """The journal is not what this node wrote; ``offset`` is the byte at which the first bad record begins."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(
            f"vote journal damaged at byte {offset}: {reason}; start the node again to repair it: the file is kept "
            "aside, and the validator waits before it votes again"
        )
        self.offset = offset
        self.reason = reason


@dataclass(frozen=True, slots=True)
class JournalStart(Record):
    """Where a journal begins, and which votes it may lack.

    ``first`` votes were dropped or lost; the hash of the last of them is ``previous``. Their epochs are before
    ``first_epoch``, in which nothing more may be signed; but while there is a ``nonce`` they may be of any epoch
    (:mod:`consensus.voting.lockout`). ``HANDED_OVER`` for a first epoch says that the key votes on another machine.
    """

    first: Natural
    previous: Hash
    first_epoch: Natural
    nonce: Annotated[bytes, Bounds(0, NONCE_BYTES)]


def make_start(chain_id: bytes, public_key: bytes, nonce: bytes = b"") -> JournalStart:
    """The start of a journal of no votes."""
    return JournalStart(0, get_root(chain_id, public_key), 0, nonce)


def get_root(chain_id: bytes, public_key: bytes) -> bytes:
    """The hash before the first vote."""
    return crypto.hash_bytes("journal", chain_id, public_key)


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

    def replace(self, content: bytes) -> None:
        """Put ``content`` in the place of all there is. Durable when this returns; a crash leaves one or the other."""

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
        self._path = path
        created = not path.exists()
        self._descriptor = self._open(path)
        if created:
            sync_directory(path.parent)

    @staticmethod
    def _open(path: Path, flags: int = 0) -> int:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise StoreInUse(f"{path} is in use by another process") from error
            raise
        return descriptor

    def get_size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def append(self, data: bytes) -> None:
        _write_all(self._descriptor, data)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def replace(self, content: bytes) -> None:
        other = self._path.with_name(self._path.name + ".new")
        descriptor = self._open(other, os.O_TRUNC)  # what an earlier attempt left goes
        try:
            _write_all(descriptor, content)
            os.fsync(descriptor)
            other.replace(self._path)
        except OSError:
            os.close(descriptor)
            raise
        os.close(self._descriptor)
        self._descriptor = descriptor
        sync_directory(self._path.parent)

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def sync_directory(path: Path) -> None:
    """Make durable which files a directory holds."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Journal:
    """The votes of one key on one chain, in the order they were signed.

    ``append`` blocks for the length of an fsync (some milliseconds). In memory is only where each epoch lies in the
    file: a node that starts from an empty chain passes through all of them again.

    Args:
        file: what lies under it; an empty one is begun.
        chain_id, public_key: whose votes these are; a journal of another chain or key counts as damaged.
        start: begin anew with this, whatever the file holds.

    Raises:
        JournalDamaged: what is on disk is not what was written.
        OSError: the disk failed.
    """

    def __init__(
        self, file: JournalFile, chain_id: bytes, public_key: bytes, start: JournalStart | None = None
    ) -> None:
        self._file = file
        self._public_key = public_key
        self._root = get_root(chain_id, public_key)
        self._spans: dict[int, tuple[int, int]] = {}
        # By epoch the numbers of its first record and of the one after its last; others may lie between.
        self._is_usable = True
        if start is not None or not file.get_size():
            start = start if start is not None else make_start(chain_id, public_key)
            file.replace(self._seal_start(start))
        self.start = self._read_start()
        self.length = self.start.first
        """Number of votes, those that were dropped included."""
        self.head_hash = self.start.previous
        """Hash of the last vote, which covers all before it."""
        count, rest = divmod(file.get_size() - RECORD_BYTES, RECORD_BYTES)
        self._is_cut = bool(count) and not rest and not any(file.read(count * RECORD_BYTES, RECORD_BYTES))
        if self._is_cut:
            count, rest = count - 1, RECORD_BYTES
        for content, record_hash in self._scan(self.length, self.length + count):
            self._note(int.from_bytes(content[:8], "big"), record_hash)
        if rest:
            file.truncate(file.get_size() - rest)
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

    @property
    def is_blank(self) -> bool:
        """Whether it is as it was begun, with no vote and no word of any."""
        return self.length == 0 and self.start.first_epoch == 0 and not self.start.nonce and not self._is_cut

    def append(self, vote: Vote) -> None:
        """Add a vote; it is durable when this returns.

        Raises:
            StoreError: the disk failed. Whether the vote is durable is unknown: it must not be sent, and the journal
                takes no more until it is opened again.
        """
        self._check_usable()
        if vote.signer != self._public_key:
            raise ValueError("a journal holds the votes of one key")
        content, record_hash = self._seal(vote)
        try:
            self._file.append(content + record_hash)
            self._file.sync()
        except OSError as error:
            self._is_usable = False  # after a failed fsync the kernel may have dropped the pages
            raise StoreError(f"cannot write the vote journal: {error}") from error
        self._note(vote.epoch, record_hash)

    def compute_mark(self, vote: Vote) -> tuple[int, bytes]:
        """``length`` and ``head_hash`` as they will be once ``vote`` was added."""
        return self.length + 1, self._seal(vote)[1]

    def lock(self, nonce: bytes) -> None:
        """Note that votes may be missing: none may be signed until :meth:`unlock`. Durable when this returns.

        Raises:
            StoreError: the disk failed.
        """
        self._rewrite(replace(self.start, nonce=nonce))

    def unlock(self, first_epoch: int) -> None:
        """Note that all missing votes are of epochs before ``first_epoch``. Durable when this returns.

        Raises:
            StoreError: the disk failed.
        """
        self._rewrite(replace(self.start, first_epoch=max(first_epoch, self.start.first_epoch), nonce=b""))

    def hand_over(self) -> None:
        """Note that the key votes on another machine: nothing may be signed here after the next start, in any epoch.
        Durable when this returns.

        Raises:
            StoreError: the disk failed.
        """
        self._rewrite(replace(self.start, first_epoch=HANDED_OVER, nonce=b""))

    def prune(self, epoch: int) -> None:
        """Drop the votes of epochs before ``epoch``, now or later; nothing may be signed in those any more.

        Raises:
            StoreError: the disk failed.
        """
        first = min((first for known, (first, _) in self._spans.items() if known >= epoch), default=self.length)
        if first - self.start.first < PRUNE_AT_RECORDS:
            return
        previous, first_epoch = self._get_hash(first), max(epoch, self.start.first_epoch)
        self._rewrite(replace(self.start, first=first, previous=previous, first_epoch=first_epoch))
        self._spans = {known: (max(first, begin), end) for known, (begin, end) in self._spans.items() if end > first}

    def votes(self, epoch: int) -> list[Vote]:
        """All votes of an epoch, in the order they were signed.

        Raises:
            JournalDamaged: the file changed since it was opened.
        """
        first, end = self._spans.get(epoch, (self.length, self.length))
        votes = []
        for number, (content, _) in enumerate(self._scan(first, end), start=first):
            if int.from_bytes(content[:8], "big") == epoch:
                try:
                    votes.append(Vote.decode(_unpad(content)))
                except CodecError as error:
                    raise JournalDamaged(self._get_offset(number), f"not a vote: {error}") from error
        return votes

    def validate_mark(self, length: int, head_hash: bytes) -> None:
        """Check that the journal still holds the votes that it held when its length and hash were noted.

        A mark from before the oldest vote here is valid, since the start covers those votes.

        Raises:
            JournalDamaged: it is shorter, or was something else then.
        """
        if length > self.length:
            where, reason = self.length, f"{self.length} votes where there were {length} before"
            raise JournalDamaged(self._get_offset(where), reason)
        if length >= self.start.first and self._get_hash(length) != head_hash:
            where = max(self.start.first, length - 1)
            raise JournalDamaged(self._get_offset(where), "not the votes that were there before")

    def close(self) -> None:
        """Let go of the file."""
        self._is_usable = False
        self._file.close()

    def _check_usable(self) -> None:
        if not self._is_usable:
            raise StoreError("the vote journal failed before: open it again")

    def _rewrite(self, start: JournalStart) -> None:
        """Replace the start, and drop the votes before it."""
        self._check_usable()
        offset = self._get_offset(start.first)
        kept = self._file.read(offset, self._get_offset(self.length) - offset)
        try:
            self._file.replace(self._seal_start(start) + kept)
        except OSError as error:
            self._is_usable = False
            raise StoreError(f"cannot write the vote journal: {error}") from error
        self.start = start

    def _seal(self, vote: Vote) -> tuple[bytes, bytes]:
        """Content and hash of the record that adds ``vote``."""
        content = _pad(vote.epoch, vote.encode())
        return content, crypto.hash_bytes("journal", self.head_hash, content)

    def _seal_start(self, start: JournalStart) -> bytes:
        content = _pad(0, start.encode())
        return content + crypto.hash_bytes("journal", self._root, content)

    def _read_start(self) -> JournalStart:
        record = self._file.read(0, RECORD_BYTES)
        content, record_hash = record[:-HASH_BYTES], record[-HASH_BYTES:]
        if len(record) < RECORD_BYTES or crypto.hash_bytes("journal", self._root, content) != record_hash:
            raise JournalDamaged(0, "wrong hash, or of another chain or key")
        try:
            return JournalStart.decode(_unpad(content))
        except CodecError as error:
            raise JournalDamaged(0, f"not the start of a journal: {error}") from error

    def _note(self, epoch: int, record_hash: bytes) -> None:
        """Count one more record at the end."""
        first, _ = self._spans.get(epoch, (self.length, 0))
        self.length, self.head_hash = self.length + 1, record_hash
        self._spans[epoch] = first, self.length

    def _get_offset(self, number: int) -> int:
        """Where vote ``number`` lies in the file."""
        return (number - self.start.first + 1) * RECORD_BYTES

    def _get_hash(self, number: int) -> bytes:
        """The hash before vote ``number``: that of the vote before it."""
        if number == self.start.first:
            return self.start.previous
        return self._file.read(self._get_offset(number) - HASH_BYTES, HASH_BYTES)

    def _scan(self, first: int, end: int) -> Iterator[tuple[bytes, bytes]]:
        """Content and hash, checked, of the votes from number ``first`` to before ``end``.

        Raises:
            JournalDamaged: at the first that does not fit.
        """
        previous = self._get_hash(first)
        last = self._get_offset(end)
        for offset in range(self._get_offset(first), last, _CHUNK_BYTES):
            size = min(_CHUNK_BYTES, last - offset)
            chunk = self._file.read(offset, size)
            for start in range(0, size, RECORD_BYTES):
                content = chunk[start : start + RECORD_BYTES - HASH_BYTES]
                record_hash = chunk[start + RECORD_BYTES - HASH_BYTES : start + RECORD_BYTES]
                if crypto.hash_bytes("journal", previous, content) != record_hash:
                    raise JournalDamaged(offset + start, "wrong hash")
                yield content, record_hash
                previous = record_hash


def _pad(epoch: int, payload: bytes) -> bytes:
    """What a record holds, but for its hash."""
    return epoch.to_bytes(8, "big") + len(payload).to_bytes(2, "big") + payload.ljust(PAYLOAD_BYTES, b"\0")


def _unpad(content: bytes) -> bytes:
    return content[10 : 10 + int.from_bytes(content[8:10], "big")]
