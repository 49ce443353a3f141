"""A payer that wants its own friend to be paid instead of the executor drawn: no entry point admits such a hold.

Its own node refuses it, those of others drop it from gossip, and a leader that puts it into its block all the same
proposes in vain, and pays for the view.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import pytest
import trio

from chain.exceptions import InvalidOperation
from chain.genesis import Genesis, GenesisAccount, make_genesis, make_validator
from chain.parameters.parameters import CREDIT, Parameters
from chain.state.state import compute_supply
from chain.transition.block import Transition, build_block
from chain.transition.deposits import compute_hold_deposit
from chain.transition.payments import get_executor
from chain.types.blocks import Block, sign_block
from chain.types.operations import Hold, SignedOperation, sign_operation
from consensus.network.gossip import Batch, get_topic
from p2p.simulation.runtime import SimulatedRuntime
from tests.support.consensus_world import World, simulate
from tests.support.keys import make_key

VALIDATORS = (1, 2, 3, 4)
CHEAT, FRIEND, PAYER = 4, 4, 5
"""The friend that the payer would rather pay leads views of its own."""

MODEL = "m"


@cache
def get_genesis() -> Genesis:
    """Validators that serve, and a payer."""
    parameters = Parameters(epoch_heights=48, min_validator_bond=100 * CREDIT)
    validators = [
        make_validator(make_key(number), bytes(32), parameters, 1_000 * CREDIT, 100 * CREDIT, (MODEL,))
        for number in VALIDATORS
    ]
    payer = GenesisAccount(make_key(PAYER).public_key, 1_000 * CREDIT, 0, (), None)
    return make_genesis("cheat", SimulatedRuntime.EPOCH_MS, bytes(32), [*validators, payer], parameters)


def make_hold(seq: int, payee: bytes | None = None, attempt: int = 0, **changes: Any) -> SignedOperation:
    """A hold of the payer; for whom the lottery says unless told otherwise."""
    genesis, payer = get_genesis(), make_key(PAYER)
    if payee is None:
        payee = get_executor(genesis.state, 0, payer.public_key, seq, attempt, MODEL)
        assert payee is not None
    hold = Hold(payee, 10_000, 0, seq, attempt, MODEL, bytes(32), 600_000)
    return sign_operation(payer, genesis.chain_id, dataclasses.replace(hold, **changes))


def make_cheats() -> list[SignedOperation]:
    """Holds for the friend, none of which the lottery gave to it."""
    genesis, payer, friend = get_genesis(), make_key(PAYER).public_key, make_key(FRIEND).public_key
    cheats = []
    for seq in range(30, 50):  # numbers that no honest hold here uses
        for attempt in range(4):
            drawn = get_executor(genesis.state, 0, payer, seq, attempt, MODEL)
            if drawn == friend:
                # Those before it in the order would have to be asked first, at a higher fee: not for its price.
                cheats += [make_hold(seq, friend, other) for other in range(attempt)]
    cheats.append(make_hold(0, make_key(PAYER).public_key))  # to oneself
    cheats.append(make_hold(0, make_key(9).public_key))  # to an account that serves nothing
    cheats.append(make_hold(0, make_key(FRIEND).public_key, 8))  # beyond all attempts
    cheats.append(make_hold(0, model="unknown"))
    cheats.append(make_hold(0, round=1))
    return cheats


def test_no_node_takes_a_hold_for_another_than_the_drawn() -> None:
    async def play(world: World) -> None:
        await world.start(*VALIDATORS, PAYER)
        cheats = make_cheats()
        assert len(cheats) > 20
        for cheat in cheats:
            with pytest.raises(InvalidOperation):
                await world.engine(PAYER).submit(cheat)
        network = world.nodes[PAYER].network
        assert network is not None
        topic = get_topic(get_genesis().chain_id, "ops")
        for start in range(0, len(cheats), 8):
            raw = tuple(cheat.encoded for cheat in cheats[start : start + 8])
            await network.publish(topic, Batch(raw).encode())
        honest = make_hold(0)
        await trio.sleep(5)
        await world.engine(PAYER).submit(honest)
        for number in (*VALIDATORS, PAYER):
            await world.engine(number).wait_final(honest.id, 60)
        await trio.sleep(60)  # they may have waited for a while, in case the node was behind
        check(world, cheats)
        payer = world.engine(1).state.account(make_key(PAYER).public_key)
        parameters = get_genesis().parameters
        held = 10_000 + compute_hold_deposit(parameters)
        paid = held + len(honest.encoded) + parameters.entry_fee  # its first hold
        assert payer.held == held and payer.available == 1_000 * CREDIT - paid

    simulate(get_genesis(), play)


def test_a_leader_that_includes_one_proposes_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    cheats = make_cheats()
    refused: list[bytes] = []

    def build(genesis: Any, key: Any, *arguments: Any, **fields: Any) -> tuple[Block, Transition, Any]:
        block, transition, rejected = build_block(genesis, key, *arguments, **fields)
        if key.public_key == make_key(CHEAT).public_key:
            body = dataclasses.replace(block.body, operations=(*block.body.operations, cheats[len(refused)]))
            block = sign_block(key, dataclasses.replace(block.header, body_root=body.root), body)
            refused.append(block.id)
        return block, transition, rejected

    monkeypatch.setattr("consensus.driver.proposer.build_block", build)

    async def play(world: World) -> None:
        await world.start(*VALIDATORS)
        seq = 0
        with trio.fail_after(400):
            while len(refused) < 3 or world.engine(1).header.height < 6:
                hold = make_hold(seq)
                await world.engine(1 + seq % 3).submit(hold)
                for number in (1, 2, 3):
                    await world.engine(number).wait_final(hold.id, 60)
                seq += 1
        check(world, cheats)
        store = world.engine(1)._store
        assert not any(store.height_of_block(block_id) is not None for block_id in refused)
        cheat = world.engine(1).state.account(make_key(CHEAT).public_key)
        paid = get_genesis().state.account(make_key(CHEAT).public_key).available - cheat.available
        assert paid and paid % get_genesis().parameters.missed_lead_fee == 0

    simulate(get_genesis(), play)


def check(world: World, cheats: list[SignedOperation]) -> None:
    """None of them is anywhere, and everybody has the same chain."""
    world.check_same_chain()
    for engine in world.engines:
        assert not any(engine._store.find_operation(cheat.id) for cheat in cheats)
        assert not any(engine._mempool.get(cheat.id) for cheat in cheats)
        assert compute_supply(engine.state) == get_genesis().supply
