"""A stream that carries one exchange after another, as both ends of it have it.

Any task writes, one whole frame at a time. One task reads and never writes, so the connection is always drained, and
the window of an exchange bounds what may have to be buffered.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from p2p.network import Misbehaviour, Network, NetworkError, RawStream
from p2p.streams.alarms import Alarms
from p2p.streams.frames import FRAME_OVERHEAD_BYTES, WINDOW_BYTES, Frame, FrameError, FrameReader
from p2p.streams.unread_bytes import UnreadBytes

if TYPE_CHECKING:
    from p2p.streams.exchange import Exchange

MAX_LATE_FRAMES = WINDOW_BYTES // FRAME_OVERHEAD_BYTES + 16
"""Frames of an exchange that is over which may come before the next begins: a window full, and those that end it."""
FRAME_TIMEOUT_S = 30.0
"""Seconds from the first byte of a frame to its last; frames are sent whole."""
ABORT_TIMEOUT_S = 1.0
"""Seconds for telling the peer of an abort; then the stream is reset instead."""


class PooledStream:
    """One raw stream, at either end, and the exchange that it carries."""

    def __init__(
        self, raw: RawStream, protocol: str, network: Network, unread: UnreadBytes[PooledStream], alarms: Alarms
    ) -> None:
        self.raw = raw
        self.protocol = protocol
        self._network = network
        self._unread = unread
        self._alarms = alarms
        self._reader = FrameReader()
        self.unread = 0
        """Unread bytes that are accounted for."""
        self.is_accepted = False
        """Whether the peer opened it."""
        self.owner = b""
        """What it counts against if the peer opened it: :func:`p2p.limits.shared_slots.get_slot_owner`."""
        self.reason = "this node has stopped"
        """Why the reading task is cancelled, if it is."""
        self.number = 0
        """Number of the latest exchange."""
        self.exchange: Exchange | None = None
        self.failure_reason: str | None = None
        self.since = 0.0
        """When the stream became unused or its exchange was left (trio time)."""
        self.scope = trio.CancelScope()
        """Scope of the reading task."""
        self._late = 0, 0  # number of the latest exchange, and how many frames of earlier ones have come since
        self._lock = trio.Lock()

    async def write(self, data: bytes) -> None:
        """Send whole frames. If that is interrupted the peer has half a frame, so the stream fails."""
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()
        try:
            if self.failure_reason is not None:
                raise NetworkError(self.failure_reason)
            try:
                await self.raw.send(data)
            except BaseException as error:
                await self.fail(str(error) if isinstance(error, NetworkError) else "writing was cut short")
                raise
        finally:
            self._lock.release()

    def has_room(self, size: int) -> bool:
        """Whether so many bytes of frames could be written without waiting."""
        return self.failure_reason is None and not self._lock.locked() and self.raw.has_room(size)

    def set_alarm(self, exchange: Exchange, due: float) -> None:
        """Have the exchange that it carries rung at a time."""
        self._alarms.set(exchange, due)

    async def read(self, on_frame: Callable[[Frame], None]) -> None:
        """Pass on frames until the stream is lost."""
        due = math.inf  # when the frame that has begun must be complete
        self._unread.begin(self)
        try:
            with self.scope:
                while True:
                    data = await (self.raw.receive() if due == math.inf else self._receive_before(due))
                    if not data:
                        self.reason = "the peer closed the stream"
                        break
                    had_begun = self._reader.unfinished > 0
                    frames = self._reader.feed(data)
                    for frame in frames:
                        on_frame(frame)
                    if not self._reader.unfinished:
                        due = math.inf
                    elif frames or not had_begun:
                        due = trio.current_time() + FRAME_TIMEOUT_S
                    self.account()
        except NetworkError as error:
            self.reason = str(error)
        except FrameError as error:
            self.reason = f"the peer broke the framing rules: {error}"
            self._network.report_misbehaviour(self.raw.peer, Misbehaviour.GARBAGE)
        finally:
            self._unread.end(self)
            await self.fail(self.reason)
            self.account()

    async def _receive_before(self, due: float) -> bytes:
        """More bytes of a frame that has begun, which must be complete at ``due``.

        Raises:
            NetworkError: there were none.
        """
        with trio.CancelScope(deadline=due):
            return await self.raw.receive()
        self._network.report_misbehaviour(self.raw.peer, Misbehaviour.RATE)
        raise NetworkError(f"a frame did not come to its end within {FRAME_TIMEOUT_S:g} s")

    def drop_late(self) -> None:
        """Note a frame of an exchange that is over.

        Raises:
            FrameError: there are more than an honest peer can have sent before it knew.
        """
        number, count = self._late
        self._late = self.number, (count + 1 if number == self.number else 1)
        if self._late[1] > MAX_LATE_FRAMES:
            raise FrameError("too many frames of an exchange that is over")

    def give_up(self, reason: str) -> None:
        """Have the reading task reset the stream."""
        self.reason = reason
        self.scope.cancel()

    def account(self) -> None:
        """Account for the unread bytes of this stream.

        Raises:
            NetworkError: the peer has too many.
        """
        unread = 0
        if self.failure_reason is None:
            unread = self._reader.unfinished
            if self.is_accepted and self.exchange is not None:
                unread += self.exchange.state.unread
        change, self.unread = unread - self.unread, unread
        if change:
            self._unread.hold(self, change)

    async def fail(self, reason: str) -> None:
        """Reset the stream, and fail what it carries."""
        if self.failure_reason is None:
            self.failure_reason = reason
            self.account()
            self.scope.cancel()
            if self.exchange is not None:
                self.exchange.is_lost = not self.exchange.state.is_over
                self.exchange.lose(reason)
            with trio.CancelScope(shield=True):
                await self.raw.reset()

    async def close(self) -> None:
        """Close an unused stream in order."""
        if self.failure_reason is None:
            self.failure_reason = "closed"
            with trio.move_on_after(ABORT_TIMEOUT_S):
                await self.raw.close()
            self.scope.cancel()
