"""The blocks of a chain executed again, for those who look at what they did. No signature is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from chain.audit.sources import ChainSource
from chain.transition.block import Transition, apply_block
from chain.types.blocks import MAX_BLOCK_BYTES, Block


def replay(source: ChainSource, on_progress: Callable[[int], None]) -> Iterator[tuple[int, Transition]]:
    """Execute every block. Yields the height and the transition of each, and reports the height after that.

    Raises:
        StoreError: the source cannot be read.
        LedgerError: a block cannot be executed.
    """
    genesis, header = source.genesis, source.base
    state = source.read_base() if header.height else genesis.state
    for raw, _ in source.entries():
        block = Block.decode(raw, MAX_BLOCK_BYTES)
        transition = apply_block(genesis, header, state, block)
        header, state = block.header, transition.state
        yield block.height, transition
        on_progress(block.height)
