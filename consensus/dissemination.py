"""Gossip in batches: what many nodes want to know, a few times a second, instead of one message each.

Topics ``/wwwserve/<first 8 hex digits of the chain id>/{ops,blocks,certs}`` carry a :class:`Batch` of encoded
operations, blocks (each behind its id) and finality certificates. A delivery costs milliseconds whatever its size, so
items are gathered for :data:`DELAY` seconds or until :data:`BATCH` bytes are there. Whatever arrives is untrusted and
may come twice or never: it is bounded, content-addressed, and pulled by :mod:`consensus.sync` when missed.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Annotated

import structlog
import trio

from chain import crypto
from chain.codec import Bounds, Record
from p2p.network import Network, NetworkError

logger = structlog.get_logger(__name__)

BATCH = 32 * 1024
DELAY = 0.1
MAX_BATCH = 900 * 1024
"""Largest payload published, in bytes; gossip carries less than 1 MiB."""
MAX_QUEUE = 8 << 20
"""Bytes that may wait to be published on a topic; beyond, the oldest are shed."""
MAX_ITEMS = 16_384
FRAMING = 8
"""Upper bound of what encoding adds to an item, and once to the batch."""


@dataclass(frozen=True, slots=True)
class Batch(Record):
    """Encoded items of one topic."""

    items: Annotated[tuple[bytes, ...], Bounds(1, MAX_ITEMS)]


def get_topic(chain_id: bytes, name: str) -> str:
    """The topic of a chain for ``ops``, ``blocks`` or ``certs``."""
    return f"/wwwserve/{chain_id.hex()[:8]}/{name}"


class Batcher:
    """Gathers the items of one topic and publishes them."""

    def __init__(self, network: Network, topic: str, delay: float = DELAY) -> None:
        self._network = network
        self._topic = topic
        self._delay = delay
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._filled = trio.Event()
        self._full = trio.Event()

    def put(self, item: bytes) -> None:
        """Publish ``item`` (at most 900 KiB) soon. Never waits; sheds the oldest hint when too much is waiting."""
        self._queue.append(item)
        self._size += len(item) + FRAMING
        while self._size > MAX_QUEUE:
            self._size -= len(self._queue.popleft()) + FRAMING
        self._filled.set()
        if self._size >= BATCH:
            self._full.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            await self._filled.wait()
            with trio.move_on_after(self._delay):
                await self._full.wait()
            payload = self._take()
            if not self._queue:
                self._filled = trio.Event()
            if self._size < BATCH:
                self._full = trio.Event()
            try:
                await self._network.publish(self._topic, payload)
            except (NetworkError, ValueError) as error:
                logger.debug("gossip was not published", topic=self._topic, reason=str(error))

    def _take(self) -> bytes:
        """The encoded batch of the items that have waited longest: :data:`BATCH` bytes, or one larger item."""
        items: list[bytes] = []
        size = FRAMING
        while self._queue and len(items) < MAX_ITEMS:
            cost = len(self._queue[0]) + FRAMING
            if items and size + cost > BATCH:
                break
            size += cost
            items.append(self._queue.popleft())
        self._size -= size - FRAMING
        return Batch(tuple(items)).encode()


class Seen:
    """Remembers the hashes of the last ``capacity`` items, so that a copy costs no more than a hash."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._hashes: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, item: bytes) -> bool:
        return crypto.hash_bytes("seen", item) in self._hashes

    def add(self, item: bytes) -> bool:
        """Remember ``item``. Returns whether it is new."""
        digest = crypto.hash_bytes("seen", item)
        if digest in self._hashes:
            return False
        self._hashes[digest] = None
        if len(self._hashes) > self._capacity:
            self._hashes.popitem(last=False)
        return True
