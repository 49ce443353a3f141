"""Bounds on gossip: what is in an RPC, the queue to a neighbour, and the cache of recent messages.

An RPC is a protobuf with any number of messages, subscriptions and control entries. A few bytes on the wire are
hundreds of bytes and microseconds once decoded. So the items are counted on the wire first, and an RPC that no honest
peer sends is not decoded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from libp2p.pubsub.mcache import MessageCache
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.rpc_queue import RpcQueue

from p2p.length_prefixed import MalformedMessage, decode_varint

MAX_RPC_BYTES = (1 << 20) + (64 << 10)
"""Largest gossip RPC: a payload just under 1 MiB with its envelope."""
RPC_TIMEOUT_S = 30.0
"""Time from the first byte of an RPC to its last."""
MAX_RPC_ITEMS = 64
"""Messages of one RPC, and subscriptions of one; an honest RPC has one message, or those that were asked for."""
MAX_CONTROL_BYTES = 256 << 10
"""Size of the control entries of one RPC: the ids of some thousand messages."""
MAX_TOPIC_CHARS = 128
"""Length of the name of a topic."""
MAX_QUEUED_RPCS = 1024
"""RPCs that wait for one peer."""
MAX_QUEUED_RPC_BYTES = 4 << 20
"""Size of the RPCs that wait for one peer."""
MAX_CACHED_BYTES = 32 << 20
"""Size of the recent messages kept for peers that missed them."""

_SUBSCRIPTION, _PUBLISH, _CONTROL = 1, 2, 3  # field numbers of an RPC
_MAX_KEY_BYTES = 64
_MAX_SIGNATURE_BYTES = 128
_SEQUENCE_BYTES = 8


def count_items(raw: bytes) -> tuple[int, int]:
    """How many messages and how many subscriptions an encoded RPC has.

    Raises:
        MalformedMessage: it is malformed, or has more items of a kind than an honest one.
    """
    counts: Counter[int] = Counter()
    control = 0
    for field, size in _get_fields(raw):
        counts[field] += 1
        control += size if field == _CONTROL else 0
        if counts[field] > MAX_RPC_ITEMS or counts.total() > 3 * MAX_RPC_ITEMS or control > MAX_CONTROL_BYTES:
            raise MalformedMessage("an RPC with far too much in it")
    return counts[_PUBLISH], counts[_SUBSCRIPTION]


def is_sound(message: rpc_pb2.Message) -> bool:
    """Whether the fields of a message beside its payload are no larger than those of an honest one.

    They are kept and passed on with the payload. Only one topic is allowed: a second may have no subscribers.
    """
    return (
        len(message.topicIDs) == 1
        and len(message.topicIDs[0]) <= MAX_TOPIC_CHARS
        and len(message.seqno) == _SEQUENCE_BYTES
        and len(message.key) <= _MAX_KEY_BYTES
        and len(message.signature) <= _MAX_SIGNATURE_BYTES
    )


def _get_fields(raw: bytes) -> Iterator[tuple[int, int]]:
    """Number and size of each field; all are length-delimited."""
    position = 0
    while position < len(raw):
        tag = decode_varint(raw, position)
        size = None if tag is None else decode_varint(raw, tag[1])
        if tag is None or size is None or tag[0] & 7 != 2 or sum(size) > len(raw):
            raise MalformedMessage("an RPC that is no protobuf")
        position = sum(size)
        yield tag[0] >> 3, size[0]


class BoundedQueue(RpcQueue):
    """The RPCs that wait for one peer, bounded by bytes as well as in number."""

    def __init__(self) -> None:
        super().__init__(MAX_QUEUED_RPCS, MAX_RPC_BYTES)
        self.size = 0
        """Bytes waiting."""

    def push(self, rpc: rpc_pb2.RPC, priority: bool = False) -> bool:
        size = rpc.ByteSize()
        if self.size and self.size + size > MAX_QUEUED_RPC_BYTES:
            return False
        taken = bool(super().push(rpc, priority))
        self.size += size if taken else 0
        return taken

    async def pop(self) -> rpc_pb2.RPC | None:
        rpc = await super().pop()
        self.size -= 0 if rpc is None else rpc.ByteSize()
        return rpc


class BoundedCache(MessageCache):
    """The latest messages; the oldest are dropped when they are too many bytes."""

    def __init__(self, window: int, history: int) -> None:
        super().__init__(window, history)
        self._sizes: dict[bytes, int] = {}
        self.size = 0
        """Bytes kept."""

    def put(self, msg: rpc_pb2.Message) -> None:
        before = len(self.msgs)
        super().put(msg)
        if len(self.msgs) > before:
            name = next(reversed(self.msgs))
            self._sizes[name] = msg.ByteSize()
            self.size += self._sizes[name]
        while self.size > MAX_CACHED_BYTES and len(self.msgs) > 1:
            oldest = next(iter(self.msgs))
            del self.msgs[oldest]
            self.size -= self._sizes.pop(oldest)

    def shift(self) -> None:
        super().shift()
        for name in [name for name in self._sizes if name not in self.msgs]:
            self.size -= self._sizes.pop(name)

    def window(self, topic: str) -> list[bytes]:
        return [name for name in super().window(topic) if name in self.msgs]
