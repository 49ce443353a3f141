"""Whom to dial next: enough connections, no stampede, nobody given up for good. No I/O, no clock.

A node keeps ``target`` connections, or all in a small network. It also keeps one to a bootstrap peer in a small
network and goes back to one now and then in a large one, so that no part of the network can drift away, or be led away,
for good; a bootstrap peer would not stand the connections of all. Of two peers the one with the lesser key dials at
once and the other waits a moment, which avoids double connections. A failed dial is repeated after a delay that
doubles, with jitter. As long as too few are known, those remembered from an earlier run are dialled as well, and those
that strangers suggested. Half of those it dials, where there are as many, are *proven*: made-up identities cannot crowd
them out.

Now and then it probes: a peer that was lost, since after a partition somebody has to begin, or one that it has no
connection to, since a peer whose neighbours all died with it is watched by nobody else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice, zip_longest
from random import Random
from typing import Protocol

from p2p.announcements import Announcement
from p2p.peers import PeerView

TARGET = 8
"""Connections to keep."""
PATIENCE = 2.0
"""Seconds that the peer with the greater key leaves to the other."""
FIRST_DELAY = 1.0
MAX_DELAY = 60.0
"""Seconds before a failed dial is repeated: the first time, and at most."""
MAX_BOOTSTRAP_DELAY = 15.0
"""The same limit for bootstrap peers."""
STABLE = 10.0
"""Seconds that a connection has to last for its loss not to count as a failed dial."""
PROBE_INTERVAL = 15.0
"""Mean seconds between probes; every other one is of a lost peer, if there are any."""
MAX_FAILURES = 3
"""Failed dials after which what strangers suggested is forgotten."""
SMALL = 64
"""Peers up to which a connection to a bootstrap peer is kept whatever else there is."""
BOOTSTRAP_INTERVAL = 180.0
"""Mean seconds between visits to a bootstrap peer in a larger network."""
CIRCUIT = "/p2p-circuit"
"""What turns a relay's address into that of a peer behind it."""


@dataclass(slots=True)
class _Record:
    """What is remembered about dialling one peer."""

    first_wanted: float
    failures: int = 0
    not_before: float = 0.0
    connected_at: float | None = None


class _Reachable(Protocol):
    """What says where a peer is: an announcement, or a line of the store."""

    @property
    def addresses(self) -> tuple[str, ...]: ...

    @property
    def relays(self) -> tuple[str, ...]: ...


class DialPlan:
    """Chooses the peers to dial. All times are seconds of one monotonic clock."""

    def __init__(
        self, me: bytes, bootstrap: Mapping[bytes, tuple[str, ...]], random: Random, target: int = TARGET
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
        if record is None or record.connected_at is None or now - record.connected_at >= STABLE:
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

    def forgive(self, peer: bytes) -> None:
        """Forget the failed dials of a peer that is back, in a new life or elsewhere."""
        record = self._records.get(peer)
        if record is not None:
            record.failures, record.not_before = 0, 0.0

    def choose(
        self,
        view: PeerView,
        connected: Collection[bytes],
        dialling: Collection[bytes],
        reachable: bool,
        now: float,
        outsiders: int = 0,
    ) -> list[tuple[bytes, tuple[str, ...]]]:
        """The peers to dial now, with their addresses; ``reachable`` says whether others can dial this node.

        Of those ``connected`` so many are ``outsiders``, which do not count.
        """
        taken = {*connected, *dialling}
        chosen: dict[bytes, tuple[str, ...]] = {}
        missing = self._target + outsiders - len(taken)
        if missing > 0 or self._misses_bootstrap(len(view), taken, now):
            for peer, addresses in self._bootstrap.items():
                if peer not in taken and self.is_due(peer, now):
                    chosen[peer] = get_addresses(view.find(peer), addresses)
        if missing > len(chosen):
            wanted = [known for known in view.present() if known.peer not in taken and known.peer not in chosen]
            self._random.shuffle(wanted)
            for known in self._alternate(view, wanted):
                patience = PATIENCE if reachable and known.peer < self._me else 0.0
                if len(chosen) < missing and get_addresses(known) and self.is_due(known.peer, now, patience):
                    chosen[known.peer] = get_addresses(known)
            told = self._remembered | self._suggested
            old = (peer for peer in told if peer not in taken and peer not in chosen)
            for peer in islice((peer for peer in old if self.is_due(peer, now)), max(0, missing - len(chosen))):
                if view.state(peer) is None:
                    places = self._remembered.get(peer, ()) + self._suggested.get(peer, ())
                    chosen[peer] = tuple(dict.fromkeys(places))
            self._forget(taken, wanted)
        chosen |= self._probe(view, {*taken, *chosen}, now)
        return list(chosen.items())

    def _misses_bootstrap(self, peers: int, taken: Collection[bytes], now: float) -> bool:
        if any(peer in taken for peer in self._bootstrap):
            self._next_visit = now + BOOTSTRAP_INTERVAL * self._random.uniform(0.5, 1.5)
            return False
        return peers <= SMALL or now >= self._next_visit

    def _alternate(self, view: PeerView, wanted: list[Announcement]) -> list[Announcement]:
        """In turns one that is proven and one that is not."""
        proven = [known for known in wanted if view.is_proven(known.peer)]
        hearsay = [known for known in wanted if not view.is_proven(known.peer)]
        pairs = (pair for pair in zip_longest(proven, hearsay))
        return [known for pair in pairs for known in pair if known is not None]

    def _probe(self, view: PeerView, taken: Collection[bytes], now: float) -> dict[bytes, tuple[str, ...]]:
        if self._next_probe is not None and now < self._next_probe:
            return {}
        first, self._next_probe = self._next_probe is None, now + PROBE_INTERVAL * self._random.uniform(0.5, 1.5)
        if first:
            return {}
        self._probes += 1
        lost = [known for known in view.lost() if known.peer not in taken and get_addresses(known)]
        if not lost or self._probes % 2:
            unwatched = [known for known in view.present() if known.peer not in taken and get_addresses(known)]
            lost = [known for known in unwatched if self.is_due(known.peer, now, PATIENCE)] or lost
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
        told = self._remembered | self._suggested
        if len(self._records) > 2 * (len(taken) + len(wanted) + len(self._bootstrap) + len(told)) + 16:
            keep = {*taken, *self._bootstrap, *told, *(known.peer for known in wanted)}
            self._records = {peer: record for peer, record in self._records.items() if peer in keep}


def get_addresses(known: _Reachable | None, more: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Where a peer can be dialled, each address once: ``more``, direct ones, and through the relays that it names."""
    announced = () if known is None else known.addresses + tuple(relay + CIRCUIT for relay in known.relays)
    return tuple(dict.fromkeys(more + announced))
