"""Rate limits and memory budgets. Pure: time is passed in (seconds of one monotonic clock).

A :class:`Bucket` is a token bucket (the same as GCRA of ITU-T I.371) that counts in seconds. Its level rises by one a
second up to the burst. An item costs the seconds that it takes at the rate, by count or by bytes, whichever is more. A
request is admitted while the level is positive; the level may go negative, so a single large item always passes, and
delays the next one.

A :class:`Limiter` has one bucket for each peer and one common to all. When the common bucket is empty, a peer still has
its *share*: the total rate once more, divided by the number of peers, which no other peer can use up. A new peer starts
with an empty share, so a flood under ever new names uses the common bucket only.

A :class:`Budget` bounds the bytes that are kept for each peer and for all together.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MAX_LIMITED_PEERS = 4096
"""Peers that a limiter remembers; beyond it, the one that was silent longest is forgotten."""
IDLE_S = 60.0
"""Seconds of silence after which a peer is forgotten."""
PENALTY_S = 20.0
"""Seconds for which a peer that sent what no honest one would is refused."""


@dataclass(frozen=True, slots=True)
class Rate:
    """``items`` and ``size`` (bytes) a second; a bucket holds up to ``burst`` seconds' worth."""

    items: float
    size: float
    burst: float

    def get_cost(self, size: int, items: int = 1) -> float:
        """Seconds that ``items`` of ``size`` bytes together last at this rate."""
        return max(items / self.items, size / self.size)


class Bucket:
    """A token bucket, in seconds."""

    __slots__ = ("_burst", "_filled_at", "level")

    def __init__(self, burst: float, now: float, level: float) -> None:
        self._burst = burst
        self._filled_at = now
        self.level = level

    def fill(self, now: float, share: float = 1.0) -> float:
        """Raise the level by ``share`` seconds a second since the last call. Returns the level."""
        self.level = min(self._burst, self.level + (now - self._filled_at) * share)
        self._filled_at = now
        return self.level


@dataclass(slots=True)
class _Peer:
    own: Bucket
    share: Bucket
    seen_at: float


class Limiter:
    """Admits or refuses items: at most ``rate`` from each peer, and ``total`` from all together."""

    def __init__(self, rate: Rate, total: Rate | None = None, max_peers: int = MAX_LIMITED_PEERS) -> None:
        self._rate = rate
        self._total = total
        self._max_peers = max_peers
        self._peers: OrderedDict[bytes, _Peer] = OrderedDict()
        self._common: Bucket | None = None
        self.dropped = 0
        """Items refused so far."""

    def __len__(self) -> int:
        """Peers that are remembered."""
        return len(self._peers)

    def admit(self, peer: bytes, size: int, now: float, items: int = 1) -> bool:
        """Whether to admit ``items`` of ``size`` bytes together from ``peer``; those admitted are charged."""
        known = self._get(peer, now)
        if known.own.fill(now) <= 0 or not self._spend_total(known, size, items, now):
            self.dropped += 1
            return False
        known.own.level -= self._rate.get_cost(size, items)
        return True

    def punish(self, peer: bytes, now: float, seconds: float = PENALTY_S) -> None:
        """Refuse everything from ``peer`` for ``seconds``."""
        own = self._get(peer, now).own
        own.fill(now)
        own.level = min(own.level, -seconds)

    def _get(self, peer: bytes, now: float) -> _Peer:
        while self._peers and now - next(iter(self._peers.values())).seen_at > IDLE_S:
            self._peers.popitem(last=False)
        known = self._peers.get(peer)
        if known is None:
            burst = self._rate.burst
            shared = 0.0 if self._total is None else self._total.burst
            known = _Peer(Bucket(burst, now, burst), Bucket(shared, now, 0.0), now)
            self._peers[peer] = known
            if len(self._peers) > self._max_peers:
                self._peers.popitem(last=False)
        known.seen_at = now
        self._peers.move_to_end(peer)
        return known

    def _spend_total(self, known: _Peer, size: int, items: int, now: float) -> bool:
        if self._total is None:
            return True
        if self._common is None:
            self._common = Bucket(self._total.burst, now, self._total.burst)
        cost = self._total.get_cost(size, items)
        share = known.share.fill(now, 1 / len(self._peers))
        if self._common.fill(now) > 0:
            self._common.level -= cost
        elif share >= min(cost, self._total.burst):  # a share must cover the cost in full
            known.share.level -= cost
        else:
            return False
        return True


class Budget:
    """Bytes kept for others: at most ``each`` for one name, and ``total`` for all."""

    def __init__(self, each: int, total: int) -> None:
        self._each = each
        self._total = total
        self._held: dict[bytes, int] = {}
        self.size = 0
        """Bytes kept now."""

    def __len__(self) -> int:
        """Names for which anything is kept."""
        return len(self._held)

    def get(self, name: bytes) -> int:
        """Bytes kept for ``name``."""
        return self._held.get(name, 0)

    def hold(self, name: bytes, change: int) -> bytes | None:
        """Account for ``change`` bytes more for ``name``, or fewer.

        Returns:
            The name whose bytes have to go, if there are too many: ``name`` if it exceeds its own bound, else the one
            with most bytes. They stay accounted for until the caller takes them off.
        """
        held = self._held.pop(name, 0) + change
        self.size += change
        if held:
            self._held[name] = held
        if change <= 0:
            return None
        if held > self._each:
            return name
        return max(self._held, key=lambda one: self._held[one]) if self.size > self._total else None
