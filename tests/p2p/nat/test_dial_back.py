"""Reachability: estimates from reports, and dialling back between real hosts."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import p2p.nat.dial_back
from chain.exceptions import CodecError
from p2p.addresses import format_circuit_address
from p2p.host.network import Libp2pNetwork
from p2p.length_prefixed import receive_record, send_record
from p2p.nat.dial_back import (
    DIAL_BACK_PROTOCOL,
    DialBack,
    DialBackReport,
    Reachability,
    ReachabilityEstimate,
)
from p2p.nat.relay_server import RelayLimits
from p2p.network import NetworkError, RawStream
from p2p.runtime import RealRuntime
from p2p.simulation.runtime import SimulatedRuntime
from tests.support.hosts import ECHO, LOOPBACK, echo, echoes, network, running, swarm_of
from tests.support.keys import make_key
from tests.support.waiting import eventually

OUTSIDE, INSIDE = "45.67.89.1", "192.168.1.2"


def yes(host: str = OUTSIDE, port: int = 4001) -> DialBackReport:
    return DialBackReport(host, 40000, (port,))


def no(host: str = OUTSIDE) -> DialBackReport:
    return DialBackReport(host, 40000, ())


# Verdicts


def test_servers_that_agree_settle_it_and_one_alone_has_to_say_it_twice() -> None:
    estimate = ReachabilityEstimate()
    assert estimate.value is None and not estimate.is_settled
    assert estimate.note([yes(), yes()])
    assert estimate.value is True and estimate.is_settled and estimate.addresses == ("/ip4/45.67.89.1/tcp/4001",)
    estimate = ReachabilityEstimate()
    assert not estimate.note([no()]) and estimate.value is None
    assert estimate.note([no()]) and estimate.value is False and estimate.addresses == ()


def test_one_round_does_not_overturn_an_estimate_and_two_do() -> None:
    estimate = ReachabilityEstimate()
    estimate.note([yes(), yes()])
    assert not estimate.note([no(), no(), no()]) and estimate.value is True and not estimate.is_settled
    estimate.note([yes(), yes(), no()])
    assert estimate.is_settled
    estimate.note([no(), no()])
    assert estimate.note([no(), no()]) and estimate.value is False and estimate.addresses == ()


def test_a_tie_and_an_empty_round_say_nothing() -> None:
    estimate = ReachabilityEstimate()
    for _ in range(3):
        assert not estimate.note([yes(), no()]) and not estimate.note([])
    assert estimate.value is None


def test_servers_outside_overrule_those_inside_whose_address_is_not_announced() -> None:
    estimate = ReachabilityEstimate()
    estimate.note([yes(INSIDE), yes(INSIDE)])
    assert estimate.value is True and estimate.addresses == ()
    for _ in range(2):
        estimate.note([yes(INSIDE), yes(INSIDE), no()])
    assert estimate.value is False


def test_a_server_that_names_another_host_than_most_does_not_count() -> None:
    estimate = ReachabilityEstimate()
    estimate.note([yes(), yes(), yes("45.67.89.2")])
    assert estimate.addresses == ("/ip4/45.67.89.1/tcp/4001",)
    for _ in range(3):
        estimate.note([yes(), yes(), no("8.8.8.8"), yes("2a00::1")])
        estimate.note([yes(), no(), no("8.8.8.8")])
    assert estimate.value is True and estimate.addresses == ("/ip4/45.67.89.1/tcp/4001", "/ip6/2a00::1/tcp/4001")
    estimate = ReachabilityEstimate()
    estimate.note([no("45.67.89.1"), no("45.67.89.2"), no("45.67.89.3")])  # as a NAT with several addresses shows it
    assert estimate.value is False


class Peers:
    """A network of which only the peers exist: where each is, and who dialled."""

    def __init__(self, hosts: dict[bytes, tuple[str | None, bool]]) -> None:
        self.hosts = hosts

    def peers(self) -> frozenset[bytes]:
        return frozenset(self.hosts)

    def get_remote_host(self, peer: bytes) -> str | None:
        return self.hosts[peer][0]

    def is_outbound(self, peer: bytes) -> bool:
        return self.hosts[peer][1]


def servers(*hosts: tuple[str | None, bool]) -> list[set[int]]:
    """Who may be chosen among peers 0, 1, ... of these hosts, by several seeds."""
    peers = {bytes([number]): host for number, host in enumerate(hosts)}
    chosen = []
    for seed in range(20):
        reachability = Reachability(Peers(peers), SimulatedRuntime(seed))  # type: ignore[arg-type]
        chosen.append({peer[0] for peer in reachability.choose_servers()})
    return chosen


def test_only_peers_that_this_node_dialled_are_asked() -> None:
    liars = [(f"{number}.8.8.8", False) for number in range(20, 60)]
    assert all(chosen == {0, 1} for chosen in servers(("45.67.1.1", True), ("46.67.1.1", True), *liars))
    assert all(chosen == set() for chosen in servers(*liars, (None, True)))


def test_servers_are_of_different_subnets_where_there_are_several() -> None:
    liars = [(f"66.6.{number}.1", True) for number in range(30)]
    for chosen in servers(("45.67.1.1", True), ("46.67.1.1", True), ("10.0.0.1", True), *liars):
        assert {0, 1} < chosen and len(chosen) == 3 and 2 not in chosen
    assert all(len(chosen) == 3 for chosen in servers(*liars))


def test_a_new_address_replaces_the_old_one() -> None:
    estimate = ReachabilityEstimate()
    estimate.note([yes(), yes()])
    assert estimate.note([yes("45.67.89.2"), yes("45.67.89.2"), yes("2a00::1", 4002)])
    assert estimate.addresses == ("/ip4/45.67.89.2/tcp/4001", "/ip6/2a00::1/tcp/4002")


@given(st.lists(st.lists(st.sampled_from([yes(), no(), yes(INSIDE), no(INSIDE)]), max_size=3), max_size=12))
def test_no_estimate_ever_turns_on_one_round(rounds: list[list[DialBackReport]]) -> None:
    estimate = ReachabilityEstimate()
    for reports in rounds:
        before, last = estimate.value, estimate._last
        estimate.note(reports)
        if before is not None and estimate.value is not before:
            assert last is estimate.value
        assert estimate.value is True or not estimate.addresses


@given(st.binary(max_size=100))
def test_junk_is_no_request(raw: bytes) -> None:
    with suppress(CodecError):
        assert len(DialBack.decode(raw).ports) <= 4


# Between hosts


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INTERVAL_S", "UNSETTLED_INTERVAL_S", "ALONE_INTERVAL_S"):
        monkeypatch.setattr(p2p.nat.dial_back, name, 0.1)
    monkeypatch.setattr(p2p.nat.dial_back, "DIAL_BACK_RATE", p2p.nat.dial_back.Rate(1000, 1 << 20, 10))


@pytest.mark.trio
async def test_a_node_that_can_be_dialled_finds_out_and_the_dials_back_leave_nothing() -> None:
    node, servers = network(1), [network(number) for number in (2, 3)]
    async with running(node, *servers):
        assert node.can_be_dialled() is None and network(4, listen=()).can_be_dialled() is False
        for server in servers:
            await node.connect(server.me, server.listen_addresses)
        await eventually(lambda: node.can_be_dialled() is True)
        await trio.sleep(0.5)
        assert node.listen_addresses  # all servers are inside: what it listens on stands
        assert len(swarm_of(node).get_connections()) == 2
        assert all(len(swarm_of(server).get_connections()) == 1 for server in servers)


@pytest.mark.trio
async def test_a_node_that_cannot_be_dialled_finds_out_and_announces_and_lends_no_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = Libp2pNetwork(make_key(1), LOOPBACK, RealRuntime(), relay=RelayLimits())
    monkeypatch.setattr(node, "_get_ports", lambda host: [1])  # a port that does not answer, as behind a NAT
    servers = [network(number) for number in (2, 3)]
    async with running(node, *servers):
        for server in servers:
            await node.connect(server.me, server.listen_addresses)
        await eventually(lambda: node.can_be_dialled() is False)
        assert node.listen_addresses == ()
        with pytest.raises(NetworkError, match="permission denied"):
            await servers[0].reserve(node.me)


@pytest.mark.trio
async def test_a_peer_that_connects_cannot_talk_a_node_out_of_being_reachable() -> None:
    """Six Sybils that lie as servers, in a node that has dialled one honest one."""
    asked: list[bytes] = []

    async def lie(stream: RawStream) -> None:
        asked.append(stream.peer)
        await receive_record(stream)
        await send_record(stream, DialBackReport("8.8.8.8", 1, ()))

    node, honest, liars = network(1), network(2), [network(number, listen=()) for number in range(3, 9)]
    async with running(node, honest, *liars):
        for liar in liars:
            liar.handle(DIAL_BACK_PROTOCOL, lie)
            await liar.connect(node.me, node._listen_addresses)
        await trio.sleep(1.0)
        assert node.can_be_dialled() is None and node.listen_addresses and not asked
        await node.connect(honest.me, honest.listen_addresses)
        await eventually(lambda: node.can_be_dialled() is True)
        await trio.sleep(1.0)
        assert node.can_be_dialled() is True and not asked


@pytest.mark.trio
async def test_another_node_at_the_address_is_not_the_node() -> None:
    server, node, other = network(1), network(2, listen=()), network(3)
    async with running(server, node, other):
        await node.connect(server.me, server.listen_addresses)
        stream = await node.open_stream(server.me, DIAL_BACK_PROTOCOL)
        port = int(other.listen_addresses[0].rsplit("/", 1)[1])
        await send_record(stream, DialBack((port, 1)))
        report = DialBackReport.decode(await receive_record(stream))
        assert report.host == "127.0.0.1" and report.ports == ()
        assert other.peers() == frozenset()


@pytest.mark.trio
async def test_a_server_says_where_a_node_calls_from_and_dials_only_when_asked() -> None:
    server, node = network(1), network(2)
    async with running(server, node):
        await node.connect(server.me, server.listen_addresses)
        report = await node.reachability.ask(server.me)
        assert report is not None and (report.host, report.port) == node.share_port(server.me)
        assert report.ports == () and len(swarm_of(server).get_connections()) == 1


@pytest.mark.trio
async def test_a_server_serves_a_bounded_number_of_requests_and_none_through_a_relay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(p2p.nat.dial_back, "DIAL_BACK_RATE", p2p.nat.dial_back.Rate(0.1, 1 << 20, 25))
    relay = Libp2pNetwork(make_key(1), LOOPBACK, RealRuntime(), relay=RelayLimits(), public=True)
    node, other = network(2, listen=()), network(3, listen=())
    other.handle(ECHO, echo)
    async with running(relay, node, other):

        async def ask(server: Libp2pNetwork) -> str:
            stream = await node.open_stream(server.me, DIAL_BACK_PROTOCOL)
            await send_record(stream, DialBack((1,)))
            return DialBackReport.decode(await receive_record(stream)).host

        await node.connect(relay.me, relay.listen_addresses)
        assert [await ask(relay) for _ in range(5)] == ["127.0.0.1"] * 3 + [""] * 2
        await other.connect(relay.me, relay.listen_addresses)
        await other.reserve(relay.me)
        await node.connect(other.me, [format_circuit_address(relay.me, relay.listen_addresses[0])])
        assert await echoes(node, other) and await ask(other) == ""


@pytest.mark.trio
async def test_what_the_owner_says_is_not_asked() -> None:
    told = Libp2pNetwork(make_key(1), LOOPBACK, RealRuntime(), announce=["/ip4/192.0.2.1/tcp/4001"])
    hidden = Libp2pNetwork(make_key(2), LOOPBACK, RealRuntime(), public=False)
    async with running(told, hidden):
        assert told.can_be_dialled() is True and told.listen_addresses == ("/ip4/192.0.2.1/tcp/4001",)
        assert hidden.can_be_dialled() is False and hidden.listen_addresses == ()
