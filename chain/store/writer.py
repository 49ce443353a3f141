"""The final chain on disk, to add to: append, prune, continue from a snapshot. Reading is in :mod:`chain.store.reader`.

An append is one synced batch: the blocks, their indexes, the changed state entries, the certificate, and the deletions
that are due. A crash leaves the chain before or after it, never between.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import replace

from chain.codec import pack
from chain.exceptions import StoreDamaged, StoreError
from chain.genesis import Genesis
from chain.light.client import MAX_EPOCH_RESTARTS, Checkpoint, LightClientUpdate
from chain.state.keys import COMMITTEE_PREFIX
from chain.state.state import State
from chain.store.index_builder import Executed, IndexBuilder
from chain.store.kv import Store
from chain.store.layout import (
    BASE_KEY,
    BLOCK_PREFIX,
    CERTIFICATE_PREFIX,
    EPOCH_END_PREFIX,
    FAILURES_PREFIX,
    FIRST_SLOT,
    FORMAT,
    FORMAT_KEY,
    GENESIS_KEY,
    HEIGHT_KEY,
    HEIGHT_PREFIX,
    INDEXED_KEY,
    JOURNAL_KEY,
    OPERATION_PREFIX,
    OTHER_SLOT,
    PRUNE_KEY,
    RESTARTS_PREFIX,
    SLOT_KEY,
    UNDO_KEY,
    UNDO_PREFIX,
    VALIDATORS_PREFIX,
    encode_mark,
    encode_number,
)
from chain.store.reader import ChainReader, FinalHeader, FinalRestart, Restarts
from chain.store.snapshot_import import SnapshotImport
from chain.transition.block import Transition
from chain.transition.epochs import get_epoch, get_last_height
from chain.transition.restart import is_restart
from chain.types.blocks import Block, Header
from chain.types.votes import Certificate, VoteKind

PRUNE_BATCH_ENTRIES = 4_096
"""Entries deleted at a time: a batch ends with the block that reaches it."""


class ChainStore(ChainReader):
    """The final blocks of one chain, to read and to add to.

    ``header`` and ``state`` are those of the last final block (of genesis on a new chain). Blocks are kept for
    the current epoch and ``keep_epochs`` before it; 0 keeps all. With ``index_accounts`` accounts are indexed
    (:mod:`chain.store.account_index`) by :meth:`extend_index`, which follows the chain: an append costs no more for it.

    Raises:
        StoreError: the store is damaged, or belongs to another chain.
    """

    def __init__(self, store: Store, genesis: Genesis, keep_epochs: int = 0, index_accounts: bool = False) -> None:
        if store.get(GENESIS_KEY) is None:
            if next(store.items(b""), None) is not None:
                raise StoreDamaged("the database holds something, but no genesis: it is damaged or not a chain")
            store.write(
                {
                    FORMAT_KEY: FORMAT,
                    GENESIS_KEY: genesis.encode(),
                    HEIGHT_KEY: encode_number(0),
                    SLOT_KEY: FIRST_SLOT,
                    UNDO_KEY: encode_number(0),
                    **{FIRST_SLOT + leaf.key: leaf.encoded for leaf in genesis.state.entries()},
                    **{leaf.key: leaf.encoded for leaf in genesis.state.entries() if leaf.key[:1] == COMMITTEE_PREFIX},
                }
            )
        self._changing = threading.RLock()
        """Held while a batch is written and this object follows it."""
        self.revision = 0
        """Grows with every change of what readers see. A :meth:`view` keeps that of the chain it shows."""
        self._index_builder = IndexBuilder()
        self._unwritten: dict[bytes, bytes | None] = {}
        """Changes that ride in the next batch, and are read as if they were written."""
        super().__init__(store)
        if self.genesis.chain_id != genesis.chain_id:
            raise StoreError(
                f"the database belongs to chain {self.genesis.name!r} ({self.genesis.chain_id.hex()[:8]}), "
                f"not {genesis.name!r} ({genesis.chain_id.hex()[:8]}); "
                "put back the genesis file of the one, or use another data directory for the other"
            )
        self._accept(genesis.restarts)
        self.keep_epochs = keep_epochs
        self.index_accounts = index_accounts
        self.header, self.state = self._load()
        if index_accounts and self.indexed_height is None:  # readers are told at once that there is an index
            store.write({INDEXED_KEY: encode_number(self.base.height)}, is_synced=False)
        self.snapshot_import = SnapshotImport(store, OTHER_SLOT[self._slot])
        self._end_states: dict[int, tuple[Header, State]] = {}
        self._keep_end_state(self.header, self.state)

    def _get(self, key: bytes) -> bytes | None:
        return self._unwritten[key] if key in self._unwritten else self._store.get(key)

    def _load(self) -> tuple[Header, State]:
        header = self.find_header(self.height)
        if header is None:
            raise StoreDamaged(f"block {self.height} is missing")
        state = self.load_state()
        if state.root != header.state_root:
            raise StoreDamaged(f"the state on disk is not the one after block {self.height}")
        return header, state

    def check_checkpoint(self, checkpoint: Checkpoint) -> bool:
        """Check that a checkpoint is no other block than the final one here.

        Returns whether that can be told: not of one below the base that was not the last of its epoch. (One that is
        still ahead is for those to check who add blocks.)

        Raises:
            StoreError: it is another: one of the two is not of the true chain.
        """
        header = self.find_header(checkpoint.height) if checkpoint.height <= self.height else None
        if header is not None and checkpoint.is_contradicted_by(header):
            raise StoreError(
                f"the checkpoint {checkpoint} contradicts block {header.height} in the database, "
                f"{header.id.hex()}: either the checkpoint is wrong, or this node followed a false chain and must "
                "begin again in a new data directory"
            )
        return header is not None or checkpoint.height > self.height

    def append(
        self,
        blocks: Sequence[tuple[Block, Transition]],
        certificate: Certificate,
        journal_mark: tuple[int, bytes] | None = None,
    ) -> None:
        """Add ``blocks``, a chain from the last final block on, made final by ``certificate`` of the last of them.

        The caller has checked them. Everything is on disk when this returns.

        Raises:
            ValueError: they do not follow one another, or the certificate is not of the last.
            StoreError: the store fails; nothing was added.
        """
        with self._changing:
            self._append(blocks, certificate, journal_mark)

    def _append(
        self,
        blocks: Sequence[tuple[Block, Transition]],
        certificate: Certificate,
        journal_mark: tuple[int, bytes] | None,
    ) -> None:
        if not blocks or certificate.block_id != blocks[-1][0].id:
            raise ValueError("the certificate is not of the last block")
        changes: dict[bytes, bytes | None] = dict(self._unwritten)
        parent, state = self.header, self.state
        ends: list[tuple[Header, State]] = []
        restarts: dict[int, tuple[FinalRestart, ...]] = {}
        following = [*(block.body.parent_certificate for block, _ in blocks[1:]), certificate]
        for (block, transition), above in zip(blocks, following, strict=True):
            if block.header.parent_id != parent.id:
                raise ValueError(f"block {block.height} does not follow block {parent.height}")
            parent, number = block.header, encode_number(block.height)
            changes[BLOCK_PREFIX + number] = block.encoded
            changes[HEIGHT_PREFIX + block.id] = number
            for index, operation in enumerate(block.body.operations):
                changes[OPERATION_PREFIX + operation.id] = number + encode_number(index)
            if any(failure is not None for failure in transition.failures):
                changes[FAILURES_PREFIX + number] = pack(list(transition.failures))
            undo: list[list[bytes | None]] = []
            for key in transition.changes:
                undo.append([key, state.get_encoded(key)])
                encoded = changes[self._slot + key] = transition.state.get_encoded(key)
                if key[:1] == COMMITTEE_PREFIX and encoded is not None:
                    changes[key] = encoded  # stays when the state forgets it
            changes[UNDO_PREFIX + number] = pack(undo)
            state = transition.state
            if is_restart(parent):
                final = above if above is not None and above.kind == VoteKind.FINALIZE else None
                restart = FinalRestart(parent, final, state.committee(parent.epoch))
                known = restarts.get(parent.epoch) or self.restarts(parent.epoch)
                restarts[parent.epoch] = (*known, restart)[-MAX_EPOCH_RESTARTS:]
                changes[RESTARTS_PREFIX + encode_number(parent.epoch)] = Restarts(restarts[parent.epoch]).encode()
            if block.height == get_last_height(self.genesis.parameters, parent.epoch):
                ends.append((parent, state))
                if above is not None and above.kind == VoteKind.FINALIZE:  # nothing else follows the end of an epoch
                    changes[EPOCH_END_PREFIX + encode_number(parent.epoch)] = FinalHeader(parent, above).encode()
        changes[CERTIFICATE_PREFIX + encode_number(parent.height)] = certificate.encode()
        changes[HEIGHT_KEY] = encode_number(parent.height)
        changes |= self._make_mark(journal_mark)
        after_batch = copy(self)
        after_batch._unwritten, after_batch.height = changes, parent.height
        deletions, base = after_batch._collect_prunable()
        changes |= deletions
        self._store.write(changes)
        self.revision += 1
        self._unwritten = {}
        before, self.state = self.state, state
        self.header, self.height, self.base = parent, parent.height, base
        if self.index_accounts:
            for block, transition in blocks:
                self._index_builder.note(Executed(before, block, transition))
                before = transition.state
        for header, after in ends:
            self._keep_end_state(header, after)

    def _make_mark(self, mark: tuple[int, bytes] | None) -> dict[bytes, bytes | None]:
        """The entry about the vote journal. Blocks that are added without it delete it, since it would be outdated."""
        if mark is not None:
            return {**encode_mark(mark)}
        return {} if self.journal_mark is None else {JOURNAL_KEY: None}

    # Those who look at the chain while it grows.

    @contextmanager
    def view(self) -> Iterator[ChainStore]:
        """The chain as it stands, to read in another thread while blocks are added here.

        May wait for a batch to reach the disk.
        """
        with ExitStack() as stack:
            with self._changing:
                view = copy(self)
                view._store, view._unwritten = stack.enter_context(self._store.snapshot()), {}
            yield view

    @property
    def is_index_complete(self) -> bool:
        """Whether accounts are indexed up to the last block, and no index of an earlier version is left."""
        return self.index_end == self.height and not self.find_old_index(1)

    def extend_index(self) -> bool:
        """Index the accounts of a bounded number of blocks more. Returns whether there are others to index.

        Another thread may add blocks meanwhile: it waits for the write at most, which does not wait for the disk.

        Raises:
            StoreError: the store fails.
        """
        if not self.index_accounts:
            return False
        with self.view() as view:
            changes, start = self._index_builder.extend(view), view.index_end
        with self._changing:
            # Blocks that were pruned meanwhile, or left behind by a snapshot, are not to be indexed any more.
            if changes and start >= self.base.height:
                self._store.write(changes, is_synced=False)
                self.revision += 1
            self._index_builder.forget(self.index_end)
            return not self.is_index_complete

    # States at the ends of epochs, for those who start from one.

    def _keep_end_state(self, header: Header, state: State) -> None:
        if header.height == get_last_height(self.genesis.parameters, header.epoch):
            self._end_states[header.height] = header, state
            for height in sorted(self._end_states)[:-2]:
                self._end_states.pop(height, None)

    def find_epoch_end_state(self, height: int) -> State | None:
        """The state at one of the last two epoch ends, or None. Their states cost only their differences.

        After a restart they come back through the undo entries, once; that takes a moment.
        """
        parameters = self.genesis.parameters
        epoch = get_epoch(parameters, self.height + 1)
        if height not in (get_last_height(parameters, epoch - 1), get_last_height(parameters, epoch - 2)):
            return None
        if height not in self._end_states and max(self.undo_floor, 1) <= height:
            # Blocks may be added meanwhile, by another thread: the state itself knows which one it is of.
            header, state = self.find_header(height), self.state
            start = state.history.count
            if header is None or start < height:
                return None
            found = self.rewind(state, start, height)
            if found.root != header.state_root:
                raise StoreDamaged(f"the undo entries do not lead back to the state after block {height}")
            self._end_states[height] = header, found
        end = self._end_states.get(height)
        return None if end is None else end[1]

    # Where the chain begins.

    def adopt_snapshot(
        self, ends: Sequence[LightClientUpdate], state: State, journal_mark: tuple[int, bytes] | None = None
    ) -> None:
        """Go on from the staged ``state`` at the last of ``ends``, which are verified and lead up to it.

        One batch makes the switch; what was here before is deleted afterwards, bit by bit.

        Raises:
            ValueError: the state is not the one that is staged for that block, or not above the last block here.
            StoreError: the store fails; nothing has changed.
        """
        with self._changing:
            self._adopt_snapshot(ends, state, journal_mark)

    def _adopt_snapshot(
        self, ends: Sequence[LightClientUpdate], state: State, journal_mark: tuple[int, bytes] | None
    ) -> None:
        header = ends[-1].header
        if self.snapshot_import.header != header or state.root != header.state_root or header.height <= self.height:
            raise ValueError("not the staged snapshot")
        while self.prunable or self.snapshot_import.garbage:
            self.prune()
        changes: dict[bytes, bytes | None] = {
            BASE_KEY: header.encode(),
            HEIGHT_KEY: encode_number(header.height),
            UNDO_KEY: encode_number(header.height),
            PRUNE_KEY: encode_number(self.base.height + 1) + encode_number(self.height),
            SLOT_KEY: self.snapshot_import.slot,
            **self.snapshot_import.leave(),
        }
        first = ends[0].header.epoch
        if first and self._last_header(first - 1) is None:  # no chain of epochs leads from those here to the new ones
            prefixes = (VALIDATORS_PREFIX, EPOCH_END_PREFIX, RESTARTS_PREFIX)
            old = [key for prefix in prefixes for key, _ in self._store.items(prefix)]
            changes |= {key: None for key in old if int.from_bytes(key[1:], "big") < first}
        for leaf in state.entries():
            if leaf.key[:1] == COMMITTEE_PREFIX:
                changes[leaf.key] = leaf.encoded
        for end in ends:
            epoch = encode_number(end.header.epoch)
            changes[EPOCH_END_PREFIX + epoch] = FinalHeader(end.header, end.certificate).encode()
            changes[VALIDATORS_PREFIX + epoch] = end.validators.encode()
            if end.restarts:
                restarts = tuple(FinalRestart(header) for header in end.restarts)
                changes[RESTARTS_PREFIX + epoch] = Restarts(restarts).encode()
        changes |= self._make_mark(journal_mark)
        self._store.write(changes)
        self.revision += 1
        self._unwritten = {}
        self._slot = self.snapshot_import.slot
        self.snapshot_import = SnapshotImport(self._store, OTHER_SLOT[self._slot])
        self.base = self.header = header
        self.state, self.height = state, header.height
        self._end_states.clear()
        self._keep_end_state(header, state)

    def prune(self) -> None:
        """Delete a bounded part of the entries that need not be kept, as every append does; extra calls do no harm."""
        with self._changing:
            changes, base = self._collect_prunable()
            if changes:
                self._store.write(changes)
                self.revision += 1
            self.base = base

    def _collect_prunable(self) -> tuple[dict[bytes, bytes | None], Header]:
        """The changes that delete a bounded part of the entries that need not be kept, and the base after them."""
        changes: dict[bytes, bytes | None] = dict(self.snapshot_import.collect_garbage())
        base, prunable = self._find_base(), self.prunable
        if base is not None:
            prunable = range(prunable.start if prunable else self.base.height + 1, base.height + 1)
            changes |= {BASE_KEY: base.encode(), UNDO_KEY: encode_number(base.height)}
        elif not self.keep_epochs and not self.base.height:
            floor, target = self.undo_floor, self.height - 2 * self.genesis.parameters.epoch_heights
            upto = min(target, floor + PRUNE_BATCH_ENTRIES)
            if upto > floor:
                changes |= {UNDO_PREFIX + encode_number(height): None for height in range(floor + 1, upto + 1)}
                changes[UNDO_KEY] = encode_number(upto)
        next_height = prunable.start
        while next_height < prunable.stop and len(changes) < PRUNE_BATCH_ENTRIES:
            changes |= dict.fromkeys(self.find_keys(next_height))
            next_height += 1
        if prunable:
            is_done = next_height >= prunable.stop
            changes[PRUNE_KEY] = None if is_done else encode_number(next_height) + encode_number(prunable.stop - 1)
        return changes, base or self.base

    def _find_base(self) -> Header | None:
        """The next base that the setting allows; None if there is none yet."""
        parameters = self.genesis.parameters
        epoch = get_epoch(parameters, self.height + 1) - self.keep_epochs - 1
        if not self.keep_epochs or epoch < 0:
            return None
        height = get_last_height(parameters, epoch)
        if height <= self.base.height or height < self.undo_floor:
            return None
        end = self._last_header(epoch)
        return None if end is None else end.header

    def accept_restart(self, block_id: bytes) -> Genesis:
        """Accept a restart block as the next (:mod:`chain.transition.restart`). Returns the genesis that says so."""
        self._accept((block_id,))
        return self.genesis

    def _accept(self, restarts: tuple[bytes, ...]) -> None:
        accepted = tuple(dict.fromkeys((*self.genesis.restarts, *restarts)))
        if accepted != self.genesis.restarts:
            self.genesis = replace(self.genesis, restarts=accepted)
            self._store.write({GENESIS_KEY: self.genesis.encode()})

    def strengthen(self, certificate: Certificate) -> None:
        """Replace the certificate of a final block by ``certificate``, if that has more signers.

        It is written with the next append: a crash before that leaves the weaker one, which proves as much.

        Raises:
            StoreError: the store cannot be read.
        """
        height = self.height_of_block(certificate.block_id)
        if height is None or height <= self.base.height:
            return
        known = self.certificate(height)
        if known is not None and set(known.signers) < set(certificate.signers):
            self._unwritten[CERTIFICATE_PREFIX + encode_number(height)] = certificate.encode()
