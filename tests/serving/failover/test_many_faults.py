"""Thousands of requests, of which one in a hundred meets each fault: none is lost or paid twice, and nothing stays.

A node serves them itself, and offloads those that its backend fails, until that is asked last for a while: so faults
are met at executors too.

What stays is counted as objects of this program, without those in dicts that have a bound. So a list, a table or a task
that kept something of each request would be noticed.
"""

from __future__ import annotations

import gc
import logging
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any

import pytest
import structlog
import trio

from chain.collections import BoundedDict
from chain.crypto import SignatureCheck
from chain.types.operations import Hold
from consensus.signature_cache import MAX_SIGNATURES
from serving.accounting.payer import MAX_REMEMBERED_HOLDS, HoldRecord
from serving.openai.answers import Answer
from tests.support.market.fault_matrix import (
    ALLOWED,
    CONTINUING,
    LOCAL,
    LONGEST_S,
    check_paid_at_most_once,
    find_verdict,
    read_text,
)
from tests.support.market.faulty_backend import FAULTS, Fault, FaultyBackend
from tests.support.market.scripted_backend import compute_text
from tests.support.market_world import Options, Result, World, ask, make_request, simulate
from tests.support.openai_answers import DONE

REQUESTS = 5_000
PER_FAULT = REQUESTS // 100
"""Requests that meet each fault."""
AT_A_TIME = 16
WARM = 2_000
"""Requests before the first measurement: by then the lists of the latest requests are full."""
PACKAGES = ("chain", "consensus", "node", "p2p", "serving", "tests")
BOUNDED = {HoldRecord: MAX_REMEMBERED_HOLDS, SignatureCheck: MAX_SIGNATURES}
"""Objects that a node keeps so many of, in plain dicts."""
MOST_TRIES = 8
"""Of a client that was told to come again, as the official ones do."""


@dataclass
class Schedule:
    """Which requests meet a fault, and what became of that: both by the request's number."""

    faults: dict[int, Fault]
    met: dict[int, FaultyBackend] = field(default_factory=dict)
    sent: int = 0
    """Requests with those that were sent again."""

    @classmethod
    def draw(cls, chance: random.Random) -> Schedule:
        numbers = iter(chance.sample(range(REQUESTS), PER_FAULT * len(FAULTS)))
        return cls({next(numbers): fault for fault in FAULTS for _ in range(PER_FAULT)})


@dataclass
class ScheduledBackend(FaultyBackend):
    """A backend that meets the faults of a schedule, each in the first try of its request."""

    schedule: Schedule = field(default_factory=lambda: Schedule({}))
    bodies: deque[bytes] = field(default_factory=lambda: deque(maxlen=1))  # type: ignore[assignment]
    paths: deque[str] = field(default_factory=lambda: deque(maxlen=1))  # type: ignore[assignment]

    @asynccontextmanager
    async def complete(self, path: str, body: bytes, *, stream: bool) -> AsyncIterator[Answer]:
        number = read_number(body)
        fault = None if number is None else self.schedule.faults.get(number)
        if number is None or fault is None or number in self.schedule.met:
            async with super().complete(path, body, stream=stream) as answer:
                yield answer
            return
        once = self.schedule.met[number] = FaultyBackend(self.name, self.script, fault=fault)
        self.running += 1
        try:
            async with once.complete(path, body, stream=stream) as answer:
                yield answer
        finally:
            self.running -= 1


def read_number(body: bytes) -> int | None:
    """The number of a request, also where it is to be gone on with; None: it is a check that the node itself makes."""
    _, found, rest = body.partition(b'"user_number":')
    return int(rest.partition(b"}")[0].partition(b",")[0]) if found else None


async def ask_as_clients_do(world: World, schedule: Schedule, number: int, fields: dict[str, Any]) -> Result | None:
    """Send a request, and again when it is refused for the moment. None: the user has left after :data:`LONGEST_S`."""
    result: Result | None = None
    for _ in range(MOST_TRIES):
        result = None
        schedule.sent += 1
        with trio.move_on_after(LONGEST_S):
            result = await ask(world.gateway, make_request(stream=bool(number % 2), user_number=number, **fields))
        if result is None:
            break
        status = result.status if result.error is None else result.error.status
        if status not in (408, 429) and status < 500:
            break
        await trio.sleep(1.0 if result.error is None else max(1.0, result.error.retry_after_s))
    return result


