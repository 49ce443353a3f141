"""A deterministic runtime: simulated time, seeded randomness and no threads.

:func:`run_simulation` runs a program under a :class:`SimulatedClock`, which jumps to the next event;
:class:`SimulatedRuntime` is what its services get in place of the operating system.
"""

from __future__ import annotations

import gc
import importlib
import math
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from heapq import heapify, heappop, heappush
from typing import Any, TypeVar, TypeVarTuple

import trio
from nacl import bindings

from chain.codec import Record

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_SCHEDULER: Any = importlib.import_module("trio._core._run")
"""What trio does not publish: its chance, and the deadlines of a run."""


SHARED_SIGNATURES = 1 << 14
"""Signatures that hold, remembered in a simulation for all of its nodes."""
SHARED_RECORDS = 1 << 12
"""Records that were decoded, remembered in the same way: what is gossiped comes to all within a moment."""
GARBAGE_THRESHOLDS = (50_000, 20, 20)
"""Of the garbage collector in a simulation. Its objects are alive: to search those of many nodes for cycles as often as
Python does by default takes a tenth of all time, more with every node."""
POLL_TURNS = 64
"""Turns of trio's loop after which it looks for input that is no part of a simulation: what interrupts it."""
IDLE_S = 3600.0
"""Real seconds that trio may wait for input when a simulation has nothing to do any more."""


MAX_CANCELLED = 256
"""Sleeps that were cancelled and are kept, where they are not the most of all."""


class _Sleeper:
    """A task that sleeps; None once it was cancelled."""

    __slots__ = ("clock", "task")

    def __init__(self, clock: SimulatedClock, task: trio.lowlevel.Task) -> None:
        self.clock = clock
        self.task: trio.lowlevel.Task | None = task

    def abort(self, _: object) -> trio.lowlevel.Abort:
        """What trio calls when the task is cancelled."""
        self.task = None
        self.clock.note_cancelled()
        return trio.lowlevel.Abort.SUCCEEDED


