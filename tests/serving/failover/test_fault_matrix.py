"""The matrix of faults: each fault, met at each place where another can take over, streamed and not.

A row is rescued, or ends in an error that a client sees as one, or the test fails. Nobody is ever paid twice for a
request, and nothing is left: no hold, no slot, no task. One world plays all faults of a column, one after the other.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pytest
import trio

from chain.types.operations import Dispute, Hold, compute_hold_id
from serving.offload.executor_scores import ExecutorScores
from serving.scheduling.policy import PolicyParameters
from tests.support.faulty_backend import FAULTS, Fault, FaultyBackend
from tests.support.market_world import (
    MODEL,
    Options,
    Result,
    World,
    ask,
    compute_stream,
    compute_whole,
    make_request,
    simulate,
)
from tests.support.waiting import eventually

LONGEST_S = 150.0
"""Longest time in which a user knows what became of a request that meets one fault."""
LOCAL = PolicyParameters(offload_frequency=0.0, accept_frequency=1.0, queue_frequency=1.0)
ALLOWED = {
    "rescued": {"rescued"},
    "safe": {"safe", "rescued"},
    "as sent": {"as sent", "rescued"},
    "withheld": {"as sent"},
}
"""What may become of a row, by what its fault expects."""
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {}}}]


@dataclass(frozen=True)
class Place:
    """Where the fault is, and who could take over."""

    name: str
    executors: int
    own_backend: bool
    two_backends: tuple[int, ...] = ()

    def options(self) -> Options:
        return Options(
            executors=self.executors,
            own_backend=self.own_backend,
            two_backends=self.two_backends,
            make_backend=lambda number: FaultyBackend(f"m{number}-"),
            policy=LOCAL if self.own_backend else PolicyParameters(1.0, 1.0, 1.0),
            spacing=1.0,
        )


PLACES = [
    Place("second backend", 0, True, (0,)),
    Place("peer", 2, False),
    Place("own backend, then peer", 1, True),
]


def find_faulty(world: World, place: Place) -> FaultyBackend:
    """The backend that the next request meets first."""
    backend = world.members[0].backend if place.own_backend else world.drawn()[0].backend
    assert isinstance(backend, FaultyBackend)
    return backend


async def reset(world: World) -> None:
    """Have nobody remember a failure, and every executor announce the model."""
    world.gateway.originator.scores = ExecutorScores()
    for member in world.members:
        for scheduled in member.node.backend_pool.find_all(MODEL):
            scheduled.breaker.note_answer()
    await eventually(lambda: len(world.drawn()) == world.options.executors, 60.0, interval=0.5)


def find_verdict(result: Result, faulty: FaultyBackend, world: World, stream: bool) -> str:
    """What a user got.

    Raises:
        AssertionError: nothing that may be.
    """
    compute = compute_stream if stream else compute_whole
    backends = [each for member in world.members for each in (member.backend, member.second) if each is not None]
    whole = {compute(each.name, each.script) for each in backends}
    if result.status == 200 and result.broken is None:
        if result.body in whole:
            return "rescued"
        assert result.body == bytes(faulty.sent), result.body[-300:]
        return "as sent"
    if result.error is not None:
        assert result.error.status >= 400 and not result.body
        return "safe"
    if result.status != 200:
        assert result.body == bytes(faulty.sent) and "error" in json.loads(result.body)
        return "as sent"
    assert bytes(faulty.sent).startswith(result.body.split(b'data: {"error"')[0]), "one answer, and nothing of another"
    return "safe"


async def play_row(world: World, place: Place, fault: Fault, stream: bool) -> None:
    await reset(world)
    faulty = find_faulty(world, place)
    faulty.fault = fault
    fields: dict[str, Any] = {"tools": TOOLS} if fault.tools else {}
    started = trio.current_time()
    result = await ask(world.gateway, make_request(stream=stream, **fields))
    assert trio.current_time() - started < LONGEST_S
    faulty.fault = None
    expected, row = fault.expects[not stream], (fault.name, place.name, stream)
    verdict = find_verdict(result, faulty, world, stream)
    assert verdict in ALLOWED[expected], (row, verdict, result)
    assert faulty.met >= 1, row
    assert all(not admission.running for admission in world.gateway.backend_pool.admissions), row


def check_paid_at_most_once(world: World) -> None:
    payer = world.members[0].public_key
    seqs = {compute_hold_id(payer, hold): hold.seq for hold in world.operations(Hold)}
    paid = Counter(seqs[item.delivery.hold] for item in world.captured if item.delivery.amount)
    assert all(count == 1 for count in paid.values()), paid
    assert world.operations(Dispute) == [], "an honest payer and an honest executor would both lose"


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_every_fault_is_rescued_or_a_safe_error_and_nothing_is_left(place: Place, stream: bool) -> None:
    async def play(world: World) -> None:
        world.introduce()
        await ask(world.gateway, make_request(stream=stream))
        await world.settle()
        tasks = trio.lowlevel.current_statistics().tasks_living
        for fault in FAULTS:
            await play_row(world, place, fault, stream)
        await world.settle(700)
        check_paid_at_most_once(world)
        await eventually(lambda: trio.lowlevel.current_statistics().tasks_living <= tasks, 120.0, interval=1.0)

    simulate(play, place.options())


def find_fault(name: str) -> Fault:
    return next(fault for fault in FAULTS if fault.name == name)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(
    "names",
    [
        ("S04 503 for good", "S05 connection reset", "role, then a clean end"),
        pytest.param(("S12 context length", "200 with an error in it", "S06 no response"), marks=pytest.mark.long),
        ("headers, and a cut", "S02 429 for good", "a line of 30 MB"),
    ],
    ids=str,
)
def test_faults_in_a_row_are_rescued_by_the_last_that_can_be_asked(names: tuple[str, ...], stream: bool) -> None:
    async def play(world: World) -> None:
        gateway, (first, last) = world.members[0], world.drawn()
        faulty = [gateway.backend, gateway.second, first.backend]
        for backend, name in zip(faulty, names, strict=True):
            assert isinstance(backend, FaultyBackend)
            backend.fault = find_fault(name)
        result = await ask(world.gateway, make_request(stream=stream))
        assert result.executor == last.public_key
        assert find_verdict(result, find_faulty(world, PLACES[2]), world, stream) == "rescued"
        assert [backend.met for backend in faulty if isinstance(backend, FaultyBackend)] == [1, 1, 1]
        await world.settle(700)
        check_paid_at_most_once(world)
        assert len(world.operations(Hold)) == 2

    options = replace(PLACES[2].options(), executors=2, two_backends=(0,))
    simulate(play, replace(options, make_second=lambda number: FaultyBackend(f"m{number}b-")))


def test_one_that_flaps_loses_no_request() -> None:
    async def play(world: World) -> None:
        faulty = find_faulty(world, PLACES[0])
        for number in range(20):
            faulty.fault = find_fault("S15 503 while it flaps") if 3 <= number < 15 else None
            assert (await ask(world.gateway)).status == 200
            await trio.sleep(1.0)
        assert faulty.met < 8 and faulty.completed >= 3

    simulate(play, PLACES[0].options())


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_payer_that_restarts_in_the_middle_of_an_answer_pays_at_most_once_and_leaves_nothing(stream: bool) -> None:
    async def play(world: World) -> None:
        backend = world.members[1].backend
        assert backend is not None
        backend.script.tokens = 200
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, world.gateway, make_request(stream=stream, max_tokens=300))
            await trio.sleep(4.0)
            await world.kill(0)
            nursery.cancel_scope.cancel()
        await world.start(0)
        await world.wait_met()
        await world.settle(900)
        check_paid_at_most_once(world)
        assert len(world.operations(Hold)) == 1
        backend.script.tokens = 6
        assert (await ask(world.gateway, make_request(stream=stream))).status == 200
        await world.settle(900)
        check_paid_at_most_once(world)

    simulate(play, Options(executors=1, validators=(1,), spacing=1.0))