def is_continued(result: Result, faulty: FaultyBackend, world: World) -> bool:
    """Whether an answer is the beginning of the faulty backend's and the whole of another's, and looks like one."""
    if result.status != 200 or result.broken is not None or not result.body.endswith(DONE):
        return False
    text, sent = read_text(result.body), read_text(bytes(faulty.sent))
    rests = [compute_text(each.backend.name, each.backend.script.tokens) for each in world.members if each.backend]
    begun = next((text.removesuffix(rest) for rest in rests if text.endswith(rest)), "")
    return bool(begun) and sent.startswith(begun) and result.body.count(DONE) == 1 and b"error" not in result.body


def count_objects() -> Counter[str]:
    """The objects of each class of this program that are alive, but those that a dict of bounded size holds."""
    gc.collect()
    bounded: set[int] = set()

    def add(value: object, depth: int) -> None:
        bounded.add(id(value))
        for each in gc.get_referents(value) if depth else ():
            if id(each) not in bounded and not isinstance(each, ModuleType | FunctionType | type):
                add(each, depth - 1)

    alive = gc.get_objects()
    for each in alive:
        if isinstance(each, BoundedDict):
            add(each, 2)
    kinds = (type(each) for each in alive if id(each) not in bounded)
    return Counter(kind.__qualname__ for kind in kinds if str(kind.__module__).split(".")[0] in PACKAGES)


@pytest.mark.long
def test_of_thousands_of_requests_none_is_lost_or_paid_twice_and_memory_stays_flat() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    schedule = Schedule.draw(random.Random(7))
    verdicts: Counter[str] = Counter()

    async def play_one(world: World, number: int) -> None:
        fault = schedule.faults.get(number)
        result = await ask_as_clients_do(world, schedule, number, {} if fault is None else fault.fields)
        stream = bool(number % 2)
        assert (fault is None) == (number not in schedule.met), (number, result)
        faulty = schedule.met.pop(number, None)
        faulty = faulty or FaultyBackend("none")
        if result is None:  # a silent backend is waited for where all executors have refused before
            assert fault is not None, number
            del schedule.faults[number]
            verdicts["left"] += 1
            return
        verdict = "continued" if is_continued(result, faulty, world) else find_verdict(result, faulty, world, stream)
        allowed = ALLOWED[fault.expects[not stream]] if fault else {"rescued"}
        if verdict not in allowed:  # all others have failed too, or are busy: the user gets the first error
            assert fault is not None and verdict in ("safe", "as sent"), (number, fault, stream, result)
            assert result.status != 200 or result.broken is not None, (number, fault.name, stream, result)
            verdict = "not rescued"
        schedule.faults.pop(number, None)
        verdicts[verdict] += 1

    async def play_all(world: World, numbers: Iterator[int]) -> None:
        async def play_some() -> None:
            for number in numbers:
                await play_one(world, number)

        async with trio.open_nursery() as nursery:
            for _ in range(AT_A_TIME):
                nursery.start_soon(play_some)
        await world.settle(900)

    async def play(world: World) -> None:
        world.introduce()
        await play_all(world, iter(range(WARM)))
        tasks = trio.lowlevel.current_statistics().tasks_living
        before = count_objects()
        await play_all(world, iter(range(WARM, REQUESTS)))
        grown = count_objects() - before
        assert verdicts.total() == REQUESTS and verdicts["not rescued"] < REQUESTS // 50, verdicts
        assert verdicts["left"] <= REQUESTS // 1_000, verdicts
        assert sum(world.gateway.dispatcher.counters.ended.values()) == schedule.sent
        for kind, most in BOUNDED.items():
            assert grown.pop(kind.__qualname__, 0) <= most * len(world.members)
        assert all(count < (REQUESTS - WARM) // 5 for count in grown.values()), grown.most_common(9)
        assert trio.lowlevel.current_statistics().tasks_living < tasks + (REQUESTS - WARM) // 5
        check_paid_at_most_once(world, crossed=REQUESTS // 1_000)
        assert len(world.operations(Hold)) > PER_FAULT * len(FAULTS) // 2
        assert world.open_holds() == []

    make = lambda number: ScheduledBackend(f"m{number}-", limits=CONTINUING, schedule=schedule)  # noqa: E731
    options = Options(executors=3, own_backend=True, policy=LOCAL, make_backend=make, spacing=1.0, capacity=32)
    simulate(play, options)