class SimulatedClock(trio.abc.Clock):
    """Stands still while any task can run, and then jumps to the next deadline.

    It does what trio's ``MockClock`` does with an autojump threshold of 0, at half the cost: no real clock is read, and
    a jump takes no turn of trio's loop. A task in ``wait_all_tasks_blocked`` does not hold it back.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._alarms: dict[Callable[[], object], float] = {}
        self._sleepers: list[tuple[float, int, _Sleeper]] = []  # a heap of when each is due
        self._cancelled = 0  # of those that were cancelled since the last were dropped
        self._serial = 0

    async def sleep(self, seconds: float) -> None:
        """What :func:`trio.sleep` does, without the scope that trio makes, and cancels to end the sleep.

        The task wakes in the same turn of trio's loop. Most turns of a simulation end a sleep.
        """
        if not seconds >= 0:
            raise ValueError("`seconds` must be non-negative")
        due = self._now + seconds
        if due <= self._now:
            await trio.lowlevel.checkpoint()
            return
        self._serial += 1
        sleeper = _Sleeper(self, trio.lowlevel.current_task())
        heappush(self._sleepers, (due, self._serial, sleeper))
        await trio.lowlevel.wait_task_rescheduled(sleeper.abort)
        await trio.lowlevel.checkpoint_if_cancelled()

    def note_cancelled(self) -> None:
        """One more that sleeps was cancelled. Such are dropped once they are many: some would sleep for hours."""
        self._cancelled += 1
        if self._cancelled > MAX_CANCELLED and 2 * self._cancelled > len(self._sleepers):
            self._sleepers = [each for each in self._sleepers if each[2].task is not None]
            heapify(self._sleepers)
            self._cancelled = 0

    def _find_next_wake(self) -> float:
        """When the first of those that sleep is due."""
        sleepers = self._sleepers
        while sleepers and sleepers[0][2].task is None:
            heappop(sleepers)
        return sleepers[0][0] if sleepers else math.inf

    def _wake_due(self) -> None:
        sleepers = self._sleepers
        while sleepers and sleepers[0][0] <= self._now:
            if (task := heappop(sleepers)[2].task) is not None:
                trio.lowlevel.reschedule(task)

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
        others = min(deadline, self._find_next_wake())
        if min(due, others) == math.inf:
            return IDLE_S
        self._now = max(self._now, min(due, others))
        if ring is not None and due <= others:
            del self._alarms[ring]
            ring()
        if deadline <= self._now:  # who is cancelled now does not wake by itself besides
            _SCHEDULER.GLOBAL_RUN_CONTEXT.runner.deadlines.expire(self._now)
        self._wake_due()
        return 0.0

    def jump(self, seconds: float) -> None:
        """Let ``seconds`` pass while a task runs, as if it had worked for so long."""
        self._now += seconds
        self._wake_due()


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
def _share_records() -> Iterator[None]:
    """Decode a record once, whichever of the simulated nodes got it: the same bytes are the same immutable record."""
    record: Any = Record
    before = vars(record)["decode"]
    shared: Any = lru_cache(SHARED_RECORDS)(before.__func__)
    record.decode = classmethod(shared)
    try:
        yield
    finally:
        record.decode = before


@contextmanager
def _fix_scheduler(seed: str | int) -> Iterator[None]:
    """Let ``seed`` fix the order in which trio runs tasks.

    trio shuffles runnable tasks on purpose and offers no public switch; this is the one that its plugin for Hypothesis
    uses, restored afterwards.
    """
    before = _SCHEDULER._ALLOW_DETERMINISTIC_SCHEDULING, _SCHEDULER._r.getstate()
    _SCHEDULER._ALLOW_DETERMINISTIC_SCHEDULING = True
    _SCHEDULER._r.seed(f"scheduler:{seed}")
    try:
        yield
    finally:
        _SCHEDULER._ALLOW_DETERMINISTIC_SCHEDULING = before[0]
        _SCHEDULER._r.setstate(before[1])


@contextmanager
def _keep_time_by(clock: SimulatedClock) -> Iterator[None]:
    """Have :func:`trio.sleep` and :func:`trio.current_time` be those of a clock."""
    library: Any = trio
    before = library.sleep, library.current_time
    library.sleep, library.current_time = clock.sleep, clock.current_time
    try:
        yield
    finally:
        library.sleep, library.current_time = before


class _SeldomPolled:
    """What trio asks for input from outside, in a simulation: there is none but a signal of the user's."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._turns = 0

    def get_events(self, timeout: float) -> Any:
        """Input that there is now, each :data:`POLL_TURNS` turns of trio's loop, or waited for."""
        self._turns += 1
        return [] if timeout <= 0 and self._turns % POLL_TURNS else self._manager.get_events(timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)


@contextmanager
def _collect_seldom() -> Iterator[None]:
    """Have the garbage collector look for cycles by :data:`GARBAGE_THRESHOLDS`, or as it does where that is rarer."""
    before = gc.get_threshold()
    gc.set_threshold(*map(max, before, GARBAGE_THRESHOLDS))
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def simulate_with(clock: SimulatedClock) -> Iterator[None]:
    """What a run by ``clock`` needs around it to be fast; :func:`run_simulation` has it.

    The nodes share the verdicts on signatures that hold, and what bytes decode to; each still does all else by itself.
    """
    with _share_signatures(), _share_records(), _keep_time_by(clock):
        yield


def run_simulation(seed: str | int, main: Callable[[], Awaitable[T]]) -> T:
    """Run ``main`` under a clock that jumps to the next event, with trio's scheduler fixed by ``seed``."""

    async def run() -> T:
        runner = _SCHEDULER.GLOBAL_RUN_CONTEXT.runner
        runner.io_manager = _SeldomPolled(runner.io_manager)
        return await main()

    clock = SimulatedClock()
    with _fix_scheduler(seed), _collect_seldom(), simulate_with(clock):
        return trio.run(run, clock=clock)
