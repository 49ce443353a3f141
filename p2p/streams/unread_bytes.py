"""The bytes that the streams of all peers hold unread, and who loses streams when they are too many."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from p2p.limits.rate_limit import Budget
from p2p.network import Misbehaviour, Network, NetworkError, RawStream

MAX_UNREAD_STREAM_BYTES = 16 << 20
"""Unread bytes of one peer in all its streams together: unfinished frames, and frames that no handler has received."""
MAX_UNREAD_TOTAL_BYTES = 32 << 20
"""Unread bytes of all peers together; beyond it, the peer with most loses the streams that hold them."""


class ReadStream(Protocol):
    """A stream that is read."""

    raw: RawStream
    unread: int
    """Its unread bytes that are accounted for."""

    def give_up(self, reason: str) -> None:
        """Have its reader reset it."""


S = TypeVar("S", bound=ReadStream)


class UnreadBytes(Generic[S]):
    """The unread bytes of the streams of one network."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._reading: dict[bytes, dict[S, None]] = {}  # by peer; a dict for its order
        self._budget = Budget(MAX_UNREAD_STREAM_BYTES, MAX_UNREAD_TOTAL_BYTES)

    @property
    def size(self) -> int:
        """Unread bytes of all peers."""
        return self._budget.size

    def get(self, peer: bytes) -> int:
        """Unread bytes of one peer."""
        return self._budget.get(peer)

    def begin(self, stream: S) -> None:
        """A stream is read from now on."""
        self._reading.setdefault(stream.raw.peer, {})[stream] = None

    def end(self, stream: S) -> None:
        """It is read no more."""
        reading = self._reading[stream.raw.peer]
        del reading[stream]
        if not reading:
            del self._reading[stream.raw.peer]

    def hold(self, stream: S, change: int) -> None:
        """Account for unread bytes. If there are too many, the streams of the peer with most fail.

        Raises:
            NetworkError: it is this one.
        """
        peer = stream.raw.peer
        largest = self._budget.hold(peer, change)
        if largest is None:
            return
        if self._budget.get(peer) > MAX_UNREAD_STREAM_BYTES:
            self._network.report_misbehaviour(peer, Misbehaviour.OVERSIZE)
            raise NetworkError("far too many unread bytes")
        for other in self._reading.get(largest, ()):
            if other.unread and other is not stream:
                other.give_up("too many unread bytes")
        if largest == peer:
            raise NetworkError("too many unread bytes")
