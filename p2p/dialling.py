"""Whom to dial next: enough connections, no stampede, nobody given up for good. No I/O, no clock.

A node keeps ``target`` connections, or all in a small network, and one to a bootstrap peer whatever else it has, so
that no part of the network can drift away for good. Of two peers the one with the lesser key dials at once and the
other waits a moment, which avoids double connections. A failed dial is repeated after a delay that doubles, with
jitter. Now and then a peer that was lost is tried again: after a partition somebody has to begin.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from random import Random

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
"""Mean seconds between dials of lost peers."""


@dataclass(slots=True)
class _Record:
    """What is remembered about dialling one peer."""

    first_wanted: float
    failures: int = 0
    not_before: float = 0.0
    connected_at: float | None = None


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
        record.not_before = now + delay * self._random.uniform(0.5, 1.0)

    def choose(
        self, view: PeerView, connected: Collection[bytes], dialling: Collection[bytes], reachable: bool, now: float
    ) -> list[tuple[bytes, tuple[str, ...]]]:
        """The peers to dial now, with their addresses; ``reachable`` says whether others can dial this node."""
        taken = {*connected, *dialling}
        chosen: dict[bytes, tuple[str, ...]] = {}
        missing = self._target - len(taken)
        if missing > 0 or not any(peer in taken for peer in self._bootstrap):
            for peer, addresses in self._bootstrap.items():
                if peer not in taken and self._is_due(peer, now):
                    chosen[peer] = _addresses(view.find(peer), addresses)
        if missing > len(chosen):
            wanted = [known for known in view.present() if known.peer not in taken and known.peer not in chosen]
            self._random.shuffle(wanted)
            for known in wanted:
                patience = PATIENCE if reachable and known.peer < self._me else 0.0
                if len(chosen) < missing and _addresses(known) and self._is_due(known.peer, now, patience):
                    chosen[known.peer] = _addresses(known)
            self._forget(taken, wanted)
        chosen |= self._probe(view, taken, now)
        return list(chosen.items())

    def _probe(self, view: PeerView, taken: Collection[bytes], now: float) -> dict[bytes, tuple[str, ...]]:
        if self._next_probe is not None and now < self._next_probe:
            return {}
        first, self._next_probe = self._next_probe is None, now + PROBE_INTERVAL * self._random.uniform(0.5, 1.5)
        lost = [known for known in view.lost() if known.peer not in taken and _addresses(known)]
        if first or not lost:
            return {}
        known = self._random.choice(lost)
        return {known.peer: _addresses(known)}

    def _is_due(self, peer: bytes, now: float, patience: float = 0.0) -> bool:
        record = self._records.setdefault(peer, _Record(now))
        return now >= record.not_before and now >= record.first_wanted + patience

    def _forget(self, taken: Collection[bytes], wanted: Collection[Announcement]) -> None:
        """Drop what is remembered about peers that are gone."""
        if len(self._records) > 2 * (len(taken) + len(wanted) + len(self._bootstrap)) + 16:
            keep = {*taken, *self._bootstrap, *(known.peer for known in wanted)}
            self._records = {peer: record for peer, record in self._records.items() if peer in keep}


def _addresses(known: Announcement | None, more: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Where a peer can be dialled, direct addresses first, each once."""
    announced = () if known is None else known.addresses + known.relays
    return tuple(dict.fromkeys(more + announced))
