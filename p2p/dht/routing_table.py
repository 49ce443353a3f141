"""The servers of the DHT that this node knows: many with ids near its own, and few far off. Pure."""

from __future__ import annotations

from collections import OrderedDict

from p2p.addresses import get_first_subnet
from p2p.dht.kademlia import K, PeerInfo, drop_local, get_dht_id, get_peer_dht_id

STALE_S = 6 * 3600.0
"""Age after which a server that has not answered again makes room for another."""
MAX_SERVERS_PER_SUBNET = 2
"""Most servers of one subnet in a bucket."""


class RoutingTable:
    """Servers that have answered this node, in buckets by how many leading bits their ids share with its own."""

    def __init__(self, me: bytes) -> None:
        self._dht_id = get_peer_dht_id(me)
        self._me = me
        self._buckets: dict[int, OrderedDict[bytes, tuple[PeerInfo, int, float]]] = {}

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self._buckets.values())

    def add(self, info: PeerInfo, now: float) -> None:
        """Note that a server has answered at these addresses."""
        if info.peer == self._me or not info.addresses:
            return
        dht_id = get_peer_dht_id(info.peer)
        bucket = self._buckets.setdefault((dht_id ^ self._dht_id).bit_length(), OrderedDict())
        if info.peer not in bucket:
            subnet = get_first_subnet(info.addresses)
            same = [other for other, _, _ in bucket.values() if get_first_subnet(other.addresses) == subnet]
            if len(same) >= MAX_SERVERS_PER_SUBNET and drop_local(info.addresses):
                return
            if len(bucket) >= K:
                oldest = next(iter(bucket))
                if now - bucket[oldest][2] < STALE_S:
                    return
                del bucket[oldest]
        bucket[info.peer] = (info, dht_id, now)
        bucket.move_to_end(info.peer)

    def remove(self, peer: bytes) -> None:
        """Note that a server did not answer."""
        bucket = self._buckets.get((get_peer_dht_id(peer) ^ self._dht_id).bit_length(), OrderedDict())
        bucket.pop(peer, None)

    def closest(self, key: bytes, count: int = K) -> list[PeerInfo]:
        """The servers nearest to ``key``, the nearest first."""
        target = get_dht_id(key)
        entries = [entry for bucket in self._buckets.values() for entry in bucket.values()]
        return [info for info, _, _ in sorted(entries, key=lambda entry: entry[1] ^ target)[:count]]
