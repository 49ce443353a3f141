"""The records of providers that this node keeps as a server of the DHT. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict

from chain.collections import SparseCounter
from p2p.dht.kademlia import PeerInfo

PROVIDER_TTL_S = 24 * 3600.0
"""Time after which a record expires."""
MAX_PROVIDER_RECORDS = 4096
"""Most records that a server keeps."""
MAX_RECORDS_PER_KEY = 32
"""Most records of one key."""
MAX_RECORDS_PER_PEER = 16
"""Most records of one provider."""


class ProviderStore:
    """Which peers provide which key, as they said themselves. The records of key ``home`` are never pushed out by
    those of other keys.

    When a key has all the records that it may have, the oldest from the subnet with most of them makes room. The subnet
    is that of the connection over which a record came: a record can name any address.
    """

    def __init__(self, home: bytes) -> None:
        self._home = home
        self._keys: dict[bytes, OrderedDict[bytes, tuple[PeerInfo, float, str]]] = {}
        self._order: OrderedDict[tuple[bytes, bytes], None] = OrderedDict()  # the oldest first
        self._per_peer: SparseCounter[bytes] = SparseCounter()

    def __len__(self) -> int:
        """Records, including those that have expired since the last call of :meth:`add`."""
        return len(self._order)

    def add(self, key: bytes, provider: PeerInfo, now: float, subnet: str = "") -> bool:
        """Add a record that came from ``subnet``, or renew it. Returns whether there was room."""
        self._expire(now)
        records = self._keys.get(key, OrderedDict())
        if provider.peer in records:
            self._remove(key, provider.peer)
        elif self._per_peer[provider.peer] >= MAX_RECORDS_PER_PEER:
            return False
        elif len(records) >= MAX_RECORDS_PER_KEY:
            sizes = Counter([subnet, *(source for _, _, source in records.values())])
            self._remove(key, max(records, key=lambda peer: sizes[records[peer][2]]))
        elif len(self._order) >= MAX_PROVIDER_RECORDS:
            self._remove(*next(entry for entry in self._order if entry[0] != self._home))
        self._keys.setdefault(key, OrderedDict())[provider.peer] = (provider, now + PROVIDER_TTL_S, subnet)
        self._order[key, provider.peer] = None
        self._per_peer[provider.peer] += 1
        return True

    def find(self, key: bytes, now: float) -> list[PeerInfo]:
        """The providers of a key, the latest first."""
        records = self._keys.get(key, OrderedDict())
        return [info for info, expiry, _ in reversed(records.values()) if expiry > now]

    def latest(self, count: int) -> list[PeerInfo]:
        """The providers that left the last records, of any key."""
        found: dict[bytes, PeerInfo] = {}
        for key, peer in reversed(self._order):
            if len(found) == count:
                break
            found.setdefault(peer, self._keys[key][peer][0])
        return list(found.values())

    def _expire(self, now: float) -> None:
        while self._order:
            key, peer = next(iter(self._order))
            if self._keys[key][peer][1] > now:
                return
            self._remove(key, peer)

    def _remove(self, key: bytes, peer: bytes) -> None:
        del self._order[key, peer], self._keys[key][peer]
        self._per_peer[peer] -= 1
        if not self._keys[key]:
            del self._keys[key]
