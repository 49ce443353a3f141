"""Every workaround for libp2p 0.8.1: what is at fault, what is done about it, and when it can go.

Connections and streams are here, gossip is in ``p2p.host.gossip``. A guard overrides one method of one library class
(or is one process-wide setting in :func:`install`) and has a test in ``tests/p2p/test_guard_*.py`` that shows the fault
with the guard off and its absence with the guard on. To try a newer library: delete a guard, run its test, and keep it
deleted if the test passes.

These two with what they count by (``muxing``, ``gossip_rpc``), ``p2p.host.network`` and what it dials with
(``transport``,
``circuits``, ``relay``, ``visits``), and ``p2p.dht.messages`` are the only ones that import libp2p.
"""

from __future__ import annotations

import logging
import math
import os
import struct
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import trio
from libp2p.abc import IMuxedConn, INetConn, INetStream, INetwork, INotifee, ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.host.exceptions import StreamFailure
from libp2p.io.trio import TrioTCPStream
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection import swarm_connection
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.net_stream import NetStream
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.rcmgr import Direction
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import (
    FLAG_SYN,
    HEADER_SIZE,
    TYPE_PING,
    YAMUX_HEADER_FORMAT,
    Yamux,
    YamuxStream,
)
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_PROTOCOL
from libp2p.transport.tcp import tcp
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from chain.crypto import KeyPair
from p2p.closing import quietly, shielded
from p2p.host.connection_gater import PATIENT_UPGRADE_TIMEOUT, UPGRADE_TIMEOUT, Door, DoorLimits
from p2p.host.transport import PROXY_TIMEOUT, DialRules, GuardedTCP
from p2p.host.yamux_limits import FRAME_RATE, TOTAL_FRAME_RATE, Backlog, judge
from p2p.network import Misbehaviour
from p2p.peer_id import public_key_of
from p2p.rate_limit import Limiter, Rate

logger = logging.getLogger(__name__)

MAX_STREAMS = 512
"""Open streams per connection, in both directions together."""
STREAM_RATE = Rate(items=100, size=math.inf, burst=5.0)
"""Streams a second that a peer may open; one costs 4 ms."""
MAX_OUTBOUND = 256
"""Outbound connections for which there is always room, however many others come in."""
MAX_BUFFERED = 16 << 20
MAX_BACKLOG = 48 << 20
"""Bytes that wait for a reader in all streams of one connection, and of all connections."""
BODY_TIMEOUT = 30.0
"""Seconds that the bytes of one frame may take to come."""
PACE = 0.02
"""Seconds between looks at whether another frame may be read."""
TURN = 16
"""Frames of one connection after which the others have their turn."""
WRITE_TIMEOUT = 5.0
"""Seconds after which one frame that cannot be written ends its connection."""
KEEPALIVE_INTERVAL = 3.0
KEEPALIVE_TIMEOUT = 5.0
"""A peer that leaves a ping unanswered for this long (seconds), and sends nothing else, is gone."""
CIRCUIT_WRITE_TIMEOUT = 30.0
CIRCUIT_KEEPALIVE_INTERVAL = 20.0
CIRCUIT_KEEPALIVE_TIMEOUT = 15.0
"""The same three on a circuit, which its relay may slow down, and whose end the relay notices first."""
MAX_WINDOW = 1 << 20
"""Bytes that a stream may have on the way to a reader that does not read."""
WINDOW_TIMEOUT = 60.0
"""Seconds for which a peer may take nothing of a stream that is written to."""
MAX_WINDOW_PAUSE = 0.25
"""Seconds between looks at whether it does, at most."""
SIMULTANEOUS = 10.0
"""Two connections made within this many seconds of one another come from mutual dialling."""

STOCK_AUTOTUNE = YamuxStream._apply_autotune_epoch


@cache
def install() -> None:
    """Apply the process-wide settings. Once; further calls do nothing."""
    cheap_window_updates()
    quiet_logging()
    exclusive_ports()
    bounded_windows()
    ipv6_remote_addresses()


def cheap_window_updates() -> None:
    """Yamux answers every read with a window update, a quarter of the CPU of a gossip delivery.

    Delete when window updates are batched by default.
    """
    os.environ.setdefault("PY_YAMUX_RELEASE_ON_READ", "0")


