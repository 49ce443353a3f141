"""Registering a new account through its own node."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from chain.exceptions import InvalidOperation
from chain.parameters.parameters import CREDIT
from chain.state.state import compute_supply
from serving.accounting.registration import register
from tests.support.consensus_world import World, make_equal_genesis, simulate
from tests.support.keys import make_key

PLAIN = make_equal_genesis(4, epoch_heights=8)
GENESIS = replace(
    PLAIN, parameters=replace(PLAIN.parameters, register_grant=CREDIT, register_cap=1, register_difficulty=3)
)
FOUR = (1, 2, 3, 4)


def test_a_stranger_gets_its_bond_and_a_second_one_waits_for_the_next_epoch() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR, 6, 7)
        for number in (6, 7):
            node = world.nodes[number]
            assert node.runtime is not None
            with trio.fail_after(400.0):
                while True:
                    try:
                        operation = await register(node.engine, node.key, ("m",), node.runtime)
                        break
                    except InvalidOperation as error:
                        assert number == 7 and "next" in str(error)
                        await trio.sleep(5.0)
            assert (await node.engine.wait_final(operation.id, 60.0))[1] is None
            account = node.engine.state.account(node.key.public_key)
            assert (account.bonded, account.grant, account.models) == (CREDIT, CREDIT, ("m",))
        with pytest.raises(InvalidOperation, match="done nothing yet"):
            await register(world.engine(6), make_key(6), ("m",), world.nodes[6].runtime)  # type: ignore[arg-type]
        state = world.engine(7).state  # the one that is known to have both
        assert compute_supply(state) == state.totals.supply == GENESIS.supply + 2 * CREDIT
        await trio.sleep(20.0)
        world.check_same_chain()

    simulate(GENESIS, play)


def test_a_chain_that_grants_nothing_says_so_before_any_work() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR, 6)
        with pytest.raises(InvalidOperation, match="grants nothing"):
            await register(world.engine(6), make_key(6), (), world.nodes[6].runtime)  # type: ignore[arg-type]

    simulate(PLAIN, play)
