"""One key signs what contradicts itself, and hands each version to another node at the same moment.

Transfers of one nonce, holds of one number, and holds that only together cost more than there is. Exactly one of each
becomes final, the same everywhere; no credit appears or vanishes; and the nodes' mempools agree again: all are empty.
"""

from __future__ import annotations

from functools import cache

import pytest
import trio

from chain.exceptions import InvalidOperation
from chain.genesis import Genesis, GenesisAccount, make_genesis, make_validator
from chain.parameters.parameters import CREDIT, Parameters
from chain.state.state import compute_supply
from chain.transition.payments import get_executor
from chain.types.operations import Hold, Operation, SignedOperation, Transfer, sign_operation
from consensus.network.gossip import Batch, get_topic
from p2p.simulation.network import SimulatedNetwork
from p2p.simulation.runtime import SimulatedRuntime
from tests.support.consensus_world import World, simulate
from tests.support.keys import make_key
from tests.support.seeds import list_seeds

VALIDATORS = (1, 2, 3, 4)
FOLLOWER = 5
NODES = (*VALIDATORS, FOLLOWER)
RACER = 6
ROUNDS = 4
"""Nonces, and as many hold numbers, that are raced for."""


@cache
def make_market_genesis() -> Genesis:
    """Validators that also serve, a follower and the racer."""
    parameters = Parameters(epoch_heights=1_024, min_validator_bond=100 * CREDIT)
    validators = [
        make_validator(make_key(number), bytes(32), parameters, 1_000 * CREDIT, 100 * CREDIT, ("m",))
        for number in VALIDATORS
    ]
    others = [GenesisAccount(make_key(number).public_key, 1_000 * CREDIT, 0, (), None) for number in (FOLLOWER, RACER)]
    return make_genesis("race", SimulatedRuntime.EPOCH_MS, bytes(32), [*validators, *others], parameters)


def sign(operation: Operation) -> SignedOperation:
    return sign_operation(make_key(RACER), make_market_genesis().chain_id, operation)


def make_hold(seq: int, amount: int) -> SignedOperation:
    genesis = make_market_genesis()
    payee = get_executor(genesis.state, 0, make_key(RACER).public_key, seq, 0, "m")
    assert payee is not None
    return sign(Hold(payee, amount, 0, seq, 0, "m", bytes(32), 600_000))


def make_rivals() -> list[list[SignedOperation]]:
    """Lists of operations that exclude each other, one operation for each node."""
    transfers = [
        [sign(Transfer(nonce, make_key(number).public_key, 1_000 + nonce)) for number in NODES]
        for nonce in range(ROUNDS)
    ]
    holds = [[make_hold(seq, 2_000 + number) for number in NODES] for seq in range(ROUNDS)]
    # Each takes more than half of what there is.
    dear = [make_hold(ROUNDS + number, 600 * CREDIT) for number in NODES]
    return [*transfers, *holds, dear]


async def submit(world: World, number: int, operations: list[SignedOperation]) -> None:
    for operation in operations:
        try:
            await world.engine(number).submit(operation)
        except InvalidOperation:
            continue  # a rival was faster


async def check_outcome(world: World, rivals: list[list[SignedOperation]]) -> None:
    numbers = [number for number in NODES if world.nodes[number].is_alive]
    with trio.fail_after(90.0):
        for group in rivals:
            while not all(count_final(world, number, group) for number in numbers):
                await trio.sleep(0.1)
        while any(world.engine(number).status().mempool_operations for number in numbers):
            await trio.sleep(0.1)
    world.check_same_chain()
    for number in numbers:
        engine = world.engine(number)
        assert all(count_final(world, number, group) == 1 for group in rivals)
        assert compute_supply(engine.state) == world.genesis.supply
        account = engine.state.account(make_key(RACER).public_key)
        assert account.nonce == ROUNDS and account.held > 600 * CREDIT
    winners = {
        tuple(operation.id for group in rivals for operation in group if is_final(world, number, operation))
        for number in numbers
    }
    assert len(winners) == 1


def is_final(world: World, number: int, operation: SignedOperation) -> bool:
    return world.engine(number)._store.find_operation(operation.id) is not None


def count_final(world: World, number: int, group: list[SignedOperation]) -> int:
    return sum(is_final(world, number, operation) for operation in group)


@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.long), 3]
)
def test_one_of_many_claims_to_a_nonce_or_hold_number_becomes_final(seed: int) -> None:
    async def play(world: World) -> None:
        await world.start(*NODES)
        rivals = make_rivals()
        async with trio.open_nursery() as nursery:
            for position, number in enumerate(NODES):
                nursery.start_soon(submit, world, number, [group[position] for group in rivals])
        await check_outcome(world, rivals)

    simulate(make_market_genesis(), play, seed=seed, loss=0.1 * seed)


@pytest.mark.parametrize("seed", list_seeds(1, 2))
def test_the_race_is_run_by_gossip_again_and_again(seed: int) -> None:
    """The loser goes on claiming, through hosts that belong to no node."""

    async def play(world: World) -> None:
        await world.start(*NODES)
        rivals = make_rivals()
        networks = [SimulatedNetwork(world.hub, make_key(200 + number).public_key) for number in NODES]
        world.hub.connect_all()
        for _ in range(10):
            for position, network in enumerate(networks):
                batch = Batch(tuple(group[(position + seed) % len(group)].encoded for group in rivals))
                await network.publish(get_topic(world.genesis.chain_id, "ops"), batch.encode())
            await trio.sleep(0.3)
        await check_outcome(world, rivals)

    simulate(make_market_genesis(), play, seed=seed)


def test_the_two_sides_of_a_partition_hear_different_claims() -> None:
    async def play(world: World) -> None:
        await world.start(*NODES)
        rivals = make_rivals()
        world.hub.partition([[make_key(number).public_key for number in (1, 2)]])
        async with trio.open_nursery() as nursery:
            for position, number in enumerate(NODES):
                nursery.start_soon(submit, world, number, [group[position] for group in rivals])
        await trio.sleep(5.0)
        assert not any(count_final(world, number, group) for number in NODES for group in rivals)
        world.hub.heal()
        world.hub.connect_all()
        await check_outcome(world, rivals)

    simulate(make_market_genesis(), play)