def quiet_logging() -> None:
    """The library logs peers' mistakes as warnings and errors, by way of the root logger in one module.

    ``logging.debug`` on the root logger also installs a handler there, and then every program log goes to stderr
    twice. ``LIBP2P_DEBUG`` (the library's own switch) leaves all of it alone. Delete the second line when
    ``swarm_connection`` has a logger of its own; the first is our choice.
    """
    if "LIBP2P_DEBUG" not in os.environ:
        library = logging.getLogger("libp2p")
        library.setLevel(logging.CRITICAL + 1)
        vars(swarm_connection)["logging"] = logging.getLogger("libp2p.network.connection")


def exclusive_ports() -> None:
    """Listening sockets share their port (SO_REUSEPORT), so that a second node on it starts without an error and the
    two get connections at random.

    Delete when listening on a port in use fails. Hole punching shares the port of a connection, where nobody listens,
    and sets its own options (``p2p.host.transport``).
    """

    def reuse_only_after_close(sock: trio.socket.SocketType) -> None:
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)

    vars(tcp)["_set_reuse_flags"] = reuse_only_after_close


def bounded_windows() -> None:
    """The receive window of a stream grows to 16 MiB, of each of hundreds of streams: a relay between a fast and a slow
    peer would hold gigabytes. And it doubles with every few bytes that are read, so that it has grown before the
    protocol of the stream is agreed on.

    Here it grows when half of it has been read. Delete when the limit is an argument and windows grow with use.
    """
    vars(yamux)["MAX_WINDOW_SIZE"] = MAX_WINDOW

    def grow(stream: YamuxStream, buffered: int) -> int:
        if stream._window_update_full_grow + stream._window_update_pending_flush == 0:
            return 0
        return int(STOCK_AUTOTUNE(stream, buffered))

    setattr(YamuxStream, STOCK_AUTOTUNE.__name__, grow)


def ipv6_remote_addresses() -> None:
    """The other end of an IPv6 connection has no address: the four parts of a socket's name are taken for an error.

    Delete when ``get_remote_address`` answers for IPv6.
    """

    def get_remote_address(stream: TrioTCPStream) -> tuple[str, int] | None:
        try:
            host, port = stream.stream.socket.getpeername()[:2]
        except OSError:  # closed
            return None
        return str(host), int(port)

    setattr(TrioTCPStream, get_remote_address.__name__, get_remote_address)


def share_port(connection: INetConn) -> tuple[str, int] | None:
    """Let other sockets use the local port of a TCP connection that this node dialled. Returns its local address.

    A connection does not tell, so this reaches through to the socket. Delete when it does.
    """
    if getattr(connection, "direction", None) != Direction.OUTBOUND or connection.is_closed or is_circuit(connection):
        return None
    muxed = connection.muxed_conn
    assert isinstance(muxed, Yamux)
    layer: Any = muxed.secured_conn
    for inner in ("conn", "read_writer", "read_write_closer", "stream", "stream", "socket"):
        layer = getattr(layer, inner, None)
    if layer is None:
        return None
    try:
        layer.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
        host, port = layer.getsockname()[:2]
    except OSError:  # closed
        return None
    return str(host), int(port)


