"""An alarm: a task that calls a function at a time which may be moved again and again."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio


class Alarm:
    """Calls ``ring`` at the time that was set last. To move it costs less than a timeout around each wait."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._due = math.inf
        self._sleep = trio.CancelScope()

    def set(self, due: float) -> None:
        """Ring at ``due`` (trio time, ``math.inf`` for never) and at no other time."""
        if due != self._due:
            self._due = self._sleep.deadline = due

    async def run(self) -> None:
        """Ring when it is time, once for each setting, until cancelled."""
        while True:
            with trio.CancelScope(deadline=self._due) as self._sleep:
                await trio.sleep_forever()
            if trio.current_time() >= self._due:
                self._due = math.inf
                self._ring()
