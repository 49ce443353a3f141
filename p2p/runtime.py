"""Time, randomness and threads: the interface through which they enter the program.

Monotonic time is trio's own clock (``trio.current_time``, ``trio.sleep``), which a simulation replaces by a
``MockClock``. Wall time, random numbers and worker threads come from a :class:`Runtime`, which every service takes as
an argument. Nothing else is read from the outside, so a simulated run is a function of its seed
(:mod:`p2p.simulation.runtime`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Protocol, TypeVar, TypeVarTuple

import trio

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
