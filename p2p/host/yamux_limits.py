"""Limits of a multiplexed connection: valid frames, their rate, and the bytes that wait for a reader. Pure.

Yamux itself has no limits. A frame costs its sender twelve bytes, whatever work it makes for the other end, and its
data stays in memory until it is read.

Source: the Yamux specification, https://github.com/hashicorp/yamux/blob/master/spec.md.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from typing import Protocol
from weakref import WeakKeyDictionary, WeakSet

from libp2p.stream_muxer.yamux.yamux import (
    DEFAULT_WINDOW_SIZE,
    FLAG_ACK,
    FLAG_FIN,
    FLAG_RST,
    FLAG_SYN,
    TYPE_DATA,
    TYPE_GO_AWAY,
    TYPE_PING,
    TYPE_WINDOW_UPDATE,
    YAMUX_HEADER_FORMAT,
)

from p2p.limits.rate_limit import Rate
from p2p.network import Misbehaviour

FRAME_RATE = Rate(items=4000, size=math.inf, burst=5.0)
"""Frames that are read from one peer; 64 streams of tokens are 2,000 a second."""
TOTAL_FRAME_RATE = Rate(items=10_000, size=math.inf, burst=5.0)
"""Frames that are read from all peers."""
PING_COST = 20
"""Frames that a ping counts for: it is answered."""
SYN_COST = 10
"""Frames that the beginning of a stream counts for: it is answered."""

_FLAGS = {
    TYPE_DATA: FLAG_SYN | FLAG_ACK | FLAG_FIN | FLAG_RST,
    TYPE_WINDOW_UPDATE: FLAG_SYN | FLAG_ACK | FLAG_FIN | FLAG_RST,
    TYPE_PING: FLAG_SYN | FLAG_ACK,
    TYPE_GO_AWAY: 0,
}


def check_frame(header: bytes, is_initiator: bool) -> tuple[Misbehaviour | None, int]:
    """What is wrong with the header of a frame that came, if anything, and for how many frames it counts.

    ``is_initiator``: whether this end made the connection.
    """
    version, kind, flags, stream, length = struct.unpack(YAMUX_HEADER_FORMAT, header)
    if version or flags & ~_FLAGS.get(kind, -1) or kind not in _FLAGS:
        return Misbehaviour.GARBAGE, 1
    if kind == TYPE_PING:
        return (None if flags in (FLAG_SYN, FLAG_ACK) and not stream else Misbehaviour.GARBAGE), PING_COST
    if kind == TYPE_GO_AWAY:
        return None, 1
    begins = bool(flags & FLAG_SYN)
    if not stream or (begins and stream % 2 == is_initiator):  # each end has its own numbers
        return Misbehaviour.GARBAGE, 1
    if kind == TYPE_DATA and length > DEFAULT_WINDOW_SIZE:
        return Misbehaviour.OVERSIZE, 1
    return None, SYN_COST if begins else 1


class BufferedConnection(Protocol):
    """A connection, as far as it keeps bytes that are not read yet."""

    @property
    def source_address(self) -> str | None:
        """The IP address of the peer, if it is known: a flood comes from few."""

    def count_bytes(self) -> int:
        """Unread bytes."""


class BufferBudget:
    """A bound on the unread bytes of all connections of a node.

    Connections do not report what is read. So all are counted again when the bytes noted become too many.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._noted: WeakKeyDictionary[BufferedConnection, int] = WeakKeyDictionary()
        self._closing: WeakSet[BufferedConnection] = WeakSet()  # their bytes are as good as gone
        self.size = 0
        """Unread bytes, or more than that."""

    def note(self, connection: BufferedConnection, size: int) -> BufferedConnection | None:
        """Note that ``connection`` has ``size`` unread bytes.

        Returns:
            The connection that must be closed, if there are too many: the one with most, of the address with most.
        """
        if connection in self._closing:
            return connection
        self.size += size - self._noted.get(connection, 0)
        self._noted[connection] = size
        if self.size <= self._total:
            return None
        for other in list(self._noted):
            unread = size if other is connection else other.count_bytes()
            if unread:
                self._noted[other] = unread
            else:
                del self._noted[other]
        self.size = sum(self._noted.values())
        if self.size <= self._total:
            return None
        crowd: Counter[object] = Counter()
        for other, unread in self._noted.items():
            crowd[other.source_address or other] += unread
        surplus = max(self._noted, key=lambda other: (crowd[other.source_address or other], self._noted[other]))
        self._closing.add(surplus)
        self.size -= self._noted.pop(surplus)
        return surplus
