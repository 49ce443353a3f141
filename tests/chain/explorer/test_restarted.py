"""A chain that was restarted with fewer validators is shown, without the shares that cannot be told."""

from __future__ import annotations

from chain.explorer.blocks import list_blocks, show_block
from chain.explorer.validators import list_validators
from chain.store.kv import MemoryStore
from serving.dashboard.block_log import describe_block
from tests.support.chains.chain_store import fill_store
from tests.support.chains.restarted_chain import append_after, go_on, make_halted, propose


def test_votes_of_validators_that_were_removed_do_not_stand_in_the_way() -> None:
    chain = make_halted()
    finals = {height: chain.finality(chain.blocks[height - 1]) for height in (4, 6)}
    finals[7] = go_on(chain, propose(chain))
    finals[8] = chain.finality(append_after(chain, finals[7]))
    blocks = fill_store(MemoryStore(), chain, finals)
    shares = {row["height"]: row["share"] for row in list_blocks(blocks)["blocks"]}
    assert shares[8] == shares[7] == 1 and shares[6] is None
    for height in range(1, 9):
        assert show_block(blocks, height)["header"]["height"] == height
        block = blocks.block(height)
        assert block is not None and describe_block(block, blocks)["height"] == height
    assert len(list_validators(blocks)["validators"]) == 2
