"""Admission: two bounded queues, the owner's users and delegated requests, in front of the backend's slots.

Requests of other nodes that are not paid yet get a fraction of both: those that find a slot of it free begin at once,
and the others wait to be paid before they queue.

Work that no request waits for, as that for a duel, is *lent* a free slot. The first request that finds none takes it
back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from enum import IntEnum

import trio

UNPAID_SHARE = 4
"""Divisor of the slots and of the queue: so many, and at least one, are for requests that are not paid yet."""


class Origin(IntEnum):
    """Where a request comes from: the owner's users, or another node."""

    OWN = 0
    DELEGATED = 1


class QueueFull(Exception):
    """The queue for this kind of request is full."""


class SlotLost(Exception):
    """A slot that was lent is needed for a request."""


class Admission:
    """Gives out the ``capacity`` slots of a backend in order of arrival, or the owner's queue first.

    ``prioritize_own`` puts the owner's queue first. At most ``max_queue`` requests wait in each queue.
    """

    def __init__(self, capacity: int, max_queue: int, prioritize_own: bool) -> None:
        self.capacity = capacity
        self.max_queue = max_queue
        self.prioritize_own = prioritize_own
        self.running = 0
        self.unpaid_running = 0
        """Slots of requests that are not paid yet."""
        self.unpaid_waiting = 0
        """Requests that wait to be paid before they queue."""
        self._queues: tuple[deque[tuple[int, trio.Event]], ...] = (deque(), deque())
        self._arrivals = 0
        self._lent: dict[trio.CancelScope, None] = {}
        """Slots that are lent and not asked back yet, in order; they count as running."""
        self._freed = trio.lowlevel.ParkingLot()

    def waiting(self, origin: Origin) -> int:
        """Requests in one queue, and those that will come into it when they are paid."""
        return len(self._queues[origin]) + self.unpaid_waiting * (origin is Origin.DELEGATED)

    @property
    def total_waiting(self) -> int:
        """Requests that wait in all."""
        return sum(map(self.waiting, Origin))

    @contextmanager
    def unpaid(self) -> Iterator[bool]:
        """Count a delegated request as not paid within the context. Yields whether it may ask for a slot meanwhile.

        Raises:
            QueueFull: too many of them wait.
        """
        if self._taken < self.capacity and self.unpaid_running < max(1, self.capacity // UNPAID_SHARE):
            self.unpaid_running += 1
            try:
                yield True
            finally:
                self.unpaid_running -= 1
            return
        if self.unpaid_waiting >= max(1, self.max_queue // UNPAID_SHARE):
            raise QueueFull(f"{self.unpaid_waiting} requests wait to be paid already")
        self.unpaid_waiting += 1
        try:
            yield False
        finally:
            self.unpaid_waiting -= 1

    @property
    def utilization(self) -> float:
        """Slots taken and requests waiting, over the slots there are. A slot that is lent is as good as free."""
        return (self._taken + self.total_waiting) / self.capacity

    @property
    def _taken(self) -> int:
        """Slots that requests have."""
        return self.running - len(self._lent)

    @asynccontextmanager
    async def lend_slot(self) -> AsyncIterator[None]:
        """Wait until a slot is free and no request waits, and hold it until a request finds none.

        Raises:
            SlotLost: one did; the block was cancelled.
        """
        while self.running >= self.capacity:
            await self._freed.park()
        self.running += 1
        scope = trio.CancelScope()
        self._lent[scope] = None
        try:
            with scope:
                yield
        finally:
            self._lent.pop(scope, None)
            self._release()
        if scope.cancelled_caught:
            raise SlotLost("a request needs the backend")

    @asynccontextmanager
    async def slot(self, origin: Origin) -> AsyncIterator[None]:
        """Wait for a slot and hold it.

        Raises:
            QueueFull: no slot is free and the queue has no room.
        """
        await self._acquire(origin)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, origin: Origin) -> None:
        if self.running < self.capacity:
            self.running += 1
            return
        queue = self._queues[origin]
        if self._lent:
            loser, _ = self._lent.popitem()  # the latest, which has done least
            loser.cancel()
        elif len(queue) >= self.max_queue:
            raise QueueFull(f"{len(queue)} requests are waiting already")
        self._arrivals += 1
        ticket = (self._arrivals, trio.Event())
        queue.append(ticket)
        try:
            await ticket[1].wait()
        except trio.Cancelled:
            if ticket[1].is_set():  # the slot was handed over in the moment of cancellation
                self._release()
            else:
                queue.remove(ticket)
            raise

    def _release(self) -> None:
        """Hand the slot to the next request, or free it."""
        own, delegated = self._queues
        if own and (self.prioritize_own or not delegated or own[0][0] < delegated[0][0]):
            own.popleft()[1].set()
        elif delegated:
            delegated.popleft()[1].set()
        else:
            self.running -= 1
            self._freed.unpark_all()
