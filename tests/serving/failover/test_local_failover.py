"""A node's own backends: the second one, and then other nodes, take over what the first does not deliver."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from chain.types.operations import Hold
from serving.backends.backend import Load
from serving.keys.records import KeyLimits
from serving.scheduling.circuit_breaker import FIRST_OPEN_S, OPEN_AFTER
from serving.scheduling.policy import PolicyParameters
from tests.support.market.scripted_backend import ERROR_BODY, Script, ScriptedBackend, compute_stream, compute_whole
from tests.support.market_world import Options, Result, World, ask, get_script, make_request, simulate
from tests.support.waiting import eventually

LOCAL = PolicyParameters(offload_frequency=0.0, accept_frequency=1.0, queue_frequency=1.0)
TOO_LONG = json.dumps({"error": {"message": "no", "code": "context_length_exceeded"}}).encode()
FILTERED = json.dumps({"error": {"message": "no", "code": "content_filter"}}).encode()
FAULTS: list[dict[str, Any]] = [
    {"refuses": True},
    {"status": 503},
    {"status": 429},
    {"status": 401},
    {"status": 400, "error_body": TOO_LONG},
]


def get_own(world: World, number: int = 0) -> tuple[ScriptedBackend, ScriptedBackend]:
    member = world.members[number]
    assert member.backend is not None and member.second is not None
    return member.backend, member.second


def check_answer(result: Result, backend: ScriptedBackend, stream: bool) -> None:
    compute = compute_stream if stream else compute_whole
    assert (result.status, result.body) == (200, compute(backend.name, backend.script))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_the_second_backend_answers_what_the_first_does_not(fault: dict[str, Any], stream: bool) -> None:
    async def play(world: World) -> None:
        first, second = get_own(world)
        first.script = Script(**fault)
        result = await ask(world.gateway, make_request(stream=stream))
        check_answer(result, second, stream)
        assert (first.requests, second.requests, result.executor) == (1, 1, None)
        assert world.is_idle() and world.operations(Hold) == []

    simulate(play, Options(executors=0, own_backend=True, two_backends=(0,)))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_another_node_answers_what_no_backend_here_does(fault: dict[str, Any], stream: bool) -> None:
    async def play(world: World) -> None:
        for backend in get_own(world):
            backend.script = Script(**fault)
        (peer,) = world.drawn()
        result = await ask(world.gateway, make_request(stream=stream))
        assert peer.backend is not None
        check_answer(result, peer.backend, stream)
        assert result.executor == peer.public_key
        await world.settle()
        (item,) = world.captured
        assert item.delivery.amount > 0 and len(world.operations(Hold)) == 1

    simulate(play, Options(executors=1, own_backend=True, two_backends=(0,), policy=LOCAL))


def test_the_error_of_a_backend_reaches_the_user_as_it_is_when_nobody_delivers() -> None:
    async def play(world: World) -> None:
        first, second = get_own(world)
        (peer,) = world.drawn()
        first.script, get_script(peer).refuses = Script(status=429, retry_after_s=7.0), True
        second.script = Script(refuses=True)
        answers = []
        async with world.gateway.dispatcher.complete(make_request()) as (answer, record):
            answers.append((answer.status, b"".join([chunk async for chunk in answer.body]), answer.retry_after_s))
        assert answers == [(429, ERROR_BODY, 7.0)] and record.outcome == "error" and record.executor is None
        await world.settle()
        assert [item.delivery.amount for item in world.captured] == [0]

    simulate(play, Options(executors=1, own_backend=True, two_backends=(0,), policy=LOCAL))


@pytest.mark.parametrize("status", [429, 400])
def test_an_error_costs_an_api_key_nothing(status: int) -> None:
    async def play(world: World) -> None:
        keys, (own, _) = world.gateway.keys, get_own(world)
        await keys.create("alice", KeyLimits(budget=10_000_000))
        own.script = Script(status=status)
        if status == 429:
            get_own(world)[1].script = Script(status=status)
        request = replace(make_request(), key="alice")
        assert (await ask(world.gateway, request)).status == status and keys.get_left("alice") == 10_000_000
        own.script = Script()
        assert (await ask(world.gateway, request)).status == 200
        left = keys.get_left("alice")
        assert left is not None and left < 10_000_000
        assert [record.key for record in world.gateway.dispatcher.records] == ["alice", "alice"]

    simulate(play, Options(executors=0, own_backend=True, two_backends=(0,)))


def test_who_leaves_the_queue_of_a_second_backend_pays_nothing_for_the_first() -> None:
    async def play(world: World) -> None:
        keys, (own, other) = world.gateway.keys, get_own(world)
        await keys.create("alice", KeyLimits(budget=10_000_000))
        own.script, other.script = Script(status=500), Script(first_delay=60.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, world.gateway)  # it has the slot of the other
            await trio.sleep(1.0)
            with trio.move_on_after(20.0):
                await ask(world.gateway, replace(make_request(stream=False), key="alice"))
            nursery.cancel_scope.cancel()
        assert own.requests >= 2 and keys.get_left("alice") == 10_000_000

    simulate(play, Options(executors=0, own_backend=True, two_backends=(0,), capacity=1))


@pytest.mark.parametrize("own", [True, False])
def test_what_a_content_filter_withholds_is_offered_to_no_other(own: bool) -> None:
    async def play(world: World) -> None:
        first = world.members[0].backend if own else world.drawn()[0].backend
        assert first is not None
        first.script = Script(status=400, error_body=FILTERED)
        result = await ask(world.gateway)
        assert (result.status, result.body) == (400, FILTERED)
        assert sum(member.backend.requests for member in world.members if member.backend is not None) == 1
        await world.settle()

    simulate(play, Options(own_backend=own, policy=LOCAL))


def test_the_role_is_no_content() -> None:
    async def play(world: World) -> None:
        first, second = get_own(world)
        first.script = Script(break_after=0)
        check_answer(await ask(world.gateway), second, True)
        first.script = Script(stall_after=0)
        check_answer(await ask(world.gateway), second, True)
        assert first.cancelled == 1

    simulate(play, Options(executors=0, own_backend=True, two_backends=(0,)))


def make_queueing(number: int) -> QueueingBackend:
    return QueueingBackend(f"m{number}-")


@dataclass
class QueueingBackend(ScriptedBackend):
    """Shows ``waiting`` requests in a queue of its own."""

    waiting: int = 0

    def get_load(self) -> Load:
        return replace(super().get_load(), waiting=self.waiting)


@pytest.mark.parametrize(("shows_queue", "is_working"), [(True, True), (True, False), (False, True)])
def test_what_waits_in_a_backend_that_shows_it_and_works_is_not_given_up(shows_queue: bool, is_working: bool) -> None:
    async def play(world: World) -> None:
        own, results = world.members[0].backend, list[Result]()
        assert isinstance(own, QueueingBackend)
        check_answer(await ask(world.gateway), own, True)  # so that its speed is known
        own.script = Script(tokens=60, token_delay=1.0, stall_after=None if is_working else 2)

        async def ask_silent() -> None:
            results.append(await ask(world.gateway))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, world.gateway)
            await trio.sleep(1.5)
            own.script = Script(first_delay=20.0)
            nursery.start_soon(ask_silent)
            await trio.sleep(0.5)
            own.waiting = int(shows_queue)
            await eventually(lambda: results, 30)
            nursery.cancel_scope.cancel()
        assert (results[0].executor is None) == (shows_queue and is_working)

    simulate(play, Options(executors=1, own_backend=True, policy=LOCAL, make_backend=make_queueing))


def test_after_the_first_content_no_other_takes_over() -> None:
    async def play(world: World) -> None:
        first, second = get_own(world)
        first.script = Script(break_after=2)
        result = await ask(world.gateway)
        assert result.broken is not None and second.requests == 0
        assert world.is_idle()

    simulate(play, Options(executors=0, own_backend=True, two_backends=(0,)))


def test_a_broken_backend_attracts_no_traffic_and_is_back_with_a_probe() -> None:
    async def play(world: World) -> None:
        first, second = get_own(world)
        first.script = Script(status=503, first_delay=0.0)
        second.script = Script(first_delay=1.0)
        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(ask, world.gateway, make_request())
                await trio.sleep(0.05)
        assert first.requests == OPEN_AFTER and second.completed == 60
        first.script = Script()
        await trio.sleep(FIRST_OPEN_S)
        for _ in range(4):
            assert (await ask(world.gateway)).status == 200
        assert first.completed == 4, "the first of equal backends again"

    simulate(play, Options(executors=0, own_backend=True, two_backends=(0,), capacity=100))


def test_an_executor_asks_its_second_backend_before_it_gives_up() -> None:
    async def play(world: World) -> None:
        (only,) = world.drawn()
        first, second = get_own(world, only.number)
        first.script = Script(status=500)
        for stream in (True, False):
            check_answer(await ask(world.gateway, make_request(stream=stream)), second, stream)
        await world.settle()
        assert len(world.operations(Hold)) == 2 and all(item.receipt for item in world.captured)

    simulate(play, Options(executors=1, two_backends=(1,)))


def test_an_executor_whose_backend_is_busy_for_a_moment_declines_and_stays_announced() -> None:
    async def play(world: World) -> None:
        first, second = world.drawn()
        get_script(first).status, get_script(first).retry_after_s = 429, 20.0
        await ask(first.node, make_request(local_only=True))
        await trio.sleep(5.0)
        assert first in world.drawn()
        for _ in range(3):
            assert (await ask(world.gateway)).executor == second.public_key
        assert first.node.executor.declined <= 1, "it has said when it may be asked again"
        assert len(world.operations(Hold)) == 3, "no hold was made for nothing"
        await world.settle()

    simulate(play)


def test_an_executor_whose_backends_are_broken_declines_and_stops_announcing() -> None:
    async def play(world: World) -> None:
        first, second = world.drawn()
        get_script(first).status = 503
        for _ in range(OPEN_AFTER):
            await ask(first.node, make_request(local_only=True))
        for _ in range(4):
            assert (await ask(world.gateway)).executor == second.public_key
        assert first.node.executor.declined == 1, "by the one offer that was made before it was announced"
        assert len(world.operations(Hold)) == 4, "no hold was made for nothing"
        await eventually(lambda: world.drawn() == [second], 5.0)
        get_script(first).status = 200
        await eventually(lambda: first in world.drawn(), 10.0)
        assert (await ask(first.node, make_request(local_only=True))).status == 200
        await world.settle()

    simulate(play)
