"""The matrix of faults: each fault, met at each place where another can take over, streamed and not.

A row is rescued, or ends in an error that a client sees as one. Nobody is ever paid twice for a request, and nothing is
left: no hold, no slot, no task. One world plays all faults of a column, one after the other.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

import trio

from chain.types.operations import Dispute, Hold, compute_hold_id
from serving.backends.backend import FEATURES, ModelLimits
from serving.offload.originator.executor_scores import ExecutorScores
from serving.openai.bodies import read_events
from serving.scheduling.policy import PolicyParameters
from tests.support.market.faulty_backend import FAULTS, Fault, FaultyBackend
from tests.support.market.scripted_backend import ScriptedBackend, compute_stream, compute_text, compute_whole
from tests.support.market_world import MODEL, Options, Result, World, ask, make_request
from tests.support.openai_answers import DONE
from tests.support.waiting import eventually

LONGEST_S = 150.0
"""Longest time in which a user knows what became of a request that meets one fault."""
NEWS_S = 3.0
"""Simulated time in which the news arrives that a model is announced no more."""
LOCAL = PolicyParameters(offload_frequency=0.0, accept_frequency=1.0, queue_frequency=1.0)
CONTINUING = ModelLimits(features=frozenset(FEATURES))
"""Of backends that go on with an answer."""
ALLOWED = {
    "rescued": {"rescued"},
    "safe": {"safe", "rescued"},
    "continued": {"continued", "rescued"},
    "as sent": {"as sent", "rescued"},
    "withheld": {"as sent"},
}
"""What may become of a row, by what its fault expects."""


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
            make_backend=lambda number: FaultyBackend(f"m{number}-", limits=CONTINUING),
            make_second=lambda number: ScriptedBackend(f"m{number}b-", limits=CONTINUING),
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
    await trio.sleep(NEWS_S)
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
        if stream and result.body != bytes(faulty.sent):
            check_continued(result.body, faulty, [each for each in backends if each is not faulty])
            return "continued"
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


def check_continued(body: bytes, faulty: FaultyBackend, others: list[ScriptedBackend]) -> None:
    """Check that a stream is one answer: what the faulty backend sent, and the rest of another."""
    begun, whole = read_text(bytes(faulty.sent)), read_text(body)
    rests = {begun + compute_text(each.name, each.script.tokens): each for each in others}
    assert begun and whole in rests, whole
    events = [event for event in read_events(body) if event is not None]
    assert len({(event["id"], event["model"], event["created"]) for event in events}) == 1, "it looks like one answer"
    assert body.count(DONE) == 1 and b"error" not in body
    (usage,) = (event["usage"] for event in events if event.get("usage"))
    assert usage["completion_tokens"] == begun.count(" ") + rests[whole].script.tokens
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def read_text(body: bytes) -> str:
    """The text of a stream."""
    choices = [event["choices"][0] for event in read_events(body) if event is not None and event.get("choices")]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@dataclass(frozen=True)
class Row:
    """What became of one request: ``seconds`` is when its user knew it."""

    fault: str
    verdict: str
    seconds: float


async def play_row(world: World, place: Place, fault: Fault, stream: bool) -> Row:
    """Send one request that meets a fault.

    Raises:
        AssertionError: that was not rescued as it should be, took too long, or left something.
    """
    await reset(world)
    faulty = find_faulty(world, place)
    faulty.fault = fault
    started = trio.current_time()
    result = await ask(world.gateway, make_request(stream=stream, **fault.fields))
    seconds = trio.current_time() - started
    assert seconds < LONGEST_S
    faulty.fault = None
    expected, row = fault.expects[not stream], (fault.name, place.name, stream)
    verdict = find_verdict(result, faulty, world, stream)
    assert verdict in ALLOWED[expected], (row, verdict, result)
    assert faulty.met >= 1, row
    assert all(not admission.running for admission in world.gateway.backend_pool.admissions), row
    return Row(fault.name, verdict, seconds)


def check_paid_at_most_once(world: World, crossed: int = 0) -> None:
    """No request is paid twice, but for so many whose answer was on its way when its executor was given up.

    Of such an answer the payer has seen nothing: it signs no receipt, and disputes the capture, by which both lose. Its
    executor cannot know.
    """
    payer = world.members[0].public_key
    seqs = {compute_hold_id(payer, hold): hold.seq for hold in world.operations(Hold)}
    items = [item for item in world.captured if item.delivery.amount]
    paid = Counter(seqs[item.delivery.hold] for item in items)
    receipted = Counter(seqs[item.delivery.hold] for item in items if item.receipt is not None)
    twice = {seq: count for seq, count in paid.items() if count > 1}
    assert all(count == 1 for count in receipted.values()), receipted
    assert sum(twice.values()) - len(twice) <= crossed, twice
    assert len(world.operations(Dispute)) <= crossed, "an honest payer and an honest executor both lose"


async def play_column(world: World, place: Place, stream: bool) -> list[Row]:
    """Play all faults, one after the other; afterwards nothing may be left of them.

    Raises:
        AssertionError: something is, or one of them ended as it should not.
    """
    world.introduce()
    await ask(world.gateway, make_request(stream=stream))
    await world.settle()
    tasks = trio.lowlevel.current_statistics().tasks_living
    rows = [await play_row(world, place, fault, stream) for fault in FAULTS]
    await world.settle(700)
    check_paid_at_most_once(world)
    paid = [item for item in world.captured if item.delivery.amount]
    assert len(paid) <= len(rows) + 1, "who is cut gets nothing, and who goes on is paid once"
    await eventually(lambda: trio.lowlevel.current_statistics().tasks_living <= tasks, 120.0, interval=1.0)
    return rows
