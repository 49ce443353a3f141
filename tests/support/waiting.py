"""Waiting for what others bring about. The limit only ends a test that has failed: no test depends on its length."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import trio

PATIENCE = 90.0
"""Seconds that anything may take before a test gives up; only a failure waits that long."""

ATTEMPTS = 10
"""Attempts at what a machine that stands still makes fail."""
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
    condition: Callable[[], object],
    timeout: float = PATIENCE,
    message: str | Callable[[], object] = "",
    interval: float = INTERVAL,
) -> None:
    """Wait for something that other tasks bring about, by trio's clock, which may be a simulated one.

    It is looked for every ``interval`` seconds. ``message`` says what did not come about; a function is asked at the
    end, for how things stand then.

    Raises:
        AssertionError: it has not come about after ``timeout`` seconds.
    """
    with trio.move_on_after(timeout) as scope:
        while not condition():
            await trio.sleep(interval)
    if scope.cancelled_caught:
        said = message() if callable(message) else message
        raise AssertionError(said or f"what was waited for did not come about in {timeout:g} s")


async def undisturbed(attempt: Callable[[], Awaitable[None]], longest_s: float) -> None:
    """Make an attempt that rests on time limits of a second, and another one if this process stood still meanwhile.

    An attempt that fails although no step of this process took more than ``longest_s`` seconds has failed.

    Raises:
        Exception: what the attempt raised.
    """
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            begun = trio.current_time()
            await trio.sleep(longest_s / 10)
            longest = max(longest, trio.current_time() - begun)

    for number in range(ATTEMPTS):
        longest = 0.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            try:
                await attempt()
                return
            except Exception:
                await trio.sleep(longest_s)  # so that a step that has just been slow is noted
                if longest <= longest_s or number == ATTEMPTS - 1:
                    raise
            finally:
                nursery.cancel_scope.cancel()
