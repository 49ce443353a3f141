"""Framed exchanges over pooled streams, in which every protocol between two nodes is spoken.

An *exchange* is one use of a stream: a request and any number of frames both ways, with flow control, ends and aborts
as :mod:`p2p.streams.frames` defines them. Opening a stream costs milliseconds of CPU, so a stream returns to its
opener's pool when both sides have ended the exchange.

On the side that answers, a handler runs for each exchange. It is cancelled when the peer aborts or is lost, so a user's
cancellation travels from node to node. On the side that opens, leaving ``open`` normally ends the exchange, and leaving
it by an exception or a cancellation aborts it.

This module has the pool, and what runs the handlers. What the tasks of an exchange call is in
:mod:`p2p.streams.exchange`, and the streams below in :mod:`p2p.streams.pooled_stream`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any

import trio

from chain.collections import SparseCounter
from p2p.limits.shared_slots import SharedSlots, get_slot_owner
from p2p.network import Network, NetworkError, RawStream, is_network_error
from p2p.streams.alarms import Alarms
from p2p.streams.exchange import Exchange, ExchangeHandler
from p2p.streams.frames import Frame, FrameError, Kind
from p2p.streams.pooled_stream import PooledStream
from p2p.streams.unread_bytes import UnreadBytes

logger = logging.getLogger(__name__)

STREAM_IDLE_TIMEOUT_S = 60.0
"""Seconds after which an unused stream of the pool is closed."""
ACCEPTED_IDLE_TIMEOUT_S = 90.0
"""Seconds after which a stream that the peer opened and does not use is closed: its opener should do so before."""
MAX_UNUSED_STREAMS = 2048
"""Unused streams that all peers together may have here; beyond it, the address with most loses the longest unused."""
EXCHANGE_LINGER_TIMEOUT_S = 30.0
"""Seconds that the peer may take to end an exchange that was left without waiting for its end."""
REAP_INTERVAL_S = 15.0
"""Seconds between searches for streams that are idle or linger."""
EXCHANGE_OPEN_TIMEOUT_S = 10.0
"""Seconds that opening a stream may take (libp2p can block for ever)."""
MAX_IDLE = 64
"""Unused streams kept per peer and protocol."""
MAX_STREAMS_PER_PEER = 200
"""Most streams opened to one peer; with somewhat more, libp2p blocks."""


class Streams:
    """Exchanges with other nodes, over one :class:`~p2p.network.Network`. Works only while :meth:`run` does."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._alarms = Alarms()
        self._nursery: trio.Nursery | None = None
        # Streams opened from here: those that are open (a dict for its order), and how many per peer.
        self._pooled: dict[PooledStream, None] = {}
        self._opened: SparseCounter[bytes] = SparseCounter()
        self._idle: dict[tuple[bytes, str], list[PooledStream]] = {}
        # Streams and exchanges that peers opened, per peer and protocol.
        self._accepted: SparseCounter[tuple[bytes, str]] = SparseCounter()
        self._served: SparseCounter[tuple[bytes, str]] = SparseCounter()
        self._unused: SharedSlots[PooledStream] = SharedSlots(MAX_UNUSED_STREAMS)
        self._unread: UnreadBytes[PooledStream] = UnreadBytes(network)

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Serve and reap until cancelled; then every stream is reset and every handler cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._alarms.run)
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
            if exchange.has_begun:
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

    def _make_stream(self, raw: RawStream, protocol: str) -> PooledStream:
        return PooledStream(raw, protocol, self.network, self._unread, self._alarms)

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

    async def _open_stream(self, peer: bytes, protocol: str) -> PooledStream:
        if self._opened[peer] >= MAX_STREAMS_PER_PEER:
            raise NetworkError("too many streams to this peer are open")
        self._opened[peer] += 1
        try:
            with trio.fail_after(EXCHANGE_OPEN_TIMEOUT_S):
                stream = self._make_stream(await self.network.open_stream(peer, protocol), protocol)
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

    async def _read_opened(self, stream: PooledStream) -> None:
        def on_frame(frame: Frame) -> None:
            if frame.exchange > stream.number:
                raise FrameError("an exchange that was never begun")
            exchange = stream.exchange
            if exchange is None or frame.exchange < stream.number:
                stream.drop_late()
                return
            exchange.deliver(frame)
            if exchange.is_left and exchange.state.peer_ended:
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
        exchange.leave()
        stream, state = exchange.stream, exchange.state
        if stream.failure_reason is not None:
            return
        if state.failure is not None or state.peer_ended or not exchange.has_begun:
            self._put_back(stream)
        else:
            stream.since = trio.current_time()

    def _put_back(self, stream: PooledStream) -> None:
        stream.exchange = None
        stream.since = trio.current_time()
        if stream.raw.is_superseded:
            self._close_soon(stream)
            return
        idle = self._idle.setdefault((stream.raw.peer, stream.protocol), [])
        idle.append(stream)
        if len(idle) > MAX_IDLE:
            self._close_soon(idle.pop(0))

    def _close_soon(self, stream: PooledStream) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(stream.close)

    async def _reap(self) -> None:
        now = trio.current_time()
        for stream in list(self._pooled):
            age = now - stream.since
            if stream.exchange is not None:
                if stream.exchange.is_left and age >= EXCHANGE_LINGER_TIMEOUT_S:
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

    def _set_unused(self, stream: PooledStream) -> None:
        """Note that an accepted stream carries no exchange now; another may be given up for it."""
        stream.since = trio.current_time()
        surplus = self._unused.put(stream, stream.owner)
        if surplus is not None:
            surplus.give_up("too many unused streams")

    async def _accept(self, raw: RawStream, protocol: str, handler: ExchangeHandler, limit: int) -> None:
        """Runs in a task of the network; the work is done in one of ours, so that it ends with us."""
        stream = self._make_stream(raw, protocol)
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

    async def _serve_stream(self, stream: PooledStream, handler: ExchangeHandler, limit: int, done: trio.Event) -> None:
        key = (stream.raw.peer, stream.protocol)

        def on_frame(frame: Frame) -> None:
            if frame.exchange > stream.number and frame.kind in (Kind.DATA, Kind.END):
                if stream.exchange is not None:
                    stream.exchange.lose("the peer has begun another exchange")
                if self._served[key] >= 2 * limit:
                    raise NetworkError("far too many exchanges")  # an honest peer may have that many users
                stream.number = frame.exchange
                stream.exchange = exchange = Exchange(stream, stream.number)
                exchange.handler_scope = trio.CancelScope()
                self._served[key] += 1
                self._unused.discard(stream)
                nursery.start_soon(self._serve, exchange, handler, limit)
            if stream.exchange is not None and frame.exchange == stream.number:
                stream.exchange.deliver(frame)
            else:
                stream.drop_late()

        try:
            async with trio.open_nursery() as nursery:
                await stream.read(on_frame)
        finally:
            self._unused.discard(stream)
            done.set()

    async def _serve(self, exchange: Exchange, handler: ExchangeHandler, limit: int) -> None:
        stream = exchange.stream
        key = (stream.raw.peer, stream.protocol)
        exchange.has_begun = True
        assert exchange.handler_scope is not None
        try:
            if self._served[key] > limit:
                await exchange.abort("busy")
                return
            with exchange.handler_scope:
                await handler(exchange)
                await exchange.end()
                if not exchange.state.peer_ended:
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
