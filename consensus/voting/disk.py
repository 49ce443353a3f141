"""Opening the files of a node. Damaged ones go into quarantine, and the node continues without them.

The chain comes back from other nodes. Votes do not, so a validator that may have lost some is locked out of voting
(:mod:`consensus.voting.lockout`). Nothing is deleted, and nothing is lost without a line in the log.

Only files that are proven to differ from what was written go into quarantine. A database that is in use, a full disk or
missing permissions are errors, as is the chain of another genesis.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import structlog

from chain.crypto import KeyPair
from chain.exceptions import StoreDamaged, StoreError
from chain.genesis import Genesis
from chain.store.kv import CHAIN_DIRECTORY, LevelStore, Store, WriteTimer
from chain.store.layout import HEIGHT_PREFIX, META_PREFIX, PAYMENTS_PREFIX, VOTE_SUPPORT_PREFIX, encode_mark
from chain.store.writer import ChainStore
from consensus.voting.journal import (
    DiskFile,
    Journal,
    JournalDamaged,
    JournalFile,
    make_start,
    sync_directory,
)
from consensus.voting.lockout import HANDED_OVER, NONCE_BYTES
from consensus.voting.vote_store import VoteStore
from consensus.voting.vote_support import VoteSupportStore

logger = structlog.get_logger(__name__)

JOURNAL_FILE = "votes.journal"
"""The vote journal in a node's data directory."""
FAULT_FILE = "DAMAGED"
"""File in a database's directory that says what was found wrong with it while the node ran."""


class Disk(Protocol):
    """Where a node keeps its chain and its votes. Every method raises ``StoreError`` or ``OSError`` if it cannot."""

    def open_store(self) -> Store:
        """The chain's database, begun if there is none.

        Raises:
            StoreDamaged: its files are not what was written.
        """

    def get_fault(self) -> str | None:
        """Damage to the database that was found while the node ran."""

    def quarantine_store(self) -> str:
        """Rename the chain's database, which is closed, durably. Returns what to."""

    def open_journal(self) -> JournalFile:
        """The file of the vote journal; an empty one if there is none."""

    def quarantine_journal(self) -> str:
        """Rename the vote journal, which is closed, durably. Returns what to."""


