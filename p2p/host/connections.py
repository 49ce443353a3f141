"""The connections of a host, by peer: which there are, where they lead, and which of several to one peer stays."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import trio
from libp2p.abc import INetConn
from libp2p.stream_muxer.yamux.yamux import Yamux

from p2p.addresses import Endpoint
from p2p.fanout import Fanout
from p2p.host.lifetime import Lifetime
from p2p.host.workarounds.host import close_connections
from p2p.host.workarounds.swarm import is_busy, is_circuit, is_outbound, share_port, surplus_connections
from p2p.peer_id import peer_id_of, public_key_of

MAX_QUEUED_CONNECTION_CHANGES = 1024
"""Changes that a subscriber may fall behind."""
DUPLICATE_GRACE_S = 0.5
"""Time before a surplus connection is closed, so that the other end knows the one that stays."""
CIRCUIT_RETIREMENT_S = 600.0
"""Longest time that a circuit goes on with its streams after a direct connection has taken its place."""


class Connections:
    """Follows the connections of the host. ``released(peer)`` is called when the last one to a peer has ended."""

    def __init__(self, me: bytes, lifetime: Lifetime, released: Callable[[bytes], None]) -> None:
        self.peers: frozenset[bytes] = frozenset()
        """The peers that are connected."""
        self.since: dict[bytes, float] = {}
        """When each of them was connected, on the monotonic clock."""
        self._me = me
        self._lifetime = lifetime
        self._released = released
        self._changes: Fanout[tuple[bytes, bool]] = Fanout(MAX_QUEUED_CONNECTION_CHANGES)
        self._dialled: dict[bytes, str] = {}  # the addresses at which peers were dialled directly

    def subscribe(self) -> trio.MemoryReceiveChannel[tuple[bytes, bool]]:
        """Receive ``(peer, connected)`` whenever :attr:`peers` changes."""
        return self._changes.subscribe()

    # Questions

    def is_relayed(self, peer: bytes) -> bool:
        """Whether the only connections to ``peer`` run through relays."""
        return peer in self.peers and all(is_circuit(connection) for connection in self._get_open(peer))

    def is_outbound(self, peer: bytes) -> bool:
        """Whether this node has dialled one of the connections to ``peer``."""
        if self._lifetime.running is None or peer not in self.peers:
            return False
        return any(is_outbound(connection) for connection in self._get_open(peer))

    def get_dialled_address(self, peer: bytes) -> str | None:
        """The multiaddress at which this node has dialled ``peer`` directly, if it is connected so."""
        return self._dialled.get(peer) if self.is_outbound(peer) and not self.is_relayed(peer) else None

    def get_remote_endpoint(self, peer: bytes) -> Endpoint | None:
        """The IP address and port of a directly connected peer; None if they are not known."""
        for connection in self._get_open(peer):
            muxed = connection.muxed_conn
            assert isinstance(muxed, Yamux)
            remote = None if is_circuit(connection) else muxed.get_remote_address()
            if remote is not None:
                address = ip_address(remote[0])
                return str(getattr(address, "ipv4_mapped", None) or address), remote[1]
        return None

    def get_round_trip(self, peer: bytes) -> float | None:
        """See :meth:`p2p.network.Network.get_round_trip`; that of the direct connection, if there is one."""
        if self._lifetime.running is None or peer not in self.peers:
            return None
        is_relayed, measured = self.is_relayed(peer), []
        for connection in self._get_open(peer):
            muxed = connection.muxed_conn
            assert isinstance(muxed, Yamux)
            if is_circuit(connection) == is_relayed and muxed.rtt() > 0:
                measured.append(muxed.rtt())
        return min(measured, default=None)

    def share_port(self, peer: bytes) -> Endpoint | None:
        """See :meth:`p2p.nat.hole_punching.PunchNetwork.share_port`."""
        shared = (share_port(connection) for connection in self._lifetime.swarm.get_connections(peer_id_of(peer)))
        return next((endpoint for endpoint in shared if endpoint is not None), None)

    def _get_open(self, peer: bytes) -> list[INetConn]:
        found = self._lifetime.swarm.get_connections(peer_id_of(peer))
        return [connection for connection in found if not connection.is_closed]

    # Changes

    def note_dialled(self, peer: bytes, address: str) -> None:
        """Note that a direct dial of ``peer`` at this address has succeeded."""
        if peer in self.peers:
            self._dialled[peer] = address

    async def disconnect(self, peer: bytes) -> None:
        """Close every connection to ``peer``. Never raises."""
        if self._lifetime.running is not None:
            await close_connections(self._lifetime.swarm.get_connections(peer_id_of(peer)))
            self.update()

    def update(self) -> None:
        """Bring :attr:`peers` up to date and report what changed."""
        before, connected = self.peers, set()
        if self._lifetime.running is not None:
            for peer_id, connections in self._lifetime.swarm.get_connections_map().items():
                peer = public_key_of(peer_id)
                if peer is not None and not all(connection.is_closed for connection in connections):
                    connected.add(peer)
        self.peers = frozenset(connected)
        for peer in sorted(before ^ self.peers):
            if peer in self.peers:
                self.since[peer] = trio.current_time()
            else:
                del self.since[peer]
                self._dialled.pop(peer, None)
                self._released(peer)
            self._changes.publish((peer, peer in self.peers))

    def on_connected(self, connection: INetConn) -> None:
        """Take in a new connection, and close what is surplus by it."""
        self.update()
        self._lifetime.start_soon(self._close_surplus, connection)

    async def _close_surplus(self, connection: INetConn) -> None:
        """Leave one connection to the peer. A circuit may first finish what it carries."""
        peer_id, swarm = connection.muxed_conn.peer_id, self._lifetime.swarm
        if len(swarm.get_connections(peer_id)) > 1:
            await trio.sleep(DUPLICATE_GRACE_S)
            outbound_wins = self._me < (public_key_of(peer_id) or b"")
            surplus = surplus_connections(swarm.get_connections(peer_id), outbound_wins)
            await close_connections([connection for connection in surplus if not is_circuit(connection)])
            with trio.move_on_after(CIRCUIT_RETIREMENT_S):
                while any(is_busy(connection) for connection in surplus if not connection.is_closed):
                    await trio.sleep(1)
            await close_connections(surplus)
