"""Simulated time for tests of queues."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from p2p.simulation.runtime import run_simulation

T = TypeVar("T")

STEPS = 10
"""Turns of trio's loop after which every task of a test waits for something."""
SIMULATED_TIME_S = 1_000.0
"""After which a request that waits for a slot waits for ever."""


async def wait_all_blocked() -> None:
    """Let all other tasks run until they wait, in no simulated time."""
    for _ in range(STEPS):
        await trio.lowlevel.checkpoint()


def simulate(main: Callable[[], Awaitable[T]], seed: int = 1) -> T:
    """What ``main`` returns in simulated time."""

    async def end_in_time() -> T:
        with trio.fail_after(SIMULATED_TIME_S):
            return await main()

    return run_simulation(seed, end_in_time)
