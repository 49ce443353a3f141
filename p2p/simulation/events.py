"""The queue of all that takes time in a simulated network, ordered by (due time, serial number)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any

import trio

from p2p.simulation.runtime import SimulatedClock

TICK_S = 0.001
"""Everything arrives on a multiple of this many seconds: one wake-up of the clock then serves many arrivals."""


class EventQueue:
    """Actions that are due at a time."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = 0
        self._sleep = trio.CancelScope()
        self._sleeper = trio.lowlevel.ParkingLot()

    def draw_serial(self) -> int:
        """A number that nothing else has."""
        self._serial += 1
        return self._serial

    def schedule(self, due: float, action: Callable[..., None], *arguments: Any) -> None:
        """Call ``action`` at ``due``, after all that was scheduled for that time before."""
        serial = self.draw_serial()
        heapq.heappush(self._heap, (math.ceil(due / TICK_S) * TICK_S, serial, action, arguments))
        if self._heap[0][1] == serial:
            self._wake_at(self._heap[0][0])

    async def run(self) -> None:
        """Do what is due, until cancelled."""
        while True:
            while self._heap and self._heap[0][0] <= trio.current_time():
                _, _, action, arguments = heapq.heappop(self._heap)
                action(*arguments)
            await self._wait_until_due(self._heap[0][0] if self._heap else math.inf)

    async def _wait_until_due(self, due: float) -> None:
        """Sleep until ``due``, or the earlier time that :meth:`_wake_at` sets meanwhile."""
        if isinstance(trio.lowlevel.current_clock(), SimulatedClock):
            self._wake_at(due)
            await self._sleeper.park()
        else:
            with trio.CancelScope(deadline=due) as self._sleep:
                await trio.sleep_forever()

    def _wake_at(self, due: float) -> None:
        clock = trio.lowlevel.current_clock()
        if isinstance(clock, SimulatedClock):
            clock.set_alarm(due, self._sleeper.unpark_all)
        else:
            self._sleep.deadline = due
