"""Which peers to dial next. No I/O, no clock.

A node keeps ``target`` connections that it has made itself, or connections to all peers in a small network. Others can
connect to it, but do not choose whom it dials. The peers to dial are drawn at random, in this order:

    1. one of each subnet (/16) before the next of any, so that many identities at few hosts gain nothing
    2. peers that can be dialled directly before those behind relays
    3. alternately a verified peer and an unverified one, so that invented identities cannot crowd out real ones

A node also keeps a connection to a bootstrap peer in a small network, and dials one now and then in a large one, so
that no part of the network stays separated, by chance or by an attacker. A bootstrap peer could not hold connections to
all nodes.

A failed dial is repeated after a back-off with jitter. Where no peer was verified yet, an address is dialled seldom,
however many peers announce it (:mod:`p2p.limits.dial_pace`). While too few peers are known, those stored by an
earlier run are dialled as well, and those that the DHT suggested. In a small network, of two peers the one with the
lesser key dials at once and the other after :data:`HEAD_START_S`, which avoids double connections; in a larger network
the key order is ignored.

Now and then the node probes a peer: a lost one, since after a partition one side has to begin, or one that it is not
connected to, since a peer whose neighbours have all died is watched by no one else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from random import Random

from p2p.addresses import get_direct, get_relays, get_subnets
from p2p.backoff import Backoff
from p2p.limits.dial_pace import DialPace
from p2p.peers.announcement import Announcement
from p2p.peers.table import PeerTable

TARGET_OUTBOUND = 8
"""Connections that a node makes itself and keeps."""
HEAD_START_S = 2.0
"""Seconds that the peer with the greater key leaves to the other."""
DIAL_BACKOFF = Backoff(1.0, 60.0, jitter=(0.5, 1.0))
"""Delay before a failed dial is repeated."""
BOOTSTRAP_BACKOFF = Backoff(1.0, 15.0, jitter=(0.5, 1.0))
"""Delay before a failed dial of a bootstrap peer is repeated."""
STABLE_S = 10.0
"""Seconds after which the loss of a connection no longer counts as a failed dial."""
PROBE_INTERVAL_S = 15.0
"""Mean seconds between probes. Every other one is of a lost peer, if there is one."""
MAX_FAILURES = 3
"""Failed dials after which a suggested peer is forgotten."""
SMALL_NETWORK = 64
"""Number of peers up to which a connection to a bootstrap peer is always kept."""
BOOTSTRAP_INTERVAL_S = 180.0
"""Mean seconds between dials of a bootstrap peer in a larger network."""


_Dialable = tuple[bytes, tuple[str, ...]]
"""A peer that may be dialled, and where."""


@dataclass(slots=True)
class _Record:
    """What is remembered about dialling one peer."""

    first_wanted: float
    failures: int = 0
    not_before: float = 0.0
    connected_at: float | None = None


@dataclass(frozen=True, slots=True)
class ConnectionSnapshot:
    """The connections of this node at one moment."""

    connected: Collection[bytes] = ()
    dialling: Collection[bytes] = ()
    outbound: Collection[bytes] = ()
    """The connected peers that this node has dialled; only these count towards the target."""
    relayed: Collection[bytes] = ()
    """The connected peers whose connection runs through a relay."""
    remote_hosts: Mapping[bytes, str] = field(default_factory=dict)
    """The IP addresses that direct connections lead to, as far as they are known."""
    is_reachable: bool = False
    """Whether others can dial this node."""


class DialScheduler:
    """Chooses the peers to dial. All times are seconds of one monotonic clock."""

    def __init__(
        self, me: bytes, bootstrap: Mapping[bytes, tuple[str, ...]], random: Random, target: int = TARGET_OUTBOUND
    ) -> None:
        self._me = me
        self._bootstrap = {peer: addresses for peer, addresses in bootstrap.items() if peer != me}
        self._random = random
        self._target = target
        self._pace = DialPace()
        self._records: dict[bytes, _Record] = {}
        self._next_probe: float | None = None
        self._probes = 0
        self._stored: dict[bytes, tuple[str, ...]] = {}
        self._suggested: dict[bytes, tuple[str, ...]] = {}
        self._next_bootstrap_dial = 0.0

    def remember(self, peers: Mapping[bytes, tuple[str, ...]]) -> None:
        """Give addresses of an earlier run, the best first."""
        self._stored = {peer: addresses for peer, addresses in peers.items() if peer != self._me}

    def suggest(self, peers: Mapping[bytes, tuple[str, ...]]) -> None:
        """Give addresses that the DHT names, in place of those given before."""
        self._suggested = {peer: addresses for peer, addresses in peers.items() if peer != self._me}

    def connected(self, peer: bytes, now: float) -> None:
        """Note a new connection."""
        self._records.setdefault(peer, _Record(now)).connected_at = now

    def disconnected(self, peer: bytes, now: float) -> None:
        """Note the end of a connection."""
        record = self._records.get(peer)
        if record is None or record.connected_at is None or now - record.connected_at >= STABLE_S:
            self._records[peer] = _Record(now)
        else:
            record.connected_at = None
            record.first_wanted = now
            self.failed(peer, now)

    def failed(self, peer: bytes, now: float) -> None:
        """Note that ``peer`` could not be dialled."""
        record = self._records.setdefault(peer, _Record(now))
        backoff = BOOTSTRAP_BACKOFF if peer in self._bootstrap else DIAL_BACKOFF
        record.not_before = now + backoff.get_delay(record.failures, self._random)
        record.failures += 1
        if record.failures >= MAX_FAILURES:
            self._suggested.pop(peer, None)

    def reset_backoff(self, peer: bytes) -> None:
        """Forget the failed dials of a peer that is back, in a new life or elsewhere."""
        record = self._records.get(peer)
        if record is not None:
            record.failures, record.not_before = 0, 0.0

    def choose(
        self, table: PeerTable, snapshot: ConnectionSnapshot, now: float, occupied_subnets: Collection[str] = ()
    ) -> list[tuple[bytes, tuple[str, ...]]]:
        """The peers to dial now, with their addresses. ``occupied_subnets`` are those of the outbound connections."""
        taken = {*snapshot.connected, *snapshot.dialling}
        chosen: dict[bytes, tuple[str, ...]] = {}
        missing = self._target - len({*snapshot.outbound, *snapshot.dialling})
        is_lost = missing > 0 and (missing >= self._target or len(table) < self._target)
        if self._misses_bootstrap(len(table), taken, now) or is_lost:
            for peer, addresses in self._bootstrap.items():
                if peer not in taken and self.is_due(peer, now):
                    chosen[peer] = tuple(dict.fromkeys((*addresses, *table.get_addresses(peer))))
        remembered = {
            peer: allowed
            for peer, addresses in self._get_remembered().items()
            if table.state(peer) is None and peer not in taken and (allowed := table.select_dialable(addresses))
        }
        if missing > len(chosen):
            wanted = [known for known in table.present() if known.peer not in taken and known.peer not in chosen]
            dialable = self._order_dialable(table, wanted, snapshot.is_reachable, now)
            self._select(table, dialable, {*occupied_subnets}, missing, now, chosen)
            unknown = max(0, missing - len(chosen)) if len(table) < self._target else 0
            due = (
                (peer, admitted)
                for peer, addresses in remembered.items()
                if self.is_due(peer, now) and (admitted := self.admit(table, peer, addresses, now))
            )
            chosen |= islice(due, unknown)
            self._forget(taken, wanted)
        chosen |= self._probe(table, {*taken, *chosen}, remembered, now)
        return list(chosen.items())

    def admit(self, table: PeerTable, peer: bytes, addresses: Iterable[str], now: float) -> tuple[str, ...]:
        """The ``addresses`` at which to dial ``peer`` now: all if it is verified, else those that the pace allows.

        They count as dialled, but for those through a verified relay, which are always allowed.
        """
        addresses = tuple(addresses)
        if peer in self._bootstrap or table.is_verified(peer):
            return addresses
        free = [one for one in addresses if any(map(table.is_verified, get_relays([one])))]
        admitted = self._pace.admit((one for one in addresses if one not in free), now)
        return tuple(one for one in addresses if one in free or one in admitted)

    def _order_dialable(
        self, table: PeerTable, wanted: list[Announcement], is_reachable: bool, now: float
    ) -> list[_Dialable]:
        """Those of ``wanted`` that may be dialled now, in the order of the module's description."""
        head_start = HEAD_START_S if is_reachable and len(table) <= self._target else 0.0
        due = [
            (known.peer, addresses)
            for known in wanted
            if (addresses := table.get_dialable(known))
            and self.is_due(known.peer, now, head_start if known.peer < self._me else 0.0)
        ]
        ordered: list[_Dialable] = []
        for is_direct in (True, False):  # a circuit costs its relay, and a connection to that
            some = [one for one in due if bool(get_direct(one[1])) is is_direct]
            ordered += self._alternate(table, self.interleave_subnets(some))
        return ordered

    def interleave_subnets(self, peers: Iterable[_Dialable]) -> list[_Dialable]:
        """``peers`` in random order, but one of each subnet, in a random order of these, before the next of any."""
        shuffled = list(peers)
        self._random.shuffle(shuffled)
        ranks: dict[frozenset[str], float] = {}
        counts: Counter[frozenset[str]] = Counter()
        ranked: list[tuple[int, float, _Dialable]] = []
        for peer, addresses in shuffled:
            subnets = get_subnets(addresses)
            ranked.append((counts[subnets], ranks.setdefault(subnets, self._random.random()), (peer, addresses)))
            counts[subnets] += 1
        ranked.sort(key=lambda entry: entry[:2])
        return [one for _, _, one in ranked]

    def _select(
        self,
        table: PeerTable,
        dialable: list[_Dialable],
        occupied: set[str],
        missing: int,
        now: float,
        chosen: dict[bytes, tuple[str, ...]],
    ) -> None:
        """Add peers to ``chosen`` until it has ``missing``; those in subnets that are not ``occupied`` come first.

        Announcing an address costs nothing, so a peer occupies the subnets of all its addresses.
        """
        for is_any_subnet in (False, True):
            for peer, addresses in dialable:
                subnets = get_subnets(addresses)
                is_allowed = is_any_subnet or occupied.isdisjoint(subnets)
                if (
                    len(chosen) < missing
                    and peer not in chosen
                    and is_allowed
                    and (admitted := self.admit(table, peer, addresses, now))
                ):
                    chosen[peer] = admitted
                    occupied |= subnets

    def _get_remembered(self) -> dict[bytes, tuple[str, ...]]:
        """The addresses of peers from an earlier run, and of those that the DHT suggested."""
        remembered = dict(self._stored)
        for peer, addresses in self._suggested.items():
            remembered[peer] = tuple(dict.fromkeys((*remembered.get(peer, ()), *addresses)))
        return remembered

    def _misses_bootstrap(self, peers: int, taken: Collection[bytes], now: float) -> bool:
        if any(peer in taken for peer in self._bootstrap):
            self._next_bootstrap_dial = now + BOOTSTRAP_INTERVAL_S * self._random.uniform(0.5, 1.5)
            return False
        return peers <= SMALL_NETWORK or now >= self._next_bootstrap_dial

    def _alternate(self, table: PeerTable, wanted: list[_Dialable]) -> list[_Dialable]:
        """In turns one that is verified and one that is not."""
        verified = [one for one in wanted if table.is_verified(one[0])]
        unverified = [one for one in wanted if not table.is_verified(one[0])]
        pairs = (pair for pair in zip_longest(verified, unverified))
        return [one for pair in pairs for one in pair if one is not None]

    def _probe(
        self, table: PeerTable, taken: Collection[bytes], remembered: dict[bytes, tuple[str, ...]], now: float
    ) -> dict[bytes, tuple[str, ...]]:
        if self._next_probe is not None and now < self._next_probe:
            return {}
        first, self._next_probe = self._next_probe is None, now + PROBE_INTERVAL_S * self._random.uniform(0.5, 1.5)
        if first:
            return {}
        self._probes += 1
        lost = [(known.peer, table.get_dialable(known)) for known in table.lost() if known.peer not in taken]
        lost = [one for one in lost if one[1]]
        probed: _Dialable | None = None
        if not lost or self._probes % 2:
            present = ((known.peer, table.get_dialable(known)) for known in table.present())
            others = {peer: addresses for peer, addresses in present if addresses} | remembered
            due = [peer for peer in others if peer not in taken and self.is_due(peer, now, HEAD_START_S)]
            if due:
                peer = self._random.choice(due)
                probed = peer, others[peer]
        if probed is None and lost:
            probed = self._random.choice(lost)
        admitted = () if probed is None else self.admit(table, *probed, now)
        return {} if probed is None or not admitted else {probed[0]: admitted}

    def is_due(self, peer: bytes, now: float, head_start: float = 0.0) -> bool:
        """Whether ``peer`` may be dialled: its back-off is over, and it had ``head_start`` seconds to dial itself."""
        record = self._records.setdefault(peer, _Record(now))
        return now >= record.not_before and now >= record.first_wanted + head_start

    def _forget(self, taken: Collection[bytes], wanted: Collection[Announcement]) -> None:
        """Drop what is remembered about peers that are gone."""
        remembered = {*self._stored, *self._suggested}
        if len(self._records) > 2 * (len(taken) + len(wanted) + len(self._bootstrap) + len(remembered)) + 16:
            keep = {*taken, *self._bootstrap, *remembered, *(known.peer for known in wanted)}
            self._records = {peer: record for peer, record in self._records.items() if peer in keep}
