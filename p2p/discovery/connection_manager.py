"""Which connections and reservations a node keeps. No I/O, no clock.

Every node keeps the connections that :mod:`p2p.discovery.dial_scheduler` chooses. A node that others cannot dial also
keeps

    links           at least PUBLIC_LINKS direct connections to nodes that can be dialled, in different subnets (/16) if
                    possible: it is served over these, and by these it is watched
    reservations    TARGET_RESERVATIONS at some of these nodes, their relays, again in different subnets, renewed
                    well before they end

A reservation ends with its connection. After a reconnect it is requested again, first at the relays that held one
before, whose addresses others still know. A relay that refused a reservation, or its renewal, is left alone for a
while, and another takes its place. A dead link is noticed by the keepalive of the connection.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from random import Random

from p2p.addresses import get_direct, get_first_subnet, get_subnet, get_subnets
from p2p.backoff import Backoff
from p2p.discovery.dial_scheduler import TARGET_OUTBOUND, ConnectionSnapshot, DialScheduler
from p2p.peers.table import PeerTable

PUBLIC_LINKS = 3
"""Direct connections to dialable nodes that a private node keeps."""
TARGET_RESERVATIONS = 2
"""Reservations that a private node keeps."""
RENEW_SHARE = 0.25
"""Share of a reservation's time that is left when it is renewed."""
RENEW_INTERVAL_S = 30.0
"""Most seconds before a reservation is renewed: a relay may have lost it."""
REFUSAL_BACKOFF = Backoff(30.0, 1800.0, jitter=(0.75, 1.25))
"""Delay before a relay that refused a reservation is asked again."""
MAX_REMEMBERED_RELAYS = 64
"""Relays that are remembered beyond those that are linked."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to ``peer``; a probe is only to see whether it lives."""

    peer: bytes
    addresses: tuple[str, ...]
    is_probe: bool


@dataclass(frozen=True, slots=True)
class Reserve:
    """Ask ``peer``, which is connected, for a reservation."""

    peer: bytes


@dataclass(slots=True)
class _Relay:
    """What is remembered of a relay."""

    renew_at: float = 0.0
    ends_at: float = 0.0
    """When the reservation at it ends; 0: there is none."""
    not_before: float = 0.0
    refusals: int = 0


