"""Times by which frames are awaited, kept by one task for all exchanges.

A cancel scope with a deadline is most of what waiting for a frame costs, and nearly every wait ends long before its
time is over. So a wait notes until when it lasts, and sets an alarm only if none rings before. One that rings too
early, since the wait that set it has ended in time, is set again for the wait that there is by then.
"""

from __future__ import annotations

import heapq
import math
from itertools import count
from typing import Protocol
from weakref import ref

import trio


class Sleeper(Protocol):
    """Waits for something, until a certain time at most."""

    def ring(self, due: float) -> None:
        """The time ``due`` has come, for which an alarm was set (trio time)."""


class Alarms:
    """Rings at the times that were set, while :meth:`run` runs. A sleeper that is gone is not kept for its alarm."""

    def __init__(self) -> None:
        self._set: list[tuple[float, int, ref[Sleeper]]] = []
        """A heap. The number of each keeps those of one time in order."""
        self._numbers = count()
        self._sleep = trio.CancelScope()

    def __len__(self) -> int:
        """Alarms that are set."""
        return len(self._set)

    def set(self, sleeper: Sleeper, due: float) -> None:
        """Have ``sleeper`` rung at ``due`` (trio time)."""
        heapq.heappush(self._set, (due, next(self._numbers), ref(sleeper)))
        if due < self._sleep.deadline:
            self._sleep.deadline = due

    async def run(self) -> None:
        """Ring until cancelled."""
        while True:
            with trio.CancelScope(deadline=self._set[0][0] if self._set else math.inf) as self._sleep:
                await trio.sleep_forever()
            now = trio.current_time()
            while self._set and self._set[0][0] <= now:
                due, _, sleeper = heapq.heappop(self._set)
                if (there := sleeper()) is not None:
                    there.ring(due)
