"""Guards of the connections of a host (the library's Swarm), and questions about one connection."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import trio
from libp2p.abc import IMuxedConn, INetConn, INetStream, INetwork, INotifee
from libp2p.connection_types import ConnectionType
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.net_stream import NetStream
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.rcmgr import Direction
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from p2p.addresses import Endpoint
from p2p.closing import quietly, shielded
from p2p.host.connection_gater import UPGRADE_TIMEOUT_S, ConnectionGater, ConnectionLimits
from p2p.host.workarounds.yamux import GuardedYamux
from p2p.peer_id import public_key_of

logger = logging.getLogger(__name__)

MUTUAL_DIAL_WINDOW_S = 10.0
"""Two connections made within this time of one another come from mutual dialling."""


class PeerRefused(SwarmException):
    """A connection is refused because of the peer's identity."""


class _NoAutoConnector(AutoConnector):
    async def maybe_connect(self) -> None:
        """The library dials known addresses by itself, which reveals who hides behind a relay.

        Here only :mod:`p2p.discovery` decides whom to dial. Delete when it can be switched off.
        """


class GuardedSwarm(Swarm):
    """The connections of one host. Built without a resource manager: its default refuses by the process's memory."""

    refused: frozenset[bytes] = frozenset()
    """Peers with which no connection is made, whichever side dials."""

    gater: ConnectionGater = ConnectionGater(ConnectionLimits())
    """Which inbound connections are accepted; :func:`p2p.host.workarounds.host.build_host` gives each host its own."""

    def _init_connection_management(self) -> None:
        super()._init_connection_management()
        self.auto_connector = _NoAutoConnector(self)

    async def _do_handle_inbound_connection(self, read_write_closer: Any, maddr: Any, failure_event: Any) -> None:
        """The slot and the task of an inbound connection live until the swarm stops, so that the 250th connection
        ever is the last.

        Here they end with the connection. Delete when ``_inbound_limiter`` is free after a peer has left.
        """
        await self.serve(RawConnection(read_write_closer, False), maddr)

    async def serve(self, raw: RawConnection, maddr: Any, circuit_quota_key: bytes = b"") -> None:
        """Upgrade a connection that a peer has begun, if the gater accepts it, and stay until it ends. Never raises.

        ``circuit_quota_key`` is what a circuit counts against. Without the gater, 500 half-open connections would block
        all dials.
        """
        remote = raw.get_remote_address()
        host = None if remote is None else remote[0]
        inbound = self.gater.on_accept(host, trio.current_time(), circuit_quota_key)
        failed = False
        try:
            if inbound is not None:
                with inbound.scope:
                    failed = True
                    inbound.scope.deadline = inbound.deadline
                    muxed = await self.upgrade_inbound_raw_conn(raw, maddr)
                    failed = False
                    inbound.scope.deadline = math.inf
                    assert isinstance(muxed, GuardedYamux)
                    peer = public_key_of(muxed.peer_id) or b""
                    self.gater.on_secured(inbound, peer)
                    await muxed.event_closed.wait()
                    if muxed.misbehaviour is not None:
                        self.gater.report_misbehaviour(peer, host, muxed.misbehaviour, trio.current_time())
        except PeerRefused:
            failed = False
        except Exception as error:
            logger.debug("inbound connection: %r", error)
        finally:
            if inbound is not None:
                self.gater.on_closed(inbound, trio.current_time(), failed)
            with trio.CancelScope(shield=True):
                await quietly(raw.close)

    def stop_listening(self) -> None:
        """End the listeners, even if the host cannot be closed in order. Takes no time and cannot fail.

        A listener is a system task. If its close is cut short, as in a process that was suspended meanwhile, it would
        keep its port until the process ends. Delete when listeners end with the swarm.
        """
        for listener in self.listeners.values():
            nursery = getattr(listener, "_nursery", None)
            if nursery is not None:
                nursery.cancel_scope.cancel()

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        """A key of any kind authenticates a connection, even the node's own.

        Peers are Ed25519 accounts, so connections with other keys are closed. Delete when the kinds of keys are an
        argument.
        """
        peer = public_key_of(muxed_conn.peer_id)
        if peer is None or muxed_conn.peer_id == self.self_id or self._is_refused(peer):
            await quietly(muxed_conn.close)
            raise PeerRefused("the peer's key is refused, or not a usable Ed25519 key of another node")
        return await super().add_conn(muxed_conn, direction)

    def _is_refused(self, peer: bytes) -> bool:
        return peer in self.refused or self.gater.peers.is_banned(peer, trio.current_time())

    async def new_stream(self, peer_id: ID) -> INetStream:
        """A cancelled call keeps one of the connection's 256 stream slots. With no slot left, calls block silently.

        Here a call is shielded from cancellation and has a deadline. Delete when a cancelled call frees its slot at
        every checkpoint.
        """
        with shielded(UPGRADE_TIMEOUT_S):
            return await super().new_stream(peer_id)
        raise SwarmException("too many streams to this peer are open")

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """Opening a stream to a peer that has just gone dials it, at any of its addresses ever heard of.

        Here only :meth:`dial` dials. Delete when ``new_stream`` does not dial.
        """
        raise SwarmException("the peer is not connected")

    async def dial(self, peer: ID, address: Multiaddr) -> None:
        """Dial one address.

        ``dial_peer`` tries one TCP address only, waits 250 ms even after success, and after a failure refuses the peer
        for 60 s; dialling by address does none of that. Delete when ``dial_peer`` no longer does.
        """
        await self.dial_addr(address, peer)


