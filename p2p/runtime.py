"""Time, chance and threads: the one door through which they enter the program.

Monotonic time is trio's own clock (``trio.current_time``, ``trio.sleep``), which a simulation replaces by a
``MockClock``. What trio does not offer is wall time, randomness and worker threads; a :class:`Runtime` supplies these
three. Every service takes one as an argument, and none reads the world in any other way, so that a run is a function
of its seed.
"""

from __future__ import annotations

import importlib
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar, TypeVarTuple

import trio
import trio.testing

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Runtime(Protocol):
    """Wall clock, random numbers and worker threads."""

    @property
    def random(self) -> random.Random:
        """The source of every random choice (``SystemRandom`` when real, seeded in a simulation)."""

    def now(self) -> int:
        """Wall-clock time in milliseconds since the Unix epoch."""

    async def run_sync(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run blocking ``function(*args)`` without stopping the event loop and return its result."""


class RealRuntime:
    """The operating system's clock and entropy, and trio's worker threads."""

    def __init__(self) -> None:
        self.random: random.Random = random.SystemRandom()

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    async def run_sync(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await trio.to_thread.run_sync(function, *args)


class SimulatedRuntime:
    """A deterministic runtime: wall time follows trio's (mock) clock, and work runs inline.

    ``seed`` fixes every random choice; ``skew`` (ms) lets one node's wall clock differ from the others'.
    """

    EPOCH = 1_700_000_000_000

    def __init__(self, seed: str | int, skew: int = 0) -> None:
        self.random = random.Random(f"runtime:{seed}")
        self.skew = skew

    def now(self) -> int:
        return self.EPOCH + self.skew + round(trio.current_time() * 1000)

    async def run_sync(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        await trio.lowlevel.checkpoint()
        return function(*args)


def run_simulation(seed: str | int, main: Callable[[], Awaitable[T]]) -> T:
    """Run ``main`` under a clock that jumps to the next event, with every choice of trio's scheduler fixed by ``seed``.

    trio shuffles runnable tasks on purpose and offers no public switch; this is the one that its plugin for Hypothesis
    uses, restored afterwards.
    """
    scheduler: Any = importlib.import_module("trio._core._run")
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(f"scheduler:{seed}")
    try:
        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before[0]
        scheduler._r.setstate(before[1])
