"""Answers that are cut at an executor, which goes on with them by its second backend: one stream under one hold."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import trio

from chain.types.operations import Dispute, Hold, Usage
from serving.backends.backend import ModelLimits
from serving.failover.patience import MIN_BLIND_PATIENCE_S, MIN_PATIENCE_S, UNKNOWN_FIRST_S
from serving.openai.bodies import read_events
from serving.openai.requests import Request
from tests.support.market.begun_backend import BegunBackend
from tests.support.market.fault_matrix import CONTINUING, check_continued, read_text
from tests.support.market.faulty_backend import FAULTS, FaultyBackend
from tests.support.market.scripted_backend import compute_text
from tests.support.market_world import DRAWN, MODEL, Member, Options, World, ask, get_script, make_request, simulate

FAST = {"capture_grace_ms": 5_000}


def get_options(executors: int = 1, **fields: object) -> Options:
    options = Options(
        executors=executors,
        two_backends=tuple(range(1, executors + 1)),
        make_backend=lambda number: FaultyBackend(f"m{number}-", limits=CONTINUING),
        make_second=lambda number: BegunBackend(f"m{number}b-", limits=CONTINUING),
        parameters=FAST,
    )
    return replace(options, **fields)  # type: ignore[arg-type]


def get_second(member: Member) -> BegunBackend:
    assert isinstance(member.second, BegunBackend)
    return member.second


def check_free(member: Member) -> None:
    """No backend of a member works for anybody."""
    assert member.backend is not None and (member.backend.running, get_second(member).running) == (0, 0)
    assert all(not admission.running for admission in member.node.backend_pool.admissions)


async def check_paid(world: World, member: Member, text: str) -> None:
    """One hold was made, which paid ``member`` for the request and ``text``, by the payer's receipt."""
    await world.settle(150)
    (item,) = world.captured
    assert item.receipt is not None and len(world.operations(Hold)) == 1 and world.operations(Dispute) == []
    body = member.backend.bodies[-1] if member.backend is not None and member.backend.bodies else b""
    assert item.delivery.usage == Usage(len(body), len(text)) and item.delivery.finish_reason == "stop"
    price = world.genesis.parameters.get_price("test-model").compute(item.delivery.usage)
    assert item.delivery.amount == price


@pytest.mark.parametrize("fault", ["break_after", "error_after"])
def test_the_second_backend_goes_on_and_the_whole_is_paid_once(fault: str) -> None:
    async def play(world: World) -> None:
        (member,) = world.drawn()
        second = get_second(member)
        setattr(get_script(member), fault, 3)
        result = await ask(world.gateway, make_request(max_tokens=50))
        begun, rest = compute_text("m1-", 3), compute_text("m1b-", 6)
        assert result.broken is None and read_text(result.body) == begun + rest and b"error" not in result.body
        (usage,) = (event["usage"] for event in read_events(result.body) if event and event.get("usage"))
        assert usage["completion_tokens"] == 9
        assert json.loads(second.bodies[-1])["max_tokens"] == 47
        counters = world.gateway.dispatcher.counters
        assert (counters.continued, counters.offloaded, result.executor) == (0, 1, member.public_key)
        check_free(member)
        score = world.gateway.originator.scores.find(member.public_key, "test-model", trio.current_time())
        assert score is not None and score.failed == 0 and score.delivered > 0
        await check_paid(world, member, begun + rest)

    simulate(play, get_options())


def test_what_the_second_backend_repeats_is_neither_sent_nor_paid() -> None:
    async def play(world: World) -> None:
        (member,) = world.drawn()
        get_script(member).break_after = 6
        get_second(member).repeats = True
        result = await ask(world.gateway)
        text = compute_text("m1-", 6) + compute_text("m1b-", 6)
        assert result.broken is None and read_text(result.body) == text
        await check_paid(world, member, text)

    simulate(play, get_options())


