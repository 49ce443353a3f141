"""Hedged requests among nodes: one answer, one receipt, and nothing left of who was not needed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
import trio

from chain.types.operations import Dispute, Hold
from p2p.streams.exchange import Exchange
from serving.offload.originator.choice import Reason
from serving.offload.originator.hedging import HedgeBudget, HedgeCounts
from serving.offload.protocol import OFFLOAD_PROTOCOL
from serving.openai.answers import Answer
from serving.prediction.first_token_bound import MIN_SAMPLES
from tests.support.market.fault_matrix import PLACES, check_paid_at_most_once, play_row
from tests.support.market.faulty_backend import FAULTS
from tests.support.market.scripted_backend import ScriptedBackend, compute_stream, compute_whole
from tests.support.market_world import (
    DRAWN,
    Member,
    Options,
    Result,
    World,
    ask,
    get_cancelled,
    get_name,
    get_script,
    make_request,
    simulate,
)
from tests.support.waiting import eventually

NEVER_S = 10_000.0
BOTH = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])


@dataclass
class GatedBackend(ScriptedBackend):
    """A backend that waits for a gate, where there is one, before it answers."""

    gates: list[trio.Event] = field(default_factory=list)
    waiting: int = 0

    @asynccontextmanager
    async def complete(self, path: str, body: bytes, *, stream: bool) -> AsyncIterator[Answer]:
        for gate in self.gates:
            self.waiting += 1
            await gate.wait()
        async with super().complete(path, body, stream=stream) as answer:
            yield answer


OPTIONS = Options(originator=replace(DRAWN, hedging=True), spacing=1.0)


async def measure(world: World, stream: bool) -> tuple[Member, Member]:
    """Have every executor measured, and room for hedges. Returns who is asked next, and who after it."""
    world.introduce()
    served = dict.fromkeys([member.public_key for member in world.drawn()], 0)
    while min(served.values()) < MIN_SAMPLES:
        executor = (await ask(world.gateway, make_request(stream=stream))).executor
        assert executor is not None
        served[executor] += 1
    for _ in range(100):
        world.gateway.originator._hedge_budget.note_attempt(is_hedge=False)
    await world.settle()
    first, second, *_ = world.drawn()
    return first, second


def check_answer(result: Result, member: Member, stream: bool) -> None:
    """The user has the whole answer of one executor, and nothing else."""
    compute = compute_stream if stream else compute_whole
    assert result.status == 200 and result.broken is None and result.executor == member.public_key
    assert result.body == compute(get_name(member), get_script(member))


async def check_nothing_left(world: World, tasks: int, crossed: int = 0) -> None:
    """Every hold is resolved, every slot free, every task over, and one answer paid for each request."""
    await world.settle(700)
    check_paid_at_most_once(world, crossed)
    await eventually(lambda: trio.lowlevel.current_statistics().tasks_living <= tasks, 120.0, interval=1.0)


@BOTH
def test_where_the_first_is_silent_the_hedge_answers(stream: bool) -> None:
    async def play(world: World) -> None:
        first, second = await measure(world, stream)
        tasks = trio.lowlevel.current_statistics().tasks_living
        get_script(first).first_delay = NEVER_S
        started = trio.current_time()
        result = await ask(world.gateway, make_request(stream=stream))
        assert trio.current_time() - started < (3.0 if stream else 15.0), "without hedging 125 s if it is not streamed"
        check_answer(result, second, stream)
        assert result.record is not None and result.record.reason == Reason.HEDGED.value
        assert world.gateway.originator.hedges == HedgeCounts(won=1)
        await check_nothing_left(world, tasks)
        assert get_cancelled(first) == 1 and get_cancelled(second) == 0
        paid = [item for item in world.captured if item.delivery.amount]
        assert len(paid) == len(world.operations(Hold)) - 1, "the one that was late gets nothing"

    simulate(play, OPTIONS)


@pytest.mark.parametrize("stream", [True, pytest.param(False, marks=pytest.mark.long)], ids=["streamed", "whole"])
def test_the_first_may_answer_after_the_hedge_has_begun(stream: bool) -> None:
    async def play(world: World) -> None:
        first, second = await measure(world, stream)
        tasks = trio.lowlevel.current_statistics().tasks_living
        get_script(first).first_delay = 4.0 if stream else 12.0
        get_script(second).first_delay = 20.0
        result = await ask(world.gateway, make_request(stream=stream))
        check_answer(result, first, stream)
        assert world.gateway.originator.hedges == HedgeCounts(lost=1)
        await check_nothing_left(world, tasks)
        assert get_cancelled(second) == 1 and world.operations(Dispute) == []

    simulate(play, OPTIONS)


@BOTH
@pytest.mark.parametrize(
    "is_same_moment", [True, pytest.param(False, marks=pytest.mark.long)], ids=["same moment", "crossing"]
)
def test_of_two_that_answer_together_one_is_the_answer_and_gets_the_receipt(
    stream: bool, is_same_moment: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Exchange.send

    async def send_slowly(exchange: Exchange, *payloads: bytes, end: bool = False) -> None:
        await send(exchange, *payloads, end=end)
        if end and exchange.stream.protocol == OFFLOAD_PROTOCOL:
            await trio.sleep(0.5)

    async def play(world: World) -> None:
        if is_same_moment:
            world.hub.latency = lambda chance, source, target: 0.03
        first, second = await measure(world, stream)
        tasks = trio.lowlevel.current_statistics().tasks_living
        monkeypatch.setattr(Exchange, "send", send_slowly)  # the other ends while the receipt of the first leaves
        backends = [each.backend for each in (first, second) if isinstance(each.backend, GatedBackend)]
        gates.append(trio.Event())
        result = Result()
        async with trio.open_nursery() as nursery:

            async def ask_one() -> None:
                nonlocal result
                result = await ask(world.gateway, make_request(stream=stream))

            nursery.start_soon(ask_one)
            await eventually(lambda: all(backend.waiting for backend in backends), 30.0)
            await trio.sleep(3.0)  # both holds are final
            gates.pop().set()
        winner = next(member for member in (first, second) if member.public_key == result.executor)
        check_answer(result, winner, stream)
        counts = world.gateway.originator.hedges
        assert counts.won + counts.lost == 1 and not counts.failed
        await check_nothing_left(world, tasks, crossed=1)

    gates: list[trio.Event] = []
    simulate(play, replace(OPTIONS, make_backend=lambda number: GatedBackend(f"m{number}-", gates=gates)))


@pytest.mark.parametrize("is_enough", [pytest.param(True, marks=pytest.mark.long), False], ids=["for two", "for one"])
def test_a_hedge_is_made_only_where_the_account_covers_both_holds(is_enough: bool) -> None:
    async def play(world: World) -> None:
        first, second = await measure(world, stream=True)
        tokens, spendable = 100, world.gateway.payments.payer.spendable
        while compute_most(world, tokens + 10) < spendable * (0.4 if is_enough else 0.8):
            tokens += 10
        get_script(first).first_delay = 4.0
        result = await ask(world.gateway, make_request(max_tokens=tokens))
        assert world.gateway.originator.hedges == (HedgeCounts(won=1) if is_enough else HedgeCounts()), "nor offered"
        if is_enough:
            check_answer(result, second, True)
        await world.settle(700)
        check_paid_at_most_once(world)

    simulate(play, replace(OPTIONS, available={0: 200_000}))


def compute_most(world: World, tokens: int) -> int:
    """What an answer of so many tokens costs at most, in micro-credits."""
    request = make_request(max_tokens=tokens)
    return world.gateway.originator.compute_price(request, request.max_completion_bytes)


@pytest.mark.long
@BOTH
def test_with_hedging_every_fault_is_rescued_or_a_safe_error_and_nothing_is_left(
    stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HedgeBudget, "has_room", True)
    place = next(place for place in PLACES if place.name == "peer")

    async def play(world: World) -> None:
        await measure(world, stream)
        tasks = trio.lowlevel.current_statistics().tasks_living
        rows = [await play_row(world, place, fault, stream) for fault in FAULTS]
        assert world.gateway.originator.hedges.won >= 4
        assert max(row.seconds for row in rows) < 30.0
        await check_nothing_left(world, tasks)

    simulate(play, replace(place.options(), executors=3, originator=OPTIONS.originator))
