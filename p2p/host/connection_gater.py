"""The door: which inbound connections are taken in, and which one goes when there are too many.

:class:`Door` decides: pure, times are passed in (seconds of one monotonic clock). ``p2p.host.workarounds`` does what it
says.

A connection is *half-open* until its handshakes are over. Until then nobody knows who it is, so what counts is its
address (an IPv4 address, or the /64 of an IPv6 one): each may have so many connections, half-open ones and arrivals a
second. Where half-open ones are too many the oldest goes, of the address with the most: an honest handshake takes a
fraction of a second, and whoever floods pushes out himself. Where connections are too many a stranger goes, the
youngest from the address with the most, so that many connections from few places push out each other and nobody else.

A circuit comes from nowhere. It is counted under the relay that brings it where this node has asked that relay for
circuits, and under the relay's own address everywhere else: nobody has more room because he calls himself a relay.

Some peers are kept when there are too many. Nobody is excused from the rules.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

import trio

from p2p.network import Misbehaviour
from p2p.peer_score import ADDRESS_THRESHOLD, PEER_THRESHOLD, Bans
from p2p.rate_limit import Limiter, Rate

UPGRADE_TIMEOUT = 5.0
"""Seconds for the handshakes of an inbound connection when many are half-open."""
PATIENT_UPGRADE_TIMEOUT = 15.0
"""The same when few are: onion routes are slow."""
ARRIVALS = Rate(items=8, size=math.inf, burst=6.0)
"""Connections a second from one address."""
FEW = 0.25
"""Few are half-open while fewer than this part of what is allowed are."""


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """How many inbound connections are taken in.

    ``exempt_loopback`` lifts what counts by address from the addresses of this machine, where a test or a demonstration
    runs many nodes; whoever puts a proxy in front of a node must leave it off.
    """

    max_connections: int = 1000
    max_per_address: int = 64
    max_half_open: int = 128
    max_half_open_per_address: int = 16
    arrivals: Rate = ARRIVALS
    exempt_loopback: bool = False


@dataclass(slots=True, eq=False)
class Visit:
    """One inbound connection. When it has to go it is ``dismissed``, and its ``scope`` cancelled."""

    address: bytes
    """What it is counted under; empty where that is exempt."""
    is_circuit: bool
    """Whether it came through a relay, so that the address is not its own."""
    deadline: float
    """When its handshakes must be over."""
    peer: bytes | None = None
    """Who it is, once that is known."""
    dismissed: bool = False
    excused: bool = False
    """Whether it had to go for the sake of others."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def dismiss(self, excused: bool) -> None:
        self.dismissed = True
        self.excused = excused
        self.scope.cancel()