class ConnectionManager:
    """Decides for one node. All times are seconds of one monotonic clock."""

    def __init__(
        self, me: bytes, bootstrap: Mapping[bytes, tuple[str, ...]], random: Random, target: int = TARGET_OUTBOUND
    ) -> None:
        self.scheduler = DialScheduler(me, bootstrap, random, target)
        self._bootstrap = bootstrap
        self._random = random
        self._target = target
        self._relays: dict[bytes, _Relay] = {}

    # What happened

    def connected(self, peer: bytes, now: float) -> None:
        """Note a new connection."""
        self.scheduler.connected(peer, now)

    def disconnected(self, peer: bytes, now: float) -> None:
        """Note the end of a connection, and with it of the reservation at that relay."""
        self.scheduler.disconnected(peer, now)
        if peer in self._relays:
            self._relays[peer] = _Relay()  # asked again as soon as it is back

    def reserved(self, relay: bytes, seconds: float, now: float) -> None:
        """Note that ``relay`` holds a reservation for ``seconds``."""
        renew_after = min((1 - RENEW_SHARE) * seconds, RENEW_INTERVAL_S)
        self._relays[relay] = _Relay(now + renew_after, now + seconds)

    def refused(self, relay: bytes, now: float) -> None:
        """Note that ``relay`` refused a reservation or its renewal; a reservation it held is not announced any more."""
        record = self._relays.setdefault(relay, _Relay())
        record.ends_at = 0.0
        record.not_before = now + REFUSAL_BACKOFF.get_delay(record.refusals, self._random)
        record.refusals += 1

    def get_relays(self, now: float) -> list[bytes]:
        """The relays that hold a reservation for this node, by key."""
        return sorted(peer for peer, relay in self._relays.items() if relay.ends_at > now)

    # What to do

    def choose(self, table: PeerTable, snapshot: ConnectionSnapshot, now: float) -> list[Dial | Reserve]:
        """The dials and requests for reservations to begin now."""

        def find_subnet(peer: bytes) -> str:
            host = snapshot.remote_hosts.get(peer)
            return get_first_subnet(self._get_addresses(table, peer)) if host is None else get_subnet(host)

        is_probe = len(snapshot.outbound) >= self._target
        occupied = {find_subnet(peer) for peer in snapshot.outbound if peer not in snapshot.relayed}
        planned = self.scheduler.choose(table, snapshot, now, occupied)
        dials = {peer: Dial(peer, addresses, is_probe) for peer, addresses in planned}
        if snapshot.is_reachable:
            return list(dials.values())
        direct = [peer for peer in sorted(snapshot.connected) if peer not in snapshot.relayed]
        links = {peer: find_subnet(peer) for peer in direct if self._get_addresses(table, peer)}
        if len(links) < PUBLIC_LINKS:
            begun = [
                addresses for peer in (*snapshot.dialling, *dials) if (addresses := self._get_addresses(table, peer))
            ]
            missing = max(0, PUBLIC_LINKS - len(links) - len(begun))
            # A dialable peer that is connected through a relay is worth a direct link.
            taken = {*direct, *snapshot.dialling, *dials}
            occupied = {*links.values(), *(subnet for addresses in begun for subnet in get_subnets(addresses))}
            for peer, addresses in self._find_dialable(table, taken, occupied, now):
                if missing and (admitted := self.scheduler.admit(table, peer, addresses, now)):
                    dials[peer] = Dial(peer, admitted, is_probe=False)
                    missing -= 1
        return [*dials.values(), *self._reserve(links, now)]

    def _find_dialable(
        self, table: PeerTable, taken: Collection[bytes], occupied: set[str], now: float
    ) -> list[tuple[bytes, tuple[str, ...]]]:
        """Dialable peers with their addresses: those in subnets that are not ``occupied`` first, one of each subnet."""
        free = ((known.peer, table.get_dialable(known)) for known in table.present() if known.peer not in taken)
        due = [one for one in free if get_direct(one[1]) and self.scheduler.is_due(one[0], now)]
        first: list[tuple[bytes, tuple[str, ...]]] = []
        rest: list[tuple[bytes, tuple[str, ...]]] = []
        for peer, addresses in self.scheduler.interleave_subnets(due):
            subnets = get_subnets(get_direct(addresses))
            (first if occupied.isdisjoint(subnets) else rest).append((peer, addresses))
            occupied |= subnets
        return first + rest

    def _reserve(self, links: Mapping[bytes, str], now: float) -> list[Reserve]:
        """Renew reservations that end soon and request missing ones; ``links`` are the possible relays by subnet."""
        held = self.get_relays(now)
        allowed = [peer for peer in links if peer not in self._relays or now >= self._relays[peer].not_before]
        relays = [peer for peer in held if peer in allowed and now >= self._relays[peer].renew_at]
        missing = TARGET_RESERVATIONS - len(held)
        if missing > 0:
            occupied = {links[peer] for peer in held if peer in links}
            free = [peer for peer in allowed if peer not in held]
            self._random.shuffle(free)
            # Relays that had a reservation before come first, then those in subnets that have none.
            free.sort(key=lambda peer: (peer not in self._relays, links[peer] in occupied))
            chosen: list[bytes] = []
            for is_any_subnet in (False, True):
                for peer in free:
                    is_allowed = is_any_subnet or links[peer] not in occupied
                    if len(chosen) < missing and peer not in chosen and is_allowed:
                        chosen.append(peer)
                        occupied.add(links[peer])
            relays += chosen
        for peer in relays:  # requested; until the answer is in it is not requested again
            self._relays.setdefault(peer, _Relay()).not_before = now + REFUSAL_BACKOFF.first_s
        gone = [peer for peer in self._relays if peer not in links and len(self._relays) > MAX_REMEMBERED_RELAYS]
        for peer in gone:
            del self._relays[peer]
        return [Reserve(peer) for peer in relays]

    def _get_addresses(self, table: PeerTable, peer: bytes) -> tuple[str, ...]:
        """Where ``peer`` can be dialled directly, as it announces or the configuration says."""
        return get_direct(table.get_addresses(peer)) or self._bootstrap.get(peer, ())
