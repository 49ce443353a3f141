"""The hash table without a network: lookups over simulated servers, honest and not, what is kept, what is believed."""

from __future__ import annotations

import hashlib
from collections import deque
from contextlib import suppress
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.kad_dht.pb import kademlia_pb2 as pb
from multiaddr import Multiaddr

from chain.crypto import KeyPair
from p2p.dht.kademlia import (
    MAX_ADDRESSES,
    MAX_PROVIDERS,
    K,
    Kind,
    Message,
    PeerInfo,
    get_dht_id,
    get_peer_dht_id,
    get_provider_key,
)
from p2p.dht.lookup import ALPHA, MAX_DEAD_REFERRALS, MAX_REQUESTS, Lookup
from p2p.dht.messages import MAX_MESSAGE_BYTES, clean_address, decode_request, decode_response, encode
from p2p.dht.provider_store import MAX_RECORDS, MAX_RECORDS_PER_KEY, MAX_RECORDS_PER_PEER, PROVIDER_TTL_S, ProviderStore
from p2p.dht.routing_table import STALE_S, RoutingTable
from p2p.length_prefixed import MalformedMessage
from p2p.peer_id import peer_id_of

KEY = get_provider_key(b"c" * 32)
ME = b"me".ljust(32, b"\0")


def place(number: int) -> str:
    """Every number is in another network (/16)."""
    return f"/ip4/{20 + (number >> 8) % 80}.{number & 255}.1.7/tcp/4001"


def info(number: int, group: int | None = None) -> PeerInfo:
    peer = hashlib.sha256(number.to_bytes(4, "big")).digest()
    return PeerInfo(peer, (place(number if group is None else group),))


class Server:
    """What a server knows, and how it answers."""

    def __init__(self, number: int, group: int | None = None) -> None:
        self.info = info(number, group)
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
        made_up = [PeerInfo(self.random.randbytes(32), (place(self.random.randrange(1 << 16)),)) for _ in range(2000)]
        made_up.sort(key=lambda one: get_peer_dht_id(one.peer) ^ get_dht_id(key))
        return made_up[:K], made_up[K : K + MAX_PROVIDERS]


class World:
    """Servers that found each other as real ones do: by looking themselves up, beginning at the first."""

    def __init__(self, seed: int, count: int = 200, group: int | None = None) -> None:
        self.random = Random(seed)
        self.servers = {one.info.peer: one for one in (Server(number, group) for number in range(count))}
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
        provider = info(10_000 + number)
        for server in self.look_up(KEY).closest():
            assert self.servers[server.peer].records.add(KEY, provider, 0.0)
        return provider


@pytest.mark.parametrize("seed", range(3))
def test_a_lookup_among_200_servers_finds_the_nearest_and_every_provider(seed: int) -> None:
    world = World(seed)
    providers = {world.provide(number) for number in range(5)}
    lookup = world.look_up(KEY)
    assert set(lookup.providers()) == providers
    nearest = sorted(world.servers, key=lambda peer: get_peer_dht_id(peer) ^ get_dht_id(KEY))
    found = {one.peer for one in lookup.closest()}
    assert len(found & set(nearest[:K])) >= K - 2
    assert lookup.requests <= 60


def test_servers_of_one_network_find_each_other_too() -> None:
    world = World(0, group=1)
    providers = {world.provide(number) for number in range(5)}
    assert set(world.look_up(KEY).providers()) == providers


@pytest.mark.parametrize("seed", range(3))
def test_providers_are_found_when_a_third_of_the_servers_has_died(seed: int) -> None:
    world = World(seed)
    providers = {world.provide(number) for number in range(3)}
    mortal = [server for server in world.servers.values() if server.info != world.first]
    for server in world.random.sample(mortal, 66):
        server.alive = False
    lookup = world.look_up(KEY)
    assert set(lookup.providers()) == providers
    assert lookup.requests <= MAX_REQUESTS


