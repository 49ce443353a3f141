"""Proposals with operations by id: what comes out is the leader's block or nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chain.transition.block import build_block
from chain.types.blocks import Block, sign_proposal
from chain.types.operations import SignedOperation, Transfer, sign_operation
from consensus.network.compact_blocks import CompactPropose, reconstruct, to_compact
from consensus.simplex.messages import Propose
from tests.support.chain_builder import find_reveal
from tests.support.consensus_world import World, make_equal_genesis, simulate
from tests.support.keys import make_key

GENESIS = make_equal_genesis(1, others=5)


def make_proposal(count: int) -> Propose:
    operations = [
        sign_operation(
            make_key(1 + index % 6), GENESIS.chain_id, Transfer(index // 6, make_key(2).public_key, 1, bytes(64))
        )
        for index in range(count)
    ]
    block, _, rejected = build_block(
        GENESIS, make_key(1), GENESIS.header, GENESIS.state, operations,
        view=1, timestamp=GENESIS.timestamp + 1, reveal=find_reveal(make_key(1), GENESIS, GENESIS.state),
        parent_certificate=None, nullifications=(),
    )  # fmt: skip
    assert not rejected
    return Propose(sign_proposal(make_key(1), GENESIS.chain_id, 0, 1, block.id), block)


def index_operations(block: Block) -> dict[bytes, SignedOperation]:
    return {operation.id: operation for operation in block.body.operations}


def test_small_blocks_travel_whole() -> None:
    assert to_compact(make_proposal(3)) is None


def test_a_large_block_comes_back_byte_for_byte() -> None:
    message = make_proposal(500)
    compact = to_compact(message)
    assert compact is not None
    raw = compact.encode()
    assert len(raw) < len(message.block.encoded) / 4
    assert reconstruct(CompactPropose.decode(raw), index_operations(message.block)) == message


def test_what_is_missing_or_differs_never_passes_for_the_block() -> None:
    message = make_proposal(500)
    compact = to_compact(message)
    assert compact is not None
    operations = index_operations(message.block)
    one = message.block.body.operations[7]
    assert reconstruct(compact, {key: operation for key, operation in operations.items() if key != one.id}) is None
    assert reconstruct(compact, {**operations, one.id: replace(one, signature=bytes(64))}) is None


@pytest.mark.parametrize("loss", [0.0, 0.7])
@pytest.mark.parametrize("are_served", [False, True])
def test_validators_agree_on_compact_proposals(loss: float, are_served: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when gossip lost the operations, and when the leader does not hand them out one by one."""
    monkeypatch.setattr("consensus.network.compact_blocks.MAX_WHOLE_BYTES", 0)
    if not are_served:
        monkeypatch.setattr("consensus.mempool.pool.Mempool.get", lambda *_: None)

    async def play(world: World) -> None:
        await world.start(1, 2, 3, 4)
        for _ in range(3):
            operations = [world.transfer(sender, 2, 1) for sender in (1, 3, 4)]
            for operation in operations:
                await world.engine(1).submit(operation)
            for operation in operations:
                await world.engine(4).wait_final(operation.id, 30.0)
        world.check_same_chain()
        if loss:
            return  # a leader that did not hear of an operation may be voted down
        store = world.engine(1)._store
        views = [block.header.view for height in range(1, store.height + 1) if (block := store.block(height))]
        assert views == list(range(1, store.height + 1))  # nothing had to be nullified

    simulate(make_equal_genesis(4), play, loss=loss)
