"""The connection gater: which inbound connections are accepted, and which one is evicted when there are too many.

:class:`ConnectionGater` decides. It is pure: times are passed in (seconds of one monotonic clock).
:mod:`p2p.host.workarounds.swarm` does what it says.

A connection is *half-open* until its handshakes are over. Until then its peer is unknown, so it counts against its IP
address (an IPv4 address, or the /64 of an IPv6 one). Each address has a limit of connections, of half-open ones, and of
arrivals a second. With too many half-open connections the oldest one of the address with most is evicted: an honest
handshake takes a fraction of a second, so a flood evicts its own.

When there are too many connections, one is closed. Peers with weight (:mod:`p2p.limits.places`) keep theirs, up to a
share of all connections; beyond that share, the one of least weight is closed. Otherwise it is the youngest connection
without weight from the address that has most, so that connections from few addresses evict one another.

A circuit has no IP address of its own. If this node has asked the relay for circuits, they have a quota of that relay;
otherwise they count against the address of the relay. So calling itself a relay gains a peer no room.

Peers with weight can be banned like all others.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import trio

from p2p.addresses import get_quota_prefix, parse_host
from p2p.limits.peer_score import ADDRESS_THRESHOLD, PEER_THRESHOLD, PeerScores
from p2p.limits.places import count_bought_places, draw_lot, get_weight_class
from p2p.limits.rate_limit import Limiter, Rate
from p2p.network import Misbehaviour

UPGRADE_TIMEOUT_S = 5.0
"""Time for the handshakes of an inbound connection when many are half-open."""
PATIENT_UPGRADE_TIMEOUT_S = 15.0
"""Time for the handshakes of an inbound connection when few are half-open: Tor is slow."""
PATIENT_FRACTION = 0.25
"""Fraction of the limit below which few connections count as half-open."""
ARRIVAL_RATE = Rate(items=8, size=math.inf, burst=6.0)
"""Connections from one address."""
_RELAY_QUOTA = b"relay "
"""The quota key of circuits through a relay that this node has asked for them: this, then the relay's public key."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many inbound connections are accepted.

    ``exempt_loopback`` lifts the limits by address from the addresses of this machine, for tests and demonstrations
    that run many nodes on one. Leave it off for a node behind a local proxy.
    """

    max_connections: int = 1000
    max_per_address: int = 64
    max_half_open: int = 128
    max_half_open_per_address: int = 16
    arrivals: Rate = ARRIVAL_RATE
    exempt_loopback: bool = False


@dataclass(slots=True, eq=False)
class InboundConnection:
    """One inbound connection. To evict it sets ``evicted`` and cancels ``scope``."""

    quota_key: bytes
    """What it counts against; empty where nothing is counted."""
    is_circuit: bool
    """Whether it came through a relay, so that the quota is not that of its peer's address."""
    deadline: float
    """When its handshakes must be over."""
    peer: bytes | None = None
    """Public key of the peer, once the handshakes are over."""
    evicted: bool = False
    blameless: bool = False
    """Whether it was evicted only because others needed room."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def evict(self, blameless: bool) -> None:
        self.evicted = True
        self.blameless = blameless
        self.scope.cancel()


class ConnectionGater:
    """The inbound connections, and the scores of peers and addresses.

    ``get_weight(peer)`` is what a peer has at stake; ``secret`` decides between peers of one class of weight.
    """

    def __init__(
        self, limits: ConnectionLimits, get_weight: Callable[[bytes], int] = lambda peer: 0, secret: bytes = b""
    ) -> None:
        self.limits = limits
        self._get_weight = get_weight
        self._secret = secret
        self.peers = PeerScores(PEER_THRESHOLD)
        self.addresses = PeerScores(ADDRESS_THRESHOLD)
        self._arrivals = Limiter(limits.arrivals)
        self._half_open: dict[InboundConnection, None] = {}
        self._secured: dict[InboundConnection, None] = {}
        self._counts = Counter(dict.fromkeys(("banned", "rate", "address", "half_open", "failed", "evicted"), 0))

    @property
    def refusals(self) -> Mapping[str, int]:
        """Connections refused so far, by reason, and those evicted after their handshakes (``evicted``)."""
        return self._counts

    @property
    def half_open(self) -> int:
        """Number of connections whose handshakes are under way."""
        return len(self._half_open)

    @property
    def secured(self) -> int:
        """Number of inbound connections whose handshakes are over."""
        return len(self._secured)

    def on_accept(self, host: str | None, now: float, circuit_quota_key: bytes = b"") -> InboundConnection | None:
        """Accept a connection from the IP address ``host``, or refuse it (None). May evict a half-open one.

        No ``host``: it is a circuit, which counts against ``circuit_quota_key`` (:meth:`get_circuit_quota_key`).
        """
        quota_key = circuit_quota_key if host is None else self.get_quota_key(host)
        reason = self._refuse(quota_key, host is None, now) if quota_key else None
        if reason is not None:
            self._counts[reason] += 1
            return None
        same = [connection for connection in self._half_open if connection.quota_key == quota_key]
        if quota_key and len(same) >= self.limits.max_half_open_per_address:
            self._evict_half_open(same[0], blameless=False)
        elif len(self._half_open) >= self.limits.max_half_open:
            crowd = Counter(connection.quota_key for connection in self._half_open)
            most = max(self._half_open, key=lambda connection: crowd[connection.quota_key])
            self._evict_half_open(most, blameless=True)
        patient = len(self._half_open) < PATIENT_FRACTION * self.limits.max_half_open
        deadline = now + (PATIENT_UPGRADE_TIMEOUT_S if patient else UPGRADE_TIMEOUT_S)
        connection = InboundConnection(quota_key, host is None, deadline)
        self._half_open[connection] = None
        return connection

    def on_secured(self, connection: InboundConnection, peer: bytes) -> None:
        """Note that the handshakes are over. With too many connections now, one is evicted, maybe this one."""
        self._half_open.pop(connection, None)
        connection.peer = peer
        self._secured[connection] = None
        if len(self._secured) > self.limits.max_connections:
            surplus = self._find_surplus()
            del self._secured[surplus]
            surplus.evict(blameless=True)
            self._counts["evicted"] += 1

    def on_closed(self, connection: InboundConnection, now: float, failed: bool = False) -> None:
        """Note that a connection has ended; ``failed``: in its handshakes, which its address answers for.

        The address does not if others needed the room, nor does the relay of a circuit.
        """
        self._half_open.pop(connection, None)
        self._secured.pop(connection, None)
        if failed and not connection.blameless:
            self._counts["failed"] += 1
            if connection.quota_key and not connection.is_circuit:
                self.addresses.report(connection.quota_key, Misbehaviour.UPGRADE, now)

    def report_misbehaviour(self, peer: bytes, host: str | None, misbehaviour: Misbehaviour, now: float) -> bool:
        """Add to the scores of a peer and of its address. Returns whether that bans the peer."""
        quota_key = b"" if host is None else self.get_quota_key(host)
        if quota_key:
            self.addresses.report(quota_key, misbehaviour, now)
        return self.peers.report(peer, misbehaviour, now)

    def get_quota_key(self, host: str) -> bytes:
        """What a connection from an IP address counts against; empty if the address is exempt."""
        address = parse_host(host)
        if self.limits.exempt_loopback and address.is_loopback:
            return b""
        return get_quota_prefix(address)

    def get_circuit_quota_key(self, relay: bytes, host: str | None, is_asked: bool) -> bytes:
        """What circuits through ``relay`` count against; ``host`` is its IP address if it is connected directly.

        ``is_asked``: whether this node has asked the relay for circuits. A relay that itself came through a relay
        shares the quota of the latter.
        """
        if is_asked:
            return _RELAY_QUOTA + relay
        if host is not None:
            return self.get_quota_key(host)
        found = (connection.quota_key for connection in self._secured if connection.peer == relay)
        return next(found, _RELAY_QUOTA + relay)

    def _refuse(self, quota_key: bytes, is_circuit: bool, now: float) -> str | None:
        """Why a connection is refused, if it is."""
        if self.addresses.is_banned(quota_key, now):
            return "banned"
        if not self._arrivals.admit(quota_key, 0, now):
            return "rate"
        same = [one for group in (self._half_open, self._secured) for one in group if one.quota_key == quota_key]
        if len(same) >= self.limits.max_per_address:
            return "address"
        # An address that has not been asked for circuits keeps half of its quota for direct connections.
        circuits = sum(one.is_circuit for one in same)
        is_asked = quota_key.startswith(_RELAY_QUOTA)
        if is_circuit and not is_asked and circuits >= max(1, self.limits.max_per_address // 2):
            return "address"
        return None

    def _find_surplus(self) -> InboundConnection:
        """The connection that makes room for the others."""
        strangers: list[InboundConnection] = []
        others: list[tuple[int, int, int, InboundConnection]] = []  # the first one gives way first
        for number, connection in enumerate(self._secured):
            assert connection.peer is not None
            weight_class = get_weight_class(self._get_weight(connection.peer))
            if weight_class:
                others.append((weight_class, -draw_lot(self._secret, connection.peer), -number, connection))
            else:
                strangers.append(connection)
        if len(others) > count_bought_places(self.limits.max_connections):
            return min(others)[-1]
        crowd = Counter(connection.quota_key for connection in strangers)
        return max(reversed(strangers), key=lambda connection: crowd[connection.quota_key])

    def _evict_half_open(self, connection: InboundConnection, blameless: bool) -> None:
        del self._half_open[connection]
        connection.evict(blameless)
        self._counts["half_open"] += 1
