"""Building the index of accounts behind the chain, in bounded parts.

An append makes no entries: it leaves here what its blocks did, and another thread makes the entries from that. Blocks
from before this process, or from before there was an index, are executed again, without checks of their signatures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from chain.exceptions import LedgerError, StoreDamaged
from chain.state.state import State
from chain.store import account_index
from chain.store.layout import INDEXED_KEY, encode_number
from chain.transition.block import Transition, apply_block
from chain.types.blocks import Block, Header

if TYPE_CHECKING:
    from chain.store.writer import ChainStore

BATCH_BYTES = 64 * 1024
"""Blocks that are indexed at a time, by their size: a batch ends with the block that reaches it."""
BATCH_DELETIONS = 4_096
"""Entries of an earlier version's index that are deleted at a time."""
MAX_RECENT_BYTES = 512 * 1024
"""Total size of the blocks whose effects wait in memory. The effects take some fifty times as much."""


@dataclass(frozen=True, slots=True)
class Executed:
    """A block, the state before it, and what it led to."""

    before: State
    block: Block
    transition: Transition


class IndexBuilder:
    """What is known of blocks that are not indexed yet."""

    def __init__(self) -> None:
        self._recent: dict[int, Executed] = {}
        """By height; those in it follow one another but where there was no room."""
        self._recent_bytes = 0
        self._at: tuple[Header, State] | None = None
        """A header and the state after it, from which blocks are executed again."""

    def note(self, executed: Executed) -> None:
        """A block was added. If there is no room for its effects, it is executed again when its turn comes."""
        size = len(executed.block.encoded)
        if self._recent_bytes + size <= MAX_RECENT_BYTES:
            self._recent[executed.block.height] = executed
            self._recent_bytes += size

    def forget(self, height: int) -> None:
        """The blocks up to ``height`` are indexed, or gone."""
        while self._recent and (first := next(iter(self._recent))) <= height:
            self._recent_bytes -= len(self._recent.pop(first).block.encoded)

    def extend(self, chain: ChainStore) -> dict[bytes, bytes | None]:
        """The changes that index a bounded number of blocks more of ``chain``.

        Raises:
            StoreError: a block or a state cannot be read.
        """
        changes: dict[bytes, bytes | None] = dict.fromkeys(chain.find_old_index(BATCH_DELETIONS))
        size = 0
        reached = start = chain.index_end
        while reached < chain.height and size < BATCH_BYTES:
            executed = self._execute(chain, reached + 1)
            block = executed.block
            size += len(block.encoded)
            if block.height > reached:
                changes |= account_index.make_entries(block, executed.before, executed.transition)
                reached = block.height
        if reached != start:
            changes[INDEXED_KEY] = encode_number(reached)
        return changes

    def _execute(self, chain: ChainStore, height: int) -> Executed:
        """The block at ``height`` and what it did, or a block that comes before it, if that must be executed first."""
        known = self._recent.get(height)
        if known is not None:
            self._at = None
            return known
        if self._at is None or not chain.base.height <= self._at[0].height < height:
            self._at = _find_start(chain, height - 1)
        header, before = self._at
        block = chain.block(header.height + 1)
        if block is None:
            raise StoreDamaged(f"block {header.height + 1} is missing")
        try:
            transition = apply_block(chain.genesis, header, before, block)
        except LedgerError as error:
            raise StoreDamaged(f"block {block.height} does not follow from those before it: {error}") from error
        self._at = block.header, transition.state
        return Executed(before, block, transition)


def _find_start(chain: ChainStore, height: int) -> tuple[Header, State]:
    """A block at ``height`` or before it, and the state after it."""
    if height >= max(chain.undo_floor, 1):
        header = chain.find_header(height)
        state = chain.rewind(chain.state, chain.height, height)
        if header is None or state.root != header.state_root:
            raise StoreDamaged(f"the undo entries do not lead back to the state after block {height}")
        return header, state
    return chain.genesis.header, chain.genesis.state  # undo entries are kept from the base on, unless that is genesis
