"""Gossip in batches: what many nodes want to know, a few times a second, instead of one message each.

Topics ``/wwwserve/<first 8 hex digits of the chain id>/{ops,blocks,certs}`` carry a :class:`Batch` of encoded
operations, blocks (each behind its id) and finality certificates. A delivery costs milliseconds whatever its size, so
items are gathered for :data:`GOSSIP_DELAY_S` seconds or until :data:`GOSSIP_BATCH_BYTES` bytes are there. Whatever
arrives is untrusted and may come twice or never: it is bounded, content-addressed, and pulled by
:mod:`consensus.sync.client` when missed.

How much of it is looked at is bounded too, by a :class:`TopicRateLimiter` for each topic. Members of the committee have
rates of their own, which no stranger can use up. So have senders of operations whose account owns credit: their rate is
divided among the senders. Among strangers a name costs nothing, so that their rate is divided among the neighbours that
bring their batches. A batch beyond the rates is a hint less; a certificate of a member is
never refused, unless that member has sent what no honest node would.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import structlog
import trio

from chain import crypto
from chain.codec import Bounds, Record
from chain.collections import BoundedDict
from p2p.limits.rate_limit import Limiter, Rate
from p2p.network import Network, NetworkError

logger = structlog.get_logger(__name__)

GOSSIP_BATCH_BYTES = 32 * 1024
"""Bytes of items that are published without further delay."""
GOSSIP_DELAY_S = 0.1
"""Seconds that the first item of a batch waits for others."""
OPERATIONS_INTERVAL_S = 0.3
"""Least seconds from one batch of operations to the next: urgent ones are forwarded to the leader."""
MAX_BATCH_BYTES = 900 * 1024
"""Largest payload published, in bytes; gossip carries less than 1 MiB."""
MAX_PUBLISH_QUEUE_BYTES = 8 << 20
"""Bytes that may wait to be published on a topic; beyond, the oldest are shed."""
MAX_BATCH_ITEMS = 16_384
"""Items in a batch, at most."""
FRAMING_BYTES = 8
"""Upper bound of what encoding adds to an item, and once to the batch."""


@dataclass(frozen=True, slots=True)
class Batch(Record):
    """Encoded items of one topic."""

    items: Annotated[tuple[bytes, ...], Bounds(1, MAX_BATCH_ITEMS)]


@dataclass(frozen=True, slots=True)
class TopicLimits:
    """Batches and bytes a second of one topic: from each member, from all of them, from each stranger, from all."""

    member: Rate
    members: Rate | None
    stranger: Rate
    strangers: Rate


UNLIMITED = Rate(math.inf, math.inf, 1.0)
"""No limit."""
TOPIC_LIMITS = {
    # An operation is some 200 bytes and costs some 0.2 ms to take in, so 1 MiB of them is a second of one core.
    "ops": TopicLimits(
        Rate(50, 512 << 10, 4.0), Rate(500, 1 << 20, 4.0), Rate(20, 128 << 10, 4.0), Rate(100, 256 << 10, 4.0)
    ),
    # A block is published by its proposer, and only members of the committee propose.
    "blocks": TopicLimits(Rate(16, 4 << 20, 4.0), Rate(64, 8 << 20, 4.0), Rate(4, 1 << 20, 4.0), Rate(8, 2 << 20, 4.0)),
    "certs": TopicLimits(UNLIMITED, None, Rate(8, 64 << 10, 4.0), Rate(16, 128 << 10, 4.0)),
}
"""What is taken of each topic."""


def get_topic(chain_id: bytes, name: str) -> str:
    """The topic of a chain for ``ops``, ``blocks`` or ``certs``."""
    return f"/wwwserve/{chain_id.hex()[:8]}/{name}"


class GossipPublisher:
    """Gathers the items of one topic and publishes them."""

    def __init__(self, network: Network, topic: str, delay: float = GOSSIP_DELAY_S, interval: float = 0.0) -> None:
        """The first item of a batch waits ``delay`` seconds, and until ``interval`` seconds after the last batch."""
        self._network = network
        self._topic = topic
        self._delay = delay
        self._interval = interval
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._filled = trio.Event()
        self._full = trio.Event()

    def put(self, item: bytes) -> None:
        """Publish ``item`` (at most 900 KiB) soon. Never waits; sheds the oldest hint when too much is waiting."""
        self._queue.append(item)
        self._size += len(item) + FRAMING_BYTES
        while self._size > MAX_PUBLISH_QUEUE_BYTES:
            self._size -= len(self._queue.popleft()) + FRAMING_BYTES
        self._filled.set()
        if self._size >= GOSSIP_BATCH_BYTES:
            self._full.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        last = -math.inf
        while True:
            await self._filled.wait()
            with trio.move_on_at(max(trio.current_time() + self._delay, last + self._interval)):
                await self._full.wait()
            payload, last = self._take(), trio.current_time()
            if not self._queue:
                self._filled = trio.Event()
            if self._size < GOSSIP_BATCH_BYTES:
                self._full = trio.Event()
            try:
                await self._network.publish(self._topic, payload)
            except (NetworkError, ValueError) as error:
                logger.debug("gossip was not published", topic=self._topic, reason=str(error))

    def _take(self) -> bytes:
        """The encoded batch of the items that have waited longest: :data:`GOSSIP_BATCH_BYTES` bytes, or one larger
        item."""
        items: list[bytes] = []
        size = FRAMING_BYTES
        while self._queue and len(items) < MAX_BATCH_ITEMS:
            cost = len(self._queue[0]) + FRAMING_BYTES
            if items and size + cost > GOSSIP_BATCH_BYTES:
                break
            size += cost
            items.append(self._queue.popleft())
        self._size -= size - FRAMING_BYTES
        return Batch(tuple(items)).encode()


class TopicRateLimiter:
    """Which batches of one topic are looked at.

    ``is_member`` says who is in the committee, and ``has_credit`` whose account owns so much that it is costly to
    replace.
    """

    def __init__(
        self,
        limits: TopicLimits,
        is_member: Callable[[bytes], bool],
        has_credit: Callable[[bytes], bool] = lambda sender: False,
    ) -> None:
        self._is_member = is_member
        self._has_credit = has_credit
        self._members = Limiter(limits.member, limits.members)
        self._owners = Limiter(limits.stranger, limits.strangers)
        self._strangers = Limiter(limits.stranger)
        self._neighbours = Limiter(limits.strangers, limits.strangers)

    @property
    def dropped(self) -> int:
        """Batches refused so far."""
        return sum(one.dropped for one in (self._members, self._owners, self._strangers, self._neighbours))

    def admit(self, sender: bytes, neighbour: bytes, size: int, now: float) -> bool:
        """Whether to look at a batch of ``size`` bytes that ``sender`` made and ``neighbour`` brought."""
        if self._is_member(sender):
            return self._members.admit(sender, size, now)
        if self._has_credit(sender):
            return self._owners.admit(sender, size, now)
        return self._strangers.admit(sender, size, now) and self._neighbours.admit(neighbour, size, now)

    def punish(self, sender: bytes, now: float) -> None:
        """``sender`` made a batch that no honest node makes: its batches are ignored for a while.

        Only ``sender`` is punished: neighbours pass batches on without checking them.
        """
        for limiter in (self._members,) if self._is_member(sender) else (self._owners, self._strangers):
            limiter.punish(sender, now)


class SeenCache:
    """Remembers the hashes of the last ``capacity`` items, so that a copy costs no more than a hash."""

    def __init__(self, capacity: int) -> None:
        self._hashes: BoundedDict[bytes, None] = BoundedDict(capacity)

    def __contains__(self, item: bytes) -> bool:
        return bool(self._hashes) and crypto.hash_bytes("seen", item) in self._hashes

    def add(self, item: bytes) -> bool:
        """Remember ``item``. Returns whether it is new."""
        digest = crypto.hash_bytes("seen", item)
        if digest in self._hashes:
            return False
        self._hashes[digest] = None
        return True
