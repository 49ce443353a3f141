"""A round-robin queue for one event loop: each source has a queue of its own, and the queues take turns.

A source that brings more than fits in its queue waits; other sources do not. Of two sources, one that sends a thousand
messages gets no more turns than one that sends a single vote.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class _Queue(Generic[T]):
    __slots__ = ("items", "room", "size")

    def __init__(self) -> None:
        self.items: deque[tuple[T, int]] = deque()
        self.size = 0
        self.room = trio.lowlevel.ParkingLot()


class FairQueue(Generic[T]):
    """Holds at most ``capacity`` items of ``max_bytes`` of each source; a single larger item is held alone."""

    def __init__(self, capacity: int, max_bytes: float = math.inf) -> None:
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._queues: dict[bytes, _Queue[T]] = {}
        """The queues that are not empty, in the order of their turns."""
        self._filled = trio.lowlevel.ParkingLot()

    async def put(self, source: bytes, item: T, size: int = 0) -> None:
        """Add an item of ``size`` bytes. Waits while its source has no room; otherwise it does not yield to other
        tasks."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._has_room(source, size):
            await self._queues[source].room.park()
        self._append(source, item, size)

    def put_nowait(self, source: bytes, item: T) -> bool:
        """Add an item if there is room. Returns whether there was."""
        if not self._has_room(source, 0):
            return False
        self._append(source, item, 0)
        return True

    def _has_room(self, source: bytes, size: int) -> bool:
        queue = self._queues.get(source)
        return queue is None or (len(queue.items) < self._capacity and queue.size + size <= self._max_bytes)

    def _append(self, source: bytes, item: T, size: int) -> None:
        queue = self._queues.setdefault(source, _Queue())
        queue.items.append((item, size))
        queue.size += size
        self._filled.unpark()

    async def get(self) -> T:
        """The next item of the source whose turn it is. One task at a time."""
        if self._queues:
            await trio.lowlevel.checkpoint()
        while not self._queues:
            await self._filled.park()
        source = next(iter(self._queues))
        queue = self._queues.pop(source)
        item, size = queue.items.popleft()
        queue.size -= size
        if queue.items:
            self._queues[source] = queue  # behind all others
        queue.room.unpark_all()
        return item
