"""What a connection may carry: which frames of its multiplexer, how many of them, and bytes that nobody reads.

Yamux has no limits of its own. A frame costs its sender twelve bytes whatever it makes the other end do, and what it
brings waits in memory until somebody reads it.

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

from p2p.network import Misbehaviour
from p2p.rate_limit import Rate

FRAME_RATE = Rate(items=4000, size=math.inf, burst=5.0)
TOTAL_FRAME_RATE = Rate(items=10_000, size=math.inf, burst=5.0)
"""Frames a second that are read from one peer, and from all of them; 64 streams of tokens are 2,000."""
PING_COST = 20
SYN_COST = 10
"""Frames that a ping and the beginning of a stream count for: both are answered."""

_FLAGS = {
    TYPE_DATA: FLAG_SYN | FLAG_ACK | FLAG_FIN | FLAG_RST,
    TYPE_WINDOW_UPDATE: FLAG_SYN | FLAG_ACK | FLAG_FIN | FLAG_RST,
    TYPE_PING: FLAG_SYN | FLAG_ACK,
    TYPE_GO_AWAY: 0,
}


def check_frame(header: bytes, is_initiator: bool) -> tuple[Misbehaviour | None, int]:
    """What is wrong with a frame that came, if anything, and for how many frames it counts.

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
    """A connection, as far as it keeps what nobody has read."""

    @property
    def source_address(self) -> str | None:
        """Where the peer is, if it is known: places are what floods have few of."""

    def count_bytes(self) -> int:
        """Bytes that it keeps."""


class BufferBudget:
    """The bytes that all connections of a node keep for readers.

    What is read is not reported; so everything is measured anew when what was noted becomes too much.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._noted: WeakKeyDictionary[BufferedConnection, int] = WeakKeyDictionary()
        self._going: WeakSet[BufferedConnection] = WeakSet()  # what they keep is as good as gone
        self.size = 0
        """Bytes kept, or more than that."""

    def note(self, connection: BufferedConnection, size: int) -> BufferedConnection | None:
        """Note that ``connection`` keeps ``size`` bytes.

        Returns:
            Which connection has to go, if they are too many: the one with most, from the source_address with most.
        """
        if connection in self._going:
            return connection
        self.size += size - self._noted.get(connection, 0)
        self._noted[connection] = size
        if self.size <= self._total:
            return None
        for other in list(self._noted):
            kept = size if other is connection else other.count_bytes()
            if kept:
                self._noted[other] = kept
            else:
                del self._noted[other]
        self.size = sum(self._noted.values())
        if self.size <= self._total:
            return None
        crowd: Counter[object] = Counter()
        for other, kept in self._noted.items():
            crowd[other.source_address or other] += kept
        surplus = max(self._noted, key=lambda other: (crowd[other.source_address or other], self._noted[other]))
        self._going.add(surplus)
        self.size -= self._noted.pop(surplus)
        return surplus
