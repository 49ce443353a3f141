"""What gossip reads and keeps, each with a bound: RPCs as they arrive, queues to neighbours, and recent messages.

An RPC is a protobuf of any number of messages, subscriptions and control entries. A few bytes on the wire are hundreds
of bytes and microseconds once decoded, so the wire is looked over first and what no honest peer sends is not decoded.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import trio
from libp2p.pubsub.mcache import MessageCache
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.rpc_queue import RpcQueue

MAX_RPC_BYTES = (1 << 20) + (64 << 10)
"""Largest gossip RPC in bytes: a payload just under 1 MiB with its envelope."""
MAX_ITEMS = 64
"""Messages of one RPC, and subscriptions of one; ours has one message, or those that were asked for."""
MAX_CONTROL_BYTES = 256 << 10
"""Bytes of the control entries of one RPC: the names of some thousand messages."""
MAX_TOPIC_CHARS = 128
"""Characters in the name of a topic."""
RPC_TIMEOUT_S = 30.0
"""Seconds from the first byte of an RPC to its last."""
READ_CHUNK_BYTES = 64 << 10
"""Bytes taken off a stream at once."""

MAX_QUEUED_RPCS = 1024
MAX_QUEUED_BYTES = 4 << 20
"""RPCs waiting for one peer, and their bytes."""
MAX_CACHED_BYTES = 32 << 20
"""Bytes of recent messages kept for those who missed them."""

_SUBSCRIPTION, _PUBLISH, _CONTROL = 1, 2, 3
_MAX_KEY_BYTES, _MAX_SIGNATURE_BYTES, _SEQUENCE_BYTES = 64, 128, 8


class RpcError(Exception):
    """What a peer sent is no RPC that an honest one sends, or did not come to an end in time."""


class RpcReader:
    """Cuts a stream of bytes into RPCs.

    ``read(max_bytes)`` gives some bytes, none at the end. ``hold(change)`` is told by how many the bytes of unfinished
    RPCs grow or shrink.
    """

    def __init__(self, read: Callable[[int], Awaitable[bytes]], hold: Callable[[int], None]) -> None:
        self._read = read
        self._hold = hold
        self._buffer = bytearray()
        self._held = 0

    async def receive(self) -> bytes | None:
        """The next RPC, or None at the end of the stream.

        Raises:
            RpcError: it is too long, or the rest of it does not come.
        """
        due = trio.current_time() + RPC_TIMEOUT_S if self._buffer else math.inf
        while (rpc := self._cut()) is None:
            self._account()
            with trio.CancelScope(deadline=due) as waiting:
                data = await self._read(READ_CHUNK_BYTES)
            if waiting.cancelled_caught:
                raise RpcError(f"an RPC did not come to its end within {RPC_TIMEOUT_S:g} s")
            if not data:
                return None
            if not self._buffer:
                due = trio.current_time() + RPC_TIMEOUT_S
            self._buffer += data
        self._account()
        return rpc

    def close(self) -> None:
        """Drop what is left."""
        self._buffer.clear()
        self._account()

    def _cut(self) -> bytes | None:
        length, start = _read_varint(self._buffer, 0)
        if length > MAX_RPC_BYTES:
            raise RpcError(f"an RPC of {length} bytes")
        if not start or len(self._buffer) < start + length:
            return None
        rpc = bytes(self._buffer[start : start + length])
        del self._buffer[: start + length]
        return rpc

    def _account(self) -> None:
        change, self._held = len(self._buffer) - self._held, len(self._buffer)
        if change:
            self._hold(change)


def count_items(raw: bytes) -> tuple[int, int]:
    """How many messages and how many subscriptions an encoded RPC has.

    Raises:
        RpcError: it is malformed, or has more of something than an honest one.
    """
    counts: Counter[int] = Counter()
    control = 0
    for field, size in _get_fields(raw):
        counts[field] += 1
        control += size if field == _CONTROL else 0
        if counts[field] > MAX_ITEMS or counts.total() > 3 * MAX_ITEMS or control > MAX_CONTROL_BYTES:
            raise RpcError("an RPC with far too much in it")
    return counts[_PUBLISH], counts[_SUBSCRIPTION]


def is_sound(message: rpc_pb2.Message) -> bool:
    """Whether the fields of a message, other than its payload, are no more than what ours have.

    They are kept and passed on with the payload; a second topic may be one that nobody has.
    """
    return (
        len(message.topicIDs) == 1
        and len(message.topicIDs[0]) <= MAX_TOPIC_CHARS
        and len(message.seqno) == _SEQUENCE_BYTES
        and len(message.key) <= _MAX_KEY_BYTES
        and len(message.signature) <= _MAX_SIGNATURE_BYTES
    )


def _get_fields(raw: bytes) -> Iterator[tuple[int, int]]:
    """Number and size of each field; all are strings of bytes."""
    position = 0
    while position < len(raw):
        tag, position = _read_varint(raw, position)
        size, start = _read_varint(raw, position) if position else (0, 0)
        if not start or tag & 7 != 2 or start + size > len(raw):
            raise RpcError("an RPC that is no protobuf")
        position = start + size
        yield tag >> 3, size


def _read_varint(data: bytes | bytearray, position: int) -> tuple[int, int]:
    """A number and where it ends, 0 if it does not end yet.

    Raises:
        RpcError: it has more than five bytes.
    """
    value = 0
    for shift in range(0, 35, 7):
        if position >= len(data):
            return 0, 0
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise RpcError("a number without an end")


class BoundedQueue(RpcQueue):
    """The RPCs that wait for one peer, bounded by bytes as well as in number."""

    def __init__(self) -> None:
        super().__init__(MAX_QUEUED_RPCS, MAX_RPC_BYTES)
        self.size = 0
        """Bytes waiting."""

    def push(self, rpc: rpc_pb2.RPC, priority: bool = False) -> bool:
        size = rpc.ByteSize()
        if self.size and self.size + size > MAX_QUEUED_BYTES:
            return False
        taken = bool(super().push(rpc, priority))
        self.size += size if taken else 0
        return taken

    async def pop(self) -> rpc_pb2.RPC | None:
        rpc = await super().pop()
        self.size -= 0 if rpc is None else rpc.ByteSize()
        return rpc


class BoundedCache(MessageCache):
    """The latest messages; the oldest go when their bytes are too many."""

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
