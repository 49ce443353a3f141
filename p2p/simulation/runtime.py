"""A deterministic runtime: simulated time, seeded randomness and no threads.

:func:`run_simulation` runs a program under a clock that jumps to the next event; :class:`SimulatedRuntime` is what its
services get in place of the operating system.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, TypeVarTuple

import trio
import trio.testing

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class SimulatedRuntime:
    """A deterministic runtime: wall time follows trio's (mock) clock, and work runs inline.

    ``seed`` fixes every random choice; ``skew`` (ms) lets one node's wall clock differ from the others'.
    """

    EPOCH_MS = 1_700_000_000_000
    """Wall time at which every simulation starts."""

    def __init__(self, seed: str | int, skew: int = 0) -> None:
        self.random = random.Random(f"runtime:{seed}")
        self.skew = skew

    def now(self) -> int:
        return self.EPOCH_MS + self.skew + round(trio.current_time() * 1000)

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