@pytest.mark.parametrize("seed", range(3))
def test_liars_cost_questions_and_hide_nobody(seed: int) -> None:
    """A quarter of the servers, and the nearest of all, name what does not exist."""
    world = World(seed)
    providers = [world.provide(number) for number in range(3)]
    ranked = sorted(world.servers, key=lambda peer: get_peer_dht_id(peer) ^ get_dht_id(KEY))
    chosen = {ranked[0], ranked[1], *world.random.sample(ranked, 50)} - {world.first.peer}
    for peer in chosen:
        liar = Liar(0, world.random)
        liar.info, liar.table = world.servers[peer].info, world.servers[peer].table
        world.servers[peer] = liar
    lookup = world.look_up(KEY)
    found = lookup.providers()
    assert set(providers) <= set(found) and len(found) <= MAX_PROVIDERS
    assert lookup.requests <= MAX_REQUESTS


def test_one_informer_is_not_believed_for_ever() -> None:
    liar, honest = info(1), info(2)
    lookup = Lookup(ME, KEY, [liar, honest])
    asked = [lookup.next(), lookup.next()]
    assert {one.peer for one in asked if one is not None} == {liar.peer, honest.peer}
    lookup.answered(liar.peer, [info(number) for number in range(100, 100 + K)])
    lookup.answered(honest.peer, [info(200)])
    dead = []
    while (one := lookup.next()) is not None:
        lookup.failed(one.peer)
        dead.append(one)
    assert len(dead) == MAX_DEAD_REFERRALS + 1 and info(200) in dead


def test_servers_of_the_owner_are_asked_however_far_they_are() -> None:
    near = sorted((info(number) for number in range(500)), key=lambda one: get_peer_dht_id(one.peer))
    near.sort(key=lambda one: get_peer_dht_id(one.peer) ^ get_dht_id(KEY))
    lookup = Lookup(ME, KEY, near[:100], always=[near[-1]])
    assert lookup.next() == near[-1]


def test_local_addresses_are_believed_of_local_servers_only() -> None:
    inside, outside = "/ip4/192.168.0.9/tcp/1", "/ip4/192.0.2.9/tcp/1"
    for address, taken in ((inside, (inside, outside)), (outside, (outside,))):
        server, named = PeerInfo(info(1).peer, (address,)), PeerInfo(info(2).peer, (inside, outside))
        lookup = Lookup(ME, KEY, [server])
        assert lookup.next() == server
        lookup.answered(server.peer, [named], [named, PeerInfo(info(3).peer, (inside,))])
        assert lookup.next() == PeerInfo(named.peer, taken)
        assert lookup.providers()[0] == PeerInfo(named.peer, taken)
        assert len(lookup.providers()) == (2 if address is inside else 1)


def test_who_names_itself_is_where_it_was_reached() -> None:
    server = info(1)
    lookup = Lookup(ME, KEY, [server])
    lookup.next()
    lookup.answered(server.peer, (), [PeerInfo(server.peer, ("/ip4/10.0.0.1/tcp/1",)), PeerInfo(ME, (place(1),))])
    assert lookup.providers() == [server]


def test_addresses_of_a_provider_come_from_all_who_name_it_in_turn() -> None:
    servers, provider = [info(number) for number in range(4)], info(9).peer
    lookup = Lookup(ME, KEY, servers)
    while (one := lookup.next()) is not None:
        number = servers.index(one)
        false = tuple(place(1000 * number + each) for each in range(MAX_ADDRESSES))
        lookup.answered(one.peer, (), [PeerInfo(provider, (place(7),) if number == 3 else false)])
    (found,) = lookup.providers()
    assert place(7) in found.addresses and len(found.addresses) == 2 * MAX_ADDRESSES


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 5), st.floats(0, STALE_S)), max_size=300))
def test_a_routing_table_is_bounded_and_names_the_nearest_it_has(entries: list[tuple[int, int, float]]) -> None:
    table, added, now = RoutingTable(ME), {}, 0.0
    for number, group, seconds in entries:
        now += seconds
        table.add(info(number, group), now)
        added[info(number).peer] = None
    groups = [one.addresses[0].split("/")[2] for one in table.closest(KEY, 10_000)]
    assert len(table) == len(groups) <= len(added)
    assert all(groups.count(group) <= 2 * 256 for group in groups)
    found = table.closest(KEY)
    assert found == sorted(found, key=lambda one: get_peer_dht_id(one.peer) ^ get_dht_id(KEY))
    for one in table.closest(KEY, 10_000):
        table.remove(one.peer)
    assert len(table) == 0