class DataDisk:
    """A :class:`Disk` that is a node's data directory.

    ``now`` tells the wall-clock time in ms. With a ``timer`` writes to the database are timed.
    """

    def __init__(self, directory: Path, now: Callable[[], int], timer: WriteTimer | None = None) -> None:
        self._directory = directory
        self._now = now
        self._timer = timer
        self._store: LevelStore | None = None

    @property
    def fault(self) -> StoreDamaged | None:
        """Damage that was found since the database was opened."""
        return None if self._store is None else self._store.fault

    def note_fault(self, error: StoreDamaged) -> None:
        """Have the next start repair the database: by itself it might not come across the damage."""
        with suppress(OSError):  # then it is found again where it was found now
            (self._directory / CHAIN_DIRECTORY / FAULT_FILE).write_text(error.fault, encoding="utf-8")

    def open_store(self) -> Store:
        self._store = LevelStore(self._directory / CHAIN_DIRECTORY, timer=self._timer)
        return self._store

    def get_fault(self) -> str | None:
        try:
            return (self._directory / CHAIN_DIRECTORY / FAULT_FILE).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None

    def quarantine_store(self) -> str:
        return self._quarantine(CHAIN_DIRECTORY)

    def open_journal(self) -> JournalFile:
        return DiskFile(self._directory / JOURNAL_FILE)

    def quarantine_journal(self) -> str:
        return self._quarantine(JOURNAL_FILE)

    def _quarantine(self, name: str) -> str:
        stamp = datetime.fromtimestamp(self._now() / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
        place = self._directory / f"{name}.damaged-{stamp}"
        while place.exists():  # within one second: a rename must not put one thing in place of another
            place = place.with_name(place.name + "x")
        (self._directory / name).rename(place)
        sync_directory(self._directory)
        return place.name


@dataclass(frozen=True, slots=True)
class NodeStorage:
    """What a node runs on; ``vote_store`` is None for one that only follows."""

    store: Store
    blocks: ChainStore
    vote_store: VoteStore | None

    def close(self) -> None:
        """Let go of all of it."""
        if self.vote_store is not None:
            self.vote_store.journal.close()
        self.store.close()


def open_storage(
    disk: Disk,
    genesis: Genesis,
    key: KeyPair,
    random: random.Random,
    *,
    votes: bool,
    kept: tuple[bytes, ...] = (),
    keep_epochs: int = 0,
    index_accounts: bool = False,
) -> NodeStorage:
    """Open the chain, and with ``votes`` the vote journal; set aside and begin anew what is damaged.

    ``kept`` are key prefixes of the database, beside those of agreement, that no other node can bring back: they are
    carried over as far as they can be read. ``random`` makes memos; it must not repeat itself. ``keep_epochs`` and
    ``index_accounts`` are settings of the chain (:class:`chain.store.writer.ChainStore`).

    Raises:
        StoreError: it cannot be opened, for another reason than damage.
    """
    try:
        kept = (VOTE_SUPPORT_PREFIX, *kept)
        store, blocks = _open_chain(disk, genesis, kept, keep_epochs, index_accounts)
        try:
            return NodeStorage(
                store, blocks, _open_vote_store(disk, genesis, key, store, blocks, random) if votes else None
            )
        except BaseException:
            store.close()
            raise
    except OSError as error:
        raise StoreError(f"cannot open what the node keeps on disk: {error}") from error


def _open_chain(
    disk: Disk, genesis: Genesis, kept: tuple[bytes, ...], keep_epochs: int, index_accounts: bool
) -> tuple[Store, ChainStore]:
    rescued: dict[bytes, bytes] = {}
    lost = [*kept]
    store: Store | None = None
    try:
        store = disk.open_store()
        if (fault := disk.get_fault()) is not None:
            raise StoreDamaged(fault)
        blocks = ChainStore(store, genesis, keep_epochs, index_accounts)
        _check_complete(store, blocks)
        for prefix in (META_PREFIX, *kept):  # what is read at the start, so that no damage shows halfway
            deque(store.items(prefix), maxlen=0)
        return store, blocks
    except StoreDamaged as error:
        fault = error.fault
        if store is not None:
            for prefix in kept:
                with suppress(StoreError):
                    rescued.update(list(store.items(prefix)))  # all of a prefix or nothing
                    lost.remove(prefix)
            store.close()
    except BaseException:
        if store is not None:
            store.close()
        raise
    logger.error(
        "the chain database is damaged: it is kept aside, and the chain is fetched from other nodes",
        fault=fault,
        kept_as=disk.quarantine_store(),
        entries_carried_over=len(rescued),
        lost_unless_put_back=[_NAMES.get(prefix, prefix.decode()) for prefix in lost],
    )
    store = disk.open_store()
    try:
        blocks = ChainStore(store, genesis, keep_epochs, index_accounts)
        if rescued:
            store.write(rescued)
    except BaseException:
        store.close()
        raise
    return store, blocks


def _check_complete(store: Store, blocks: ChainStore) -> None:
    """Check that no batch is missing between others. LevelDB does not notice, and the state does not always show it.

    Raises:
        StoreDamaged: there is a hole.
    """
    first = blocks.base.height
    heights = (int.from_bytes(raw, "big") for _, raw in store.items(HEIGHT_PREFIX))
    count = sum(height > first for height in heights)
    if count != blocks.height - first:
        raise StoreDamaged(f"there are {count} blocks from {first + 1} to {blocks.height}")


_NAMES = {
    VOTE_SUPPORT_PREFIX: "blocks that own votes rest on",
    PAYMENTS_PREFIX: "numbers of own holds that were not final",
}


def _is_known_validator(blocks: ChainStore, key: KeyPair) -> bool:
    """Whether a chain that was followed without voting has a validator of this key, which may vote elsewhere."""
    return blocks.height > 0 and blocks.state.validator_record(key.public_key) is not None


def _open_vote_store(
    disk: Disk, genesis: Genesis, key: KeyPair, store: Store, blocks: ChainStore, random: random.Random
) -> VoteStore:
    """The journal, proven to hold every vote it ever held, or one that makes the validator wait."""
    mark, support = blocks.journal_mark, VoteSupportStore(store)
    journal: Journal | None = None
    loss = "there is none"
    file = disk.open_journal()
    try:
        if file.get_size():
            try:
                journal = Journal(file, genesis.chain_id, key.public_key)
                VoteStore(key, journal, support).reconcile(mark)
            except JournalDamaged as error:
                journal, loss = None, error.reason
                file.close()
                logger.error(
                    "the vote journal is damaged: it is kept aside",
                    at_byte=error.offset, reason=error.reason, kept_as=disk.quarantine_journal(),
                )  # fmt: skip
                file = disk.open_journal()
        nonce = random.randbytes(NONCE_BYTES)
        if journal is None:
            start = make_start(genesis.chain_id, key.public_key, nonce)
            if mark is not None:  # which the journal must reach from now on
                start = replace(start, first=mark[0], previous=mark[1])
            journal = Journal(file, genesis.chain_id, key.public_key, start)
        elif journal.start.first_epoch == HANDED_OVER:
            logger.error(
                "another machine with this key has taken over its votes: this one only follows",
                to_do=f"to vote here again, end the other, stop this node, move {JOURNAL_FILE} away and start it",
            )
        elif mark is None and (not journal.is_blank or _is_known_validator(blocks, key)):
            loss = "the database that knew its length is lost, or the chain was followed without voting"
            if not journal.start.nonce:  # no vote was signed since that one was made
                journal.lock(nonce)
        elif journal.start.nonce:
            loss = "lost before an earlier start"
        if journal.start.nonce:
            logger.error(
                "this validator may have forgotten votes: it votes again in the epoch after the one in which an "
                "operation that it now makes is final",
                journal=loss,
                nonce=journal.start.nonce.hex(),
            )
        if mark is None:
            store.write(encode_mark((journal.length, journal.head_hash)))
    except BaseException:
        file.close()
        raise
    return VoteStore(key, journal, support)
