"""The gater through which a node dials: what it lets through, and the proxy behind it."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import StreamFailure
from libp2p.network.exceptions import SwarmException
from libp2p.peer.peerinfo import PeerInfo
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr

import p2p.host.transport.tcp
from p2p.addresses import get_endpoint
from p2p.host.network import Libp2pNetwork
from p2p.host.transport.socks5 import ProxyError, dial_through
from p2p.host.transport.tcp import DialRules, GuardedTCP
from p2p.nat.relay_server import RelayLimits
from p2p.network import NetworkError
from p2p.peer_id import peer_id_of
from p2p.runtime import RealRuntime
from tests.support.hosts import ECHO, echo, echoes, library, network, running, swarm_of
from tests.support.keys import make_key
from tests.support.proxy import proxy
from tests.support.waiting import PATIENCE


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("/ip4/192.0.2.1/tcp/4001", ("192.0.2.1", 4001)),
        (f"/ip4/192.0.2.1/tcp/4001/p2p/{make_key(1).address}", ("192.0.2.1", 4001)),
        ("/ip6/2001:db8:0::1/tcp/1", ("2001:db8::1", 1)),
        ("/dns4/Node.Example/tcp/1", ("node.example", 1)),
    ],
)
def test_the_endpoint_of_an_address(address: str, endpoint: tuple[str, int]) -> None:
    assert get_endpoint(address) == endpoint
    assert DialRules.only([address]).allows(Multiaddr(address))
    assert not DialRules.only(["/ip4/192.0.2.1/tcp/4002"]).allows(Multiaddr(address))
    assert DialRules().allows(Multiaddr(address))


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/192.0.2.1/udp/4001/quic-v1",
        f"/p2p/{make_key(1).address}",
        f"/ip4/192.0.2.1/tcp/4001/p2p/{make_key(1).address}/p2p-circuit",
        "/unix/%2Ftmp%2Fsocket",
    ],
)
def test_what_is_no_tcp_port_is_not_allowed_where_only_some_are(address: str) -> None:
    assert not DialRules.only(["/ip4/192.0.2.1/tcp/4001"]).allows(Multiaddr(address))


@pytest.mark.trio
async def test_no_way_around_the_rules() -> None:
    """Every dial of the host, by any call, goes through the transport, and that refuses."""
    allowed, forbidden = network(1), network(2)
    allowed.handle(ECHO, echo)
    async with running(allowed, forbidden):
        node = Libp2pNetwork(make_key(3), (), RealRuntime(), rules=DialRules.only(allowed.listen_addresses))
        async with running(node):
            await node.connect(allowed.me, allowed.listen_addresses)
            assert await echoes(node, allowed)
            address, peer = Multiaddr(forbidden.listen_addresses[0]), peer_id_of(forbidden.me)
            swarm, host = swarm_of(node), library(node).host
            host.get_peerstore().add_addrs(peer, [address], 60)
            with pytest.raises(NetworkError, match="no address is known"):
                await node.connect(forbidden.me, forbidden.listen_addresses)
            attempts = [
                (SwarmException, lambda: swarm.dial(peer, address)),
                (SwarmException, lambda: swarm.dial_addr(address, peer)),
                (SwarmException, lambda: swarm.dial_addr(address, peer, ("127.0.0.1", 0))),
                (SwarmException, lambda: swarm.dial_peer(peer)),
                ((SwarmException, StreamFailure), lambda: host.new_stream(peer, [TProtocol(ECHO)])),
                (Exception, lambda: host.connect(PeerInfo(peer, [address]))),
            ]
            for error, attempt in attempts:
                with pytest.raises(error):
                    await attempt()
            for transport in swarm.transport_manager.get_transports():
                assert isinstance(transport, GuardedTCP)
                with pytest.raises(OpenConnectionError):
                    await transport.dial(address)
                with pytest.raises(OpenConnectionError):
                    await transport.dial_with_source(Multiaddr(allowed.listen_addresses[0]), ("127.0.0.1", 0))
                assert not transport.can_listen(Multiaddr("/ip4/127.0.0.1/tcp/0"))
            assert node.peers() == {allowed.me} and forbidden.peers() == frozenset()


def test_an_anonymous_node_cannot_be_made_to_listen_announce_or_relay() -> None:
    rules = DialRules.only(["/ip4/127.0.0.1/tcp/1"])
    for listen, announce, relay in (
        (("/ip4/127.0.0.1/tcp/0",), (), None),
        ((), ("/ip4/192.0.2.1/tcp/1",), None),
        ((), (), RelayLimits()),
    ):
        with pytest.raises(ValueError, match="anonymous"):
            Libp2pNetwork(make_key(1), listen, RealRuntime(), announce=announce, rules=rules, relay=relay)
    with pytest.raises(ValueError, match="anonymous"):
        Libp2pNetwork(make_key(1), (), RealRuntime(), rules=rules, upnp=True)


@pytest.mark.trio
async def test_every_dial_goes_through_the_proxy_and_names_are_left_to_it() -> None:
    one, other = network(1), network(2)
    for node in (one, other):
        node.handle(ECHO, echo)
    names = {"hidden.invalid": "127.0.0.1"}
    async with running(one, other), proxy(**names) as server:
        node = Libp2pNetwork(make_key(3), (), RealRuntime(), rules=DialRules(proxy=server.endpoint))
        async with running(node):
            await node.connect(one.me, one.listen_addresses)
            port = other.listen_addresses[0].rsplit("/", 1)[1]
            await node.connect(other.me, [f"/dns4/hidden.invalid/tcp/{port}"])
            assert await echoes(node, one) and await echoes(node, other)
            assert server.requests == [get_endpoint(one.listen_addresses[0]), ("hidden.invalid", int(port))]
            assert server.connections == 2


class Names(trio.abc.HostnameResolver):
    """Names that stand for addresses of this machine."""

    async def getaddrinfo(self, host: object, port: object, family: int = 0, *_: int) -> list[Any]:
        if host != b"inside.example":
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    async def getnameinfo(self, sockaddr: object, flags: int) -> tuple[str, str]:
        return "", ""


@pytest.mark.trio
@pytest.mark.parametrize(
    ("announce", "trusted", "is_dialled"),
    [
        (["/ip4/45.1.0.1/tcp/1"], False, False),
        (["/ip4/45.1.0.1/tcp/1"], True, True),
        (["/ip4/127.0.0.1/tcp/1"], False, True),
    ],
)
async def test_a_name_leads_no_nearer_than_the_network_reaches_unless_the_owner_names_it(
    announce: list[str], trusted: bool, is_dialled: bool
) -> None:
    trio.socket.set_custom_hostname_resolver(Names())
    one = network(1)
    async with running(one):
        port = int(one.listen_addresses[0].rsplit("/", 1)[1])
        rules = DialRules(trusted=frozenset({("inside.example", port)}) if trusted else frozenset())
        node = Libp2pNetwork(make_key(3), ["/ip4/127.0.0.1/tcp/0"], RealRuntime(), announce=announce, rules=rules)
        async with running(node):
            with pytest.raises(NetworkError, match="no such name"):
                await node.connect(one.me, [f"/dns4/missing.example/tcp/{port}"])
            if is_dialled:
                await node.connect(one.me, [f"/dns4/inside.example/tcp/{port}"])
            else:
                with pytest.raises(NetworkError, match="in the scope of this network"):
                    await node.connect(one.me, [f"/dns4/inside.example/tcp/{port}"])
        with pytest.raises(OpenConnectionError, match="not the address of a TCP port"):
            await GuardedTCP(rules).dial(Multiaddr("/dnsaddr/inside.example"))


@pytest.mark.trio
async def test_without_its_proxy_a_node_reaches_no_peer() -> None:
    one = network(1)
    async with running(one), proxy() as server:
        node = Libp2pNetwork(make_key(3), (), RealRuntime(), rules=DialRules(proxy=server.endpoint))
        async with running(node):
            server.reply = 5
            with pytest.raises(NetworkError, match="the proxy says: the connection was refused"):
                await node.connect(one.me, one.listen_addresses)
        gone = Libp2pNetwork(make_key(3), (), RealRuntime(), rules=DialRules(proxy=("127.0.0.1", 1)))
        async with running(gone):
            with pytest.raises(NetworkError, match=r"through the proxy 127\.0\.0\.1:1"):
                await gone.connect(one.me, one.listen_addresses)
        assert one.peers() == frozenset()


@pytest.mark.trio
@pytest.mark.parametrize("answers", [b"\x05\xff", b"\x04\x00", b"", b"\x05\x00\x05\x00\x00\x09", b"HTTP/1.1 400"])
async def test_what_is_no_proxy_is_found_out(answers: bytes) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(64)
        if answers:
            await stream.send_all(answers)
            await stream.receive_some(64)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        with pytest.raises(ProxyError), trio.fail_after(PATIENCE):
            await dial_through(("127.0.0.1", listener.socket.getsockname()[1]), ("192.0.2.1", 1))
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_proxy_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.host.transport.socks5, "PROXY_TIMEOUT_S", 0.2)

    async def hang(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, hang, [listener])
        with pytest.raises(ProxyError, match="no answer within"), trio.fail_after(PATIENCE):
            await dial_through(("127.0.0.1", listener.socket.getsockname()[1]), ("192.0.2.1", 1))
        nursery.cancel_scope.cancel()
