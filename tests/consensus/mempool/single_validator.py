"""A chain of one validator, whose blocks are final at once, for the tests of the mempool."""

from __future__ import annotations

from collections.abc import Iterable

from chain.genesis import Genesis
from chain.transition.block import Transition, build_block
from chain.transition.epochs import get_next_epoch
from chain.types.blocks import Block
from chain.types.operations import (
    SignedOperation,
)
from consensus.mempool.pool import (
    Mempool,
)
from tests.support.chain_builder import find_reveal
from tests.support.consensus_world import make_equal_genesis
from tests.support.keys import make_key

GENESIS = make_equal_genesis(1, others=9)


class Chain:
    """Blocks by the only validator, final at once."""

    def __init__(self, genesis: Genesis = GENESIS) -> None:
        self.genesis = genesis
        self.header, self.state = genesis.header, genesis.state

    def extend(self, operations: Iterable[SignedOperation], seconds: int = 1) -> tuple[Block, Transition]:
        key = make_key(1)
        assert get_next_epoch(self.genesis, self.state).compute_leader(self.header.view + 1) == key.public_key
        block, transition, _ = build_block(
            self.genesis, key, self.header, self.state, operations,
            view=self.header.view + 1, timestamp=self.header.timestamp + seconds * 1000,
            reveal=find_reveal(key, self.genesis, self.state), parent_certificate=None, nullifications=(),
        )  # fmt: skip
        self.header, self.state = block.header, transition.state
        return block, transition

    def make_final(self, pool: Mempool, operations: Iterable[SignedOperation], now: float = 0.0) -> Block:
        block, transition = self.extend(operations)
        pool.on_final(block, transition.state, transition.changes, now)
        return block
