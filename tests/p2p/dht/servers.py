"""Servers of the DHT without a network, honest and not, and lookups over them."""

from __future__ import annotations

import hashlib
from random import Random

from p2p.addresses import get_first_subnet
from p2p.dht.kademlia import (
    MAX_PROVIDERS,
    K,
    PeerInfo,
    get_dht_id,
    get_peer_dht_id,
    get_provider_key,
)
from p2p.dht.lookup import ALPHA, Lookup
from p2p.dht.provider_store import ProviderStore
from p2p.dht.routing_table import RoutingTable

KEY = get_provider_key(b"c" * 32)
ME = b"me".ljust(32, b"\0")


def make_address(number: int) -> str:
    """Every number is in another network (/16)."""
    return f"/ip4/{20 + (number >> 8) % 80}.{number & 255}.1.7/tcp/4001"


def make_info(number: int, subnet: int | None = None) -> PeerInfo:
    peer = hashlib.sha256(number.to_bytes(4, "big")).digest()
    return PeerInfo(peer, (make_address(number if subnet is None else subnet),))


class Server:
    """What a server knows, and how it answers."""

    def __init__(self, number: int, subnet: int | None = None) -> None:
        self.info = make_info(number, subnet)
        self.table = RoutingTable(self.info.peer)
        self.records = ProviderStore(KEY)
        self.alive = True

    def answer(self, key: bytes) -> tuple[list[PeerInfo], list[PeerInfo]] | None:
        return (self.table.closest(key), self.records.find(key, 0.0)) if self.alive else None


class Liar(Server):
    """Names, ever nearer to the key, servers that do not exist, and providers that are none."""

    def __init__(self, number: int, random: Random) -> None:
        super().__init__(number)
        self.random = random

    def answer(self, key: bytes) -> tuple[list[PeerInfo], list[PeerInfo]]:
        made_up = [
            PeerInfo(self.random.randbytes(32), (make_address(self.random.randrange(1 << 16)),)) for _ in range(2000)
        ]
        made_up.sort(key=lambda one: get_peer_dht_id(one.peer) ^ get_dht_id(key))
        return made_up[:K], made_up[K : K + MAX_PROVIDERS]


class World:
    """Servers that found each other as real ones do: by looking themselves up, beginning at the first."""

    def __init__(self, seed: int, count: int = 200, subnet: int | None = None) -> None:
        self.random = Random(seed)
        self.servers = {one.info.peer: one for one in (Server(number, subnet) for number in range(count))}
        self.first = next(iter(self.servers.values())).info
        for server in list(self.servers.values()):
            lookup = self.look_up(b"\x00\x24\x08\x01\x12\x20" + server.info.peer, server)
            for other in lookup.closest():
                server.table.add(other, 0.0)
                self.servers[other.peer].table.add(server.info, 0.0)

    def look_up(self, key: bytes, server: Server | None = None) -> Lookup:
        """Answers come in any order, several requests being under way."""
        me = ME if server is None else server.info.peer
        seeds = [self.first] if server is None else [self.first, *server.table.closest(key)]
        lookup = Lookup(me, key, seeds)
        under_way: list[PeerInfo] = []
        while True:
            while len(under_way) < ALPHA and (one := lookup.next()) is not None:
                under_way.append(one)
            if not under_way:
                return lookup
            asked = under_way.pop(self.random.randrange(len(under_way)))
            known = self.servers.get(asked.peer)
            answer = None if known is None or known.info != asked else known.answer(key)
            if answer is None:
                lookup.failed(asked.peer)
            else:
                lookup.answered(asked.peer, *answer)

    def provide(self, number: int) -> PeerInfo:
        provider = make_info(10_000 + number)
        for server in self.look_up(KEY).closest():
            assert self.servers[server.peer].records.add(KEY, provider, 0.0, get_first_subnet(provider.addresses))
        return provider