class GuardedYamux(Yamux):
    """The multiplexer of one connection. ``frames`` and ``backlog`` are those of the whole node."""

    def __init__(
        self, secured_conn: ISecureConn, peer_id: ID, is_initiator: bool, frames: Limiter, backlog: Backlog
    ) -> None:
        super().__init__(secured_conn, peer_id, is_initiator)
        self._heard = 0.0
        self.fault: Misbehaviour | None = None
        """What the peer did that ended the connection, if it did something."""
        self._peer = public_key_of(peer_id) or b""
        self._frames = frames
        self._backlog = backlog
        self._in_body = False
        self._broken = False
        self._seen = 0
        remote = secured_conn.get_remote_address()
        self.place = None if remote is None else remote[0]
        circuit = secured_conn.get_connection_type() == ConnectionType.RELAYED
        self._write_timeout = CIRCUIT_WRITE_TIMEOUT if circuit else WRITE_TIMEOUT
        self._keepalive_interval = CIRCUIT_KEEPALIVE_INTERVAL if circuit else KEEPALIVE_INTERVAL
        self._keepalive_timeout = CIRCUIT_KEEPALIVE_TIMEOUT if circuit else KEEPALIVE_TIMEOUT
        read = secured_conn.read

        async def read_and_note(n: int | None = None) -> bytes:
            data = await read(n)
            self._heard = trio.current_time()
            if not self._in_body and len(data) == HEADER_SIZE:
                await self._admit(data)
            return data

        vars(secured_conn)["read"] = read_and_note

    async def _admit(self, header: bytes) -> None:
        """Frames of no known kind are skipped, and any number of any kind is read without a pause for others.

        Here the former end the connection, and the latter are read no faster than an honest peer sends; what comes
        faster waits at its sender. Delete when both are so.
        """
        fault, cost = judge(header, self.is_initiator)
        if fault is not None:
            self.fault = fault
            await self.drop()
        while not self._broken and not self._frames.admit(self._peer, 0, trio.current_time(), cost):
            await trio.sleep(PACE)
        if self._broken:  # thousands of frames may have been decrypted already
            raise RawConnError("the connection is broken, or the peer broke the rules of the multiplexer")
        self._seen += 1
        if self._seen % TURN == 0:
            await trio.lowlevel.checkpoint()

    async def drop(self) -> None:
        """End the connection at once; the task that reads sees it and cleans up."""
        self._broken = True
        await quietly(self.secured_conn.close)

    def measure(self) -> int:
        """Bytes that wait for a reader."""
        return sum(len(buffer) for buffer in self.stream_buffers.values())

    async def _read_data_body(self, length: int) -> bytes:
        """Whoever ignores the window of a stream fills this node's memory: what exceeds it is logged and kept.

        Here it ends the connection, well above the window, since the library's own count of it is not exact. So does
        what is too much for all streams of a connection; and where all connections have too much, one of those that
        have most goes. Delete when there are bounds on all three. Its tests are in
        ``tests/adversarial/test_abuse_protocols.py`` and ``test_guard_connections.py``.
        """
        largest = max((len(buffer) for buffer in self.stream_buffers.values()), default=0)
        kept = self.measure() + length
        if largest > 4 * MAX_WINDOW or kept > MAX_BUFFERED:
            self.fault = Misbehaviour.OVERSIZE
            await self.drop()
            raise RawConnError("the peer sent more than its window")
        surplus = self._backlog.note(self, kept)
        if surplus is self:
            await self.drop()
            raise RawConnError("too much waits for a reader")
        if isinstance(surplus, GuardedYamux) and self._nursery is not None:
            self._nursery.start_soon(surplus.drop)
        self._in_body = True
        try:
            with trio.fail_after(BODY_TIMEOUT):
                return await super()._read_data_body(length)
        finally:
            self._in_body = False

    async def _write_frame(self, data: bytes) -> None:
        """Cancelling a writer tears the encrypted stream in two and thereby ends the whole connection; and a writer
        stuck on a stopped peer keeps ``close`` waiting for the lock for ever.

        Frames are written whole, within a deadline. And a write that fails ends the connection: the library would go on
        to read what a peer has left behind, megabytes of it. Delete when a cancelled write leaves the connection
        usable, and a failed one ends it.
        """
        async with self._write_lock:
            with shielded(self._write_timeout) as deadline:
                try:
                    await self.secured_conn.write(data)
                except Exception as error:
                    await self.drop()
                    raise RawConnError(f"the connection is broken: {error!r}") from error
            if deadline.cancelled_caught:
                await self.drop()
                raise RawConnError(f"the peer took no data for {self._write_timeout:g} s")
        await trio.lowlevel.checkpoint()

    async def _measure_rtt_loop(self) -> None:
        """A stopped peer or a dead link is never noticed (item 14).

        The library's own health monitor opens a stream per ping (4 ms of CPU at each end) and pings one peer after the
        other; the multiplexer's ping costs one frame. Whatever arrives counts as an answer, because a pong may wait
        behind megabytes on a slow link. Delete when the multiplexer closes on missing pongs.
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
            if deadline.cancelled_caught and self._heard < self._ping_sent_time:
                await self.drop()
                return


class GuardedUpgrader(TransportUpgrader):
    """Noise and Yamux, nothing else: the stock host also accepts plaintext."""

    def __init__(self, key_pair: Any, patience: float = UPGRADE_TIMEOUT) -> None:
        noise = NoiseTransport(key_pair, noise_privkey=create_noise_key_pair().private_key)
        super().__init__({NOISE_PROTOCOL: noise}, {TProtocol(YAMUX_PROTOCOL): GuardedYamux}, int(patience))
        self.frames = Limiter(FRAME_RATE, TOTAL_FRAME_RATE)
        self.backlog = Backlog(MAX_BACKLOG)

    async def upgrade_connection(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """The library builds its own Yamux whatever class was given. Delete when it uses the given one."""
        await self.muxer_multistream.select_transport(conn)
        return GuardedYamux(conn, peer_id, conn.is_initiator, self.frames, self.backlog)


class PeerRefused(SwarmException):
    """A connection that is not wanted because of who made it."""


class _NoAutoConnector(AutoConnector):
    async def maybe_connect(self) -> None:
        """Dialling known addresses unasked gives away who hides behind a relay; the node has its own keeper."""


class GuardedSwarm(Swarm):
    """The connections of one host. Built without a resource manager: its default refuses by the process's memory."""

    refused: frozenset[bytes] = frozenset()
    """Peers that no connection is made with, whoever begins."""

    door: Door = Door(DoorLimits())
    """Which inbound connections are taken in; :func:`build_host` gives each host its own."""

    def _init_connection_management(self) -> None:
        super()._init_connection_management()
        self.auto_connector = _NoAutoConnector(self)

    async def _do_handle_inbound_connection(self, read_write_closer: Any, maddr: Any, failure_event: Any) -> None:
        """The slot and the task of an inbound connection live until the swarm stops, so that the 250th connection
        ever is the last (item 2).

        Here they end with the connection. Delete when ``_inbound_limiter`` is free after a peer has left.
        """
        await self.serve(RawConnection(read_write_closer, False), maddr)

    async def serve(self, raw: RawConnection, maddr: Any, origin: bytes = b"") -> None:
        """Take in a connection that a peer has begun, if the door lets it in, and stay until it ends. Never raises.

        ``origin`` is what a circuit is counted under. Half-open connections would otherwise hold up everybody (item 3).
        """
        remote = raw.get_remote_address()
        address = None if remote is None else remote[0]
        visit = self.door.knock(address, trio.current_time(), origin)
        failed = False
        try:
            if visit is not None:
                with visit.scope:
                    failed = True
                    visit.scope.deadline = visit.deadline
                    muxed = await self.upgrade_inbound_raw_conn(raw, maddr)
                    failed = False
                    visit.scope.deadline = math.inf
                    assert isinstance(muxed, GuardedYamux)
                    peer = public_key_of(muxed.peer_id) or b""
                    self.door.enter(visit, peer)
                    await muxed.event_closed.wait()
                    if muxed.fault is not None:
                        self.door.report_misbehaviour(peer, address, muxed.fault, trio.current_time())
        except PeerRefused:
            failed = False
        except Exception as error:
            logger.debug("inbound connection: %r", error)
        finally:
            if visit is not None:
                self.door.leave(visit, trio.current_time(), failed)
            with trio.CancelScope(shield=True):
                await quietly(raw.close)

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        """Peers are Ed25519 accounts: a connection authenticated by any other key, or by our own, is closed."""
        peer = public_key_of(muxed_conn.peer_id)
        if peer is None or muxed_conn.peer_id == self.self_id or self._is_refused(peer):
            await quietly(muxed_conn.close)
            raise PeerRefused("the peer's key is refused, or not a usable Ed25519 key of another node")
        return await super().add_conn(muxed_conn, direction)

    def _is_refused(self, peer: bytes) -> bool:
        return peer in self.refused or self.door.peers.is_banned(peer, trio.current_time())

    async def new_stream(self, peer_id: ID) -> INetStream:
        """A cancelled call keeps one of the connection's 256 stream slots, and when none is left it blocks silently
        (item 13).

        It is therefore not cancelled but has a deadline. Delete when the number of free slots survives cancellation
        at any checkpoint.
        """
        with shielded(UPGRADE_TIMEOUT):
            return await super().new_stream(peer_id)
        raise SwarmException("too many streams to this peer are open")

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """Opening a stream to a peer that has just gone dials it at whatever address was ever heard of it, and opens
        the stream there.

        We dial on purpose only. Delete when ``new_stream`` does not dial.
        """
        raise SwarmException("the peer is not connected")

    async def dial(self, peer: ID, address: Multiaddr) -> None:
        """Dial one address.

        ``dial_peer`` tries one TCP address only, waits 250 ms even after success, and then refuses the peer for 60 s
        after a failure (item 10); dialling by address does none of that. Delete when ``dial_peer`` no longer does.
        """
        await self.dial_addr(address, peer)


