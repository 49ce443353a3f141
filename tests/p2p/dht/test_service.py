"""The dht: first info through servers of a hash table, in memory, on loopback, and with the library's own."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from libp2p import new_host
from libp2p.abc import IHost
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.pb import kademlia_pb2 as pb
from libp2p.peer.peerinfo import PeerInfo as LibraryPeerInfo
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

import p2p.dht.service
from chain.crypto import KeyPair
from p2p.backoff import Backoff
from p2p.dht.kademlia import MAX_DHT_KEY_BYTES, PeerInfo, get_provider_key
from p2p.dht.messages import DHT_PROTOCOL, MAX_DHT_MESSAGE_BYTES
from p2p.dht.provider_store import PROVIDER_TTL_S
from p2p.dht.server import DHT_REQUEST_RATE, MAX_DHT_STREAMS, MAX_DHT_STREAMS_PER_PEER, READ_TIMEOUT_S
from p2p.dht.service import (
    CHECK_INTERVAL_S,
    REPROVIDE_INTERVAL_S,
    STRANGER_IDLE_TIMEOUT_S,
    DhtDiscovery,
)
from p2p.discovery.service import Discovery
from p2p.host.network import Libp2pNetwork
from p2p.host.transport.tcp import DialRules
from p2p.host.workarounds.swarm import ConnectionEvents
from p2p.length_prefixed import MessageStream
from p2p.network import NetworkError, RawStream
from p2p.peer_id import peer_id_of, public_key_of
from p2p.runtime import RealRuntime
from p2p.simulation.internet import SimulatedInternet
from p2p.simulation.network import SimulatedNetwork
from p2p.simulation.runtime import SimulatedClock, SimulatedRuntime
from p2p.streams.exchanges import Streams
from tests.support.hosts import LOOPBACK, network, running
from tests.support.keys import make_key
from tests.support.proxy import proxy
from tests.support.waiting import PATIENCE, eventually

CHAIN, OTHER_CHAIN = b"c" * 32, b"d" * 32
pytestmark = pytest.mark.trio


async def test_the_key_is_a_multihash_of_domain_and_chain_id() -> None:
    digest = hashlib.sha256(b"wwwserve rendezvous 1" + CHAIN).digest()
    assert get_provider_key(CHAIN) == bytes([0x12, 0x20]) + digest != get_provider_key(OTHER_CHAIN)


# In memory


class Company:
    """In place of discovery, where days have to pass: a number of members, and nothing is dialled."""

    def __init__(self) -> None:
        self.table = self
        self.suggested: Mapping[bytes, tuple[str, ...]] = {}

    def members(self) -> list[bytes]:
        return []

    def find(self, peer: bytes) -> None:
        return None

    def suggest(self, peers: Mapping[bytes, tuple[str, ...]]) -> None:
        self.suggested = peers

    def note_configured(self, addresses: Iterable[str]) -> None:
        pass

    def note_stranger(self, peer: bytes) -> None:
        pass

    def forget_stranger(self, peer: bytes) -> None:
        pass

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()


class Node:
    """A node with discovery (unless ``alone``) and a dht; ``servers`` are what it begins with."""

    def __init__(
        self,
        hub: SimulatedInternet,
        number: int,
        servers: Sequence[Node] = (),
        *,
        chain: bytes = CHAIN,
        listen: bool = True,
        alone: bool = False,
    ) -> None:
        self.key = make_key(number)
        address = f"/ip4/{10 + number}.0.0.1/tcp/4001"
        self.network = SimulatedNetwork(hub, self.key.public_key, listen, address=address)
        self.streams = Streams(self.network)
        runtime = SimulatedRuntime(number)
        self.discovery: Any = Company() if alone else Discovery(self.network, self.streams, runtime, self.key, chain)
        known = [(node.me, node.address) for node in servers]
        self.dht = DhtDiscovery(self.network, self.discovery, runtime, chain, known)
        self.scope = trio.CancelScope()

    @property
    def me(self) -> bytes:
        return self.key.public_key

    @property
    def address(self) -> str:
        return self.network.listen_addresses[0]

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.network.run)
                await nursery.start(self.streams.run)
                await nursery.start(self.discovery.run)
                await nursery.start(self.dht.run)
                task_status.started()

    def knows(self, *others: Node) -> bool:
        return all(self.discovery.find(other.me) is not None for other in others)


@asynccontextmanager
async def world() -> AsyncIterator[tuple[SimulatedInternet, trio.Nursery]]:
    hub = SimulatedInternet("dht")
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        yield hub, nursery
        nursery.cancel_scope.cancel()
    assert not hub.errors


async def test_nodes_find_each_other_through_the_server_of_another_chain(simulated_clock: SimulatedClock) -> None:
    async with world() as (hub, nursery):
        server = Node(hub, 1, chain=OTHER_CHAIN)
        nodes = [Node(hub, number, [server]) for number in range(2, 6)]
        hidden = Node(hub, 6, [server], listen=False)
        for node in (server, *nodes, hidden):
            await nursery.start(node.run)
        await eventually(lambda: all(node.knows(*nodes) for node in (*nodes, hidden)), 120)
        assert not server.discovery.members() and not server.network.peers(), "visitors are no neighbours"
        assert all(server.me not in node.network.peers() for node in (*nodes, hidden))
        await trio.sleep(60)
        told = server.dht.records.find(nodes[0].dht.key, trio.current_time())
        assert set(told) == {PeerInfo(node.me, (node.address,)) for node in nodes}, (
            "who cannot be dialled is not authenticated_as_self"
        )
        assert len(hidden.dht.table) and not len(hidden.dht.records)


async def test_who_cannot_be_dialled_does_not_serve(simulated_clock: SimulatedClock) -> None:
    async with world() as (hub, nursery):
        node, client = Node(hub, 1, listen=False), SimulatedNetwork(hub, make_key(9).public_key)
        await nursery.start(node.run)
        await node.network.connect(client.me, client.listen_addresses)
        with pytest.raises(NetworkError):
            await ask(client, node.me, pb.Message(type="PING"))


async def test_a_bootstrap_node_alone_is_enough(simulated_clock: SimulatedClock) -> None:
    """It is on the chain and a server, so a peer that asks it finds at least itself."""
    async with world() as (hub, nursery):
        first = Node(hub, 1)
        second = Node(hub, 2, [first])
        for node in (first, second):
            await nursery.start(node.run)
        await eventually(lambda: first.knows(second) and second.knows(first), 60)
        assert second.network.peers() == {first.me}


async def test_it_is_quiet_when_nothing_is_needed(
    simulated_clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(p2p.dht.service, "REPROVIDE_INTERVAL_S", 300.0)
    async with world() as (hub, nursery):
        nodes = [Node(hub, 1, alone=True)]
        for number in range(2, 8):
            nodes.append(Node(hub, number, [nodes[0]], alone=True))
        for node in nodes:
            await nursery.start(node.run)
        await trio.sleep(300)
        for node in nodes:
            node.discovery.members = lambda: [other.me for other in nodes[:3]]
        await trio.sleep(2 * 300)
        before = [node.dht.requests for node in nodes]
        await trio.sleep(4 * 300)
        asked = [node.dht.requests - old for node, old in zip(nodes, before, strict=True)]
        # A renewal asks each of the six others once, and leaves a record with each: three messages.
        assert all(2 * 18 <= count <= 6 * 18 for count in asked), asked
        held = nodes[0].dht.records.find(nodes[0].dht.key, trio.current_time())
        assert {one.peer for one in held} == {node.me for node in nodes[1:]}, "renewed before they expire"
        assert PROVIDER_TTL_S > 2 * REPROVIDE_INTERVAL_S


async def test_lookups_that_find_no_peers_become_rare(simulated_clock: SimulatedClock) -> None:
    async with world() as (hub, nursery):
        server = Node(hub, 1, chain=OTHER_CHAIN, alone=True)
        lonely = Node(hub, 2, [server], listen=False, alone=True)
        for node in (server, lonely):
            await nursery.start(node.run)
        await trio.sleep(60)
        assert 2 <= lonely.dht.requests <= 6
        await trio.sleep(12 * 3600)
        assert 15 <= lonely.dht.requests <= 30


async def test_an_address_that_changes_is_announced_at_once(simulated_clock: SimulatedClock) -> None:
    async with world() as (hub, nursery):
        server = Node(hub, 1, chain=OTHER_CHAIN)
        node = Node(hub, 2, [server])
        for one in (server, node):
            await nursery.start(one.run)

        def told() -> list[PeerInfo]:
            return server.dht.records.find(node.dht.key, trio.current_time())

        await eventually(lambda: bool(told()), 30)
        await trio.sleep(REPROVIDE_INTERVAL_S / 3)
        hub.move(node.me, "/ip4/99.0.0.1/tcp/4001")
        await trio.sleep(3 * CHECK_INTERVAL_S)
        assert told() == [PeerInfo(node.me, ("/ip4/99.0.0.1/tcp/4001",))]


async def test_servers_of_many_chains_are_one_table(simulated_clock: SimulatedClock) -> None:
    """Thirty nodes of three chains begin with one server; their records reach those nearest, not only that one."""
    async with world() as (hub, nursery):
        first = Node(hub, 1, chain=OTHER_CHAIN, alone=True)
        chains = [bytes([number]) * 32 for number in range(3)]
        nodes = [Node(hub, number, [first], chain=chains[number % 3], alone=True) for number in range(2, 32)]
        for node in (first, *nodes):
            await nursery.start(node.run)
        await trio.sleep(120)
        first.scope.cancel()
        late = Node(hub, 70, [nodes[0]], chain=chains[0], alone=True)
        await nursery.start(late.run)
        same = {node.me: (node.address,) for node in nodes if node.dht.key == late.dht.key}
        assert nodes[0].me not in same and len(same) == 10
        assert await late.dht.find() == same
        assert late.dht.requests <= 60


async def test_a_server_that_is_gone_or_lies_costs_time_only(simulated_clock: SimulatedClock) -> None:
    async with world() as (hub, nursery):
        target = Node(hub, 1)
        gone = Node(hub, 2, chain=OTHER_CHAIN)
        silent = SimulatedNetwork(hub, make_key(3).public_key, address="/ip4/60.0.0.1/tcp/1")
        liar = SimulatedNetwork(hub, make_key(4).public_key, address="/ip4/61.0.0.1/tcp/1")
        garbage = SimulatedNetwork(hub, make_key(5).public_key, address="/ip4/62.0.0.1/tcp/1")

        async def stay_silent(stream: RawStream) -> None:
            await trio.sleep_forever()

        async def send_garbage(stream: RawStream) -> None:
            await stream.receive()
            await stream.send(b"\xff" * 100)

        async def lie(stream: RawStream) -> None:
            """Names Sybils without end, at addresses where no node is, or another one."""
            await MessageStream(stream, MAX_DHT_MESSAGE_BYTES).receive_message(pb.Message)
            made_up = [
                pb.Message.Peer(
                    id=peer_id_of(KeyPair(hub.random.randbytes(32)).public_key).to_bytes(),
                    addrs=[Multiaddr(f"/ip4/60.0.0.1/tcp/{port}").to_bytes() for port in (1, 2, 3)],
                )
                for _ in range(100)
            ]
            answer = pb.Message(type="GET_PROVIDERS", closerPeers=made_up[:20], providerPeers=made_up[20:])
            await MessageStream(stream).send_message(answer)

        silent.handle(DHT_PROTOCOL, stay_silent)
        liar.handle(DHT_PROTOCOL, lie)
        garbage.handle(DHT_PROTOCOL, send_garbage)
        address = gone.address
        hub.kill(gone.me, silent=True)
        node = Node(hub, 6, listen=False)
        node.dht._servers = [
            PeerInfo(gone.me, (address,)),
            *(PeerInfo(one.me, one.listen_addresses) for one in (silent, liar, garbage)),
            PeerInfo(target.me, (target.address,)),
        ]
        for one in (target, node):
            await nursery.start(one.run)
        await eventually(lambda: node.knows(target), 120)
        assert node.network.peers() == {target.me}


async def test_neighbours_of_no_network_do_not_count_and_are_cut_off(simulated_clock: SimulatedClock) -> None:
    """Eight clients of the table stay connected; the node still connects to its own network."""
    async with world() as (hub, nursery):
        node = Node(hub, 1)
        other = Node(hub, 2)
        await nursery.start(node.run)
        clients = [SimulatedNetwork(hub, make_key(number).public_key, listen=False) for number in range(10, 18)]
        for client in clients:
            await client.connect(node.me, [node.address])
            await ask(client, node.me, pb.Message(type="FIND_NODE", key=b"anything"))
        await nursery.start(other.run)
        node.discovery.suggest({other.me: (other.address,), clients[0].me: ()})
        await eventually(lambda: other.me in node.network.peers(), 20)
        assert node.network.peers() >= {client.me for client in clients}
        await trio.sleep(2 * STRANGER_IDLE_TIMEOUT_S)
        assert node.network.peers() == {other.me}


async def ask(client: Any, server: bytes, *messages: pb.Message) -> pb.Message:
    """The answer to the last of some messages, on a stream of the connection there is."""
    raw = await client.open_stream(server, DHT_PROTOCOL)
    try:
        stream = MessageStream(raw, MAX_DHT_MESSAGE_BYTES)
        for message in messages:
            await stream.send_message(message)
        return await stream.receive_message(pb.Message)
    finally:
        await raw.close()


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Node, SimulatedNetwork]]:
    """A server and a client that is connected to it."""
    async with world() as (hub, nursery):
        node, client = Node(hub, 1), SimulatedNetwork(hub, make_key(9).public_key)
        await nursery.start(node.run)
        await client.connect(node.me, [node.address])
        yield node, client


def provider(peer: bytes, *addresses: str) -> pb.Message.Peer:
    return pb.Message.Peer(id=peer_id_of(peer).to_bytes(), addrs=[Multiaddr(each).to_bytes() for each in addresses])


async def test_only_the_sender_is_recorded_with_usable_addresses(simulated_clock: SimulatedClock) -> None:
    async with served() as (node, client):
        good, name = "/ip4/192.0.2.1/tcp/1", b"some name"
        message = pb.Message(
            type="ADD_PROVIDER",
            key=name,
            providerPeers=[provider(make_key(8).public_key, good), provider(client.me, "/dns4/a.example/tcp/1", good)],
        )
        answer = await ask(client, node.me, message, pb.Message(type="GET_PROVIDERS", key=name))
        assert answer.type == pb.Message.GET_PROVIDERS and answer.key == name
        assert list(answer.providerPeers) == [
            pb.Message.Peer(**{**_fields(provider(client.me, good)), "connection": pb.Message.CAN_CONNECT})
        ]
        without = pb.Message(type="ADD_PROVIDER", key=b"other", providerPeers=[provider(client.me)])
        answer = await ask(client, node.me, without, pb.Message(type="GET_PROVIDERS", key=b"other"))
        assert not answer.providerPeers
        assert (await ask(client, node.me, pb.Message(type="PING"))).type == pb.Message.PING
        value = await ask(client, node.me, pb.Message(type="GET_VALUE", key=name))
        assert value.type == pb.Message.GET_VALUE and not value.HasField("record")


def _fields(peer: pb.Message.Peer) -> dict[str, Any]:
    return {"id": peer.id, "addrs": list(peer.addrs)}


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xff\xff\x7f",  # a length of 256 MiB
        b"\x81\x80\x04",  # 65,537
        b"\x05\xff\xff\xff\xff\xff",
        b"\x02\x08\x63",  # of kind 99
        b"\x02\x08\x00",  # PUT_VALUE
        b"\x02\x08\x04",  # FIND_NODE without a key
        b"\x55\x08\x02\x12\x51" + bytes(MAX_DHT_KEY_BYTES + 1),  # ADD_PROVIDER with a key of 81 bytes
    ],
    ids=lambda raw: raw[:4].hex(),
)
async def test_what_is_no_question_ends_the_stream_and_nothing_else(
    raw: bytes, simulated_clock: SimulatedClock
) -> None:
    async with served() as (node, client):
        stream = await client.open_stream(node.me, DHT_PROTOCOL)
        await stream.send(raw)
        with pytest.raises(NetworkError):
            while await stream.receive():
                pass
        assert (await ask(client, node.me, pb.Message(type="PING"))).type == pb.Message.PING
        await trio.sleep(1)
        assert not node.dht._server._streams and not len(node.dht.records)


async def test_streams_questions_and_patience_are_bounded(simulated_clock: SimulatedClock) -> None:
    async with served() as (node, client):
        idle = [await client.open_stream(node.me, DHT_PROTOCOL) for _ in range(MAX_DHT_STREAMS_PER_PEER)]
        with pytest.raises(NetworkError):
            await ask(client, node.me, pb.Message(type="PING"))
        await trio.sleep(READ_TIMEOUT_S + 1)
        assert not node.dht._server._streams
        for stream in idle:
            with pytest.raises(NetworkError):
                await stream.receive()
        answered = 0
        with suppress(NetworkError):
            stream = MessageStream(await client.open_stream(node.me, DHT_PROTOCOL))
            for _ in range(1000):
                await stream.send_message(pb.Message(type="FIND_NODE", key=b"key"))
                await stream.receive_message(pb.Message)
                answered += 1
        assert answered < DHT_REQUEST_RATE.items * (DHT_REQUEST_RATE.burst + 60)


async def test_streams_that_are_held_give_way(simulated_clock: SimulatedClock) -> None:
    """Eight keys of one address hold all streams by a PING now and then."""
    async with world() as (hub, nursery):
        node = Node(hub, 1)
        await nursery.start(node.run)
        holders = [SimulatedNetwork(hub, make_key(number).public_key) for number in range(10, 18)]
        hosts = {network.me: "198.51.100.7" for network in holders}
        node.network.get_remote_host = lambda peer: hosts.get(peer, "203.0.113.1")  # type: ignore[method-assign]

        async def hold(network: SimulatedNetwork) -> None:
            await network.connect(node.me, [node.address])
            streams = [MessageStream(await network.open_stream(node.me, DHT_PROTOCOL)) for _ in range(4)]
            with suppress(NetworkError):
                while True:
                    for stream in streams:
                        await stream.send_message(pb.Message(type="PING"))
                        await stream.receive_message(pb.Message)
                    await trio.sleep(READ_TIMEOUT_S - 1)

        async with trio.open_nursery() as holding:
            for network in holders:
                holding.start_soon(hold, network)
            await trio.sleep(5)
            assert node.dht._server._streams.total() == MAX_DHT_STREAMS
            honest = SimulatedNetwork(hub, make_key(9).public_key)
            await honest.connect(node.me, [node.address])
            for _ in range(5):
                response = await ask(honest, node.me, pb.Message(type="GET_PROVIDERS", key=b"some key"))
                assert response.type == pb.Message.GET_PROVIDERS
                await trio.sleep(20)
            holding.cancel_scope.cancel()


# On libp2p


@asynccontextmanager
async def stock(number: int) -> AsyncIterator[tuple[IHost, KadDHT, tuple[bytes, str]]]:
    """A host of the library with its hash table, as it comes, and its peer address."""
    host = new_host(key_pair=create_new_key_pair(make_key(number).seed))
    async with host.run([Multiaddr(LOOPBACK[0])]):
        table = KadDHT(host, DHTMode.SERVER)
        async with background_trio_service(table):
            yield host, table, (make_key(number).public_key, str(host.get_transport_addrs()[0]).split("/p2p/")[0])
        await host.close()


class RealNode:
    """A node of ours over a real host."""

    def __init__(self, number: int, *servers: tuple[bytes, str], chain: bytes = CHAIN, **options: Any) -> None:
        self.network = (
            network(number) if not options else Libp2pNetwork(make_key(number), LOOPBACK, RealRuntime(), **options)
        )
        self.streams = Streams(self.network)
        self.discovery = Discovery(self.network, self.streams, RealRuntime(), make_key(number), chain)
        self.dht = DhtDiscovery(self.network, self.discovery, RealRuntime(), chain, servers)

    @property
    def peer_address(self) -> tuple[bytes, str]:
        return self.network.me, self.network.listen_addresses[0]


@asynccontextmanager
async def up(*nodes: RealNode) -> AsyncIterator[None]:
    async with running(*(node.network for node in nodes)), trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.streams.run)
            await nursery.start(node.discovery.run)
            await nursery.start(node.dht.run)
        yield
        nursery.cancel_scope.cancel()


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.dht.service, "CHECK_INTERVAL_S", 0.2)
    monkeypatch.setattr(p2p.dht.service, "LOOKUP_BACKOFF", Backoff(1.0, 3600.0, p2p.dht.service.JITTER))
    monkeypatch.setattr(p2p.dht.service, "PROVIDE_BACKOFF", Backoff(1.0, 14400.0, p2p.dht.service.JITTER))


async def test_nodes_meet_at_a_server_of_the_library(brisk: None) -> None:
    async with stock(1) as (host, table, server):
        seen: set[Any] = set()
        host.get_network().register_notifee(
            ConnectionEvents(lambda new: seen.add(new.muxed_conn.peer_id), lambda _: None)
        )
        one, other = RealNode(2, server, public=True), RealNode(3, server, public=False)
        async with up(one, other):
            await eventually(lambda: bool(one.discovery.members() and other.discovery.members()))
            ((name, records),) = table.provider_store.providers.items()
            assert name == get_provider_key(CHAIN)
            (record,) = records.values()
            assert public_key_of(record.peer_id) == one.network.me
            assert [str(each) for each in record.addresses] == list(one.network.listen_addresses)
            assert one.network.peers() == {other.network.me}, "the server is no neighbour"
            # Only who announces itself is ever seen there by its name.
            await eventually(lambda: not host.get_connected_peers())
            assert peer_id_of(one.network.me) in seen and peer_id_of(other.network.me) not in seen and len(seen) == 3


async def test_a_client_of_the_library_finds_our_providers_at_our_server(brisk: None) -> None:
    async with stock(1) as (host, table, _):
        server = RealNode(2, chain=OTHER_CHAIN, public=True)
        async with up(server):
            node = RealNode(3, server.peer_address, public=True)
            async with up(node):
                key_of_chain = node.dht.key
                await eventually(lambda: len(server.dht.records) > 0)
                await host.connect(LibraryPeerInfo(peer_id_of(server.network.me), [Multiaddr(server.peer_address[1])]))
                found = await table.find_providers(key_of_chain.hex())
                assert (peer_id_of(node.network.me), [Multiaddr(node.peer_address[1])]) in [
                    (each.peer_id, each.addrs) for each in found
                ]
                # And it can be a provider itself, which we find.
                await table.provide(b"another key".hex())
                (record,) = server.dht.records.find(b"another key", trio.current_time())
                assert record.peer == make_key(1).public_key and len(record.addresses) == 1


async def test_a_provider_of_the_library_is_found_by_ours(brisk: None) -> None:
    async with stock(1) as (_, _, address), stock(2) as (host, table, _):
        await host.connect(LibraryPeerInfo(peer_id_of(address[0]), [Multiaddr(address[1])]))
        assert await table.provide(get_provider_key(CHAIN).hex())
        node = RealNode(3, address, public=False)
        async with up(node):
            found = await node.dht.find()
            assert list(found) == [make_key(2).public_key] and found[make_key(2).public_key]


async def test_nodes_of_two_chains_use_each_other_without_blame(brisk: None) -> None:
    first = RealNode(1, chain=OTHER_CHAIN, public=True)
    async with up(first):
        nodes = [RealNode(number, first.peer_address, public=True) for number in (2, 3)]
        async with up(*nodes):
            await eventually(lambda: all(node.discovery.members() for node in nodes))
            await trio.sleep(2)
            for node in (first, *nodes):
                assert len(node.network.gater.peers) == 0, "no peer has misbehaved"
            await eventually(lambda: not first.network.peers())
            assert not first.discovery.members()


async def test_an_isolated_stream_leaves_nothing_behind_whatever_happens() -> None:
    server, client = network(1), network(2)

    async def answer(stream: RawStream) -> None:
        await stream.send(await stream.receive())

    async def hang(stream: RawStream) -> None:
        await trio.sleep_forever()

    server.handle("/answer", answer)
    server.handle("/hang", hang)
    async with running(server, client):
        visitors: list[bytes] = []
        with server.peer_changes() as changes:
            for authenticated_as_self in (True, False, False):
                async with client.open_isolated_stream(
                    server.me, server.listen_addresses, "/answer", authenticated_as_self=authenticated_as_self
                ) as stream:
                    await stream.send(b"hello")
                    assert await stream.receive() == b"hello" and stream.peer == server.me
                    assert client.peers() == frozenset()
                visitors.append((await changes.receive())[0])
                assert (await changes.receive())[1] is False
        assert visitors[0] == client.me and visitors[1] == visitors[2] != client.me
        with pytest.raises(NetworkError):
            async with client.open_isolated_stream(server.me, server.listen_addresses, "/unknown"):
                pass
        with pytest.raises(NetworkError, match="cannot reach"):
            async with client.open_isolated_stream(make_key(3).public_key, server.listen_addresses, "/answer"):
                pass
        with trio.move_on_after(0.5):
            async with client.open_isolated_stream(server.me, server.listen_addresses, "/hang") as stream:
                await stream.receive()
        with pytest.raises(ZeroDivisionError):
            async with client.open_isolated_stream(server.me, server.listen_addresses, "/hang") as stream:
                raise ZeroDivisionError
        await eventually(lambda: server.gater.secured == 0 and not server.peers())
        # An end that is pulled out is noticed, and one that is banned not visited.
        async with client.open_isolated_stream(server.me, server.listen_addresses, "/hang") as stream:
            for peer in server.peers():
                await server.disconnect(peer)
            with pytest.raises(NetworkError):
                assert not await stream.receive()
                raise NetworkError("closed in order")
        await client.connect(server.me, server.listen_addresses)
        async with client.open_isolated_stream(server.me, (), "/answer") as stream:  # over the connection that there is
            await stream.send(b"again")
            assert await stream.receive() == b"again"
        assert client.peers() == {server.me}


async def test_the_other_end_of_a_visit_cannot_begin_anything() -> None:
    server, client, refused = network(1), network(2), trio.Event()
    client.handle("/backwards", lambda stream: trio.sleep_forever())

    async def turn(stream: RawStream) -> None:
        await stream.receive()
        try:
            await server.open_stream(stream.peer, "/backwards")
        except NetworkError:
            refused.set()

    server.handle("/turn", turn)
    async with (
        running(server, client),
        client.open_isolated_stream(server.me, server.listen_addresses, "/turn") as stream,
    ):
        await stream.send(b"go")
        with trio.fail_after(PATIENCE):
            await refused.wait()


async def test_who_hides_takes_no_part(brisk: None) -> None:
    """Even if the service were run by mistake: nothing is asked, nothing is told, nothing is answered."""
    server = RealNode(1, public=True)
    async with up(server), proxy() as relay:
        address = server.peer_address[1]
        for rules in (
            DialRules.only([address]),
            DialRules(proxy=relay.endpoint),
            DialRules.only([address], relay.endpoint),
        ):
            node = RealNode(2, server.peer_address)
            node.network = Libp2pNetwork(make_key(2), (), RealRuntime(), rules=rules)
            node.streams = Streams(node.network)
            node.discovery = Discovery(node.network, node.streams, RealRuntime(), make_key(2), CHAIN)
            node.dht = DhtDiscovery(node.network, node.discovery, RealRuntime(), CHAIN, [server.peer_address])
            async with up(node):
                assert await node.dht.find() == {} and await node.dht.provide() == 0
                assert server.network.gater.secured == 0 and relay.requests == []
                await node.network.connect(*server.peer_address[:1], [address])
                with pytest.raises(NetworkError):
                    await ask(server.network, node.network.me, pb.Message(type="PING"))
                relay.requests.clear()
            assert not len(server.dht.records) and not len(server.dht.table)
