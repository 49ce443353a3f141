"""Guards of the multiplexer (Yamux) of a connection, of its streams, and of the upgrade that builds it."""

from __future__ import annotations

import logging
import struct
from contextlib import suppress
from typing import Any

import trio
from libp2p.abc import IMuxedConn, ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import StreamFailure
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import (
    FLAG_SYN,
    HEADER_SIZE,
    TYPE_DATA,
    TYPE_PING,
    TYPE_WINDOW_UPDATE,
    YAMUX_HEADER_FORMAT,
    Yamux,
    YamuxStream,
)
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_PROTOCOL
from libp2p.transport.upgrader import TransportUpgrader

from p2p.closing import quietly, shielded
from p2p.host.connection_gater import UPGRADE_TIMEOUT_S
from p2p.host.workarounds.connection import DecryptedReads, EagerLock, ease_connection
from p2p.host.yamux_limits import FRAME_RATE, TOTAL_FRAME_RATE, BufferBudget, check_frame
from p2p.limits.rate_limit import Limiter
from p2p.network import Misbehaviour
from p2p.peer_id import public_key_of

logger = logging.getLogger(__name__)

MAX_WINDOW_BYTES = 1 << 20
"""Largest receive window of a stream."""
MAX_BUFFERED_BYTES = 16 << 20
"""Unread bytes of all streams of one connection."""
MAX_BUFFERED_TOTAL_BYTES = 48 << 20
"""Unread bytes of all connections."""
MAX_UNNOTED_BYTES = 16 << 10
"""Bytes of one connection that may wait for their readers before the bounds on unread bytes are looked at."""
BODY_TIMEOUT_S = 30.0
"""Time from the header of a frame to its last byte."""
FRAME_RATE_POLL_S = 0.02
"""Time between checks whether the rate admits another frame."""
FRAMES_PER_TURN = 64
"""Frames of one connection after which other tasks have their turn."""
FRAMES_PER_CHECK = 16
"""Frames of one connection after which their rate is looked at."""
BATCH_BYTES = 32 << 10
"""Most bytes of frames that are written together; a larger frame is written alone."""
FRAME_WRITE_TIMEOUT_S = 5.0
"""Time after which a frame that cannot be written ends its connection."""
KEEPALIVE_INTERVAL_S = 3.0
"""Time between pings."""
KEEPALIVE_TIMEOUT_S = 5.0
"""A peer that sends nothing for this long after a ping is gone."""
CIRCUIT_WRITE_TIMEOUT_S = 30.0
"""As FRAME_WRITE_TIMEOUT_S, on a circuit: its relay may slow it down."""
CIRCUIT_KEEPALIVE_INTERVAL_S = 20.0
"""As KEEPALIVE_INTERVAL_S, on a circuit: its relay notices first when an end is gone."""
CIRCUIT_KEEPALIVE_TIMEOUT_S = 15.0
"""As KEEPALIVE_TIMEOUT_S, on a circuit."""
WINDOW_TIMEOUT_S = 60.0
"""Time for which the peer may take no bytes of a stream that is written to."""
MAX_WINDOW_POLL_S = 0.25
"""Longest time between checks whether the peer takes bytes."""