class Door:
    """Who is inside, who is at the door, and what is held against whom.

    ``is_kept(peer)`` names those that stay when there are too many; they are banned like anybody else.
    """

    def __init__(self, limits: DoorLimits, is_kept: Callable[[bytes], bool] = lambda peer: False) -> None:
        self.limits = limits
        self.is_kept = is_kept
        self.peers = Bans(PEER_THRESHOLD)
        self.addresses = Bans(ADDRESS_THRESHOLD)
        self._arrivals = Limiter(limits.arrivals)
        self._half_open: dict[Visit, None] = {}
        self._inside: dict[Visit, None] = {}
        self._counts = Counter(dict.fromkeys(("banned", "rate", "address", "half_open", "failed", "evicted"), 0))

    @property
    def refusals(self) -> Mapping[str, int]:
        """Connections turned away so far, by reason, and those of strangers that made room (``evicted``)."""
        return self._counts

    @property
    def half_open(self) -> int:
        """Connections whose handshakes are under way."""
        return len(self._half_open)

    @property
    def inside(self) -> int:
        """Inbound connections."""
        return len(self._inside)

    def knock(self, host: str | None, now: float, origin: bytes = b"") -> Visit | None:
        """Take in a connection from ``host``, or not. What must make room is dismissed.

        None stands for a circuit, which is counted under ``origin`` (:meth:`get_origin`).
        """
        address = origin if host is None else self.get_name(host)
        reason = self._refuse(address, host is None, now) if address else None
        if reason is not None:
            self._counts[reason] += 1
            return None
        same = [visit for visit in self._half_open if visit.address == address]
        if address and len(same) >= self.limits.max_half_open_per_address:
            self._push_out(same[0], excused=False)
        elif len(self._half_open) >= self.limits.max_half_open:
            crowd = Counter(visit.address for visit in self._half_open)
            self._push_out(max(self._half_open, key=lambda visit: crowd[visit.address]), excused=True)
        few = len(self._half_open) < FEW * self.limits.max_half_open
        visit = Visit(address, host is None, now + (PATIENT_UPGRADE_TIMEOUT if few else UPGRADE_TIMEOUT))
        self._half_open[visit] = None
        return visit

    def get_origin(self, relay: bytes, host: str | None, is_asked: bool) -> bytes:
        """What circuits through ``relay`` are counted under; ``host`` is its address if it is connected directly.

        ``is_asked``: whether this node has asked the relay for circuits. A relay that itself came through a relay takes
        from the room of the latter.
        """
        if is_asked:
            return b"relay " + relay
        if host is not None:
            return self.get_name(host)
        return next((visit.address for visit in self._inside if visit.peer == relay), b"relay " + relay)

    def enter(self, visit: Visit, peer: bytes) -> None:
        """Note that the handshakes are over. If there are too many inside now, one is dismissed, maybe this."""
        self._half_open.pop(visit, None)
        visit.peer = peer
        self._inside[visit] = None
        if len(self._inside) > self.limits.max_connections:
            strangers = [one for one in self._inside if one.peer is None or not self.is_kept(one.peer)]
            if strangers:
                crowd = Counter(one.address for one in strangers)
                surplus = max(reversed(strangers), key=lambda one: crowd[one.address])
                del self._inside[surplus]
                surplus.dismiss(excused=True)
                self._counts["evicted"] += 1

    def leave(self, visit: Visit, now: float, failed: bool = False) -> None:
        """Note that a connection has ended; ``failed``: in its handshakes, which is held against where it came from.

        Not if it had to go for the sake of others, nor against the relay of a circuit.
        """
        self._half_open.pop(visit, None)
        self._inside.pop(visit, None)
        if failed and not visit.excused:
            self._counts["failed"] += 1
            if visit.address and not visit.is_circuit:
                self.addresses.report(visit.address, Misbehaviour.UPGRADE, now)

    def report_misbehaviour(self, peer: bytes, host: str | None, fault: Misbehaviour, now: float) -> bool:
        """Hold ``fault`` against a peer and its address. Returns whether the peer must go."""
        address = b"" if host is None else self.get_name(host)
        if address:
            self.addresses.report(address, fault, now)
        return self.peers.report(peer, fault, now)

    def get_name(self, host: str) -> bytes:
        """What an address is counted under; empty if it is exempt."""
        address = ip_address(host)
        address = getattr(address, "ipv4_mapped", None) or address
        if self.limits.exempt_loopback and address.is_loopback:
            return b""
        return address.packed if address.version == 4 else address.packed[:8]

    def _refuse(self, address: bytes, is_circuit: bool, now: float) -> str | None:
        if self.addresses.is_banned(address, now):
            return "banned"
        if not self._arrivals.admit(address, 0, now):
            return "rate"
        here = [visit for visits in (self._half_open, self._inside) for visit in visits if visit.address == address]
        if len(here) >= self.limits.max_per_address:
            return "address"
        # An address that has not been asked for circuits keeps half of its room for itself.
        circuits = sum(visit.is_circuit for visit in here)
        if is_circuit and not address.startswith(b"relay ") and circuits >= max(1, self.limits.max_per_address // 2):
            return "address"
        return None

    def _push_out(self, visit: Visit, excused: bool) -> None:
        del self._half_open[visit]
        visit.dismiss(excused)
        self._counts["half_open"] += 1
