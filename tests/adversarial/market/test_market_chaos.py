"""Users that leave, executors that crash and come back, backends that fail: in any order, nothing is left behind."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
import trio

from chain.types.operations import Dispute, Hold
from tests.support.market.scripted_backend import Script, compute_stream, compute_whole
from tests.support.market_world import DRAWN, Member, Options, Result, World, ask, make_request, simulate

REQUESTS = 25
SPAN = 20.0
"""Seconds over which requests and mishaps are spread."""
MISHAPS: list[dict[str, Any]] = [
    {},
    {"refuses": True},
    {"status": 500},
    {"status": 400},
    {"break_after": 0},
    {"break_after": 3},
    {"error_after": 2},
    {"stall_after": 2},
    {"first_delay": 3.0},
    {"token_delay": 0.5},
    {"has_usage": False},
    {"is_alive": False},
]
OPTIONS = Options(
    executors=3,
    capacity=3,
    parameters={"capture_grace_ms": 5_000},
    originator=replace(DRAWN, hold_time_ms=310_000, max_hold_time_ms=310_000),
)


def check_answer(world: World, result: Result, stream: bool) -> None:
    """A user has one executor's answer, the beginning of one followed by an error, or a refusal."""
    if result.error is not None:
        assert result.body == b"" and result.error.status in (502, 503)
        return
    backend = next(member.backend for member in world.members if member.public_key == result.executor)
    assert backend is not None
    if result.status == 400:
        return
    with_usage, without = replace(Script(), has_usage=True), replace(Script(), has_usage=False)
    if not stream:
        assert result.broken is None and result.body == compute_whole(backend.name, with_usage)
        return
    whole = [compute_stream(backend.name, script) for script in (with_usage, without)]
    if result.broken is None:
        assert result.body in whole
    else:
        assert any(answer.startswith(result.body) for answer in whole) and result.body not in whole


@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 8))])
def test_nothing_is_left_behind(seed: int) -> None:
    chance = Random(f"chaos:{seed}")
    outcomes = {"answered": 0, "left": 0}

    async def use(world: World) -> None:
        await trio.sleep(chance.uniform(0, SPAN))
        stream = chance.random() < 0.7
        result: Result | None = None
        with trio.move_on_after(chance.choice([0.05, 0.2, 0.4, 1.0, 5.0, 1000.0, 1000.0])):
            result = await ask(world.gateway, make_request(stream=stream))
        outcomes["left" if result is None else "answered"] += 1
        if result is not None:
            check_answer(world, result, stream)

    async def trouble(world: World, member: Member) -> None:
        assert member.backend is not None
        end = trio.current_time() + SPAN
        while trio.current_time() < end:
            await trio.sleep(chance.uniform(0, 4))
            if chance.random() < 0.3:
                await world.kill(member.number)
                await trio.sleep(chance.uniform(0, 3))
                await world.start(member.number)
            else:
                member.backend.script = Script(**chance.choice(MISHAPS))
        member.backend.script = Script()

    async def play(world: World) -> None:
        async with trio.open_nursery() as nursery:
            for member in world.members[1:]:
                nursery.start_soon(trouble, world, member)
            for _ in range(REQUESTS):
                nursery.start_soon(use, world)
        await world.settle(700)
        assert sum(outcomes.values()) == REQUESTS and min(outcomes.values()) > 0
        assert sum(world.gateway.dispatcher.counters.ended.values()) == REQUESTS
        # Every hold was made once, and the ledger shows what became of each payment.
        holds = [(hold.seq, hold.attempt) for hold in world.operations(Hold)]
        assert len(set(holds)) == len(holds) > 0
        assert world.account(0).held == 0
        captured = [item.delivery.hold for item in world.captured]
        assert len(set(captured)) == len(captured)
        disputed = {dispute.hold for dispute in world.operations(Dispute)}
        assert disputed <= set(captured)
        # It all works again.
        await world.wait_met()
        assert (await ask(world.gateway)).status == 200
        await world.settle(60)

    simulate(play, replace(OPTIONS, seed=seed))
