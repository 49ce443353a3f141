"""The circuits of a node through relays: its reservations, and the circuits that others open to it."""

from __future__ import annotations

from collections.abc import Callable

import trio

from chain.collections import SparseCounter
from chain.crypto import format_address
from p2p.host.connection_gater import ConnectionGater
from p2p.host.connections import Connections
from p2p.host.lifetime import Lifetime
from p2p.nat.relay_client import accept_circuit, reserve
from p2p.network import Network, NetworkError, RawStream

MAX_CIRCUITS_PER_RELAY = 64
"""Circuits accepted from one relay at a time: they cost the relay one connection, and this node one each."""


class Circuits:
    """Reservations at relays, and inbound circuits. ``now()`` is wall time in ms."""

    def __init__(
        self,
        network: Network,
        lifetime: Lifetime,
        connections: Connections,
        gater: ConnectionGater,
        now: Callable[[], int],
    ) -> None:
        self._network = network
        self._lifetime = lifetime
        self._connections = connections
        self._gater = gater
        self._now = now
        self._reserved: dict[bytes, float] = {}  # relays, and until when (trio time)
        self._asking: SparseCounter[bytes] = SparseCounter()  # relays that are being asked for a reservation
        self._inbound: SparseCounter[bytes] = SparseCounter()  # circuits accepted, by relay

    def has_reservation(self, relay: bytes) -> bool:
        """Whether this node has asked ``relay`` for a reservation and was not refused since."""
        return relay in self._reserved

    def get_relays(self) -> list[bytes]:
        """The relays at which a reservation holds, by key."""
        now = trio.current_time()
        return sorted(relay for relay, expiry in self._reserved.items() if expiry > now)

    def release(self, relay: bytes) -> None:
        """Forget the reservation at a relay that is not connected any more, or banned."""
        self._reserved.pop(relay, None)

    async def reserve(self, relay: bytes) -> float:
        """See :meth:`p2p.network.Network.reserve`."""
        if self._connections.is_relayed(relay):
            raise NetworkError(f"{format_address(relay)} is connected through a relay and cannot be one")
        self._asking[relay] += 1  # circuits may come before its answer does
        try:
            seconds = await reserve(self._network, relay, self._now())
        except NetworkError:
            self._reserved.pop(relay, None)
            raise
        finally:
            self._asking[relay] -= 1
        if relay in self._connections.peers:
            self._reserved[relay] = trio.current_time() + seconds
        return seconds

    async def accept(self, stream: RawStream) -> None:
        """Accept the connection that comes through a relay, and hold its stream as long as it lasts.

        A node that dials only its own relays may come through a relay from which this node has not asked for circuits.
        Such circuits get no more room than direct connections of the relay.

        Raises:
            NetworkError: the stream broke, or the relay opens too many circuits.
        """
        relay = stream.peer
        if self._inbound[relay] >= MAX_CIRCUITS_PER_RELAY:
            raise NetworkError("the relay offers too many circuits")
        remote = self._connections.get_remote_endpoint(relay)
        is_asked = relay in self._asking or relay in self._reserved
        quota_key = self._gater.get_circuit_quota_key(relay, None if remote is None else remote[0], is_asked)
        self._inbound[relay] += 1
        try:
            end = await accept_circuit(stream)
            try:
                await self._lifetime.swarm.serve(end.as_connection(False, relay), None, quota_key)
            finally:
                await end.close()
        finally:
            self._inbound[relay] -= 1
