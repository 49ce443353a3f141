"""Where an audit reads a chain from: the interface of all sources, and the database of a node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from chain.exceptions import StoreError
from chain.genesis import Genesis
from chain.light.client import LightClientUpdate
from chain.state.state import State
from chain.store import account_index
from chain.store.kv import Store
from chain.store.layout import (
    ACCOUNT_ENTRY_PREFIX,
    BLOCK_ACCOUNTS_PREFIX,
    BLOCK_PREFIX,
    CERTIFICATE_PREFIX,
    EPOCH_END_PREFIX,
    FAILURES_PREFIX,
    FIRST_SLOT,
    HEIGHT_PREFIX,
    META_PREFIX,
    OLD_INDEX_PREFIXES,
    OPERATION_PREFIX,
    PAYMENTS_PREFIX,
    RESTARTS_PREFIX,
    SECOND_SLOT,
    UNDO_PREFIX,
    VALIDATORS_PREFIX,
    VOTE_SUPPORT_PREFIX,
    encode_number,
)
from chain.store.reader import ChainReader
from chain.transition.block import Transition
from chain.transition.epochs import get_epoch
from chain.types.blocks import Block, Header

_CHAIN_ENTRIES = frozenset(
    {
        BLOCK_PREFIX,
        CERTIFICATE_PREFIX,
        EPOCH_END_PREFIX,
        HEIGHT_PREFIX,
        OPERATION_PREFIX,
        UNDO_PREFIX,
        FAILURES_PREFIX,
        ACCOUNT_ENTRY_PREFIX,
        BLOCK_ACCOUNTS_PREFIX,
    }
)
"""Entries that are counted: the chain accounts for each."""
_OTHER_ENTRIES = frozenset(
    {
        VALIDATORS_PREFIX,
        VOTE_SUPPORT_PREFIX,
        META_PREFIX,
        RESTARTS_PREFIX,
        FIRST_SLOT,
        PAYMENTS_PREFIX,
        SECOND_SLOT,
        *OLD_INDEX_PREFIXES,
    }
)
"""Entries that are compared one by one, or are no part of the chain (:mod:`chain.store.layout`)."""


class ChainSource(Protocol):
    """Where a chain to be audited comes from."""

    genesis: Genesis
    base: Header
    """The header before its first block: genesis, or a later block if those up to that one are not there."""
    height: int
    """Height of its last block."""

    def read_base(self) -> State:
        """The state at the base.

        Raises:
            StoreError: it cannot be read.
        """

    def light_client_updates(self) -> Iterator[LightClientUpdate]:
        """The ends of epochs up to the last, as far back as the source has them; none if it keeps none.

        Raises:
            StoreError: one is missing.
        """

    def entries(self) -> Iterator[tuple[bytes, bytes | None]]:
        """The encoded block and finality certificate (None where there is none) of each height above the base.

        Raises:
            StoreError: the next one cannot be read.
        """

    def check_block(self, block: Block, before: State, transition: Transition) -> None:
        """Compare what the source says about a block with the replay, block after block.

        The block leads from the state ``before`` it through ``transition``.

        Raises:
            StoreError: they differ.
        """

    def check(self, state: State, header: Header) -> None:
        """Compare what the source says about the end of the chain with the replayed state.

        Raises:
            StoreError: they differ.
        """


class StoreSource:
    """The chain in a store, for one audit."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._chain = ChainReader(store)
        self.genesis = self._chain.genesis
        self.base = self._chain.base
        self.height = self._chain.height
        self._expected: Counter[bytes] = Counter()
        """Entries of each kind that the chain accounts for, all of them found."""

    def read_base(self) -> State:
        return self._chain.rewind(self._chain.load_state(), self.height, self.base.height)

    def light_client_updates(self) -> Iterator[LightClientUpdate]:
        first = self._chain.first_update_epoch if self.base.height else 0
        for epoch in range(first, get_epoch(self.genesis.parameters, self.height + 1)):
            end = self._chain.light_client_update(epoch)
            if end is None:
                raise StoreError(f"the end of epoch {epoch} is missing")
            yield end

    def entries(self) -> Iterator[tuple[bytes, bytes | None]]:
        self._expected.clear()
        for height in range(self.base.height + 1, self.height + 1):
            # Only what was stored with the block: the certificates of epoch ends are kept a second time.
            raw, certificate = (
                self._chain.raw_block(height),
                self._store.get(CERTIFICATE_PREFIX + encode_number(height)),
            )
            if raw is None:
                raise StoreError(f"block {height} is missing")
            self._expected.update([BLOCK_PREFIX] if certificate is None else [BLOCK_PREFIX, CERTIFICATE_PREFIX])
            yield raw, certificate

    def check_block(self, block: Block, before: State, transition: Transition) -> None:
        if self._chain.height_of_block(block.id) != block.height:
            raise StoreError("the index of blocks does not lead to this one")
        for index, operation in enumerate(block.body.operations):
            if self._chain.find_operation(operation.id) != (block.height, index):
                raise StoreError(f"the index of operations does not lead to number {index}")
        if block.height <= (self._chain.indexed_height or 0):
            expected = account_index.make_entries(block, before, transition)
            if any(self._store.get(key) != entry for key, entry in expected.items()):
                raise StoreError("the index of accounts does not say what this block did to them")
            self._expected.update(key[:1] for key in expected)
        # Only which ones failed: another version of this program may put the reasons in other words.
        stored = [failure is not None for failure in self._chain.failures(block.height)]
        failed = [failure is not None for failure in transition.failures]
        if stored != (failed if any(failed) else []):
            raise StoreError("the operations recorded as failed are not those that failed")
        self._expected.update({HEIGHT_PREFIX: 1, OPERATION_PREFIX: len(failed), FAILURES_PREFIX: int(any(failed))})

    def check(self, state: State, header: Header) -> None:
        stored, replayed = self._chain.stored_state(), {leaf.key: leaf.encoded for leaf in state.entries()}
        if stored != replayed:
            key = min(key for key in {*stored, *replayed} if stored.get(key) != replayed.get(key))
            raise StoreError(f"the state on disk is not the one after block {header.height}: see entry {key.hex()}")
        for epoch in range(header.epoch, header.epoch + 3):
            validators = state.committee(epoch)
            if validators is not None and self._chain.validators(epoch) != validators:
                raise StoreError(f"the validators on record for epoch {epoch} are not those of the state")
        self._expected[EPOCH_END_PREFIX] = sum(1 for _ in self.light_client_updates())
        self._expected[UNDO_PREFIX] = self.height - self._chain.undo_floor
        for height in self._chain.prunable:
            self._expected.update(key[:1] for key in self._chain.find_keys(height))
        found = self._chain.count_entries()
        for kind in sorted({*found, *_CHAIN_ENTRIES} - _OTHER_ENTRIES):
            if found[kind] != self._expected[kind]:
                raise StoreError(
                    f"there are {found[kind]} entries under {kind.decode(errors='replace')!r}, "
                    f"{self._expected[kind]} of which belong to the chain"
                )