def test_old_servers_stay_and_silent_ones_make_room() -> None:
    table = RoutingTable(ME)
    half = [info(n) for n in range(2000) if (get_peer_dht_id(info(n).peer) ^ get_peer_dht_id(ME)) >> 255]
    for one in half[:K]:
        table.add(one, 0.0)
    table.add(half[K], 1.0)
    assert half[K] not in table.closest(KEY, 100) and len(table) == K
    table.add(half[0], 2.0)
    table.add(half[K], STALE_S + 1)
    assert half[K] in table.closest(KEY, 100) and half[1] not in table.closest(KEY, 100) and len(table) == K


def test_a_network_does_not_fill_a_bucket() -> None:
    table = RoutingTable(ME)
    for number in range(300):
        table.add(info(number, group=5), 0.0)
    assert len(table) <= 2 * 12
    for number in range(300):
        table.add(PeerInfo(info(number).peer, ("/ip4/127.0.0.1/tcp/1",)), 0.0)
    assert len(table) > 60, "a network at home has only one"


# Records


@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 9), st.floats(0, PROVIDER_TTL_S)), max_size=400
    )
)
def test_records_are_bounded_in_every_way_and_expire(steps: list[tuple[int, int, int, float]]) -> None:
    store, now, said = ProviderStore(KEY), 0.0, dict[tuple[bytes, bytes], float]()
    for key_number, number, group, seconds in steps:
        now += seconds / 100
        key, provider = bytes([key_number, 0]), info(number, group)
        if store.add(key, provider, now):
            said[key, provider.peer] = now
        for known in (key, KEY):
            found = store.find(known, now)
            assert len(found) <= MAX_RECORDS_PER_KEY and len({one.peer for one in found}) == len(found)
            assert all(now - said[known, one.peer] < PROVIDER_TTL_S for one in found)
    assert len(store) <= MAX_RECORDS
    assert all(count <= MAX_RECORDS_PER_PEER for count in store._per_peer.values())
    assert store._per_peer.total() == len(store._order) == sum(map(len, store._keys.values()))
    store.add(KEY, info(1), now + PROVIDER_TTL_S)
    assert len(store) == 1


def test_a_crowd_from_one_network_pushes_out_itself() -> None:
    store = ProviderStore(KEY)
    honest = [info(number) for number in range(5)]
    for one in honest:
        store.add(KEY, one, 0.0)
    for number in range(1000, 1500):
        assert store.add(KEY, info(number, group=9), 1.0)
    found = store.find(KEY, 2.0)
    assert len(found) == MAX_RECORDS_PER_KEY and set(honest) <= set(found)
    for number in range(2000, 2010):  # and newcomers from elsewhere get in
        store.add(KEY, info(number), 3.0)
    assert {info(number) for number in range(2000, 2010)} | set(honest) <= set(store.find(KEY, 4.0))


def test_records_of_the_own_key_are_not_pushed_out_by_others() -> None:
    store = ProviderStore(KEY)
    store.add(KEY, info(1), 0.0)
    for number in range(MAX_RECORDS + 100):
        store.add(number.to_bytes(4, "big"), info(number // MAX_RECORDS_PER_PEER + 2), 1.0)
    assert len(store) == MAX_RECORDS and store.find(KEY, 2.0) == [info(1)]
    assert not store.find((0).to_bytes(4, "big"), 2.0)
    crowd = info(5000)
    added = [store.add(number.to_bytes(5, "big"), crowd, 2.0) for number in range(MAX_RECORDS_PER_PEER + 1)]
    assert added == [True] * MAX_RECORDS_PER_PEER + [False]


# Messages

PEER = KeyPair(b"p" * 32)
RELAY = KeyPair(b"r" * 32)


@pytest.mark.parametrize(
    ("address", "clean"),
    [
        ("/ip4/192.0.2.1/tcp/4001", "/ip4/192.0.2.1/tcp/4001"),
        (f"/ip4/192.0.2.1/tcp/4001/p2p/{PEER.address}", "/ip4/192.0.2.1/tcp/4001"),
        ("/ip6/2001:db8::1/tcp/1", "/ip6/2001:db8::1/tcp/1"),
        (
            f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY.address}/p2p-circuit/p2p/{PEER.address}",
            f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY.address}/p2p-circuit",
        ),
        (f"/ip4/192.0.2.1/tcp/4001/p2p/{RELAY.address}", None),
        ("/ip4/192.0.2.1/tcp/0", None),
        ("/ip4/0.0.0.0/tcp/1", None),
        ("/ip4/224.0.0.1/tcp/1", None),
        ("/ip4/192.0.2.1/udp/4001/quic-v1", None),
        ("/ip4/192.0.2.1/tcp/4001/ws", None),
        ("/dns4/example.org/tcp/4001", None),
        (f"/dns4/example.org/tcp/1/p2p/{RELAY.address}/p2p-circuit", None),
        ("/memory/1", None),
        ("nonsense", None),
        ("", None),
    ],
)
def test_addresses_that_are_taken(address: str, clean: str | None) -> None:
    assert clean_address(address, PEER.public_key) == clean


