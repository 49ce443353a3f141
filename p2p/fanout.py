"""Fan-out to the subscribers inside this process: one publisher, many readers, each with a bounded queue of its own.

A full queue sheds its oldest items. So a slow reader loses old items and never holds up the publisher. Gossip,
connection changes and membership events are only hints; a reader that must miss nothing reads the state behind them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class _Queue(Generic[T]):
    """The queue of one subscription."""

    __slots__ = ("_receive", "_send", "_size", "_sizes")

    def __init__(self, capacity: int) -> None:
        self._send, self._receive = trio.open_memory_channel[T](capacity)
        self._sizes: deque[int] = deque()
        self._size = 0

    @property
    def reader(self) -> trio.MemoryReceiveChannel[T]:
        return self._receive

    def put(self, item: T, size: int, capacity: int, max_bytes: float) -> int:
        """Append ``item``. Returns how many old ones were shed.

        Raises:
            trio.BrokenResourceError: the subscription was closed.
        """
        waiting = self._send.statistics().current_buffer_used
        while len(self._sizes) > waiting:  # the reader took these
            self._size -= self._sizes.popleft()
        shed = 0
        while waiting and (waiting >= capacity or self._size + size > max_bytes):
            self._receive.receive_nowait()
            self._size -= self._sizes.popleft()
            waiting -= 1
            shed += 1
        self._send.send_nowait(item)
        self._sizes.append(size)  # counted as waiting until the next item even if a reader took it at once
        self._size += size
        return shed

    def close(self) -> None:
        self._send.close()


class Fanout(Generic[T]):
    """Copies each published item to every open subscription.

    A subscription holds at most ``capacity`` items of ``max_bytes`` together, as ``measure`` says; a single larger item
    is held alone.
    """

    def __init__(self, capacity: int, max_bytes: float = math.inf, measure: Callable[[T], int] | None = None) -> None:
        if not 0 < capacity < math.inf:
            raise ValueError("a subscription needs a finite capacity of at least one item")
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._measure = measure
        self._queues: list[_Queue[T]] = []
        self.shed = 0
        """Items lost to full queues so far."""

    def subscribe(self) -> trio.MemoryReceiveChannel[T]:
        """A channel of the items published from now on; close it to unsubscribe."""
        queue: _Queue[T] = _Queue(self._capacity)
        self._queues.append(queue)
        return queue.reader

    def publish(self, item: T) -> None:
        """Append ``item`` to every subscription. Never waits, never raises."""
        size = 0 if self._measure is None else self._measure(item)
        closed: list[_Queue[T]] = []
        for queue in self._queues:
            try:
                self.shed += queue.put(item, size, self._capacity, self._max_bytes)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                closed.append(queue)
        if closed:
            self._queues = [queue for queue in self._queues if queue not in closed]

    def close(self) -> None:
        """End every subscription: its reader gets what is queued and then the end of the channel."""
        for queue in self._queues:
            queue.close()
        self._queues.clear()
