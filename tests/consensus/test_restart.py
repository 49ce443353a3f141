"""A network that lost half of its stake for good, and goes on by decree."""

from __future__ import annotations

import pytest
import trio

from chain.audit.audit import audit_chain
from chain.audit.sources import StoreSource
from chain.crypto import verify_all
from chain.genesis import Genesis
from chain.store.writer import ChainStore
from chain.transition.block import state_transition
from chain.transition.restart_file import RestartFile, accept, build_restart
from consensus.sync.block_range import BlockRange, HeaderChain, verify_block_range
from consensus.sync.messages import BlockItem
from tests.support.chains.restarted_chain import append_after, go_on, make_halted, propose
from tests.support.consensus_world import World, make_equal_genesis, simulate
from tests.support.keys import make_key

GENESIS = make_equal_genesis(4, others=2, epoch_heights=4)


def restart(world: World, survivors: tuple[int, ...], removed: tuple[int, ...]) -> Genesis:
    """What the owners of ``survivors``, which are stopped, do with their data directories: propose, sign, apply."""
    stores = {number: ChainStore(world.nodes[number].store, world.genesis) for number in survivors}
    longest = max(stores.values(), key=lambda store: store.height)
    file: RestartFile = build_restart(
        world.genesis,
        make_key(survivors[0]),
        longest.header,
        longest.state,
        [make_key(number).public_key for number in removed],
        longest.header.timestamp + 60_000,
    )
    for number in survivors:
        file = file.add(file.make_vote(make_key(number)))
    certificate = file.find_certificate(file.check(world.genesis, longest.header, longest.state))
    assert certificate is not None
    genesis = accept(world.genesis, file.block.id)
    for store in stores.values():
        if store.height == longest.height:  # the others catch up
            store.accept_restart(file.block.id)
            transition = state_transition(genesis, store.header, store.state, file.block)
            store.append([(file.block, transition)], certificate, store.journal_mark)
    return genesis


@pytest.mark.parametrize("moment", [0.0, 0.7])
def test_half_of_the_stake_is_gone_and_the_other_half_goes_on(moment: float) -> None:
    async def play(world: World) -> None:
        await world.start(1, 2, 3, 4, 5)
        await world.wait_height(6)
        await trio.sleep(moment)
        for number in (3, 4):
            await world.kill(number)
        await trio.sleep(120.0)
        stopped_at = world.engine(1).header.height
        await trio.sleep(60.0)
        assert world.engine(1).header.height == stopped_at  # safely
        for number in (1, 2, 5):
            await world.kill(number)
        doubter, world.genesis = world.genesis, restart(world, (1, 2), (3, 4))
        await world.start(1, 2, 5)
        await world.wait_height(stopped_at + 12, 1, 2, 5, timeout=600.0)
        operation = world.transfer(1, 2, 5)
        await world.engine(1).submit(operation)
        assert (await world.engine(5).wait_final(operation.id, 60.0))[1] is None

        # A newcomer and one of the lost, with the genesis file that names the restart, follow the chain through it.
        await world.start(6, 4)
        await world.wait_height(stopped_at + 12, 6, 4, timeout=600.0)
        world.check_same_chain()
        report = audit_chain(StoreSource(world.nodes[6].store), threads=1)
        assert report.ok and [found.removed for found in report.restarts] == [2], report.fault

        # Who does not accept it stays where proof ends.
        await world.kill(3) if world.nodes[3].is_alive else None
        world.genesis = doubter
        await world.start(3)
        await trio.sleep(60.0)
        assert world.engine(3).header.height <= stopped_at
        assert world.engine(1).header.height > stopped_at + 12

    simulate(GENESIS, play)


def test_a_checkpoint_may_lie_behind_a_restart_in_the_same_epoch() -> None:
    chain = make_halted(6)
    parent, state = chain.head, chain.state
    certificate = go_on(chain, propose(chain))
    append_after(chain, certificate)
    restart_block, last = chain.blocks[6:]
    assert restart_block.header.epoch == last.header.epoch
    headers = HeaderChain(chain.genesis, parent, state)
    for block in (restart_block, last):
        headers.append(verify_all, block)
    known = {block.height: block.id for block in (restart_block, last)}
    block_range = BlockRange(chain.genesis, parent, state, known)
    assert block_range.add(verify_all, BlockItem(restart_block.encoded, certificate.encode())) == certificate
    finality = block_range.add(verify_all, BlockItem(last.encoded, chain.finality(last).encode()))
    assert finality is not None
    executed = verify_block_range(verify_all, chain.genesis, parent, state, block_range.blocks, finality)
    assert executed[-1].transition.state.root == chain.state.root
