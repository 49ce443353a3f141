"""A checkpoint from before the unbonding time: those who could sign then may have nothing left to lose.

A node that is told to trust such a block, or that was itself away for as long, does not go on, says why, and asks for a
newer one; and no liar can have it believe that it was away.
"""

from __future__ import annotations

import pytest
import trio

from chain.exceptions import CheckpointError
from chain.light.client import Checkpoint
from chain.store.kv import MemoryStore
from consensus.sync.messages import ChainStatus, GetEnds, GetHeader, GetStatus, Question
from p2p.simulation.runtime import run_simulation
from tests.adversarial.sync.long_range import LONG, TRUE
from tests.support.agreement.sync_world import Answers, SyncWorld, fill_store, get_checkpoint, play_sync
from tests.support.chain_builder import Chain


def run_until_error(chain: Chain, checkpoint: Checkpoint | None, store: MemoryStore | None = None) -> str:
    """Why a node with a checkpoint gives up before an honest peer with the whole chain."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = SyncWorld(chain.genesis, nursery)
            await nursery.start(world.hub.run)
            await world.serve(60, fill_store(chain))
            world.trust(checkpoint)
            await world.start(5, stores=[store or MemoryStore()])
            await trio.sleep(60.0)
            nursery.cancel_scope.cancel()

    with pytest.raises(ExceptionGroup) as caught:
        run_simulation(1, main)
    error: BaseException = caught.value
    while isinstance(error, ExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, CheckpointError)
    return str(error)


def test_a_checkpoint_older_than_the_unbonding_time_is_refused() -> None:
    reason = run_until_error(TRUE, get_checkpoint(TRUE, 14))
    assert "past block 14" in reason and "Get a newer checkpoint" in reason


def test_a_checkpoint_as_old_as_the_unbonding_time_is_taken() -> None:
    async def play(world: SyncWorld) -> None:
        await world.serve(63, fill_store(TRUE))
        world.trust(get_checkpoint(TRUE, 20))
        await world.start(5)
        await world.wait_height(TRUE.head.height, 5, timeout=10.0)

    assert LONG.unbonding_epochs == 28 // 4 - 20 // 4
    play_sync(TRUE.genesis, play)


def test_who_was_away_for_too_long_needs_a_newer_checkpoint() -> None:
    """Its last final block was young enough when it left. Told a newer one, it goes on; its old blocks go."""
    store = MemoryStore()
    fill_store(TRUE, 14, store=store)
    old = get_checkpoint(TRUE, 8)
    assert "past block 14" in run_until_error(TRUE, old, store)

    async def play(world: SyncWorld) -> None:
        await world.serve(60, fill_store(TRUE))
        world.trust(get_checkpoint(TRUE, 26))
        await world.start(5, stores=[store])
        await world.wait_height(TRUE.head.height, 5, timeout=10.0)
        blocks = world.engine(5)._store
        assert blocks.base.height == 28 and blocks.state.root == TRUE.state.root
        assert all(blocks.raw_block(height) is None for height in range(1, 15))

    play_sync(TRUE.genesis, play)


def test_a_node_that_keeps_few_epochs_takes_the_state_when_it_was_away() -> None:
    """It would drop the blocks in between anyway. Its own last final block is the checkpoint."""
    store = MemoryStore()
    fill_store(TRUE, 22, store=store, keep_epochs=1)

    async def play(world: SyncWorld) -> None:
        world.keep_epochs = 1
        await world.serve(60, fill_store(TRUE))
        await world.start(5, stores=[store])
        await world.wait_height(TRUE.head.height, 5, timeout=10.0)
        assert world.engine(5)._store.base.height == 28

    play_sync(TRUE.genesis, play)


def test_a_liar_cannot_make_a_node_believe_that_it_was_away() -> None:
    """A claim of many epochs is followed to their ends, which a liar does not have."""

    async def play(world: SyncWorld) -> None:
        def lie(question: Question) -> Answers:
            tip = ChainStatus(10**6, bytes(32), 0).encode()
            return (
                [tip] if isinstance(question, GetStatus) else [] if isinstance(question, GetEnds | GetHeader) else None
            )

        await world.serve(63, fill_store(TRUE, 26))
        world.trust(get_checkpoint(TRUE, 24))
        await world.start(5)
        await world.wait_height(26, 5, timeout=10.0)
        for number in (60, 61, 62):
            await world.serve(number, fill_store(TRUE, 20), lie)
        await trio.sleep(120.0)
        await world.serve(64, fill_store(TRUE))
        await world.wait_height(TRUE.head.height, 5, timeout=60.0)

    play_sync(TRUE.genesis, play)
