"""What is held against peers and addresses that break the rules, and for how long. Pure: time is passed in (seconds of
one monotonic clock).

Every :class:`Fault` adds its weight to a score, which time wears off again. Who reaches the threshold is banned, for
:data:`BAN` seconds the first time and twice as long each further time, up to :data:`MAX_BAN`.

Only what the other end of a connection did itself is held against it. Passing on too much gossip is not: honest peers
do that when others flood them, and would be banned in the flooders' place.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

PEER_THRESHOLD = 100.0
ADDRESS_THRESHOLD = 400.0
"""Addresses are shared, and a ban there hits who did nothing."""
FORGIVEN = 1.0
"""Points a second that time takes off a score."""
BAN = 60.0
MAX_BAN = 3600.0
MEMORY = 3600.0
"""Seconds after which a fault is forgotten altogether."""
MAX_NAMES = 4096
"""Names that are remembered; beyond, the one that was quiet longest is forgotten."""


class Fault(Enum):
    """What can be held against somebody, and how many points it makes."""

    UPGRADE = 4.0
    """A connection that came to nothing: no handshake, a wrong one, or one that took too long."""
    GARBAGE = 34.0
    """Bytes that are no frame or no message of their protocol."""
    OVERSIZE = 40.0
    """More than may be sent: a frame too long, or more than the other side's window."""
    FORGERY = 50.0
    """A record that its author did not sign."""
    RATE = 0.5
    """One stream or message above the rate."""


@dataclass(slots=True)
class _Record:
    score: float
    blamed_at: float
    banned_until: float
    bans: int


class Bans:
    """Scores and bans by name: a peer's public key, or an address."""

    def __init__(self, threshold: float, max_names: int = MAX_NAMES) -> None:
        self._threshold = threshold
        self._max_names = max_names
        self._records: OrderedDict[bytes, _Record] = OrderedDict()
        self.pronounced = 0
        """Bans so far."""

    def __len__(self) -> int:
        """Names that are remembered."""
        return len(self._records)

    def blame(self, name: bytes, fault: Fault, now: float) -> bool:
        """Hold ``fault`` against ``name``. Returns whether it is banned by that."""
        self._forget(now)
        record = self._records.setdefault(name, _Record(0.0, now, now, 0))
        self._records.move_to_end(name)
        if record.banned_until > now:
            return False
        record.score = max(0.0, record.score - (now - record.blamed_at) * FORGIVEN) + fault.value
        record.blamed_at = now
        if record.score < self._threshold:
            return False
        record.banned_until = now + min(BAN * 2**record.bans, MAX_BAN)
        record.score = 0.0
        record.bans += 1
        self.pronounced += 1
        return True

    def is_banned(self, name: bytes, now: float) -> bool:
        record = self._records.get(name)
        return record is not None and record.banned_until > now

    def _forget(self, now: float) -> None:
        while self._records:
            oldest = next(iter(self._records.values()))
            last = max(oldest.blamed_at, oldest.banned_until)
            if now - last < MEMORY and len(self._records) < self._max_names:
                return
            self._records.popitem(last=False)
