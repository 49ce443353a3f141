"""Scores of peers and addresses that break the rules, and bans. Pure: times are seconds of one monotonic clock.

Every :class:`~p2p.network.Misbehaviour` adds its value to a score, which decays with time. A name whose score reaches
the threshold is banned, each further time for twice as long (:data:`BAN_BACKOFF`).

A peer answers only for what it did itself. Passing on too much gossip does not count: honest peers do that when others
flood them, and would be banned in the place of the flooders.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from p2p.backoff import Backoff
from p2p.network import Misbehaviour

PEER_THRESHOLD = 100.0
"""Points that ban a peer."""
ADDRESS_THRESHOLD = 400.0
"""Points that ban an address; more, since an address may be shared by honest peers."""
DECAY_PER_S = 1.0
"""Points a second that time takes off a score."""
BAN_BACKOFF = Backoff(60.0, 3600.0)
"""Length of a ban, doubled with every further one."""
MEMORY_S = 3600.0
"""Seconds after which a name is forgotten altogether."""
MAX_NAMES = 4096
"""Names that are remembered; beyond it, the one that was quiet longest is forgotten."""


@dataclass(slots=True)
class _Record:
    score: float
    reported_at: float
    banned_until: float
    bans: int


class PeerScores:
    """Scores and bans by name: a peer's public key, or an address."""

    def __init__(self, threshold: float, max_names: int = MAX_NAMES) -> None:
        self._threshold = threshold
        self._max_names = max_names
        self._records: OrderedDict[bytes, _Record] = OrderedDict()
        self.ban_count = 0
        """Bans so far."""

    def __len__(self) -> int:
        """Names that are remembered."""
        return len(self._records)

    def report(self, name: bytes, misbehaviour: Misbehaviour, now: float) -> bool:
        """Add ``misbehaviour`` to the score of ``name``. Returns whether that bans it."""
        self._forget(now)
        record = self._records.setdefault(name, _Record(0.0, now, now, 0))
        self._records.move_to_end(name)
        if record.banned_until > now:
            return False
        record.score = max(0.0, record.score - (now - record.reported_at) * DECAY_PER_S) + misbehaviour.value
        record.reported_at = now
        if record.score < self._threshold:
            return False
        record.banned_until = now + BAN_BACKOFF.get_delay(record.bans)
        record.score = 0.0
        record.bans += 1
        self.ban_count += 1
        return True

    def is_banned(self, name: bytes, now: float) -> bool:
        record = self._records.get(name)
        return record is not None and record.banned_until > now

    def _forget(self, now: float) -> None:
        while self._records:
            oldest = next(iter(self._records.values()))
            last = max(oldest.reported_at, oldest.banned_until)
            if now - last < MEMORY_S and len(self._records) < self._max_names:
                return
            self._records.popitem(last=False)