class GuardedYamux(Yamux):
    """The multiplexer of one connection. ``frames`` and ``budget`` are shared by all connections of the node."""

    def __init__(
        self, secured_conn: ISecureConn, peer_id: ID, is_initiator: bool, frames: Limiter, budget: BufferBudget
    ) -> None:
        super().__init__(secured_conn, peer_id, is_initiator)
        self.misbehaviour: Misbehaviour | None = None
        """The misbehaviour of the peer that ended the connection, if any."""
        remote = secured_conn.get_remote_address()
        self.source_address = None if remote is None else remote[0]
        self._peer = public_key_of(peer_id) or b""
        self._frames = frames
        self._budget = budget
        self._in_body = False
        self._broken = False
        self._seen = 0
        self._uncounted = 0
        """Frames that the rate was not charged for yet."""
        self._unnoted = 0
        """Bytes that came since the bounds on unread bytes were looked at."""
        self._outbox: dict[int, bytes] = {}
        self._outbox_bytes = 0
        self._outbox_filled = trio.lowlevel.ParkingLot()
        self._has_writer = False
        """Whether a task writes what is in the outbox."""
        self._queued = 0
        vars(self)["streams_lock"] = EagerLock()
        ease_connection(secured_conn)
        circuit = secured_conn.get_connection_type() == ConnectionType.RELAYED
        self._write_timeout = CIRCUIT_WRITE_TIMEOUT_S if circuit else FRAME_WRITE_TIMEOUT_S
        self._keepalive_interval = CIRCUIT_KEEPALIVE_INTERVAL_S if circuit else KEEPALIVE_INTERVAL_S
        self._keepalive_timeout = CIRCUIT_KEEPALIVE_TIMEOUT_S if circuit else KEEPALIVE_TIMEOUT_S
        self._decrypted = DecryptedReads(secured_conn)
        vars(secured_conn)["read"] = self._read

    async def _read(self, n: int | None = None) -> bytes:
        """A frame passes through a loop that takes locks and writes a log line at each step.

        Here frames that only carry data or open a window are handled at once, and the loop gets only the others. Delete
        when a frame of a few hundred bytes costs 10 us.
        """
        if self._in_body or n != HEADER_SIZE:
            return await self._decrypted.read(n)
        while True:
            header = await self._decrypted.read(n)
            await self._admit(header)
            if not self._take_in(header):
                return header

    def _take_in(self, header: bytes) -> bool:
        """Handle a frame of data or a window update at once, if its data is here and well within the bounds on unread
        bytes."""
        _, kind, flags, stream_id, length = struct.unpack(YAMUX_HEADER_FORMAT, header)
        stream = self.streams.get(stream_id)
        if flags or stream is None or self.event_shutting_down.is_set():
            return False
        if kind == TYPE_WINDOW_UPDATE:
            stream.send_window += length
            return True
        if kind != TYPE_DATA or len(self._decrypted) < length or self._unnoted + length > MAX_UNNOTED_BYTES:
            return False
        self._unnoted += length
        self.stream_buffers[stream_id] += self._decrypted.take(length)
        stream.recv_window = max(0, stream.recv_window - length)
        self.stream_events[stream_id].set()
        return True

    async def _admit(self, header: bytes) -> None:
        """Frames of unknown kinds are skipped, and frames are read at any rate, without a pause for other tasks.

        Here frames of unknown kinds end the connection, and frames are read no faster than an honest peer sends; a
        faster sender has to wait. Delete when the library does both.
        """
        misbehaviour, cost = check_frame(header, self.is_initiator)
        if misbehaviour is not None:
            self.misbehaviour = misbehaviour
            await self.drop()
        self._uncounted += cost
        if self._uncounted >= FRAMES_PER_CHECK:
            while not self._broken and not self._frames.admit(self._peer, 0, trio.current_time(), self._uncounted):
                await trio.sleep(FRAME_RATE_POLL_S)
            self._uncounted = 0
        if self._broken:  # thousands of frames may have been decrypted already
            raise RawConnError("the connection is broken, or the peer broke the rules of the multiplexer")
        self._seen += 1
        if self._seen % FRAMES_PER_TURN == 0:
            await trio.lowlevel.checkpoint()

    async def drop(self) -> None:
        """End the connection at once; the task that reads sees it and cleans up."""
        self._broken = True
        await quietly(self.secured_conn.close)

    def count_bytes(self) -> int:
        """Unread bytes of all streams."""
        return sum(map(len, self.stream_buffers.values()))

    async def _read_data_body(self, length: int) -> bytes:
        """A peer that ignores the window of a stream fills the memory: what exceeds the window is logged and kept.

        Here it ends the connection, well above the window, since the library's own count is not exact. There are also
        bounds on all streams of a connection, and on all connections. Beyond the last, the connection with most unread
        bytes is ended.
        Delete when there are bounds on all three. Tests: ``tests/adversarial/overlay/test_abuse_protocols.py`` and
        ``tests/p2p/host/workarounds/test_yamux.py``.
        """
        self._unnoted = 0
        largest = max(map(len, self.stream_buffers.values()), default=0)
        unread = self.count_bytes() + length
        if largest > 4 * MAX_WINDOW_BYTES or unread > MAX_BUFFERED_BYTES:
            self.misbehaviour = Misbehaviour.OVERSIZE
            await self.drop()
            raise RawConnError("the peer sent more than its window")
        surplus = self._budget.note(self, unread)
        if surplus is self:
            await self.drop()
            raise RawConnError("too much waits for a reader")
        if isinstance(surplus, GuardedYamux) and self._nursery is not None:
            self._nursery.start_soon(surplus.drop)
        self._in_body = True
        try:
            if len(self._decrypted) >= length:  # the usual case: no time limits for what is here
                return await self.secured_conn.read(length)
            with trio.fail_after(BODY_TIMEOUT_S):
                return await super()._read_data_body(length)
        finally:
            self._in_body = False

    @property
    def has_room(self) -> bool:
        """Whether another frame of data may be queued for the task that writes them."""
        is_up = self._nursery is not None and not self.event_shutting_down.is_set()
        return is_up and self._outbox_bytes < BATCH_BYTES

    async def _write_frame(self, data: bytes) -> None:
        """Cancelling a writer tears the encrypted stream in two, which ends the whole connection; and a writer that
        waits for a stopped peer keeps ``close`` waiting for the lock for ever. Each frame is encrypted and sent alone.

        Here frames are written whole, within a deadline. While few frames of data wait, they are queued for a task that
        writes all of them together; the caller waits for any other frame, and frames that come meanwhile go out
        together. A write that fails ends the connection: the library would go on to read what the peer has left behind,
        megabytes of it. Delete when a cancelled write leaves the connection usable, a failed one ends it, and many
        small frames cost about as much as one large frame.
        """
        if data[1] == TYPE_DATA and self.has_room:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._check_whole()
            self._put_out(data)
            self._write_soon()
            return
        number = self._put_out(data)
        try:
            self._write_lock.acquire_nowait()
            has_waited = False
        except trio.WouldBlock:
            has_waited = True
            try:
                await self._write_lock.acquire()
            except trio.Cancelled:
                self._outbox_bytes -= len(self._outbox.pop(number, b""))
                raise
        try:
            while number in self._outbox:
                self._check_whole()
                await self._write_batch()
            self._check_whole()
        finally:
            self._write_lock.release()
        if not has_waited:  # writing has given other tasks their turn
            await trio.lowlevel.checkpoint_if_cancelled()

    def _check_whole(self) -> None:
        """Refuse to write to a connection that is broken.

        Raises:
            RawConnError: the connection is broken.
        """
        if self._broken:
            self._outbox.clear()
            raise RawConnError("the connection is broken")

    def _put_out(self, data: bytes) -> int:
        """Have a frame written after those that wait. Returns its number."""
        self._queued += 1
        self._outbox[self._queued] = data
        self._outbox_bytes += len(data)
        return self._queued

    def _write_soon(self) -> None:
        """Have a task write the waiting frames, once the tasks that can run now have added theirs."""
        if self._has_writer:
            self._outbox_filled.unpark()
        elif self._nursery is not None:
            self._has_writer = True
            self._nursery.start_soon(self._write_outbox)

    async def _write_outbox(self) -> None:
        with suppress(RawConnError):  # which ends the connection
            while True:
                while self._outbox:
                    async with self._write_lock:
                        self._check_whole()
                        await self._write_batch()
                await self._outbox_filled.park()

    async def _write_batch(self) -> None:
        """Write the frames that wait, the oldest first, up to :data:`BATCH_BYTES`."""
        batch = bytearray()
        for number, data in list(self._outbox.items()):
            if batch and len(batch) + len(data) > BATCH_BYTES:
                break
            batch += self._outbox.pop(number)
        self._outbox_bytes -= len(batch)
        if not batch:
            return
        with shielded(self._write_timeout) as deadline:
            try:
                await self.secured_conn.write(bytes(batch))
            except Exception as error:
                await self.drop()
                raise RawConnError(f"the connection is broken: {error!r}") from error
        if deadline.cancelled_caught:
            await self.drop()
            raise RawConnError(f"the peer took no data for {self._write_timeout:g} s")

    async def _measure_rtt_loop(self) -> None:
        """A stopped peer or a dead link is never noticed.

        The library's own health monitor opens a stream for each ping (4 ms of CPU at each end) and pings one peer after
        the other; a ping of the multiplexer costs one frame. Here any bytes that arrive count as an answer, because a
        pong may wait behind megabytes on a slow link. Delete when the multiplexer closes on missing pongs.
        """
        while not self.event_shutting_down.is_set():
            await trio.sleep(self._keepalive_interval)
            self._ping_id += 1
            self._ping_event = trio.Event()
            try:
                await self._write_frame(struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_PING, FLAG_SYN, 0, self._ping_id))
            except Exception as error:
                logger.debug("ping failed: %r", error)
                return
            self._ping_sent_time = trio.current_time()
            with trio.move_on_after(self._keepalive_timeout) as deadline:
                await self._ping_event.wait()
            if deadline.cancelled_caught and self._decrypted.heard_at < self._ping_sent_time:
                await self.drop()
                return