@pytest.mark.parametrize(
    "does",
    [
        pytest.param("begins again", marks=pytest.mark.long),
        "is cut too",
        pytest.param("cannot go on", marks=pytest.mark.long),
    ],
)
def test_where_the_second_backend_does_not_another_executor_goes_on(does: str) -> None:
    async def play(world: World) -> None:
        first, other = world.drawn()
        get_script(first).break_after, second = 6, get_second(first)
        begun = compute_text(f"m{first.number}-", 6)
        if does == "begins again":
            second.forgets = True
        elif does == "is cut too":
            second.script.break_after = 2
            begun += compute_text(second.name, 2)
        else:
            second.limits = ModelLimits()
        result = await ask(world.gateway)
        assert result.broken is None and result.executor == other.public_key
        assert read_text(result.body) == begun + compute_text(f"m{other.number}-", 6)
        assert second.requests == (does != "cannot go on")
        check_free(first)
        await world.settle(150)
        amounts = sorted(item.delivery.amount for item in world.captured)
        assert len(world.operations(Hold)) == 2 and amounts[0] == 0 < amounts[1], "who is cut is not paid"

    simulate(play, get_options(2))


def test_one_that_stalls_is_left_for_the_second_backend_before_the_payer_gives_it_up() -> None:
    async def play(world: World) -> None:
        (member,) = world.drawn()
        faulty = member.backend
        assert isinstance(faulty, FaultyBackend)
        faulty.fault = next(fault for fault in FAULTS if fault.name.startswith("S09"))
        started = trio.current_time()
        result = await ask(world.gateway)
        check_continued(result.body, faulty, [get_second(member)])
        assert trio.current_time() - started < 30.0 and len(world.operations(Hold)) == 1
        check_free(member)
        await world.settle(150)
        (item,) = world.captured
        assert item.delivery.usage.completion_bytes == len(read_text(result.body))

    simulate(play, get_options())


@pytest.mark.parametrize("has_history", [True, False])
def test_one_that_has_no_content_is_given_as_long_as_a_user_of_the_node_would_give_it(has_history: bool) -> None:
    """So it depends on what the model has taken before; and the payer, which waits for 30 s, need not ask another."""

    async def play(world: World) -> None:
        (member,) = world.drawn()
        if has_history:
            await ask(world.gateway)
            await world.settle(150)
        get_script(member).first_delay, started = 600.0, trio.current_time()
        result = await ask(world.gateway)
        taken = trio.current_time() - started
        assert read_text(result.body) == compute_text("m1b-", 6) and result.executor == member.public_key
        backend = member.node.backend_pool.order(MODEL)[0]
        least_s = MIN_PATIENCE_S if backend.shows_queue else MIN_BLIND_PATIENCE_S
        patience_s = least_s if has_history else UNKNOWN_FIRST_S
        assert patience_s < taken < patience_s + 2
        check_free(member)

    originator = replace(DRAWN, first_chunk_timeout_s=60.0)
    simulate(play, get_options(originator=originator))


def test_who_leaves_in_the_rest_pays_what_has_come_of_both() -> None:
    async def play(world: World) -> None:
        (member,) = world.drawn()
        get_script(member).break_after = 3
        get_second(member).script.tokens = 400
        with trio.move_on_after(6.0):
            await ask(world.gateway, make_request(max_tokens=500))
        await trio.sleep(1.0)
        check_free(member)
        await world.settle(150)
        (item,) = world.captured
        begun = len(compute_text("m1-", 3))
        assert begun < item.delivery.usage.completion_bytes < begun + len(compute_text("m1b-", 400))
        assert item.delivery.amount > 0 and world.operations(Dispute) == []

    simulate(play, get_options())


class Tap:
    """A tap that lists nothing."""

    asked = b""

    def __init__(self, request: Request) -> None:
        self.asked = request.body

    def begin(self, is_stream: bool) -> None:
        pass

    def feed(self, chunk: bytes) -> bytes:
        return chunk

    def finish(self) -> bytes:
        return b""

    def make_transcript(self, passed: int) -> bytes | None:
        return None


def test_an_answer_that_others_may_check_is_of_one_backend() -> None:
    async def play(world: World) -> None:
        first, other = world.drawn()
        executor = first.node.executor
        executor._context = replace(executor._context, make_tap=Tap)
        get_script(first).break_after = 3
        result = await ask(world.gateway)
        text = compute_text(f"m{first.number}-", 3) + compute_text(f"m{other.number}-", 6)
        assert result.broken is None and read_text(result.body) == text and get_second(first).requests == 0
        await world.settle(150)

    simulate(play, get_options(2))
