"""Whom to dial next: enough connections, no stampede, nobody given up for good. No I/O, no clock.

A node keeps ``target`` connections that it has made itself, or all in a small network: whoever wants to can connect,
but not choose whom it dials. Those that it dials are drawn network by network (/16), so that many identities in few
places are worth no more than few; those that can be dialled directly come first, and half of them, where there are as
many, are *proven*: made-up identities cannot crowd them out. It also keeps a connection to a bootstrap peer in a small
network and goes back to one now and then in a large one, so that no part of the network can drift away, or be led away,
for good; a bootstrap peer would not stand the connections of all.

A failed dial is repeated after a delay that doubles, with jitter. As long as too few are known, those remembered from
an earlier run are dialled as well, and those that strangers suggested. Where all are dialled, the one of two peers with
the lesser key does so at once and the other waits a moment, which avoids double connections; where there is a choice,
keys have no say in it.

Now and then it probes: a peer that was lost, since after a partition somebody has to begin, or one that it has no
connection to, since a peer whose neighbours all died with it is watched by nobody else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice, zip_longest
from random import Random

from p2p.addresses import get_addresses, get_subnets
from p2p.peers.announcement import Announcement
from p2p.peers.table import PeerTable

TARGET_OUTBOUND = 8
"""Connections of its own that a node keeps."""
HEAD_START_S = 2.0
"""Seconds that the peer with the greater key leaves to the other."""
FIRST_DELAY = 1.0
MAX_DELAY = 60.0
"""Seconds before a failed dial is repeated: the first time, and at most."""
MAX_BOOTSTRAP_DELAY = 15.0
"""The same limit for bootstrap peers."""
STABLE_S = 10.0
"""Seconds that a connection has to last for its loss not to count as a failed dial."""
PROBE_INTERVAL_S = 15.0
"""Mean seconds between probes; every other one is of a lost peer, if there are any."""
MAX_FAILURES = 3
"""Failed dials after which what strangers suggested is forgotten."""
SMALL_NETWORK = 64
"""Peers up to which a connection to a bootstrap peer is kept whatever else there is."""
BOOTSTRAP_INTERVAL_S = 180.0
"""Mean seconds between visits to a bootstrap peer in a larger network."""


@dataclass(slots=True)
class _Record:
    """What is remembered about dialling one peer."""

    first_wanted: float
    failures: int = 0
    not_before: float = 0.0
    connected_at: float | None = None


class DialScheduler:
    """Chooses the peers to dial. All times are seconds of one monotonic clock."""

    def __init__(
        self, me: bytes, bootstrap: Mapping[bytes, tuple[str, ...]], random: Random, target: int = TARGET_OUTBOUND
    ) -> None:
        self._me = me
        self._bootstrap = {peer: addresses for peer, addresses in bootstrap.items() if peer != me}
        self._random = random
        self._target = target
        self._records: dict[bytes, _Record] = {}
        self._next_probe: float | None = None
        self._probes = 0
        self._remembered: dict[bytes, tuple[str, ...]] = {}
        self._suggested: dict[bytes, tuple[str, ...]] = {}
        self._next_visit = 0.0

    def remember(self, peers: Mapping[bytes, tuple[str, ...]]) -> None:
        """Give addresses of an earlier run, the best first."""
        self._remembered = {peer: addresses for peer, addresses in peers.items() if peer != self._me}

    def suggest(self, peers: Mapping[bytes, tuple[str, ...]]) -> None:
        """Give addresses that strangers named, in place of those given before."""
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
        longest = MAX_BOOTSTRAP_DELAY if peer in self._bootstrap else MAX_DELAY
        delay = min(FIRST_DELAY * 2.0 ** min(record.failures, 16), longest)
        record.failures += 1
        if record.failures >= MAX_FAILURES:
            self._suggested.pop(peer, None)
        record.not_before = now + delay * self._random.uniform(0.5, 1.0)

    def reset_backoff(self, peer: bytes) -> None:
        """Forget the failed dials of a peer that is back, in a new life or elsewhere."""
        record = self._records.get(peer)
        if record is not None:
            record.failures, record.not_before = 0, 0.0

    def choose(
        self,
        table: PeerTable,
        connected: Collection[bytes],
        dialling: Collection[bytes],
        reachable: bool,
        now: float,
        own: Collection[bytes] | None = None,
        near: Collection[str] = (),
    ) -> list[tuple[bytes, tuple[str, ...]]]:
        """The peers to dial now, with their addresses; ``reachable`` says whether others can dial this node.

        Of those ``connected`` only its ``own`` count (default: all), and ``near`` are the networks that they are in.
        """
        taken = {*connected, *dialling}
        chosen: dict[bytes, tuple[str, ...]] = {}
        missing = self._target - len({*(connected if own is None else own), *dialling})
        is_lost = missing > 0 and (missing >= self._target or len(table) < self._target)
        if self._misses_bootstrap(len(table), taken, now) or is_lost:
            for peer, addresses in self._bootstrap.items():
                if peer not in taken and self.is_due(peer, now):
                    chosen[peer] = get_addresses(table.find(peer), addresses)
        told = {
            peer: places for peer, places in self._told().items() if table.state(peer) is None and peer not in taken
        }
        if missing > len(chosen):
            wanted = [known for known in table.present() if known.peer not in taken and known.peer not in chosen]
            patience = HEAD_START_S if reachable and len(table) <= self._target else 0.0
            due = [
                known
                for known in wanted
                if get_addresses(known) and self.is_due(known.peer, now, patience if known.peer < self._me else 0.0)
            ]
            candidates: list[Announcement] = []
            for direct in (True, False):  # a circuit costs its relay, and a connection to that
                some = [known for known in due if bool(known.addresses) is direct]
                candidates += self._alternate(table, self.interleave_subnets(some))
            self._draw(candidates, {*near}, missing, chosen)
            few = max(0, missing - len(chosen)) if len(table) < self._target else 0
            chosen |= islice(((peer, told[peer]) for peer in told if self.is_due(peer, now)), few)
            self._forget(taken, wanted)
        chosen |= self._probe(table, {*taken, *chosen}, told, now)
        return list(chosen.items())

    def interleave_subnets(self, peers: Iterable[Announcement]) -> list[Announcement]:
        """``peers`` in random order, but one of each network, in a random order of these, before the next of any."""
        shuffled = list(peers)
        self._random.shuffle(shuffled)
        ranks: dict[frozenset[str], float] = {}
        seen: Counter[frozenset[str]] = Counter()
        placed: list[tuple[int, float, Announcement]] = []
        for known in shuffled:
            networks = get_subnets(get_addresses(known))
            placed.append((seen[networks], ranks.setdefault(networks, self._random.random()), known))
            seen[networks] += 1
        placed.sort(key=lambda place: place[:2])
        return [known for _, _, known in placed]

    def _draw(
        self, candidates: list[Announcement], near: set[str], missing: int, chosen: dict[bytes, tuple[str, ...]]
    ) -> None:
        """Add to those ``chosen`` until none is ``missing``: of all networks but those ``near``, as long as there are.

        An address costs nothing to claim, so a peer is in the networks of all that it has.
        """
        for others_too in (False, True):
            for known in candidates:
                addresses = get_addresses(known)
                networks = get_subnets(addresses)
                if len(chosen) < missing and known.peer not in chosen and (others_too or near.isdisjoint(networks)):
                    chosen[known.peer] = addresses
                    near |= networks

    def _told(self) -> dict[bytes, tuple[str, ...]]:
        """Where those of an earlier run are, and those that strangers suggested."""
        told = dict(self._remembered)
        for peer, places in self._suggested.items():
            told[peer] = tuple(dict.fromkeys((*told.get(peer, ()), *places)))
        return told

    def _misses_bootstrap(self, peers: int, taken: Collection[bytes], now: float) -> bool:
        if any(peer in taken for peer in self._bootstrap):
            self._next_visit = now + BOOTSTRAP_INTERVAL_S * self._random.uniform(0.5, 1.5)
            return False
        return peers <= SMALL_NETWORK or now >= self._next_visit

    def _alternate(self, table: PeerTable, wanted: list[Announcement]) -> list[Announcement]:
        """In turns one that is proven and one that is not."""
        proven = [known for known in wanted if table.is_verified(known.peer)]
        hearsay = [known for known in wanted if not table.is_verified(known.peer)]
        pairs = (pair for pair in zip_longest(proven, hearsay))
        return [known for pair in pairs for known in pair if known is not None]

    def _probe(
        self, table: PeerTable, taken: Collection[bytes], told: dict[bytes, tuple[str, ...]], now: float
    ) -> dict[bytes, tuple[str, ...]]:
        if self._next_probe is not None and now < self._next_probe:
            return {}
        first, self._next_probe = self._next_probe is None, now + PROBE_INTERVAL_S * self._random.uniform(0.5, 1.5)
        if first:
            return {}
        self._probes += 1
        lost = [known for known in table.lost() if known.peer not in taken and get_addresses(known)]
        if not lost or self._probes % 2:
            unwatched = [known for known in table.present() if known.peer not in taken and get_addresses(known)]
            others = {known.peer: get_addresses(known) for known in unwatched} | told
            due = [peer for peer in others if peer not in taken and self.is_due(peer, now, HEAD_START_S)]
            if due:
                peer = self._random.choice(due)
                return {peer: others[peer]}
        if not lost:
            return {}
        known = self._random.choice(lost)
        return {known.peer: get_addresses(known)}

    def is_due(self, peer: bytes, now: float, patience: float = 0.0) -> bool:
        """Whether ``peer`` may be dialled: its back-off is over, and it had ``patience`` seconds to dial itself."""
        record = self._records.setdefault(peer, _Record(now))
        return now >= record.not_before and now >= record.first_wanted + patience

    def _forget(self, taken: Collection[bytes], wanted: Collection[Announcement]) -> None:
        """Drop what is remembered about peers that are gone."""
        told = {*self._remembered, *self._suggested}
        if len(self._records) > 2 * (len(taken) + len(wanted) + len(self._bootstrap) + len(told)) + 16:
            keep = {*taken, *self._bootstrap, *told, *(known.peer for known in wanted)}
            self._records = {peer: record for peer, record in self._records.items() if peer in keep}
