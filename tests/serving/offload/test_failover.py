"""Executors that die, stall, fail and decline, and users that leave."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import trio

from chain.parameters.parameters import CREDIT
from chain.types.operations import Capture, Dispute, Hold, Release, SignedOperation
from consensus.engine import Engine
from serving.accounting.payment_history import FIRST_ALLOWANCE
from serving.offload.originator.patience import Patience
from serving.offload.protocol import KeepAlive
from serving.offload.settings import ExecutorSettings, OriginatorSettings
from serving.prediction.first_token_bound import MIN_SAMPLES
from serving.scheduling.policy import PolicyParameters
from tests.support.market.cheating_executor import Deal, give_back, plant
from tests.support.market.scripted_backend import ERROR_BODY, compute_stream, compute_text, compute_whole, make_token
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

FAST = {"capture_grace_ms": 5_000}
BRIEF = replace(DRAWN, hold_time_ms=310_000)
"""Holds are hardly longer than executors ask for, where a test waits until one runs out."""


async def ask_into(world: World, result: Result, stream: bool = True) -> None:
    got = await ask(world.gateway, make_request(stream=stream))
    for name in ("body", "status", "record", "error", "broken"):
        setattr(result, name, getattr(got, name))


async def ask_and_kill(world: World, executor: Member, stream: bool = True) -> Result:
    """Ask, and end an executor two seconds later."""
    result = Result()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_into, world, result, stream)
        await trio.sleep(2.0)
        await world.kill(executor.number)
    return result


@pytest.mark.parametrize("stream", [True, False])
def test_an_executor_that_dies_before_the_first_token_is_replaced(stream: bool) -> None:
    async def play(world: World) -> None:
        first, second = world.drawn()
        get_script(first).first_delay = 5.0
        result = await ask_and_kill(world, first, stream)
        script = get_script(second)
        name = get_name(second)
        assert result.body == (compute_stream(name, script) if stream else compute_whole(name, script))
        assert result.executor == second.public_key and result.record is not None and result.record.attempt == 1
        await world.settle(700)
        # The first hold was never captured: it came back after its deadline.
        assert len(world.operations(Hold)) == 2 and len(world.operations(Release)) == 1
        assert world.account(first.number).available == 1_000 * CREDIT

    simulate(play, Options(originator=BRIEF))


def test_an_owner_may_have_one_executor_asked_for_a_request_and_no_other() -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]
        get_script(first).first_delay = 5.0
        result = await ask_and_kill(world, first)
        assert result.error is not None and result.body == b""
        await trio.sleep(3.0)
        assert len(world.operations(Hold)) == 1

    simulate(play, Options(originator=OriginatorSettings(attempts=1)))


def test_an_executor_that_dies_in_mid_stream_ends_the_answer_with_an_error_and_gets_nothing() -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]
        get_script(first).tokens = 1000
        result = await ask_and_kill(world, first)
        assert result.broken is not None and result.body.startswith(make_token(get_name(first), 0))
        assert result.record is not None and result.record.executor == first.public_key
        await world.settle(700)
        assert world.operations(Capture) == [] and len(world.operations(Release)) == 1

    simulate(play, Options(originator=BRIEF))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("head_at_once", [True, pytest.param(False, marks=pytest.mark.long)])
def test_an_executor_that_stalls_before_the_first_token_is_replaced(stream: bool, head_at_once: bool) -> None:
    async def play(world: World) -> None:
        first, second = world.drawn()
        get_script(first).first_delay = 10_000.0
        get_script(first).head_at_once = head_at_once
        started = trio.current_time()
        result = await ask(world.gateway, make_request(stream=stream))
        waited = trio.current_time() - started
        assert result.executor == second.public_key
        if stream:
            assert 30 <= waited < 32
        else:  # no tokens can be seen to stall: as long as the executor is alive, and may be writing
            assert 125 <= waited < 127
        await world.settle(700)
        assert get_cancelled(first) == 1

    simulate(play, Options(originator=BRIEF))


def test_one_that_was_measured_is_replaced_soon_after_its_predicted_first_token() -> None:
    async def play(world: World) -> None:
        served = Counter([(await ask(world.gateway)).executor for _ in range(2 * MIN_SAMPLES)])
        first = world.drawn()[0]
        while served[first.public_key] < MIN_SAMPLES:
            served[(await ask(world.gateway)).executor] += 1
            first = world.drawn()[0]
        get_script(first).first_delay = 10_000.0
        started = trio.current_time()
        result = await ask(world.gateway)
        assert result.broken is None and result.executor != first.public_key
        assert 1 < trio.current_time() - started < 6, "two payments, a second of patience, and an answer"
        await world.settle(700)
        paid = [item for item in world.captured if item.delivery.amount]
        assert len(paid) == served.total() + 1, "one answer for each request"

    simulate(play, Options(originator=BRIEF))


def test_the_last_that_can_be_asked_is_waited_for_however_well_it_was_measured() -> None:
    async def play(world: World) -> None:
        for _ in range(MIN_SAMPLES):
            await ask(world.gateway)
        (only,) = world.drawn()
        get_script(only).first_delay = 25.0
        assert (await ask(world.gateway)).executor == only.public_key

    simulate(play, Options(executors=1))


def test_a_slow_first_token_is_waited_for() -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]
        get_script(first).first_delay = 25.0
        get_script(first).head_at_once = True
        assert (await ask(world.gateway)).executor == first.public_key
        await world.settle()
        (item,) = world.captured  # nothing was refunded meanwhile
        assert item.receipt is not None and item.delivery.amount

    simulate(play)


def test_an_answer_that_is_not_streamed_may_take_minutes() -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]
        get_script(first).first_delay = 300.0
        result = await ask(world.gateway, make_request(stream=False, max_tokens=4096))
        assert result.executor == first.public_key
        await world.settle()
        assert len(world.operations(Hold)) == 1

    simulate(play)


def test_an_executor_that_stalls_in_mid_stream_is_given_up_its_work_cancelled_and_paid() -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]
        get_script(first).stall_after = 3
        started = trio.current_time()
        result = await ask(world.gateway)
        assert result.broken is not None and 60 <= trio.current_time() - started < 62
        await eventually(lambda: get_cancelled(first) == 1, 2)
        await world.settle(150)
        # A pause is no lie: a dispute would take from both.
        assert world.operations(Dispute) == []
        (item,) = world.captured
        assert item.delivery.usage.completion_bytes == len(compute_text(get_name(first), 3))

    simulate(play, Options(parameters=FAST))


@pytest.mark.parametrize("after", [0.0, 0.1])
def test_a_stream_may_pause(after: float) -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]
        script = get_script(first)
        script.first_delay, script.token_delay, script.tokens = after, 40.0, 5
        result = await ask(world.gateway)
        assert result.body == compute_stream(get_name(first), script)
        await world.settle()
        (item,) = world.captured
        assert item.receipt is not None

    simulate(play)


def test_a_user_who_reads_slowly_gets_the_whole_answer() -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]
        body = b""
        async with world.gateway.dispatcher.complete(make_request()) as (answer, _):
            async for chunk in answer.body:
                body += chunk
                await trio.sleep(100.0 if len(body) == len(chunk) else 0.0)
        assert body == compute_stream(get_name(first), get_script(first))
        await world.settle(150)

    simulate(play, Options(parameters=FAST))


def test_a_user_who_reads_nothing_holds_up_no_other() -> None:
    async def play(world: World) -> None:
        world.introduce(1 << 40)
        script = get_script(world.drawn()[0])
        script.tokens, script.padding = 100, 30_000
        times = []
        stopped = trio.Event()

        async def read_a_piece() -> None:
            async with world.gateway.dispatcher.complete(make_request()) as (answer, _):
                async for _ in answer.body:
                    stopped.set()
                    await trio.sleep_forever()

        async def read_all() -> None:
            started = trio.current_time()
            result = await ask(world.gateway)
            assert result.broken is None and len(result.body) > script.tokens * script.padding
            times.append(trio.current_time() - started)

        await read_all()
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(read_a_piece)
            await stopped.wait()
            await trio.sleep(30.0)  # their windows and buffers are full
            await read_all()
            nursery.cancel_scope.cancel()
        assert times[1] == pytest.approx(times[0], abs=0.5)
        await world.settle(150)

    simulate(play, Options(executors=1, parameters=FAST))


def test_an_answer_without_content_is_one_all_the_same() -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]
        get_script(first).tokens = 0
        result = await ask(world.gateway)
        assert result.body == compute_stream(get_name(first), get_script(first))
        assert result.executor == first.public_key
        await world.settle()

    simulate(play)


FAULTS: list[dict[str, Any]] = [{"refuses": True}, {"status": 500}, {"status": 401}, {"status": 429}]
STREAM_FAULTS: list[dict[str, Any]] = [*FAULTS, {"break_after": 0}, {"error_after": 0}]


@pytest.mark.parametrize(
    ("stream", "fault"),
    [*((False, fault) for fault in FAULTS), *((True, fault) for fault in STREAM_FAULTS)],
    ids=str,
)
def test_a_backend_that_fails_before_the_first_token_is_replaced(stream: bool, fault: dict[str, Any]) -> None:
    async def play(world: World) -> None:
        first, second = world.drawn()
        assert first.backend is not None and second.backend is not None
        first.backend.script = replace(first.backend.script, **fault)
        result = await ask(world.gateway, make_request(stream=stream))
        name, script = get_name(second), get_script(second)
        assert result.body == (compute_stream(name, script) if stream else compute_whole(name, script))
        assert result.executor == second.public_key
        await world.settle()
        # The one that failed refunds its hold at once.
        assert 0 in {item.delivery.amount for item in world.captured} and len(world.operations(Hold)) == 2
        assert world.account(first.number).available < 1_000 * CREDIT  # it even paid the fee

    simulate(play)


@pytest.mark.parametrize("fault", [{"break_after": 3}, {"error_after": 3}], ids=str)
def test_a_backend_that_fails_in_mid_stream_ends_the_answer_and_refunds_within_limits(fault: dict[str, Any]) -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]
        assert first.backend is not None
        first.backend.script = replace(first.backend.script, **fault)
        result = await ask(world.gateway)
        assert result.broken is not None
        assert result.body == b"".join(make_token(get_name(first), number) for number in range(3))
        await world.settle(80)  # not at once: the answer was half delivered
        assert [item.delivery.amount for item in world.captured] == [0]
        history = first.node.payments.payee.history
        assert history.get_allowance(world.gateway.key.public_key) == FIRST_ALLOWANCE // 2

    simulate(play)


@pytest.mark.parametrize("status", [400, 413, 415, 422])
@pytest.mark.parametrize("stream", [True, False])
def test_what_is_the_requests_own_fault_is_relayed_and_refunded(status: int, stream: bool) -> None:
    async def play(world: World) -> None:
        for member in world.drawn():
            get_script(member).status = status
        result = await ask(world.gateway, make_request(stream=stream))
        assert (result.status, result.body) == (status, ERROR_BODY)
        assert result.record is not None and result.record.outcome == "error"
        await world.settle()
        assert len(world.operations(Hold)) == 2  # a second executor confirms it
        assert [item.delivery.amount for item in world.captured] == [0, 0]

    simulate(play)


def test_when_all_fail_the_user_is_told_and_all_is_refunded() -> None:
    async def play(world: World) -> None:
        for member in world.members[1:]:
            get_script(member).refuses = True
        result = await ask(world.gateway)
        assert result.error is not None and result.error.status == 503
        assert result.error.message.count("refused on purpose") == 3
        await world.settle()
        assert len(world.operations(Hold)) == 3

    simulate(play, Options(executors=3))


def test_long_and_foreign_reasons_fit() -> None:
    async def play(world: World) -> None:
        first, second = world.drawn()
        get_script(first).error_after, get_script(first).error = 0, "模型出错了" * 200
        result = await ask(world.gateway)
        assert result.executor == second.public_key
        await world.settle()

    simulate(play)


def test_a_queued_request_waits_for_its_turn() -> None:
    async def play(world: World) -> None:
        world.introduce()
        (only,) = world.drawn()
        get_script(only).first_delay = 25.0
        results = [Result() for _ in range(4)]
        async with trio.open_nursery() as nursery:
            for result in results:
                nursery.start_soon(ask_into, world, result)
                await trio.sleep(0.1)
        assert [result.status for result in results] == [200] * 4  # the last after 100 s
        assert only.backend is not None and only.backend.most_running == 1
        await world.settle()

    simulate(play, Options(executors=1, capacity=1))


def test_what_is_queued_at_an_executor_that_has_fallen_silent_is_not_waited_for() -> None:
    """It goes on to say that all is well: the first two requests have their slots, the others are queued."""

    async def play(world: World) -> None:
        liar, honest = world.members[1:]

        async def fall_silent(deal: Deal) -> None:
            if len(deals) <= MIN_SAMPLES:
                await deal.send_answer()
                await deal.send(deal.make_completed(deal.make_delivery()))
                return
            is_queued = len(deals) > MIN_SAMPLES + 2
            while True:
                await deal.send(KeepAlive(is_queued))
                await trio.sleep(5)

        deals = plant(world, liar, fall_silent)
        while len(deals) < MIN_SAMPLES:
            await ask(world.gateway)
        results = [Result() for _ in range(8)]
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for result in results:
                nursery.start_soon(ask_into, world, result)
                await trio.sleep(0.1)
        assert [result.executor for result in results] == [honest.public_key] * 8
        assert trio.current_time() - started < 20, "not two minutes"
        assert len(deals) > MIN_SAMPLES + 3
        assert (await ask(world.gateway)).executor == honest.public_key, "it is asked last"
        give_back(liar, deals)
        await world.settle(90)

    simulate(play)


def test_a_request_that_has_its_slot_is_not_said_to_be_queued_whoever_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    said = dict[Patience, list[bool]]()
    monkeypatch.setattr(Patience, "note_queued", lambda self, now, at: said.setdefault(self, []).append(True))
    monkeypatch.setattr(Patience, "note_working", lambda self, now: said.setdefault(self, []).append(False))

    async def play(world: World) -> None:
        world.introduce()
        get_script(world.drawn()[0]).first_delay = 12.0
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(ask_into, world, Result())
                await trio.sleep(0.1)
        await world.settle()

    simulate(play, Options(executors=1, capacity=1))
    assert list(said.values()) == [[False, False], [True, True, False, False]]


# Users that leave.


def test_a_user_that_leaves_cancels_the_backend_and_pays_for_what_was_delivered() -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]
        get_script(first).tokens = 1000
        with trio.move_on_after(3.0):
            await ask(world.gateway, make_request(max_tokens=2000))
        left = trio.current_time()
        await eventually(lambda: get_cancelled(first) == 1, 1)
        assert trio.current_time() - left < 0.5
        await world.settle(150)
        assert world.operations(Dispute) == [] and world.operations(Release) == []
        (item,) = world.captured
        delivery = item.delivery
        assert item.receipt is None and delivery.finish_reason == "cancelled"
        delivered = [len(compute_text(get_name(first), tokens)) for tokens in (50, 60)]
        assert delivered[0] <= delivery.usage.completion_bytes <= delivered[1]
        assert world.account(first.number).available > 1_000 * CREDIT

    simulate(play, Options(parameters=FAST))


@pytest.mark.parametrize("stream", [True, False])
def test_a_user_that_leaves_before_the_first_token_pays_nothing(stream: bool) -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]
        get_script(first).first_delay = 10.0
        with trio.move_on_after(3.0):
            await ask(world.gateway, make_request(stream=stream))
        await eventually(lambda: get_cancelled(first) == 1, 1)
        await world.settle()
        assert [item.delivery.amount for item in world.captured] == [0]

    simulate(play)


@pytest.mark.parametrize("after", [0.01 * step for step in range(0, 25, 3)])
def test_leaving_before_there_is_content_leaves_nothing_behind(after: float) -> None:
    """Afterwards some may be on its way, which the payer has not seen and disputes."""

    async def play(world: World) -> None:
        with trio.move_on_after(after):
            await ask(world.gateway)
        await world.settle(150)
        # Content that had left the executor and not arrived looks like a capture of nothing (protocol, known limits).
        payer = world.gateway.payments.payer
        disputed = [payer.find(operation.hold) for operation in world.operations(Dispute)]
        assert all(record is not None and record.max_capture == 0 for record in disputed)

    simulate(play, Options(parameters=FAST))


def test_leaving_while_the_hold_is_submitted_makes_it_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    submit = Engine.submit

    async def submit_slowly(engine: Engine, operation: SignedOperation) -> None:
        await trio.sleep(1.0)
        await submit(engine, operation)

    monkeypatch.setattr(Engine, "submit", submit_slowly)

    async def play(world: World) -> None:
        payer = world.gateway.payments.payer
        with trio.move_on_after(0.5):
            await ask(world.gateway)
        await world.settle()
        assert len(world.operations(Hold)) == 1
        assert payer.spendable == world.account(0).available

    simulate(play)


def test_a_user_who_leaves_a_queue_frees_its_place() -> None:
    async def play(world: World) -> None:
        (only,) = world.drawn()
        get_script(only).first_delay = 20.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, world.gateway)
            await trio.sleep(1)
            with trio.move_on_after(3):
                await ask(world.gateway)
            await trio.sleep(1)
            assert only.node.backend_pool.admissions[0].total_waiting == 0
        await world.settle()
        assert only.backend is not None and only.backend.requests == 1

    simulate(play, Options(executors=1, capacity=1))


def test_an_originator_that_dies_has_its_work_cancelled_and_pays_for_what_was_delivered() -> None:
    async def play(world: World) -> None:
        first = world.drawn(1)[0]
        get_script(first).tokens = 2000

        async def die() -> None:
            await ask(world.members[1].node, make_request(max_tokens=2000))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(die)
            await trio.sleep(3.0)
            await world.kill(1)
            nursery.cancel_scope.cancel()
        # It might have been the connection that died: the work goes on until that is too long ago, and then ends.
        await trio.sleep(ExecutorSettings().resume_timeout_s / 2)
        assert get_cancelled(first) == 0
        await eventually(lambda: get_cancelled(first) == 1, ExecutorSettings().resume_timeout_s)
        await world.settle(150)
        assert world.account(first.number).available > 1_000 * CREDIT
        (item,) = world.captured
        sent = [len(compute_text(get_name(first), tokens)) for tokens in (50, 60)]
        assert sent[0] <= item.delivery.usage.completion_bytes <= sent[1]  # before it died, and no more

    simulate(play, Options(gateways=(0, 1), parameters=FAST))


# The chain.


def test_in_a_halt_serving_goes_on_within_the_credit_and_is_paid_after_it() -> None:
    # One executor, and two members that only vote.
    options = Options(
        executors=3,
        gateways=(0, 1),
        validators=(0, 3, 4),
        policy=PolicyParameters(accept_frequency=1.0),
        parameters={"capture_grace_ms": 5_000},
    )

    async def play(world: World) -> None:
        for voter in (3, 4):
            get_script(world.members[voter]).is_alive = False
        await eventually(lambda: [member.number for member in world.drawn()] == [2])
        world.introduce()
        await world.kill(3)
        await world.kill(4)
        await trio.sleep(1.0)
        height = world.gateway.engine.header.height
        only = world.members[2]
        only.node.payments.payee.history.note_payment(world.members[0].public_key, 320_000)
        get_script(only).tokens = 300
        # Each takes 15 s, longer than the grace time, and holds about 14,000 micro-credits: two fit into the credit.
        results = [Result() for _ in range(4)]

        async def send(result: Result) -> None:
            got = await ask(world.gateway, make_request(max_tokens=300))
            for name in ("body", "status", "record", "error", "broken"):
                setattr(result, name, getattr(got, name))

        async with trio.open_nursery() as nursery:
            for result in results:
                nursery.start_soon(send, result)
                await trio.sleep(0.1)
        assert world.gateway.engine.header.height == height
        assert [result.broken is None and result.error is None for result in results] == [True, True, False, False]
        assert "credit" in str(results[2].error)
        assert "credit" in str(results[3].error) or "busy" in str(results[3].error)  # three are running already
        # What is owed counts against the next request too.
        late = Result()
        await send(late)
        assert late.broken is not None or late.error is not None
        await world.start(3, 4)
        await world.settle(400)
        assert world.account(2).available > 1_000 * CREDIT + 2 * 5 * len(compute_text(get_name(world.members[2]), 300))
        assert (await ask(world.gateway)).broken is None
        await world.settle(400)

    simulate(play, options)
