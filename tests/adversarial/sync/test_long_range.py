"""A long-range fork against a new node: validators whose stake is unbonded sign another history from genesis on.

It costs them nothing, and every signature in it is good. A node with a checkpoint follows the true chain, whichever
peer it meets first; a node without one takes the first chain it meets, which is why the configuration asks for one.
"""

from __future__ import annotations

import pytest
import trio

from chain.exceptions import StoreError
from chain.light.client import Checkpoint
from chain.store.writer import ChainStore
from tests.adversarial.sync.long_range import FORGED, TRUE
from tests.support.agreement.sync_world import SyncWorld, fill_store, get_checkpoint, play_sync

pytestmark = pytest.mark.double_spend


def test_both_chains_are_sound_by_themselves() -> None:
    assert TRUE.genesis == FORGED.genesis and TRUE.blocks[0].id != FORGED.blocks[0].id
    assert FORGED.head.height > TRUE.head.height


@pytest.mark.parametrize("height", [24, 26, 28], ids=["the end of an epoch", "within an epoch", "the last end"])
def test_a_new_node_with_a_checkpoint_follows_the_true_chain(height: int) -> None:
    async def play(world: SyncWorld) -> None:
        for number in (60, 61, 62):
            await world.serve(number, fill_store(FORGED))
        world.trust(get_checkpoint(TRUE, height))
        await world.start(5)
        await trio.sleep(30.0)
        assert world.engine(5).header.height == 0, "nothing of the forgery counts"
        await world.serve(63, fill_store(TRUE))
        await world.wait_height(TRUE.head.height, 5, timeout=60.0)
        assert world.engine(5).header == TRUE.head and world.engine(5).state.root == TRUE.state.root
        await trio.sleep(60.0)
        assert world.engine(5).header == TRUE.head

    play_sync(TRUE.genesis, play)


@pytest.mark.parametrize("length", [3, 10, 45])
def test_a_checkpoint_in_the_epoch_at_hand_holds_for_blocks_too(length: int) -> None:
    """No state is fetched then: the blocks up to the checkpoint count together or not at all."""

    async def play(world: SyncWorld) -> None:
        for number in (60, 61, 62):
            await world.serve(number, fill_store(FORGED, length))
        world.trust(get_checkpoint(TRUE, 3))
        await world.start(5)
        await trio.sleep(30.0)
        assert world.engine(5).header.height == 0
        await world.serve(63, fill_store(TRUE, 9))
        await world.wait_height(9, 5, timeout=60.0)
        store = world.engine(5)._store
        assert store.header == TRUE.blocks[8].header and store.base.height == 0

    play_sync(TRUE.genesis, play)


def test_a_new_node_without_a_checkpoint_is_open_to_it() -> None:
    """This is what the checkpoint is for: who only knows genesis cannot tell which chain is the true one."""

    async def play(world: SyncWorld) -> None:
        await world.serve(60, fill_store(FORGED))
        await world.start(5)
        await world.wait_height(FORGED.head.height, 5, timeout=60.0)
        await world.serve(63, fill_store(TRUE))
        await trio.sleep(60.0)
        assert world.engine(5).header == FORGED.head
        # With a checkpoint it is told so when it starts again, and does not go on.
        await world.kill(5)
        with pytest.raises(StoreError, match="contradicts block 24"):
            ChainStore(world.nodes[5].store, world.genesis).check_checkpoint(get_checkpoint(TRUE, 24))

    play_sync(TRUE.genesis, play)


def test_a_wrong_checkpoint_lets_nothing_in() -> None:
    """The owner gave the right block with the wrong height."""
    wrong = Checkpoint(25, TRUE.blocks[23].id)

    async def play(world: SyncWorld) -> None:
        await world.serve(60, fill_store(TRUE))
        world.trust(wrong)
        await world.start(5)
        await trio.sleep(30.0)
        assert world.engine(5).header.height == 0

    play_sync(TRUE.genesis, play)
