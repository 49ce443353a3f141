"""The door: which inbound connections are taken in, and which one goes when there are too many.

:class:`Door` decides: pure, times are passed in (seconds of one monotonic clock). ``p2p.hardening`` does what it says.

A connection is *half-open* until its handshakes are over. Until then nobody knows who it is, so what counts is its
address (an IPv4 address, or the /64 of an IPv6 one): each may have so many connections, half-open ones and arrivals a
second. Where half-open ones are too many the oldest goes: an honest handshake takes a fraction of a second, and whoever
floods pushes out himself. Where connections are too many a stranger goes, the youngest from the address with the most,
so that many connections from few places push out each other and nobody else.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

import trio

from p2p.bans import ADDRESS_THRESHOLD, PEER_THRESHOLD, Bans, Fault
from p2p.limits import Limiter, Rate

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
    """What it is counted under; empty for a circuit and for an address that is exempt."""
    deadline: float
    """When its handshakes must be over."""
    peer: bytes | None = None
    """Who it is, once that is known."""
    dismissed: bool = False
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def dismiss(self) -> None:
        self.dismissed = True
        self.scope.cancel()


class Door:
    """Who is inside, who is at the door, and what is held against whom. ``is_kept(peer)`` names those that stay."""

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

    def knock(self, host: str | None, now: float) -> Visit | None:
        """Take in a connection from ``host`` (None: through a relay), or not. What must make room is dismissed."""
        address = b"" if host is None else self._get_name(host)
        reason = self._refuse(address, now) if address else None
        if reason is not None:
            self._counts[reason] += 1
            return None
        same = [visit for visit in self._half_open if visit.address == address]
        if address and len(same) >= self.limits.max_half_open_per_address:
            self._push_out(same[0])
        elif len(self._half_open) >= self.limits.max_half_open:
            self._push_out(next(iter(self._half_open)))
        few = len(self._half_open) < FEW * self.limits.max_half_open
        visit = Visit(address, now + (PATIENT_UPGRADE_TIMEOUT if few else UPGRADE_TIMEOUT))
        self._half_open[visit] = None
        return visit

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
                surplus.dismiss()
                self._counts["evicted"] += 1

    def leave(self, visit: Visit, now: float, failed: bool = False) -> None:
        """Note that a connection has ended; ``failed``: in its handshakes, by its own fault."""
        self._half_open.pop(visit, None)
        self._inside.pop(visit, None)
        if failed:
            self._counts["failed"] += 1
            if visit.address:
                self.addresses.blame(visit.address, Fault.UPGRADE, now)

    def blame(self, peer: bytes, host: str | None, fault: Fault, now: float) -> bool:
        """Hold ``fault`` against a peer and its address. Returns whether the peer must go.

        Those that are kept stay: what they are needed for weighs more, and their streams end at a fault anyway.
        """
        if self.is_kept(peer):
            return False
        address = b"" if host is None else self._get_name(host)
        if address:
            self.addresses.blame(address, fault, now)
        return self.peers.blame(peer, fault, now)

    def _refuse(self, address: bytes, now: float) -> str | None:
        if self.addresses.is_banned(address, now):
            return "banned"
        if not self._arrivals.admit(address, 0, now):
            return "rate"
        here = sum(visit.address == address for visits in (self._half_open, self._inside) for visit in visits)
        return "address" if here >= self.limits.max_per_address else None

    def _push_out(self, visit: Visit) -> None:
        del self._half_open[visit]
        visit.dismiss()
        self._counts["half_open"] += 1

    def _get_name(self, host: str) -> bytes:
        address = ip_address(host)
        address = getattr(address, "ipv4_mapped", None) or address
        if self.limits.exempt_loopback and address.is_loopback:
            return b""
        return address.packed if address.version == 4 else address.packed[:8]