class GuardedUpgrader(TransportUpgrader):
    """Noise and Yamux, nothing else: the stock host also accepts plaintext."""

    def __init__(self, key_pair: Any, timeout: float = UPGRADE_TIMEOUT_S) -> None:
        noise = NoiseTransport(key_pair, noise_privkey=create_noise_key_pair().private_key)
        super().__init__({NOISE_PROTOCOL: noise}, {TProtocol(YAMUX_PROTOCOL): GuardedYamux}, int(timeout))
        self.frames = Limiter(FRAME_RATE, TOTAL_FRAME_RATE)
        self.budget = BufferBudget(MAX_BUFFERED_TOTAL_BYTES)

    async def upgrade_connection(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """The library builds its own Yamux whatever class was given. Delete when it uses the given one."""
        await self.muxer_multistream.select_transport(conn)
        return GuardedYamux(conn, peer_id, conn.is_initiator, self.frames, self.budget)


async def read_stream(stream: NetStream, most: int) -> bytes:
    """A read takes three locks and writes log lines in five layers.

    Here bytes that have come are returned at once. The end of a stream is left to the library. Delete when a read costs
    10 us.
    """
    muxed = stream.muxed_stream
    assert isinstance(muxed, YamuxStream)
    connection, stream_id = muxed.conn, muxed.stream_id
    if connection.stream_buffers.get(stream_id):
        await trio.lowlevel.checkpoint()  # waiting is one by itself
    while True:
        buffer, event = connection.stream_buffers.get(stream_id), connection.stream_events.get(stream_id)
        is_over = muxed.closed or muxed.recv_closed or muxed.reset_received or connection.event_shutting_down.is_set()
        if is_over or buffer is None or event is None:
            return await stream.read(most)
        if event.is_set():
            connection.stream_events[stream_id] = trio.Event()
        if buffer:
            data = bytes(buffer[:most])
            del buffer[:most]
            await muxed._auto_tune_and_send_window_update(bytes_read=len(data))
            return data
        await connection.stream_events[stream_id].wait()


def has_room(stream: NetStream, size: int) -> bool:
    """Whether so many bytes can be written without waiting for the peer or for other writes."""
    muxed = stream.muxed_stream
    assert isinstance(muxed, YamuxStream) and isinstance(muxed.conn, GuardedYamux)
    return size <= muxed.send_window and muxed.conn.has_room


async def write_stream(stream: NetStream, data: bytes) -> None:
    """A write takes three locks and writes log lines in four layers.

    Here its frame is made at once; the window has room for it (:func:`wait_for_window`). If a stream cannot be written
    to, the library says why. Delete when a write costs 10 us.
    """
    muxed = stream.muxed_stream
    assert isinstance(muxed, YamuxStream)
    if muxed.send_closed or muxed.closed or len(data) > muxed.send_window:
        await stream.write(data)
        return
    muxed.send_window -= len(data)
    header = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_DATA, 0, muxed.stream_id, len(data))
    await muxed.conn._write_frame(header + data)


