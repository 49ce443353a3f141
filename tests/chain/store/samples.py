"""A chain of every kind of block, and its way into a store."""

from __future__ import annotations

from chain.store.writer import ChainStore
from chain.transition.block import apply_block
from tests.support.chain_builder import Chain


def append(blocks: ChainStore, chain: Chain, upto: int, mark: tuple[int, bytes] | None = None) -> None:
    """Append the blocks of ``chain`` after the last one up to a height, under one certificate."""
    parent, state, pairs = blocks.header, blocks.state, []
    for block in chain.blocks[blocks.height : upto]:
        transition = apply_block(chain.genesis, parent, state, block)
        pairs.append((block, transition))
        parent, state = block.header, transition.state
    blocks.append(pairs, chain.finality(chain.blocks[upto - 1]), mark)


def make_chain() -> Chain:
    chain = Chain()
    one, other = chain.users
    chain.append([chain.transfer(one, other, 1_000)])
    chain.append([chain.transfer(one, other, 10**12), chain.bond(other, 5_000)])  # the first fails, and pays its fee
    chain.append([chain.hold(one, 0)])
    chain.append()
    return chain