def test_messages_survive_the_wire() -> None:
    peer = PeerInfo(PEER.public_key, ("/ip4/192.0.2.1/tcp/4001", "/ip6/2001:db8::1/tcp/1"))
    message = Message(Kind.GET_PROVIDERS, KEY, (peer,), (PeerInfo(RELAY.public_key, ()),))
    raw = encode(message).SerializeToString()
    assert decode_response(pb.Message.FromString(raw)) == message
    added = encode(Message(Kind.ADD_PROVIDER, KEY, providers=(peer,)))
    assert decode_request(added, PEER.public_key) == Message(Kind.ADD_PROVIDER, KEY, providers=(peer,))
    assert decode_request(added, RELAY.public_key).providers == (), "nobody else is provided for"


def test_of_a_message_only_what_is_usable_is_taken() -> None:
    rsa = bytes.fromhex("1220") + hashlib.sha256(b"rsa").digest()
    quic = Multiaddr("/ip4/192.0.2.1/udp/4001/quic-v1").to_bytes()
    tcp = [Multiaddr(f"/ip4/192.0.2.1/tcp/{port}").to_bytes() for port in range(1, 100)]
    name = peer_id_of(PEER.public_key).to_bytes()
    message = pb.Message(
        type=pb.Message.GET_PROVIDERS,
        closerPeers=[
            pb.Message.Peer(id=rsa, addrs=tcp),
            pb.Message.Peer(id=b"", addrs=tcp),
            pb.Message.Peer(id=peer_id_of(bytes(32)).to_bytes(), addrs=tcp),
            pb.Message.Peer(id=name, addrs=[b"\xff\xff", quic, *tcp]),
            pb.Message.Peer(id=name, addrs=tcp[5:6]),
        ],
    )
    taken = tuple(f"/ip4/192.0.2.1/tcp/{port}" for port in range(1, MAX_ADDRESSES + 1))
    assert decode_response(message).closer == (PeerInfo(PEER.public_key, taken),)


@given(st.binary(max_size=400), st.binary(max_size=60), st.lists(st.binary(max_size=40), max_size=5), st.integers(0, 9))
def test_whatever_strangers_send_is_read_or_refused(raw: bytes, name: bytes, addresses: list[bytes], kind: int) -> None:
    messages = [pb.Message(key=name, closerPeers=[pb.Message.Peer(id=name, addrs=addresses)])]
    ids = peer_id_of(PEER.public_key).to_bytes()
    messages.append(pb.Message(type=kind, providerPeers=[pb.Message.Peer(id=ids, addrs=addresses)]))  # type: ignore[arg-type]
    with suppress(Exception):
        messages.append(pb.Message.FromString(raw))
    for message in messages:
        for decode in (decode_response, lambda message: decode_request(message, PEER.public_key)):
            with suppress(MalformedMessage):
                decoded = decode(message)
                assert all(len(one.addresses) <= MAX_ADDRESSES for one in (*decoded.closer, *decoded.providers))


def test_the_largest_answer_fits_a_message() -> None:
    circuit = f"/ip6/2001:db8:1111:2222:3333:4444:5555:6666/tcp/40001/p2p/{RELAY.address}/p2p-circuit"
    peers = deque(PeerInfo(KeyPair(bytes([number]) * 32).public_key, (circuit,) * 4) for number in range(K + 33))
    answer = encode(Message(Kind.GET_PROVIDERS, KEY, tuple(peers)[:K], tuple(peers)[K:]))
    assert len(answer.SerializeToString()) < MAX_MESSAGE_BYTES
