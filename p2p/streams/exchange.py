"""One side of one exchange: what its tasks call to send and to receive frames."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from p2p.network import NetworkError
from p2p.streams.frames import FRAME_OVERHEAD_BYTES, MAX_FRAME_BYTES, ExchangeState, Frame, Kind
from p2p.streams.pooled_stream import ABORT_TIMEOUT_S, PooledStream


class Exchange:
    """One side of one exchange."""

    def __init__(
        self, stream: PooledStream, number: int, reopen: Callable[[], Awaitable[PooledStream]] | None = None
    ) -> None:
        self.stream = stream
        self.state = ExchangeState(number)
        self._changed = trio.lowlevel.ParkingLot()
        self._due = math.inf
        """Until when the next frame is waited for."""
        self._rings_at = math.inf
        """For when the alarm is set."""
        self.handler_scope: trio.CancelScope | None = None
        """That of the handler, on the side that answers."""
        self.is_lost = False
        """Whether the stream failed before either side ended or aborted the exchange."""
        self.has_begun = False
        """Whether the peer may know of it."""
        self.is_left = False
        """Whether nobody on the side that opened it uses it any more."""
        self._retrying = trio.Lock()
        # Everything sent so far, as long as the exchange can still move to a fresh stream.
        self._reopen = reopen
        self._replay: list[bytes] | None = None if reopen is None else []

    @property
    def peer(self) -> bytes:
        """Public key of the other end."""
        return self.stream.raw.peer

    @property
    def can_send(self) -> bool:
        """Whether a frame would go out now. It would not if the peer has yet to read what was sent before."""
        state = self.state
        return not state.ended and state.stopped is None and state.failure is None and state.send_window > 0

    async def send(self, *payloads: bytes, end: bool = False) -> None:
        """Send frames of at most 1 MiB each; waits for the send window. ``end`` also ends this side.

        What the window admits goes out in one write, which costs both nodes about what a single frame does.

        Raises:
            NetworkError: the peer has aborted, reads no more, or is lost.
            ValueError: a payload is too long.
        """
        for payload in payloads:
            if len(payload) > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {len(payload)} bytes is longer than {MAX_FRAME_BYTES}")
        sent = 0
        while sent < len(payloads):
            state = await self._wait_window()
            data = b""
            while sent < len(payloads) and state.send_window > 0:
                data += state.data(payloads[sent]).encode()
                if self._replay is not None:
                    self._replay.append(payloads[sent])
                sent += 1
            if end and sent == len(payloads):
                data += state.end().encode()
            await self._write(state, data)

    async def _wait_window(self) -> ExchangeState:
        """The state, once its window admits a frame.

        Raises:
            NetworkError: the peer has aborted, reads no more, or is lost.
        """
        while True:
            state = self.state
            if state.ended and state.failure is None:
                raise RuntimeError("this side of the exchange has ended")
            if state.stopped is not None or state.failure is not None:
                if not await self._retry(state):
                    raise NetworkError(state.failure or state.stopped)
            elif state.send_window > 0:
                return state
            else:
                await self._changed.park()

    def has_room(self, *payloads: bytes) -> bool:
        """Whether :meth:`send` would send these without waiting for the peer, another task or the connection."""
        size = sum(map(len, payloads)) + FRAME_OVERHEAD_BYTES * (len(payloads) + 1)
        return self.can_send and size <= self.state.send_window and self.stream.has_room(size)

    async def receive(self, by: float = math.inf) -> bytes | None:
        """The peer's next frame, or None once it has ended.

        Raises:
            NetworkError: the peer has aborted or is lost. The frames that came before are delivered first.
            trio.TooSlowError: none has come by ``by`` (trio time).
        """
        self._due = by
        # Before taking the next frame, so that a cancellation here loses none. Waiting is a checkpoint by itself.
        if self.state.unread or self.state.peer_ended:
            await trio.lowlevel.checkpoint()
        update = self.state.window_update()
        if update is not None:
            with suppress(NetworkError), trio.fail_at(by):  # a loss shows when the frames that did arrive are used up
                await self.stream.write(update.encode())
        while True:
            state = self.state
            payload = state.take()
            if payload is not None:
                self.stream.account()
                return payload
            if state.failure is not None:
                with trio.fail_at(by):
                    is_moved = await self._retry(state)
                if not is_moved:
                    raise NetworkError(state.failure)
            elif state.peer_ended:
                return None
            else:
                await self._wait()

    async def _wait(self) -> None:
        """Wait until something has changed.

        Raises:
            trio.TooSlowError: nothing has, until the next frame was due.
        """
        if self._due <= trio.current_time():
            await trio.lowlevel.checkpoint()
            raise trio.TooSlowError
        self._set_alarm()
        await self._changed.park()

    def give_up(self) -> None:
        """Have :meth:`receive` wait no longer, if it waits now."""
        self._due = -math.inf
        self._changed.unpark_all()

    def ring(self, due: float) -> None:
        """See :class:`p2p.streams.alarms.Sleeper`."""
        if due != self._rings_at:  # an earlier one was set since
            return
        self._rings_at = math.inf
        if self._due <= due:
            self._changed.unpark_all()
        else:
            self._set_alarm()

    def _set_alarm(self) -> None:
        """Have the wait there is end in time, unless an alarm rings before."""
        if self._due < self._rings_at:
            self._rings_at = self._due
            self.stream.set_alarm(self, self._due)

    async def end(self) -> None:
        """No more frames from this side. Harmless when called twice.

        Raises:
            NetworkError: the peer has aborted or is lost.
        """
        if not self.state.ended:
            await self._write(self.state, self.state.end().encode())

    async def abort(self, reason: str = "") -> None:
        """Tell the peer at once that this exchange is over. Never raises, not even when cancelled."""
        state = self.state
        self._replay = None
        over = state.is_over
        frame = state.reset(reason)
        self._changed.unpark_all()
        if over or not self.has_begun:
            return
        deadline = trio.current_time() + ABORT_TIMEOUT_S
        with trio.CancelScope(deadline=deadline, shield=True) as scope, suppress(NetworkError):
            await self.stream.write(frame.encode())
        if scope.cancelled_caught:
            await self.stream.fail("the link was full")

    async def _write(self, state: ExchangeState, data: bytes) -> None:
        self.has_begun = True
        try:
            await self.stream.write(data)
        except NetworkError:
            if not await self._retry(state):
                raise

    async def _retry(self, state: ExchangeState) -> bool:
        """Move to a fresh stream and send everything again, if a pooled stream was dead before anything came back.

        ``state`` is the one that failed: when two tasks notice, the second finds it replaced already.
        """
        async with self._retrying:
            if self.state is not state:
                return True
            replay, self._replay = self._replay, None
            if replay is None or self._reopen is None or self.stream.failure_reason is None:
                return False
            try:
                stream = await self._reopen()
            except NetworkError:
                return False
            stream.number += 1
            fresh = ExchangeState(stream.number)
            data = b"".join(fresh.data(payload).encode() for payload in replay)
            if state.ended:
                data += fresh.end().encode()
            stream.exchange, self.stream, self.state, self.is_lost = self, stream, fresh, False
            self._changed.unpark_all()
            with suppress(NetworkError):  # a second loss shows in the state
                if data:
                    await stream.write(data)
            return True

    def leave(self) -> None:
        """Nobody uses it any more on this side, which opened it."""
        self.is_left = True
        self._replay = None

    def deliver(self, frame: Frame) -> None:
        """Take in a frame of the peer.

        Raises:
            FrameError: see :meth:`p2p.streams.frames.ExchangeState.accept`.
        """
        self._replay = None
        self.state.accept(frame)
        if frame.kind is Kind.RESET:
            self._cancel_handler()
        self._changed.unpark_all()

    def lose(self, reason: str) -> None:
        """The stream is gone, or the peer uses it for another exchange."""
        self.state.lose(reason)
        self._cancel_handler()
        self._changed.unpark_all()

    def _cancel_handler(self) -> None:
        # A handler may go on after both sides have ended: nothing that it could be told about is left.
        if self.handler_scope is not None and not (self.state.ended and self.state.peer_ended):
            self.handler_scope.cancel()


ExchangeHandler = Callable[[Exchange], Awaitable[None]]
"""Answers an exchange that the peer has begun."""
