"""A deterministic runtime: simulated time, seeded randomness and no threads.

:func:`run_simulation` runs a program under a :class:`SimulatedClock`, which jumps to the next event;
:class:`SimulatedRuntime` is what its services get in place of the operating system.
"""

from __future__ import annotations

import importlib
import math
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar, TypeVarTuple

import trio
from nacl import bindings

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


SHARED_SIGNATURES = 1 << 14
"""Signatures that hold, remembered in a simulation for all of its nodes."""
IDLE_S = 3600.0
"""Real seconds that trio may wait for input when a simulation has nothing to do any more."""


class SimulatedClock(trio.abc.Clock):
    """Stands still while any task can run, and then jumps to the next deadline.

    It does what trio's ``MockClock`` does with an autojump threshold of 0, at half the cost: no real clock is read, and
    a jump takes no turn of trio's loop. A task in ``wait_all_tasks_blocked`` does not hold it back.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._alarms: dict[Callable[[], object], float] = {}

    def set_alarm(self, due: float, ring: Callable[[], object]) -> None:
        """Call ``ring`` once, at ``due``, in place of the time set for it before; it may wake tasks, and do no more.

        trio's own way is to cancel a task that sleeps, which costs three times as much.
        """
        self._alarms[ring] = due

    def start_clock(self) -> None:
        """Nothing needs to be set up."""

    def current_time(self) -> float:
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """trio asks when no task can run: what it would wait for has come."""
        ring = min(self._alarms, key=self._alarms.__getitem__, default=None)
        due = math.inf if ring is None else self._alarms[ring]
        if min(due, deadline) == math.inf:
            return IDLE_S
        self._now = max(self._now, min(due, deadline))
        if ring is not None and due <= deadline:
            del self._alarms[ring]
            ring()
        return 0.0

    def jump(self, seconds: float) -> None:
        """Let ``seconds`` pass while a task runs, as if it had worked for so long."""
        self._now += seconds


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


@contextmanager
def _share_signatures() -> Iterator[None]:
    """Check a signature once, whichever of the simulated nodes asks: the answer depends on nothing but the bytes."""
    before = bindings.crypto_sign_open
    bindings.crypto_sign_open = lru_cache(SHARED_SIGNATURES)(before)
    try:
        yield
    finally:
        bindings.crypto_sign_open = before


@contextmanager
def _fix_scheduler(seed: str | int) -> Iterator[None]:
    """Let ``seed`` fix the order in which trio runs tasks.

    trio shuffles runnable tasks on purpose and offers no public switch; this is the one that its plugin for Hypothesis
    uses, restored afterwards.
    """
    scheduler: Any = importlib.import_module("trio._core._run")
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(f"scheduler:{seed}")
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before[0]
        scheduler._r.setstate(before[1])


def run_simulation(seed: str | int, main: Callable[[], Awaitable[T]]) -> T:
    """Run ``main`` under a clock that jumps to the next event, with every choice of trio's scheduler fixed by ``seed``.

    The nodes of a simulation share the verdicts on signatures that hold; each still does all else by itself.
    """
    with _fix_scheduler(seed), _share_signatures():
        return trio.run(main, clock=SimulatedClock())
