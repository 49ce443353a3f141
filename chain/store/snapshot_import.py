"""A snapshot on its way into a store: verified chunks, durable one by one, beside the state in use.

The store has two slots for a state. One holds the state in use; in the other a snapshot is built up, together with how
far it has come, so that a node that is restarted asks only for the rest. Finishing it is a matter of
naming the other slot (:meth:`chain.store.writer.ChainStore.adopt_snapshot`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from chain.codec import Record
from chain.exceptions import CodecError, StoreDamaged
from chain.merkle.snapshot import Frontier
from chain.state.state import State
from chain.store.kv import Store
from chain.store.layout import SNAPSHOT_KEY
from chain.types.blocks import Header

GARBAGE_BATCH_ENTRIES = 4_096
"""Leftover entries deleted at a time."""


@dataclass(frozen=True, slots=True)
class _Stage(Record):
    header: Header
    frontier: Frontier | None
    is_complete: bool


class SnapshotImport:
    """The snapshot under way in a store, if any: of the state after ``header``, up to ``frontier``.

    Raises:
        StoreError: what the store holds of it is damaged.
    """

    def __init__(self, store: Store, slot: bytes) -> None:
        self._store = store
        self.slot = slot
        raw = store.get(SNAPSHOT_KEY)
        try:
            self._stage = None if raw is None else _Stage.decode(raw)
        except CodecError as error:
            raise StoreDamaged(f"entry mstage is damaged: {error}") from error
        self.garbage = self._stage is None and next(store.items(slot), None) is not None
        """Whether entries of a state that is not in use any more are still to be deleted."""

    @property
    def header(self) -> Header | None:
        """The block whose state is being fetched; None if none is."""
        return None if self._stage is None else self._stage.header

    @property
    def frontier(self) -> Frontier | None:
        """How far it has come; None at the beginning."""
        return None if self._stage is None else self._stage.frontier

    @property
    def is_complete(self) -> bool:
        """Whether every entry is here."""
        return self._stage is not None and self._stage.is_complete

    def begin(self, header: Header) -> None:
        """Begin a snapshot of the state after ``header``; another one that was under way is given up."""
        self._store.write(self.leave())
        self._stage, self.garbage = None, True
        while self.garbage:
            self._store.write(self.collect_garbage())
        self._write(_Stage(header, None, False), {})

    def put(self, entries: Mapping[bytes, bytes]) -> None:
        """Keep values that belong to the next chunk."""
        self._store.write({self.slot + key: value for key, value in entries.items()})

    def add(self, entries: Mapping[bytes, bytes], frontier: Frontier, is_complete: bool) -> None:
        """Keep the entries of a verified chunk, and how far it leads; durable when this returns."""
        assert self._stage is not None
        self._write(_Stage(self._stage.header, frontier, is_complete), entries)

    def load(self) -> State:
        """The finished state.

        Raises:
            StoreError: it is not the one after the header.
        """
        assert self._stage is not None and self._stage.is_complete
        try:
            state = State.load({key[1:]: value for key, value in self._store.items(self.slot)})
        except CodecError as error:
            raise StoreDamaged(f"an entry of the snapshot is damaged: {error}") from error
        if state.root != self._stage.header.state_root:
            raise StoreDamaged("the snapshot on disk is not the one that was fetched")
        return state

    def leave(self) -> dict[bytes, bytes | None]:
        """The change that ends the staging."""
        return {SNAPSHOT_KEY: None}

    def collect_garbage(self) -> dict[bytes, bytes | None]:
        """The deletion of some leftovers, nothing if there are none."""
        if not self.garbage:
            return {}
        keys = [key for key, _ in islice(self._store.items(self.slot), GARBAGE_BATCH_ENTRIES)]
        self.garbage = bool(keys)
        return dict.fromkeys(keys)

    def _write(self, stage: _Stage, entries: Mapping[bytes, bytes]) -> None:
        self._store.write({SNAPSHOT_KEY: stage.encode(), **{self.slot + key: value for key, value in entries.items()}})
        self._stage = stage