def surplus_connections(connections: Sequence[INetConn], outbound_wins: bool) -> list[INetConn]:
    """Which connections to one peer to close so that one is left, the same one at both ends (item 16).

    Two nodes that dial each other at once end with two connections: the one that the smaller key dialled stays
    (``outbound_wins``: that is us). Otherwise the peer has dialled again, so that the older one is dead: the newest
    stays. Delete when mutual dialling leaves one. And a direct connection is better than a circuit.
    """
    live = sorted((c for c in connections if not c.is_closed), key=_created)
    direct = [c for c in live if not is_circuit(c)]
    if direct and len(direct) < len(live):
        return [c for c in live if is_circuit(c)] + surplus_connections(direct, outbound_wins)
    if len(live) < 2:
        return []
    preferred = Direction.OUTBOUND if outbound_wins else Direction.INBOUND
    winners = [c for c in live if getattr(c, "direction", None) == preferred]
    mutual = winners and len(winners) < len(live) and _created(live[-1]) - _created(live[0]) < SIMULTANEOUS
    keep = (winners if mutual else live)[-1]
    return [c for c in live if c is not keep]


def is_circuit(connection: INetConn) -> bool:
    """Whether ``connection`` runs through a relay."""
    return bool(connection.get_connection_type() == ConnectionType.RELAYED)


