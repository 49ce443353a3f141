"""Advertiser: announcement and ledger follow the configuration and the backends."""

from __future__ import annotations

import trio

from chain.parameters.parameters import CREDIT
from chain.transition.deposits import compute_models_deposit
from chain.types.operations import Bond, Hold, Serve, Transfer
from p2p.peers.announcement import Announcement
from tests.support.market.scripted_backend import Script
from tests.support.market_world import MODEL, Options, World, ask, make_request, simulate
from tests.support.waiting import eventually


def find(world: World, number: int) -> Announcement:
    found = world.gateway.discovery.find(world.members[number].public_key)
    assert found is not None
    return found


def test_a_dead_backend_leaves_the_announcement_but_not_the_ledger() -> None:
    async def play(world: World) -> None:
        backend = world.members[1].backend
        assert backend is not None and find(world, 1).models == (MODEL,)
        backend.script.is_alive = False
        await eventually(lambda: find(world, 1).models == (), 5)
        await trio.sleep(30)
        assert world.account(1).models == (MODEL,) and world.operations(Serve) == []
        backend.script.is_alive = True
        await eventually(lambda: find(world, 1).models == (MODEL,), 5)

    simulate(play)


def test_load_is_announced() -> None:
    async def play(world: World) -> None:
        (only,) = world.drawn()
        assert only.backend is not None
        only.backend.script = Script(first_delay=20.0)
        async with trio.open_nursery() as nursery:
            for number in range(6):  # one after the other: a new payer may have two offers that are not paid yet
                await eventually(lambda: len(world.operations(Hold)) == number, 5)  # noqa: B023
                nursery.start_soon(ask, world.gateway, make_request())
            await eventually(lambda: find(world, 1).load.models[0].waiting == 2, 10)
            load = find(world, 1).load
            assert load.models[0].running == load.models[0].slots == 4 and load.utilization == 1000
            assert load.models[0].decode_rate == 0, "nothing was measured yet"
        await eventually(lambda: find(world, 1).load.utilization == 0, 10)
        # 5 bytes a token every 50 ms, of which the first comes with the prompt.
        assert 15_000 < find(world, 1).load.models[0].decode_rate < 40_000
        assert find(world, 1).load.models[0].prefill_rate > 0

    simulate(play, Options(executors=1))


def test_a_node_bonds_and_declares_what_it_serves_once() -> None:
    async def play(world: World) -> None:
        # The gateway has the model and no standing yet.
        world.gateway.stake_keeper.stake = 150 * CREDIT
        await eventually(lambda: world.account(0).models == (MODEL,), 60)
        assert world.account(0).bonded == 150 * CREDIT
        await trio.sleep(60)
        assert [bond.amount for bond in world.operations(Bond)] == [50 * CREDIT]
        assert [serve.models for serve in world.operations(Serve)] == [(MODEL,)]

    simulate(play, Options(own_backend=True))


def test_a_stake_that_cannot_be_paid_is_left_alone() -> None:
    async def play(world: World) -> None:
        world.gateway.stake_keeper.stake = 5_000 * CREDIT
        await trio.sleep(60)
        assert world.operations(Bond) == [] and world.account(0).bonded == 100 * CREDIT

    simulate(play)


def test_models_are_not_declared_as_long_as_their_deposit_cannot_be_paid() -> None:
    async def play(world: World) -> None:
        await trio.sleep(60)
        assert world.operations(Serve) == [] and world.account(0).models == ()
        await world.members[1].node.wallet.submit(lambda nonce: Transfer(nonce, world.members[0].public_key, CREDIT))
        await eventually(lambda: world.account(0).models == (MODEL,), 60)
        assert world.account(0).deposit == compute_models_deposit(world.genesis.parameters, (MODEL,))
        assert len(world.operations(Serve)) == 1

    simulate(play, Options(own_backend=True, available={0: 5_000}, parameters={"deposit_per_byte": 20}))


def test_a_halt_of_minutes_bonds_no_more_than_once() -> None:
    async def play(world: World) -> None:
        await world.kill(0)  # the only voter
        world.members[1].node.stake_keeper.stake = 130 * CREDIT
        await trio.sleep(200)
        await world.start(0)
        await eventually(lambda: world.account(1).bonded == 130 * CREDIT, 120)
        await trio.sleep(90)
        assert len(world.operations(Bond)) == 1

    simulate(play)