def surplus_connections(connections: Sequence[INetConn], outbound_wins: bool) -> list[INetConn]:
    """Which connections to one peer to close. Both ends choose the same connection to keep.

    - A direct connection is kept rather than a circuit.
    - Two nodes that dial each other at once have two connections. The connection that the smaller key dialled is kept
      (``outbound_wins``: this node has the smaller key).
    - Otherwise the peer has dialled again because the older connection is dead: the newest is kept.

    Delete when the library keeps one connection after mutual dialling.
    """
    live = sorted((c for c in connections if not c.is_closed), key=_created)
    direct = [c for c in live if not is_circuit(c)]
    if direct and len(direct) < len(live):
        return [c for c in live if is_circuit(c)] + surplus_connections(direct, outbound_wins)
    if len(live) < 2:
        return []
    preferred = Direction.OUTBOUND if outbound_wins else Direction.INBOUND
    winners = [c for c in live if getattr(c, "direction", None) == preferred]
    mutual = winners and len(winners) < len(live) and _created(live[-1]) - _created(live[0]) < MUTUAL_DIAL_WINDOW_S
    keep = (winners if mutual else live)[-1]
    return [c for c in live if c is not keep]


def is_circuit(connection: INetConn) -> bool:
    """Whether ``connection`` runs through a relay."""
    return bool(connection.get_connection_type() == ConnectionType.RELAYED)


def is_outbound(connection: INetConn) -> bool:
    """Whether this node has dialled ``connection``."""
    return getattr(connection, "direction", None) == Direction.OUTBOUND


def is_busy(connection: INetConn) -> bool:
    """Whether ``connection`` carries streams other than gossip's, which moves by itself."""
    return any(
        isinstance(stream, NetStream) and stream.get_protocol() not in (None, PROTOCOL_ID_V11)
        for stream in connection.get_streams()
    )


def is_superseded(stream: NetStream) -> bool:
    """Whether ``stream`` runs through a relay although there is a direct connection to the peer by now."""
    muxed, connection = stream.muxed_conn, stream.swarm_conn
    if connection is None or muxed.get_connection_type() != ConnectionType.RELAYED:
        return False
    others = connection.swarm.get_connections(muxed.peer_id)
    return any(not is_circuit(other) and not other.is_closed for other in others)


def share_port(connection: INetConn) -> Endpoint | None:
    """Let other sockets use the local port of a TCP connection that this node dialled. Returns its local address.

    A connection does not expose its socket, so this reaches into its private attributes. Delete when it does.
    """
    if not is_outbound(connection) or connection.is_closed or is_circuit(connection):
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


def _created(connection: INetConn) -> float:
    return float(getattr(connection, "_created_at", 0.0))


class ConnectionEvents(INotifee):
    """Calls ``connected`` and ``disconnected`` with each connection made and lost; other events are ignored."""

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