def is_busy(connection: INetConn) -> bool:
    """Whether ``connection`` carries streams other than gossip's, which moves by itself."""
    return any(
        isinstance(stream, NetStream) and stream.get_protocol() not in (None, PROTOCOL_ID_V11)
        for stream in connection.get_streams()
    )


def _created(connection: INetConn) -> float:
    return float(getattr(connection, "_created_at", 0.0))


class ConnectionEvents(INotifee):
    """Calls ``connected`` and ``disconnected`` with each connection made and lost; the other events are of no use."""

    def __init__(self, connected: Callable[[INetConn], None], disconnected: Callable[[INetConn], None]) -> None:
        self._connected = connected
        self._disconnected = disconnected

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        self._connected(conn)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        self._disconnected(conn)

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        pass

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        pass

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None:
        pass

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None:
        pass


class GuardedHost(BasicHost):
    """Streams and their protocols. ``report_misbehaviour(peer, fault)`` is told of those who open too many."""

    def __init__(self, swarm: GuardedSwarm, report_misbehaviour: Callable[[bytes, Misbehaviour], None]) -> None:
        super().__init__(swarm, disable_identify_address_discovery=True)
        self._limiter = Limiter(STREAM_RATE)
        self._report_misbehaviour = report_misbehaviour

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        """An exception that leaves a stream handler or the negotiation ends the process (item 1).

        Delete when it resets the stream instead. The bounds on the streams of a peer are ours.
        """
        assert isinstance(net_stream, NetStream)
        connection = net_stream.swarm_conn
        try:
            peer = public_key_of(net_stream.muxed_conn.peer_id) or b""
            if not self._limiter.admit(peer, 0, trio.current_time()):
                self._report_misbehaviour(peer, Misbehaviour.RATE)
                raise StreamFailure("the peer opens too many streams")
            if connection is None or len(connection.streams) > MAX_STREAMS:
                raise StreamFailure("the peer has too many streams open")
            await super()._swarm_stream_handler(net_stream)
        except Exception as error:
            logger.debug("inbound stream: %r", error)
            await quietly(net_stream.reset)

    def _schedule_identify(self, peer_id: ID, *, reason: str) -> None:
        """Identify costs a stream per connection, runs in a task without owner, and tells peers every listen address.

        Nothing here needs it. Delete when it can be switched off.
        """

    async def _push_identify_to_all_peers(self) -> None:
        """See :meth:`_schedule_identify`."""

    def get_addrs(self) -> list[Multiaddr]:
        """Gossip sends these along, signed, with every message or so, and dials what others send.

        A node's addresses are in its announcements and nowhere else. Delete when gossip can be told to.
        """
        return []


