"""Framed exchanges over pooled streams, in which every protocol between two nodes is spoken.

An *exchange* is one use of a stream: a request and any number of frames both ways, with flow control, ends and aborts
as :mod:`p2p.streams.frames` defines them. Opening a stream costs milliseconds of CPU, so a stream returns to its
opener's pool when both sides have ended the exchange.

On the side that answers, a handler runs for each exchange. It is cancelled when the peer aborts or is lost, so a user's
cancellation travels from node to node. On the side that opens, leaving ``open`` normally ends the exchange, and leaving
it by an exception or a cancellation aborts it.

Any task of an exchange writes, one whole frame at a time. One task per stream reads and never writes, so the connection
is always drained, and the window bounds what may have to be buffered.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any

import trio

from chain.collections import SparseCounter
from p2p.network import Misbehaviour, Network, NetworkError, RawStream, is_network_error
from p2p.rate_limit import Budget
from p2p.shared_slots import SharedSlots, get_slot_owner
from p2p.streams.frames import (
    FRAME_OVERHEAD_BYTES,
    MAX_FRAME_BYTES,
    WINDOW_BYTES,
    ExchangeState,
    Frame,
    FrameError,
    FrameReader,
    Kind,
)

logger = logging.getLogger(__name__)

STREAM_IDLE_TIMEOUT_S = 60.0
"""Seconds after which an unused stream of the pool is closed."""
ACCEPTED_IDLE_TIMEOUT_S = 90.0
"""Seconds after which a stream that the peer opened and does not use is closed: its opener should do so before."""
MAX_UNUSED_STREAMS = 2048
"""Unused streams that all peers together may have here; beyond it, the address with most loses the longest unused."""
MAX_LATE_FRAMES = WINDOW_BYTES // FRAME_OVERHEAD_BYTES + 16
"""Frames of an exchange that is over which may come before the next begins: a window full, and those that end it."""
EXCHANGE_LINGER_TIMEOUT_S = 30.0
"""Seconds that the peer may take to end an exchange that was left without waiting for its end."""
REAP_INTERVAL_S = 15.0
"""Seconds between searches for streams that are idle or linger."""
EXCHANGE_OPEN_TIMEOUT_S = 10.0
"""Seconds that opening a stream may take (libp2p can block for ever)."""
ABORT_TIMEOUT_S = 1.0
"""Seconds for telling the peer of an abort; then the stream is reset instead."""
MAX_IDLE = 64
"""Unused streams kept per peer and protocol."""
MAX_STREAMS_PER_PEER = 200
"""Most streams opened to one peer; with somewhat more, libp2p blocks."""

FRAME_TIMEOUT_S = 30.0
"""Seconds from the first byte of a frame to its last; frames are sent whole."""
MAX_UNREAD_STREAM_BYTES = 16 << 20
"""Unread bytes of one peer in all its streams together: unfinished frames, and frames that no handler has received."""
MAX_UNREAD_TOTAL_BYTES = 32 << 20
"""Unread bytes of all peers together; beyond it, the peer with most loses the streams that hold them."""

ExchangeHandler = Callable[["Exchange"], Awaitable[None]]


class _PooledStream:
    """One raw stream, at either end, and the exchange that it carries."""

    def __init__(self, streams: Streams, raw: RawStream, protocol: str) -> None:
        self.raw = raw
        self.protocol = protocol
        self._streams = streams
        self._reader = FrameReader()
        self.unread = 0
        """Unread bytes that are accounted for."""
        self.is_accepted = False
        """Whether the peer opened it."""
        self.owner = b""
        """What it counts against if the peer opened it: :func:`p2p.shared_slots.get_slot_owner`."""
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

    async def read(self, on_frame: Callable[[Frame], None]) -> None:
        """Pass on frames until the stream is lost."""
        due = math.inf  # when the frame that has begun must be complete
        self._streams._reading.setdefault(self.raw.peer, {})[self] = None
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
            self._streams.network.report_misbehaviour(self.raw.peer, Misbehaviour.GARBAGE)
        finally:
            reading = self._streams._reading[self.raw.peer]
            del reading[self]
            if not reading:
                del self._streams._reading[self.raw.peer]
            await self.fail(self.reason)
            self.account()

    async def _receive_before(self, due: float) -> bytes:
        """More bytes of a frame that has begun, which must be complete at ``due``.

        Raises:
            NetworkError: there were none.
        """
        with trio.CancelScope(deadline=due):
            return await self.raw.receive()
        self._streams.network.report_misbehaviour(self.raw.peer, Misbehaviour.RATE)
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
                unread += self.exchange._state.unread
        change, self.unread = unread - self.unread, unread
        if change:
            self._streams._hold(self, change)

    async def fail(self, reason: str) -> None:
        """Reset the stream, and fail what it carries."""
        if self.failure_reason is None:
            self.failure_reason = reason
            self.account()
            self.scope.cancel()
            if self.exchange is not None:
                self.exchange.is_lost = not self.exchange._state.is_over
                self.exchange._lose(reason)
            with trio.CancelScope(shield=True):
                await self.raw.reset()

    async def close(self) -> None:
        """Close an unused stream in order."""
        if self.failure_reason is None:
            self.failure_reason = "closed"
            with trio.move_on_after(ABORT_TIMEOUT_S):
                await self.raw.close()
            self.scope.cancel()


class Exchange:
    """One side of one exchange."""

    def __init__(
        self, stream: _PooledStream, number: int, reopen: Callable[[], Awaitable[_PooledStream]] | None = None
    ) -> None:
        self._stream = stream
        self._state = ExchangeState(number)
        self._changed = trio.lowlevel.ParkingLot()
        self._scope: trio.CancelScope | None = None
        self.is_lost = False
        """Whether the stream failed before either side ended or aborted the exchange."""
        self._begun = False
        self._left = False
        self._retrying = trio.Lock()
        # Everything sent so far, as long as the exchange can still move to a fresh stream.
        self._reopen = reopen
        self._replay: list[bytes] | None = None if reopen is None else []

    @property
    def peer(self) -> bytes:
        """Public key of the other end."""
        return self._stream.raw.peer

    @property
    def can_send(self) -> bool:
        """Whether a frame would go out now. It would not if the peer has yet to read what was sent before."""
        state = self._state
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
            state = self._state
            if state.ended and state.failure is None:
                raise RuntimeError("this side of the exchange has ended")
            if state.stopped is not None or state.failure is not None:
                if not await self._retry(state):
                    raise NetworkError(state.failure or state.stopped)
            elif state.send_window > 0:
                return state
            else:
                await self._changed.park()

    async def receive(self) -> bytes | None:
        """The peer's next frame, or None once it has ended.

        Raises:
            NetworkError: the peer has aborted or is lost. The frames that came before are delivered first.
        """
        # Before taking the next frame, so that a cancellation here loses none. Waiting is a checkpoint by itself.
        if self._state.unread or self._state.peer_ended:
            await trio.lowlevel.checkpoint()
        update = self._state.window_update()
        if update is not None:
            with suppress(NetworkError):  # a loss shows when the frames that did arrive are used up
                await self._stream.write(update.encode())
        while True:
            state = self._state
            payload = state.take()
            if payload is not None:
                self._stream.account()
                return payload
            if state.failure is not None:
                if not await self._retry(state):
                    raise NetworkError(state.failure)
            elif state.peer_ended:
                return None
            else:
                await self._changed.park()

    async def end(self) -> None:
        """No more frames from this side. Harmless when called twice.

        Raises:
            NetworkError: the peer has aborted or is lost.
        """
        if not self._state.ended:
            await self._write(self._state, self._state.end().encode())

    async def abort(self, reason: str = "") -> None:
        """Tell the peer at once that this exchange is over. Never raises, not even when cancelled."""
        state = self._state
        self._replay = None
        over = state.is_over
        frame = state.reset(reason)
        self._changed.unpark_all()
        if over or not self._begun:
            return
        deadline = trio.current_time() + ABORT_TIMEOUT_S
        with trio.CancelScope(deadline=deadline, shield=True) as scope, suppress(NetworkError):
            await self._stream.write(frame.encode())
        if scope.cancelled_caught:
            await self._stream.fail("the link was full")

    async def _write(self, state: ExchangeState, data: bytes) -> None:
        self._begun = True
        try:
            await self._stream.write(data)
        except NetworkError:
            if not await self._retry(state):
                raise

    async def _retry(self, state: ExchangeState) -> bool:
        """Move to a fresh stream and send everything again, if a pooled stream was dead before anything came back.

        ``state`` is the one that failed: when two tasks notice, the second finds it replaced already.
        """
        async with self._retrying:
            if self._state is not state:
                return True
            replay, self._replay = self._replay, None
            if replay is None or self._reopen is None or self._stream.failure_reason is None:
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
            stream.exchange, self._stream, self._state, self.is_lost = self, stream, fresh, False
            self._changed.unpark_all()
            with suppress(NetworkError):  # a second loss shows in the state
                if data:
                    await stream.write(data)
            return True

    def _deliver(self, frame: Frame) -> None:
        self._replay = None
        self._state.accept(frame)
        if frame.kind is Kind.RESET:
            self._cancel_handler()
        self._changed.unpark_all()

    def _lose(self, reason: str) -> None:
        self._state.lose(reason)
        self._cancel_handler()
        self._changed.unpark_all()

    def _cancel_handler(self) -> None:
        # A handler may go on after both sides have ended: nothing that it could be told about is left.
        if self._scope is not None and not (self._state.ended and self._state.peer_ended):
            self._scope.cancel()


class Streams:
    """Exchanges with other nodes, over one :class:`~p2p.network.Network`. Works only while :meth:`run` does."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._nursery: trio.Nursery | None = None
        # Streams opened from here: those that are open (a dict for its order), and how many per peer.
        self._pooled: dict[_PooledStream, None] = {}
        self._opened: SparseCounter[bytes] = SparseCounter()
        self._idle: dict[tuple[bytes, str], list[_PooledStream]] = {}
        # Streams and exchanges that peers opened, per peer and protocol.
        self._accepted: SparseCounter[tuple[bytes, str]] = SparseCounter()
        self._served: SparseCounter[tuple[bytes, str]] = SparseCounter()
        self._unused: SharedSlots[_PooledStream] = SharedSlots(MAX_UNUSED_STREAMS)
        self._reading: dict[bytes, dict[_PooledStream, None]] = {}
        self._unread = Budget(MAX_UNREAD_STREAM_BYTES, MAX_UNREAD_TOTAL_BYTES)

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Serve and reap until cancelled; then every stream is reset and every handler cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                while True:
                    await trio.sleep(REAP_INTERVAL_S)
                    await self._reap()
            finally:
                self._nursery = None
                self._idle.clear()

    def open(self, peer: bytes, protocol: str) -> AbstractAsyncContextManager[Exchange]:
        """An exchange with a connected peer. Leaving normally ends it, leaving by an exception aborts it.

        Leaving does not wait for the peer's end, so whether it got the frames is known only by an answer. If a pooled
        stream proves dead before anything came back, everything is sent once more on a fresh one: the peer may in a
        rare case see an exchange begin twice (and the first one aborted).

        Raises:
            NetworkError: not connected, the peer does not speak ``protocol``, or too many streams to it are open.
        """
        return self._open(peer, protocol)

    @asynccontextmanager
    async def _open(self, peer: bytes, protocol: str) -> AsyncGenerator[Exchange, None]:
        exchange = await self._begin(peer, protocol)
        try:
            yield exchange
            if exchange._begun:
                with suppress(NetworkError):  # the caller has its answer already
                    await exchange.end()
        except BaseException as error:
            await exchange.abort("cancelled" if isinstance(error, trio.Cancelled) else "the other side gave up")
            raise
        finally:
            self._leave(exchange)

    def is_used(self, peer: bytes, besides: str) -> bool:
        """Whether an exchange with ``peer`` is under way, in either direction, of another protocol than ``besides``."""
        opened = (stream for stream in self._pooled if stream.raw.peer == peer and stream.exchange is not None)
        return any(stream.protocol != besides for stream in opened) or any(
            served == peer and protocol != besides for served, protocol in self._served
        )

    async def request(self, peer: bytes, protocol: str, payload: bytes, timeout: float) -> bytes:
        """Send one frame and return the one that answers it; ``timeout`` in seconds.

        Raises:
            NetworkError: no answer, for whatever reason.
        """
        try:
            with trio.fail_after(timeout):
                async with self.open(peer, protocol) as exchange:
                    await exchange.send(payload, end=True)
                    answer = await exchange.receive()
                    if answer is None:
                        raise NetworkError("the peer ended without an answer")
                    return answer
        except trio.TooSlowError:
            raise NetworkError(f"no answer within {timeout:g} s") from None

    def handle(self, protocol: str, handler: ExchangeHandler, max_exchanges_per_peer: int = 64) -> None:
        """Call ``handler`` for each exchange that a peer begins; beyond the limit they are reset as "busy".

        The handler is cancelled when the peer aborts or is lost. When it returns, this side ends, and a peer that is
        still sending receives a RESET. When it raises, only this exchange is aborted.
        """

        async def accept(raw: RawStream) -> None:
            await self._accept(raw, protocol, handler, max_exchanges_per_peer)

        self.network.handle(protocol, accept)

    # The side that opens

    async def _begin(self, peer: bytes, protocol: str) -> Exchange:
        idle = self._idle.get((peer, protocol), [])
        while idle and (idle[-1].failure_reason is not None or idle[-1].raw.is_superseded):
            self._close_soon(idle.pop())
        if idle:
            stream, reopen = idle.pop(), partial(self._open_stream, peer, protocol)
        else:
            stream, reopen = await self._open_stream(peer, protocol), None
        stream.number += 1
        stream.exchange = Exchange(stream, stream.number, reopen)
        return stream.exchange

    async def _open_stream(self, peer: bytes, protocol: str) -> _PooledStream:
        if self._opened[peer] >= MAX_STREAMS_PER_PEER:
            raise NetworkError("too many streams to this peer are open")
        self._opened[peer] += 1
        try:
            with trio.fail_after(EXCHANGE_OPEN_TIMEOUT_S):
                stream = _PooledStream(self, await self.network.open_stream(peer, protocol), protocol)
            if self._nursery is None:
                await stream.fail("this node has stopped")
                raise NetworkError("this node's streams are not running")
        except BaseException as error:
            self._opened[peer] -= 1
            if isinstance(error, trio.TooSlowError):
                raise NetworkError(f"no stream within {EXCHANGE_OPEN_TIMEOUT_S:g} s") from None
            raise
        self._pooled[stream] = None
        self._nursery.start_soon(self._read_opened, stream)
        return stream

    async def _read_opened(self, stream: _PooledStream) -> None:
        def on_frame(frame: Frame) -> None:
            if frame.exchange > stream.number:
                raise FrameError("an exchange that was never begun")
            exchange = stream.exchange
            if exchange is None or frame.exchange < stream.number:
                stream.drop_late()
                return
            exchange._deliver(frame)
            if exchange._left and exchange._state.peer_ended:
                self._put_back(stream)

        peer = stream.raw.peer
        try:
            await stream.read(on_frame)
        finally:
            self._opened[peer] -= 1
            del self._pooled[stream]
            idle = self._idle.get((peer, stream.protocol), [])
            if stream in idle:
                idle.remove(stream)

    def _leave(self, exchange: Exchange) -> None:
        exchange._left = True
        exchange._replay = None
        stream, state = exchange._stream, exchange._state
        if stream.failure_reason is not None:
            return
        if state.failure is not None or state.peer_ended or not exchange._begun:
            self._put_back(stream)
        else:
            stream.since = trio.current_time()

    def _put_back(self, stream: _PooledStream) -> None:
        stream.exchange = None
        stream.since = trio.current_time()
        if stream.raw.is_superseded:
            self._close_soon(stream)
            return
        idle = self._idle.setdefault((stream.raw.peer, stream.protocol), [])
        idle.append(stream)
        if len(idle) > MAX_IDLE:
            self._close_soon(idle.pop(0))

    def _close_soon(self, stream: _PooledStream) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(stream.close)

    def _hold(self, stream: _PooledStream, change: int) -> None:
        """Account for unread bytes. If there are too many, the streams of the peer with most fail.

        Raises:
            NetworkError: it is this one.
        """
        peer = stream.raw.peer
        largest = self._unread.hold(peer, change)
        if largest is None:
            return
        if self._unread.get(peer) > MAX_UNREAD_STREAM_BYTES:
            self.network.report_misbehaviour(peer, Misbehaviour.OVERSIZE)
            raise NetworkError("far too many unread bytes")
        for other in self._reading.get(largest, ()):
            if other.unread and other is not stream:
                other.give_up("too many unread bytes")
        if largest == peer:
            raise NetworkError("too many unread bytes")

    async def _reap(self) -> None:
        now = trio.current_time()
        for stream in list(self._pooled):
            age = now - stream.since
            if stream.exchange is not None:
                if stream.exchange._left and age >= EXCHANGE_LINGER_TIMEOUT_S:
                    await stream.fail("the peer did not end the exchange")
            elif stream.failure_reason is None and age >= STREAM_IDLE_TIMEOUT_S:
                idle = self._idle.get((stream.raw.peer, stream.protocol), [])
                if stream in idle:  # not if it has just been taken out to be closed
                    idle.remove(stream)
                await stream.close()
        self._idle = {key: streams for key, streams in self._idle.items() if streams}
        for stream in self._unused:
            if now - stream.since < ACCEPTED_IDLE_TIMEOUT_S:
                break
            stream.give_up("the stream was not used")

    # The side that answers

    def _set_unused(self, stream: _PooledStream) -> None:
        """Note that an accepted stream carries no exchange now; another may be given up for it."""
        stream.since = trio.current_time()
        surplus = self._unused.put(stream, stream.owner)
        if surplus is not None:
            surplus.give_up("too many unused streams")

    async def _accept(self, raw: RawStream, protocol: str, handler: ExchangeHandler, limit: int) -> None:
        """Runs in a task of the network; the work is done in one of ours, so that it ends with us."""
        stream = _PooledStream(self, raw, protocol)
        stream.is_accepted = True
        key = (raw.peer, protocol)
        if self._nursery is None or self._accepted[key] >= 2 * limit + MAX_IDLE:
            await stream.fail("busy")
            return
        done = trio.Event()
        stream.owner = get_slot_owner(self.network, raw.peer)
        self._set_unused(stream)
        self._accepted[key] += 1
        self._nursery.start_soon(self._serve_stream, stream, handler, limit, done)
        try:
            await done.wait()
        finally:
            stream.scope.cancel()
            self._accepted[key] -= 1

    async def _serve_stream(
        self, stream: _PooledStream, handler: ExchangeHandler, limit: int, done: trio.Event
    ) -> None:
        key = (stream.raw.peer, stream.protocol)

        def on_frame(frame: Frame) -> None:
            if frame.exchange > stream.number and frame.kind in (Kind.DATA, Kind.END):
                if stream.exchange is not None:
                    stream.exchange._lose("the peer has begun another exchange")
                if self._served[key] >= 2 * limit:
                    raise NetworkError("far too many exchanges")  # an honest peer may have that many users
                stream.number = frame.exchange
                stream.exchange = exchange = Exchange(stream, stream.number)
                exchange._scope = trio.CancelScope()
                self._served[key] += 1
                self._unused.discard(stream)
                nursery.start_soon(self._serve, exchange, handler, limit)
            if stream.exchange is not None and frame.exchange == stream.number:
                stream.exchange._deliver(frame)
            else:
                stream.drop_late()

        try:
            async with trio.open_nursery() as nursery:
                await stream.read(on_frame)
        finally:
            self._unused.discard(stream)
            done.set()

    async def _serve(self, exchange: Exchange, handler: ExchangeHandler, limit: int) -> None:
        stream = exchange._stream
        key = (stream.raw.peer, stream.protocol)
        exchange._begun = True
        assert exchange._scope is not None
        try:
            if self._served[key] > limit:
                await exchange.abort("busy")
                return
            with exchange._scope:
                await handler(exchange)
                await exchange.end()
                if not exchange._state.peer_ended:
                    await exchange.abort("the handler has ended")
        except Exception as error:
            if is_network_error(error):
                await exchange.abort(str(error))
            else:
                logger.exception("a handler of %s failed", stream.protocol)
                await exchange.abort("the handler failed")
        finally:
            if stream.exchange is exchange:
                stream.exchange = None
                stream.account()
                if stream.failure_reason is None:
                    self._set_unused(stream)
            self._served[key] -= 1
