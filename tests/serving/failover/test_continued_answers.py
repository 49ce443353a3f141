"""Answers that are cut after content, and gone on with by another: one stream, each paid for what it delivered."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import trio

from chain.parameters.parameters import CREDIT
from chain.types.operations import Dispute, Hold, Usage
from serving.failover.continuation import MAX_CONTINUATIONS
from serving.openai.bodies import read_events
from serving.scheduling.policy import PolicyParameters
from tests.support.market.begun_backend import BegunBackend
from tests.support.market.fault_matrix import CONTINUING, LOCAL, read_text
from tests.support.market.scripted_backend import ScriptedBackend, compute_text, make_token
from tests.support.market_world import Options, Result, World, ask, get_name, get_script, make_request, simulate

FAST = {"capture_grace_ms": 5_000}


def build(number: int) -> ScriptedBackend:
    return BegunBackend(f"m{number}-", limits=CONTINUING)


def get_options(executors: int = 2, **fields: object) -> Options:
    return replace(Options(executors=executors, make_backend=build, make_second=build, parameters=FAST), **fields)  # type: ignore[arg-type]


def get_backend(world: World, place: int) -> BegunBackend:
    """The backend of the executor that was drawn in some place."""
    backend = world.drawn()[place].backend
    assert isinstance(backend, BegunBackend)
    return backend


async def ask_and_kill(world: World, number: int) -> Result:
    """Ask, and end an executor in the middle of its answer."""
    results: list[Result] = []

    async def send() -> None:
        results.append(await ask(world.gateway, make_request(max_tokens=500)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.sleep(2.0)
        await world.kill(number)
    return results[0]


def test_another_goes_on_where_an_executor_has_died_and_is_paid_for_the_rest_alone() -> None:
    async def play(world: World) -> None:
        first, second = world.drawn()
        rest = get_backend(world, 1)
        get_script(first).tokens = 1000
        result = await ask_and_kill(world, first.number)
        assert result.broken is None and result.error is None
        text = read_text(result.body)
        begun = text.removesuffix(compute_text(rest.name, 6))
        tokens = begun.count(" ")
        assert begun == compute_text(get_name(first), tokens) and tokens > 3
        body = json.loads(rest.bodies[-1])
        assert body["messages"][-1] == {"role": "assistant", "content": begun.rstrip()}
        assert body["continue_final_message"] is True and body["add_generation_prompt"] is False
        assert body["max_tokens"] == 500 - tokens
        record = result.record
        assert record is not None and record.executor == second.public_key and record.completion_tokens == tokens + 6
        counters = world.gateway.dispatcher.counters
        assert record.outcome == "completed" and (counters.continued, counters.offloaded) == (1, 1)
        await world.settle(700)
        (item,) = world.captured
        assert item.receipt is not None and len(world.operations(Hold)) == 2
        assert item.delivery.usage == Usage(len(rest.bodies[-1]), len(compute_text(rest.name, 6)))
        assert world.account(first.number).available == 1_000 * CREDIT, "its hold came back after the deadline"

    simulate(play, get_options())


def test_one_that_stalls_is_paid_for_its_part_and_the_other_for_the_rest() -> None:
    async def play(world: World) -> None:
        first, second = world.drawn()
        get_script(first).stall_after = 3
        result = await ask(world.gateway)
        assert result.broken is None
        begun, rest = compute_text(get_name(first), 3), compute_text(get_name(second), 6)
        assert read_text(result.body) == begun + rest
        await world.settle(150)
        assert world.operations(Dispute) == []
        usages = {item.delivery.usage.completion_bytes for item in world.captured}
        assert usages == {len(begun), len(rest)} and len(world.captured) == 2

    simulate(play, get_options())


def test_a_backend_of_the_node_goes_on_and_a_peer_where_it_has_no_other() -> None:
    async def play(world: World) -> None:
        own, second = world.members[0].backend, world.members[0].second
        (peer,) = world.drawn()
        assert own is not None and second is not None
        own.script.break_after = 2
        result = await ask(world.gateway)
        begun = compute_text(own.name, 2)
        assert read_text(result.body) == begun + compute_text(second.name, 6) and result.executor is None
        assert world.operations(Hold) == []
        second.script.error_after = 2
        result = await ask(world.gateway)
        begun += compute_text(second.name, 2)
        assert read_text(result.body) == begun + compute_text(get_name(peer), 6), "it was cut twice"
        assert b"error" not in result.body and result.executor == peer.public_key
        assert (own.running, second.running) == (0, 0)
        own.script.break_after, own.script.error_after = None, 2
        result = await ask(world.gateway, make_request(local_only=True))
        assert result.broken is not None and result.body.count(b'{"error"') == 1, "nobody is left"
        await world.settle()
        assert len(world.operations(Hold)) == 1

    simulate(play, get_options(1, own_backend=True, two_backends=(0,), policy=LOCAL))


@pytest.mark.parametrize("executors", [2, MAX_CONTINUATIONS + 2])
def test_an_answer_is_gone_on_with_a_few_times_and_never_by_one_that_was_cut(executors: int) -> None:
    most = min(executors, 1 + MAX_CONTINUATIONS)

    async def play(world: World) -> None:
        for member in world.members[1:]:
            get_script(member).break_after = 1
        result = await ask(world.gateway)
        assert result.broken is not None
        backends = [member.backend for member in world.members[1:] if member.backend is not None]
        assert sum(backend.requests for backend in backends) == most
        assert max(backend.requests for backend in backends) == 1
        words = read_text(result.body).split()
        assert len(words) == len(set(words)) == most
        await world.settle(150)
        assert [item.delivery.amount for item in world.captured] == [0] * len(words), "nobody is paid"

    simulate(play, get_options(executors))


def test_an_answer_that_is_cut_at_its_limit_is_whole() -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]
        get_script(first).tokens, get_script(first).break_after = 9, 5
        result = await ask(world.gateway, make_request(max_tokens=5))
        assert result.broken is None and read_text(result.body) == compute_text(get_name(first), 5)
        events = [event for event in read_events(result.body) if event]
        assert events[-1]["choices"][0]["finish_reason"] == "length" and result.body.endswith(b"[DONE]\n\n")
        await world.settle(150)
        assert len(world.operations(Hold)) == 1

    simulate(play, get_options())


def test_one_that_cannot_go_on_is_not_asked_to() -> None:
    async def play(world: World) -> None:
        first, other = world.drawn()[0], get_backend(world, 1)
        get_script(first).break_after = 2
        result = await ask(world.gateway)
        assert result.broken is not None and other.requests == 0
        assert result.body == b"".join(make_token(get_name(first), number) for number in range(2))
        await world.settle(150)

    def build_one(number: int) -> ScriptedBackend:
        return BegunBackend(f"m{number}-")  # which announces no more than one of an unknown kind

    simulate(play, get_options(make_backend=build_one))


# Executors that cheat.


@pytest.mark.parametrize("fault", ["stall_after", "break_after"])
def test_to_cut_answers_on_purpose_earns_less_than_to_serve(fault: str) -> None:
    async def play(world: World) -> None:
        cutter, *_ = world.members[1:]
        setattr(get_script(cutter), fault, 1)
        for _ in range(12):
            result = await ask(world.gateway)
            assert result.broken is None and result.error is None, "no user is cut off"
        await world.settle(400)
        assert world.operations(Dispute) == []
        gains = [world.account(member.number).available - 1_000 * CREDIT for member in world.members[1:]]
        assert gains[0] < min(gains[1:]) / 4
        if fault == "break_after":
            assert gains[0] <= 0, "it has paid for its refunds"

    policy = PolicyParameters(offload_frequency=1.0, accept_frequency=1.0, queue_frequency=1.0)
    simulate(play, get_options(3, policy=policy))


@pytest.mark.parametrize("does", ["repeats", "forgets"])
def test_what_one_writes_again_is_not_shown_and_counts_against_it(does: str) -> None:
    async def play(world: World) -> None:
        first, *others = world.drawn()
        get_script(first).break_after = 6
        for place in (1, 2):
            setattr(get_backend(world, place), does, True)
        result = await ask(world.gateway)
        begun, scores = compute_text(get_name(first), 6), world.gateway.originator.scores
        if does == "repeats":
            (giver,) = (member for member in others if member.public_key == result.executor)
            assert result.broken is None and read_text(result.body) == begun + compute_text(get_name(giver), 6)
            others = [giver]
        else:
            assert result.broken is not None and read_text(result.body) == begun
        for other in others:
            score = scores.find(other.public_key, "test-model", trio.current_time())
            assert score is not None and score.failed > 0
        await world.settle(150)
        assert world.operations(Dispute) == []

    simulate(play, get_options(3))