def is_outdated(stream: NetStream) -> bool:
    """Whether ``stream`` runs through a relay although there is a direct connection to the peer by now."""
    muxed, connection = stream.muxed_conn, stream.swarm_conn
    if connection is None or muxed.get_connection_type() != ConnectionType.RELAYED:
        return False
    others = connection.swarm.get_connections(muxed.peer_id)
    return any(not is_circuit(other) and not other.is_closed for other in others)


async def wait_for_window(stream: NetStream) -> int:
    """How many bytes the peer will take now; waits while there are none.

    A write that waits more than 5 s for the window resets its stream (item 12): write no more than this at a time.
    Looks are ever rarer, since a peer may have us wait in hundreds of streams. Delete when a write waits for ever.

    Raises:
        StreamFailure: the peer has taken nothing for :data:`WINDOW_TIMEOUT`.
    """
    muxed = stream.muxed_stream
    assert isinstance(muxed, YamuxStream)
    since, pause = trio.current_time(), 0.01
    while muxed.send_window <= 0 and not muxed.send_closed and not muxed.closed:
        if trio.current_time() - since > WINDOW_TIMEOUT:
            raise StreamFailure(f"the peer took nothing for {WINDOW_TIMEOUT:g} s")
        await trio.sleep(pause)
        pause = min(pause * 1.2, MAX_WINDOW_PAUSE)
    return max(1, muxed.send_window)


def keep_window(stream: NetStream) -> None:
    """Whatever a stream has been granted may wait here, if what is behind it is slow. So a relay's streams keep the
    window that they begin with, instead of one that grows with the speed at which the peer sends.

    Delete when the limit of a stream is an argument.
    """
    vars(stream.muxed_stream)["_apply_autotune_epoch"] = lambda buffered: 0


def was_reset(stream: NetStream) -> bool:
    """Whether the end of ``stream`` is a reset or a lost connection, which the library reports as a regular end.

    Delete when ``NetStream.read`` raises StreamReset after a reset while it was waiting.
    """
    muxed = stream.muxed_stream
    assert isinstance(muxed, YamuxStream)
    return muxed.reset_received or muxed.conn.event_shutting_down.is_set()


def build_host(
    key: KeyPair, rules: DialRules, door: Door, report_misbehaviour: Callable[[bytes, Misbehaviour], None]
) -> GuardedHost:
    """A host of this key with every guard in place: TCP, Noise, Yamux, no identify, no automatic dialling."""
    install()
    patience = UPGRADE_TIMEOUT if rules.proxy is None else PROXY_TIMEOUT
    key_pair = create_new_key_pair(key.seed)
    peer_id = ID.from_pubkey(key_pair.public_key)
    peerstore = PeerStore()
    peerstore.add_key_pair(peer_id, key_pair)
    room = door.limits.max_connections + door.limits.max_half_open + MAX_OUTBOUND
    swarm = GuardedSwarm(
        peer_id,
        peerstore,
        GuardedUpgrader(key_pair, max(patience, PATIENT_UPGRADE_TIMEOUT)),
        [GuardedTCP(rules)],
        retry_config=RetryConfig(max_retries=0),
        connection_config=ConnectionConfig(
            max_connections=room,
            min_connections=0,
            high_watermark=room,
            inbound_upgrade_timeout=PATIENT_UPGRADE_TIMEOUT,
            outbound_upgrade_timeout=patience,
            inbound_stream_protocol_negotiation_timeout=patience,
            outbound_stream_protocol_negotiation_timeout=patience,
        ),
    )
    swarm.door = door
    host = GuardedHost(swarm, report_misbehaviour)
    for protocol in list(host.get_mux().get_protocols()):
        if protocol is not None and "/id/" in protocol:
            host.remove_stream_handler(protocol)
    return host
