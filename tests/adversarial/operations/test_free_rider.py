"""An account that wants blocks made for nothing, with holds that no block can take any more when it is built."""

from __future__ import annotations

import pytest
import trio

from chain.exceptions import InvalidOperation
from chain.genesis import Genesis, GenesisAccount, make_genesis, make_validator
from chain.parameters.parameters import CREDIT, Parameters
from chain.types.operations import Hold, sign_operation
from consensus.engine import Engine
from p2p.simulation.runtime import SimulatedRuntime
from tests.support.consensus_world import World, simulate
from tests.support.keys import make_key

VALIDATORS = (1, 2, 3, 4)
RIDER, EXECUTOR = make_key(5), make_key(6)


def make_market() -> Genesis:
    parameters = Parameters(epoch_heights=1_024, min_validator_bond=100 * CREDIT)
    accounts = [
        make_validator(make_key(number), bytes(32), parameters, 1_000 * CREDIT, 100 * CREDIT) for number in VALIDATORS
    ]
    accounts.append(GenesisAccount(RIDER.public_key, CREDIT, 0, (), None))
    accounts.append(GenesisAccount(EXECUTOR.public_key, 1_000 * CREDIT, 100 * CREDIT, ("m",), None))
    return make_genesis("test", SimulatedRuntime.EPOCH_MS, bytes(32), accounts, parameters)


def make_hold(engine: Engine, number: int, left: int) -> Hold:
    first_round, deadline = engine.state.serving_periods.current.first_round, engine.chain_time() + left
    return Hold(EXECUTOR.public_key, 2_000, first_round, 0, 0, "m", number.to_bytes(32, "big"), deadline)


@pytest.mark.parametrize("is_watched", [True, False])
def test_no_block_is_made_for_a_hold_that_is_too_late_for_it(is_watched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The idle chain keeps its beat; whether the pool foresees it, or the leader finds out when it builds."""
    genesis = make_market()
    if not is_watched:
        monkeypatch.setattr("consensus.mempool.pool.DEADLINE_MARGIN_MS", -(10**9))

    async def play(world: World) -> None:
        engine, *_ = await world.start(*VALIDATORS)
        start, seen, sent = engine.header.height, -1, 0
        with trio.move_on_after(100.0):
            while True:
                if engine.header.height != seen:
                    seen = engine.header.height
                    for left in range(1, 50, 3):
                        hold = make_hold(engine, sent, left)
                        try:
                            await engine.submit(sign_operation(RIDER, genesis.chain_id, hold))
                        except InvalidOperation as error:
                            assert "deadline" in str(error) or "asks for the same" in str(error)
                        sent += 1
                await trio.sleep(0.02)
        assert engine.header.height - start <= 12
        assert engine.state.account(RIDER.public_key).total == CREDIT
        world.check_same_chain()

    simulate(genesis, play)


def test_a_hold_waits_for_no_beat() -> None:
    """One with time enough is in a block at once, also when nothing has happened for a while."""
    genesis = make_market()

    async def play(world: World) -> None:
        engine, *_ = await world.start(*VALIDATORS)
        await trio.sleep(35.0)
        hold = sign_operation(RIDER, genesis.chain_id, make_hold(engine, 0, 20_000))
        await engine.submit(hold)
        await engine.wait_final(hold.id, 3.0)

    simulate(genesis, play)
