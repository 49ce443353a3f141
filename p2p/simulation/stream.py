"""Both ends of a stream in a simulated network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import trio

from p2p.network import NetworkError

SEND_WINDOW_BYTES = 256 * 1024
"""Bytes of a stream that may be on the way or unread, per direction."""


class Wire(Protocol):
    """What brings bytes from one end to the other."""

    def delay(self, source: bytes, target: bytes) -> float: ...

    def schedule(self, due: float, action: Callable[..., None], *arguments: Any) -> None: ...


class Carrier(Protocol):
    """The connection that a stream is on."""

    severed: bool
    streams: dict[int, tuple[SimulatedStream, SimulatedStream]]

    def count_chunk(self, receiver: bytes, size: int) -> None: ...


class SimulatedStream:
    """One end of a stream; see :class:`p2p.network.RawStream`."""

    _other: SimulatedStream

    def __init__(self, wire: Wire, link: Carrier, serial: int, peer: bytes) -> None:
        self._wire = wire
        self.link = link
        self.serial = serial
        self._peer = peer
        self._inbox = bytearray()
        self._unread = 0  # bytes sent from here that the other end has not read
        self._last_due = 0.0
        self._open = False
        self._ended = False  # the other end has closed
        self._closed = False  # this end has closed
        self._failure = ""
        self._readable = trio.lowlevel.ParkingLot()
        self._writable = trio.lowlevel.ParkingLot()

    @property
    def peer(self) -> bytes:
        return self._peer

    @property
    def has_failed(self) -> bool:
        """It was reset, or the connection was lost."""
        return bool(self._failure)

    @property
    def is_superseded(self) -> bool:
        """There is one link between two peers."""
        return False

    def has_room(self, size: int) -> bool:
        return size <= SEND_WINDOW_BYTES - self._unread

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()  # no other task runs where there is room, as on a host
        view = memoryview(data)
        while True:
            self._check()
            if self._ended:
                raise NetworkError("the peer has closed the stream")
            room = SEND_WINDOW_BYTES - self._unread
            if room > 0 and len(view):
                chunk, view = bytes(view[:room]), view[room:]
                self._unread += len(chunk)
                self.link.count_chunk(self._peer, len(chunk))
                self._send_event(self._other._arrive, chunk)
            if not len(view):
                return
            await self._writable.park()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if self._inbox or self._ended:  # waiting is a checkpoint by itself
            await trio.lowlevel.checkpoint()
        while True:
            self._check()
            if self._inbox:
                data = bytes(self._inbox[:max_bytes])
                del self._inbox[:max_bytes]
                self._other._unread -= len(data)
                self._other._writable.unpark_all()
                return data
            if self._ended:
                return b""
            await self._readable.park()

    async def close(self) -> None:
        if not self._closed and not self._failure:
            self._closed = True
            self._inbox.clear()
            self._wake()
            self.link.count_chunk(self._peer, 0)
            self._send_event(self._other._end)

    async def reset(self) -> None:
        if not self._failure:
            self.fail("the stream was reset")
            self.link.count_chunk(self._peer, 0)
            self._send_event(self._other.fail, "the peer reset the stream")

    def _check(self) -> None:
        if self._failure or self._closed:
            raise NetworkError(self._failure or "the stream is closed")

    def _send_event(self, action: Callable[..., None], *arguments: Any) -> None:
        """Let ``action`` happen at the other end, after the link's delay and after everything sent before."""
        due = trio.current_time() + self._wire.delay(self._other._peer, self._peer)
        self._last_due = max(self._last_due, due)
        self._wire.schedule(self._last_due, self._pass, action, arguments)

    def _pass(self, action: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if not self.link.severed:
            action(*arguments)

    def ask(self, accept: Callable[..., None], protocol: str) -> None:
        """Have the other end ``accept`` its end of the stream for ``protocol``, or refuse it."""
        self._send_event(accept, self._other, protocol)

    async def wait_open(self) -> None:
        """Wait for the other end to accept.

        Raises:
            NetworkError: it has refused, or is gone.
        """
        while not self._open:
            self._check()
            await self._readable.park()

    def accept(self) -> None:
        """Take the stream that the other end has asked for."""
        self._open = True
        self._send_event(self._other._accepted)

    def refuse(self, reason: str) -> None:
        """Do not take it; ``reason`` is what the other end is told."""
        self.fail("refused")
        self._send_event(self._other.fail, reason)

    def _accepted(self) -> None:
        self._open = True
        self._wake()

    def _arrive(self, chunk: bytes) -> None:
        if self._closed or self._failure:
            self._other._unread -= len(chunk)
        else:
            self._inbox += chunk
            self._readable.unpark_all()

    def _end(self) -> None:
        self._ended = True
        self._wake()
        if self._closed:
            self.link.streams.pop(self.serial, None)

    def fail(self, reason: str) -> None:
        """End at once, as after a crash: reading and writing raise NetworkError with ``reason``."""
        if not self._failure:
            self._failure = reason
            self._inbox.clear()
            self._wake()
            if self._other._failure:
                self.link.streams.pop(self.serial, None)

    def _wake(self) -> None:
        self._readable.unpark_all()
        self._writable.unpark_all()


def connect_ends(
    wire: Wire, link: Carrier, serial: int, here: bytes, there: bytes
) -> tuple[SimulatedStream, SimulatedStream]:
    """The end of the peer ``here`` of a new stream on ``link``, and that of ``there``."""
    ends = SimulatedStream(wire, link, serial, there), SimulatedStream(wire, link, serial, here)
    ends[0]._other, ends[1]._other = ends[1], ends[0]
    return ends
