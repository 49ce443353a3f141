"""What an anonymous node says: everything that it sends is read, before encryption, on every connection and circuit.

The relay of these tests is at 127.0.0.2 and the others are at 127.0.0.1, which is the address to hide: the system dials
from it. A node without the mode is caught by the same reading.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from libp2p.stream_muxer.yamux.yamux import Yamux

from p2p.addresses import format_circuit_address
from p2p.discovery.service import Discovery
from p2p.host.network import Libp2pNetwork
from p2p.host.transport.tcp import DialRules
from p2p.host.workarounds.yamux import GuardedYamux
from p2p.nat.relay_server import RelayLimits
from p2p.runtime import RealRuntime
from p2p.streams.exchanges import Streams
from tests.support.hosts import ECHO, TOPIC, Directory, echo, echoes, gossip_works, network, running, swarm_of
from tests.support.keys import make_key
from tests.support.proxy import proxy
from tests.support.waiting import eventually

MINE = "127.0.0.1"
SPELLINGS = (MINE.encode(), bytes(map(int, MINE.split("."))))
CHAIN = bytes(32)


class Tap:
    """Everything that the watched node has written into its connections."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.watched: Libp2pNetwork | None = None
        self.sent = bytearray()
        write_frame = GuardedYamux._write_frame

        async def write_and_note(muxer: GuardedYamux, data: bytes) -> None:
            if self.watched is not None and any(
                connection.muxed_conn is muxer for connection in swarm_of(self.watched).get_connections()
            ):
                self.sent += data
            await write_frame(muxer, data)

        monkeypatch.setattr(GuardedYamux, "_write_frame", write_and_note)

    def names_my_address(self) -> bool:
        return any(spelling in self.sent for spelling in SPELLINGS)


@asynccontextmanager
async def overlay(nodes: Sequence[tuple[Libp2pNetwork, int]], bootstrap: Libp2pNetwork) -> AsyncIterator[None]:
    """Discovery runs on the nodes, which know one bootstrap peer."""
    async with trio.open_nursery() as nursery:
        for node, number in nodes:
            streams = Streams(node)
            meet = [(bootstrap.me, address) for address in bootstrap.listen_addresses if node is not bootstrap]
            discovery = Discovery(node, streams, RealRuntime(), make_key(number), CHAIN, bootstrap=meet)
            await nursery.start(streams.run)
            await nursery.start(discovery.run)
        yield
        nursery.cancel_scope.cancel()


def build_relay(locate: Callable[[bytes], Sequence[str]] = lambda peer: ()) -> Libp2pNetwork:
    relay = Libp2pNetwork(
        make_key(1), ["/ip4/127.0.0.2/tcp/0"], RealRuntime(), directory=Directory(locate), relay=RelayLimits()
    )
    relay.handle(ECHO, echo)
    return relay


@pytest.mark.trio
@pytest.mark.parametrize("anonymous", [True, False], ids=["anonymous", "control"])
async def test_an_anonymous_node_sends_its_address_to_no_peer(anonymous: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tap = Tap(monkeypatch)
    relay, user = build_relay(), network(2, listen=())
    async with running(relay, user):
        if anonymous:
            rules = DialRules.only(relay.listen_addresses)
            node = Libp2pNetwork(make_key(3), (), RealRuntime(), rules=rules)
        else:
            node = network(3)
        node.handle(ECHO, echo)
        tap.watched = node
        async with running(node), overlay([(relay, 1), (node, 3)], relay):
            await eventually(lambda: relay.me in node.peers())
            await node.reserve(relay.me)
            await user.connect(node.me, [format_circuit_address(relay.me, relay.listen_addresses[0])])
            assert await echoes(user, node)  # it serves
            inbox = user.subscribe(TOPIC)
            node.subscribe(TOPIC)
            await gossip_works(node, inbox, TOPIC)  # it gossips
            await trio.sleep(3)  # it announces itself and reconciles
            await eventually(lambda: len(tap.sent) > 2000 and (anonymous or tap.names_my_address()))
            assert tap.names_my_address() is not anonymous
            # Nothing that it is told makes it dial another host.
            endpoints = {
                connection.muxed_conn.get_remote_address()
                for connection in swarm_of(node).get_connections()
                if isinstance(connection.muxed_conn, Yamux)
            }
            if anonymous:
                assert {endpoint[0] for endpoint in endpoints if endpoint is not None} == {"127.0.0.2"}


@pytest.mark.trio
async def test_an_anonymous_node_behind_a_proxy_serves_and_is_served() -> None:
    user = network(2)
    user.handle(ECHO, echo)
    relay = build_relay(lambda peer: user.listen_addresses)
    async with running(relay, user), proxy() as server:
        rules = DialRules.only(relay.listen_addresses, server.endpoint)
        node = Libp2pNetwork(make_key(3), (), RealRuntime(), rules=rules)
        node.handle(ECHO, echo)
        async with running(node):
            await node.connect(relay.me, relay.listen_addresses)
            await node.reserve(relay.me)
            await node.connect(user.me, user.listen_addresses)
            assert await echoes(node, user) and await echoes(user, node)
            assert {host for host, _ in server.requests} == {"127.0.0.2"}
            assert node.can_be_dialled() is False and node.listen_addresses == ()
            connections = [c for c in swarm_of(node).get_connections() if isinstance(c.muxed_conn, Yamux)]
            remotes = {connection.muxed_conn.get_remote_address() for connection in connections}
            assert remotes == {server.endpoint, None}  # the proxy, and circuits
