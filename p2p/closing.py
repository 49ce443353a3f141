"""Ends of things: a scope that outlives a cancellation, a close that cannot fail, and the cause of a failure."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 5.0
"""Time that an orderly close may take before it is cut short."""


def shielded(seconds: float) -> trio.CancelScope:
    """A scope that is not cancelled from outside but ends by itself after ``seconds``."""
    return trio.CancelScope(deadline=trio.current_time() + seconds, shield=True)


async def quietly(close: Callable[[], Awaitable[object]]) -> None:
    """Await ``close()`` and log its failure: what is being closed is broken already."""
    try:
        await close()
    except Exception as error:
        logger.debug("close failed: %r", error)


def root_cause(error: BaseException) -> str:
    """One line that says what went wrong; the library wraps the reason in up to five exceptions."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).splitlines()[0] if str(error) else type(error).__name__
