"""What a node does about its connections: whom to dial next, and where to keep a relay slot. No I/O, no clock.

Every node keeps the connections of :mod:`p2p.discovery.dial_scheduler`. A node that nobody can dial also keeps

    links       at least PUBLIC_LINKS direct connections to nodes that can be dialled, in different networks (/16) where
                there are as many: it is served over these, and by these it is watched
    slots       RELAY_SLOTS relay slots at nodes among those, again in different networks, renewed well before they end

A slot ends with its connection. After a reconnect it is asked for anew, first at the relays that had one before, whose
addresses others still know; a relay that refused, or did not renew a slot, is left alone for a while, and another
takes its place. That a link is dead is noticed by the keepalive of the connection itself; dials that fail are repeated
as :mod:`p2p.discovery.dial_scheduler` says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from random import Random

from p2p.addresses import get_addresses, get_first_subnet, get_subnet, get_subnets
from p2p.discovery.dial_scheduler import TARGET_OUTBOUND, DialScheduler
from p2p.peers.table import PeerTable

PUBLIC_LINKS = 3
"""Direct connections to dialable nodes that a private node keeps."""
RELAY_SLOTS = 2
"""Relay slots that it keeps."""
RENEW_SHARE = 0.25
"""Share of a slot's time that is left when it is renewed."""
RENEW_INTERVAL_S = 30.0
"""Seconds after which it is renewed in any case: a relay may have forgotten it without a word."""
REFUSED = 30.0
"""Mean seconds for which a relay that refused a slot is not asked again; doubled each time, up to MAX_REFUSED."""
MAX_REFUSED = 1800.0


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to ``peer``; a probe is only to see whether it lives."""

    peer: bytes
    addresses: tuple[str, ...]
    is_probe: bool


@dataclass(frozen=True, slots=True)
class Reserve:
    """Ask ``peer``, which is connected, for a relay slot."""

    peer: bytes


@dataclass(slots=True)
class _Relay:
    """What is remembered of a relay."""

    renew_at: float = 0.0
    ends_at: float = 0.0
    """When the slot at it ends; 0: there is none."""
    not_before: float = 0.0
    refusals: int = 0


class ConnectionManager:
    """Decides for one node. All times are seconds of one monotonic clock."""

    def __init__(
        self, me: bytes, bootstrap: Mapping[bytes, tuple[str, ...]], random: Random, target: int = TARGET_OUTBOUND
    ) -> None:
        self._scheduler = DialScheduler(me, bootstrap, random, target)
        self._bootstrap = bootstrap
        self._random = random
        self._target = target
        self._relays: dict[bytes, _Relay] = {}

    def remember(self, peers: Mapping[bytes, tuple[str, ...]]) -> None:
        """Give addresses of an earlier run, to be dialled as long as too few others are known."""
        self._scheduler.remember(peers)

    def suggest(self, peers: Mapping[bytes, tuple[str, ...]]) -> None:
        """Give addresses that strangers named, to be dialled likewise, in place of those given before."""
        self._scheduler.suggest(peers)

    # What happened

    def connected(self, peer: bytes, now: float) -> None:
        """Note a new connection."""
        self._scheduler.connected(peer, now)

    def disconnected(self, peer: bytes, now: float) -> None:
        """Note the end of a connection, and with it of the slot at that relay."""
        self._scheduler.disconnected(peer, now)
        if peer in self._relays:
            self._relays[peer] = _Relay()  # asked again as soon as it is back

    def failed(self, peer: bytes, now: float) -> None:
        """Note that ``peer`` could not be dialled."""
        self._scheduler.failed(peer, now)

    def reset_backoff(self, peer: bytes) -> None:
        """Forget the failed dials of a peer that is back, in a new life or elsewhere."""
        self._scheduler.reset_backoff(peer)

    def reserved(self, relay: bytes, seconds: float, now: float) -> None:
        """Note that ``relay`` holds a slot for so long."""
        renew_after = min((1 - RENEW_SHARE) * seconds, RENEW_INTERVAL_S)
        self._relays[relay] = _Relay(now + renew_after, now + seconds)

    def refused(self, relay: bytes, now: float) -> None:
        """Note that ``relay`` gave no slot, nor renewed the one there was: nobody should be sent there any more."""
        record = self._relays.setdefault(relay, _Relay())
        record.ends_at = 0.0
        delay = min(REFUSED * 2.0**record.refusals, MAX_REFUSED)
        record.refusals = min(record.refusals + 1, 16)
        record.not_before = now + delay * self._random.uniform(0.75, 1.25)

    def slots(self, now: float) -> list[bytes]:
        """The relays that hold a slot for this node, by key."""
        return sorted(peer for peer, relay in self._relays.items() if relay.ends_at > now)

    # What to do

    def choose(
        self,
        table: PeerTable,
        connected: Collection[bytes],
        dialling: Collection[bytes],
        is_relayed: Callable[[bytes], bool],
        reachable: bool,
        now: float,
        own: Collection[bytes] | None = None,
        get_host: Callable[[bytes], str | None] = lambda peer: None,
    ) -> list[Dial | Reserve]:
        """What to begin now; ``reachable`` says whether others can dial this node.

        Of those ``connected`` only its ``own`` count towards the target (default: all). ``get_host`` says where a
        direct connection leads to, which tells more of its network than what the peer announces.
        """
        own = connected if own is None else own

        def group(peer: bytes) -> str:
            host = get_host(peer)
            return get_first_subnet(self._addresses(table, peer)) if host is None else get_subnet(host)

        is_probe = len(own) >= self._target
        near = {group(peer) for peer in own if not is_relayed(peer)}
        planned = self._scheduler.choose(table, connected, dialling, reachable, now, own, near)
        dials = {peer: (addresses, is_probe) for peer, addresses in planned}
        if reachable:
            return [Dial(peer, *how) for peer, how in dials.items()]
        dialable = [peer for peer in sorted(connected) if not is_relayed(peer) and self._addresses(table, peer)]
        links = {peer: group(peer) for peer in dialable}
        if len(links) < PUBLIC_LINKS:
            begun = [addresses for peer in (*dialling, *dials) if (addresses := self._addresses(table, peer))]
            wanted = PUBLIC_LINKS - len(links) - len(begun)
            # A dialable peer that is connected through a relay is worth a direct link.
            taken = {*(peer for peer in connected if not is_relayed(peer)), *dialling, *dials}
            near = {*links.values(), *(network for addresses in begun for network in get_subnets(addresses))}
            for peer, addresses in self._candidates(table, taken, near, now)[: max(0, wanted)]:
                dials[peer] = (addresses, False)
        return [*(Dial(peer, *how) for peer, how in dials.items()), *self._reserve(links, now)]

    def _candidates(
        self, table: PeerTable, taken: Collection[bytes], near: set[str], now: float
    ) -> list[tuple[bytes, tuple[str, ...]]]:
        """Dialable peers, those in networks that are not yet linked first, one of each network before the next."""
        free = [known for known in table.present() if known.addresses and known.peer not in taken]
        due = [known for known in free if self._scheduler.is_due(known.peer, now)]
        first: list[tuple[bytes, tuple[str, ...]]] = []
        rest: list[tuple[bytes, tuple[str, ...]]] = []
        for known in self._scheduler.interleave_subnets(due):
            networks = get_subnets(known.addresses)
            (first if near.isdisjoint(networks) else rest).append((known.peer, get_addresses(known)))
            near |= networks
        return first + rest

    def _reserve(self, links: Mapping[bytes, str], now: float) -> list[Dial | Reserve]:
        """Renew the slots that end soon, and ask for those that are missing."""
        held = self.slots(now)
        open_to = [peer for peer in links if peer not in self._relays or now >= self._relays[peer].not_before]
        actions = [peer for peer in held if peer in open_to and now >= self._relays[peer].renew_at]
        missing = RELAY_SLOTS - len(held)
        if missing > 0:
            near = {links[peer] for peer in held if peer in links}
            free = [peer for peer in open_to if peer not in held]
            self._random.shuffle(free)
            # Relays that had a slot before come first, then networks that have none.
            free.sort(key=lambda peer: (peer not in self._relays, links[peer] in near))
            chosen: list[bytes] = []
            for others_too in (False, True):
                for peer in free:
                    if len(chosen) < missing and peer not in chosen and (others_too or links[peer] not in near):
                        chosen.append(peer)
                        near.add(links[peer])
            actions += chosen
        for peer in actions:  # asked; until the answer is in it is not asked again
            self._relays.setdefault(peer, _Relay()).not_before = now + REFUSED
        gone = [peer for peer in self._relays if peer not in links and len(self._relays) > 64]
        for peer in gone:
            del self._relays[peer]
        return [Reserve(peer) for peer in actions]

    def _addresses(self, table: PeerTable, peer: bytes) -> tuple[str, ...]:
        """Where ``peer`` can be dialled directly, as it says itself or the configuration does."""
        known = table.find(peer)
        return known.addresses if known is not None and known.addresses else self._bootstrap.get(peer, ())
