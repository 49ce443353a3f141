"""Waiting for what others bring about. The limit only ends a test that has failed: no test depends on its length."""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

PATIENCE = 90.0
"""Seconds that anything may take before a test gives up; only a failure waits that long."""

INTERVAL = 0.02
BLOCK_INTERVAL = 0.1
"""Between two looks at the ledger in a simulation, where each look is an event; blocks are farther apart."""


def wait_until(condition: Callable[[], bool], message: str, timeout: float = PATIENCE) -> None:
    """Wait for something that other processes bring about.

    Raises:
        AssertionError: it has not come about after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{message} after {timeout:.0f} s")
        time.sleep(0.1)


async def eventually(
    condition: Callable[[], object], timeout: float = PATIENCE, message: str = "", interval: float = INTERVAL
) -> None:
    """Wait for something that other tasks bring about, by trio's clock, which may be a simulated one.

    It is looked for every ``interval`` seconds.

    Raises:
        AssertionError: it has not come about after ``timeout`` seconds.
    """
    with trio.move_on_after(timeout) as scope:
        while not condition():
            await trio.sleep(interval)
    assert not scope.cancelled_caught, message or f"what was waited for did not come about in {timeout:g} s"