async def wait_for_window(stream: NetStream) -> int:
    """How many bytes the peer will take now; waits while there are none.

    A write that waits more than 5 s for the window resets its stream: write no more than this at a time. The checks
    become rarer and rarer, since a peer may keep this node waiting in hundreds of streams. Delete when a write waits
    for ever.

    Raises:
        StreamFailure: the peer has taken nothing for :data:`WINDOW_TIMEOUT_S`.
    """
    muxed = stream.muxed_stream
    assert isinstance(muxed, YamuxStream)
    since, pause = trio.current_time(), 0.01
    while muxed.send_window <= 0 and not muxed.send_closed and not muxed.closed:
        if trio.current_time() - since > WINDOW_TIMEOUT_S:
            raise StreamFailure(f"the peer took nothing for {WINDOW_TIMEOUT_S:g} s")
        await trio.sleep(pause)
        pause = min(pause * 1.2, MAX_WINDOW_POLL_S)
    return max(1, muxed.send_window)


def ease(stream: NetStream) -> None:
    """Each message waits for locks that nobody holds, and each time its task goes to the end of the queue.

    Here a free lock is taken at once. Delete when the library does that.
    """
    muxed = stream.muxed_stream
    assert isinstance(muxed, YamuxStream)
    vars(muxed)["window_lock"] = EagerLock()
    vars(muxed)["rw_lock"] = EagerLock()
    vars(stream)["_state_lock"] = EagerLock()


def keep_window(stream: NetStream) -> None:
    """A window grows with the speed at which the peer sends, and a relay whose other end is slow buffers all of it.

    Here the stream keeps its initial window. Delete when the limit of a stream is an argument.
    """
    vars(stream.muxed_stream)["_apply_autotune_epoch"] = lambda buffered: 0


def was_reset(stream: NetStream) -> bool:
    """Whether the end of ``stream`` is a reset or a lost connection, which the library reports as a regular end.

    Delete when ``NetStream.read`` raises StreamReset after a reset while it was waiting.
    """
    muxed = stream.muxed_stream
    assert isinstance(muxed, YamuxStream)
    return muxed.reset_received or muxed.conn.event_shutting_down.is_set()
