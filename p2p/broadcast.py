"""One publisher, many readers, bounded: each reader has a queue of its own that sheds its oldest item when full.

Gossip, connection changes and membership events are hints of this kind: a reader that falls behind loses old hints and
never holds up the publisher. Whoever must not miss anything reads the state behind the hints.
"""

from __future__ import annotations

import math
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Broadcast(Generic[T]):
    """Copies each published item to every open subscription."""

    def __init__(self, capacity: int) -> None:
        if not 0 < capacity < math.inf:
            raise ValueError("a subscription needs a finite capacity of at least one item")
        self._capacity = capacity
        self._queues: list[tuple[trio.MemorySendChannel[T], trio.MemoryReceiveChannel[T]]] = []
        self.shed = 0
        """Items lost to full queues so far."""

    def subscribe(self) -> trio.MemoryReceiveChannel[T]:
        """A channel of the items published from now on; close it to unsubscribe."""
        send, receive = trio.open_memory_channel[T](self._capacity)
        self._queues.append((send, receive))
        return receive

    def publish(self, item: T) -> None:
        """Append ``item`` to every subscription. Never waits, never raises."""
        closed = False
        for send, receive in self._queues:
            try:
                send.send_nowait(item)
            except trio.WouldBlock:
                receive.receive_nowait()
                send.send_nowait(item)
                self.shed += 1
            except trio.BrokenResourceError:
                closed = True
        if closed:
            self._queues = [queue for queue in self._queues if queue[0].statistics().open_receive_channels]

    def close(self) -> None:
        """End every subscription: its reader gets what is queued and then the end of the channel."""
        for send, _ in self._queues:
            send.close()
        self._queues.clear()
