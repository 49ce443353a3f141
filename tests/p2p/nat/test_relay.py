"""Relays: what the table allows, and circuits between real hosts of which none but the relay listens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import cast

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p.relay.circuit_v2.pb import circuit_pb2 as pb
from libp2p.stream_muxer.yamux.yamux import DEFAULT_WINDOW_SIZE, Yamux

import p2p.host.circuits
import p2p.host.dialer
import p2p.host.workarounds.yamux
import p2p.nat.relay_server
from p2p.addresses import format_circuit_address
from p2p.host.connection_gater import ConnectionLimits
from p2p.host.network import Libp2pNetwork
from p2p.host.transport.tcp import DialRules
from p2p.length_prefixed import MessageStream
from p2p.nat.relay_client import HOP, STOP, CircuitEnd, open_circuit
from p2p.nat.relay_server import RESERVATION_TTL_S, SETTLING_S, Circuit, RelayLimits, RelayTable
from p2p.network import Misbehaviour, NetworkError, RawStream
from p2p.peer_id import peer_id_of
from p2p.runtime import RealRuntime
from tests.support.hosts import (
    ECHO,
    LOOPBACK,
    TOPIC,
    Directory,
    Link,
    echo,
    echoes,
    gossip_works,
    network,
    running,
    swarm_of,
)
from tests.support.keys import make_key, make_peer
from tests.support.waiting import PATIENCE, eventually, undisturbed

PEERS = [make_peer(number) for number in range(1, 9)]


def table(reservations: int = 4, circuits: int = 8, rate: int = 1000) -> RelayTable:
    return RelayTable(RelayLimits(reservations, circuits, rate))


# The table


def test_reservations_are_bounded_renewed_and_expire() -> None:
    relay = table(reservations=2)
    assert relay.reserve(PEERS[0], 0.0) and relay.reserve(PEERS[1], 100.0)
    assert not relay.reserve(PEERS[2], 200.0)
    assert relay.reserve(PEERS[0], 200.0)  # a renewal needs no room
    assert relay.has_reservation(PEERS[0], 200.0 + RESERVATION_TTL_S - 1)
    assert not relay.has_reservation(PEERS[0], 200.0 + RESERVATION_TTL_S)
    assert relay.reserve(PEERS[2], 100.0 + RESERVATION_TTL_S)  # the second one's has run out
    relay.release(PEERS[0])
    assert not relay.has_reservation(PEERS[0], 300.0)


def test_a_peer_gets_no_more_than_its_share_of_circuits() -> None:
    relay = table(circuits=8)
    assert relay.limits.max_circuits_per_peer == 2
    first = relay.open(PEERS[0], PEERS[1], 0.0)
    assert first is not None and relay.open(PEERS[2], PEERS[0], 0.0) is not None
    assert relay.open(PEERS[0], PEERS[3], 0.0) is None and relay.open(PEERS[3], PEERS[0], 0.0) is None
    assert relay.open(PEERS[1], PEERS[3], 0.0) is not None  # others have theirs
    relay.close(first)
    relay.close(first)
    assert relay.open(PEERS[3], PEERS[0], 0.0) is not None


def test_all_circuits_together_are_bounded() -> None:
    relay = table(circuits=3)
    assert relay.open(PEERS[0], PEERS[1], 0.0) and relay.open(PEERS[2], PEERS[3], 0.0) and relay.open(*PEERS[4:6], 0.0)
    assert relay.open(*PEERS[6:8], 0.0) is None


def test_peers_of_one_address_get_no_more_than_its_share_of_reservations() -> None:
    relay = table(reservations=64)
    keys = [make_peer(number) for number in range(64)]
    assert sum(relay.reserve(peer, 0.0, b"flood") for peer in keys[:20]) == 4
    assert relay.reserve(keys[0], 1.0, b"flood")  # a renewal
    assert relay.reserve(keys[30], 1.0, b"other") and relay.reserve(keys[31], 1.0) and relay.reserve(keys[32], 1.0)
    relay.release(keys[0])
    assert relay.reserve(keys[5], 1.0, b"flood")


def carry(circuit: Circuit | None, size: int) -> Circuit:
    assert circuit is not None
    circuit.carried += size
    return circuit


@pytest.mark.trio
async def test_the_owner_with_most_circuits_loses_its_least_used_one() -> None:
    relay = table(circuits=4)
    honest = carry(relay.open(*PEERS[:2], 0.0, b"honest"), 5)
    flood = [carry(relay.open(PEERS[2], PEERS[3], 0.0, b"flood"), 1000)]
    flood.append(carry(relay.open(PEERS[4], PEERS[5], 0.0, b"flood"), 10))
    flood.append(carry(relay.open(PEERS[6], PEERS[7], 0.0, b"flood"), 1000))
    assert relay.open(PEERS[1], PEERS[0], 1.0, b"new") is not None, "who has most is not spared for being quick"
    assert [circuit.scope.cancel_called for circuit in [honest, *flood]] == [False, False, True, False]
    # Those who have most push out themselves.
    assert relay.open(PEERS[4], PEERS[5], SETTLING_S, b"flood") is not None
    assert not honest.scope.cancel_called and len(relay.circuits) == 4


@pytest.mark.trio
async def test_a_circuit_of_one_with_no_more_than_its_share_may_settle() -> None:
    relay = table(circuits=4)
    held = [relay.open(*PEERS[number : number + 2], 0.0, b"owner %d" % number) for number in (0, 2, 4, 6)]
    assert None not in held
    assert relay.open(PEERS[1], PEERS[3], SETTLING_S - 1, b"new") is None
    # Nor does an owner keep its circuits young by opening them anew.
    assert all(relay.open(*PEERS[number : number + 2], SETTLING_S - 1, b"owner %d" % number) for number in (0, 2, 4, 6))
    assert relay.open(PEERS[1], PEERS[3], SETTLING_S, b"new") is not None


@pytest.mark.trio
async def test_circuits_to_one_peer_cannot_be_held_by_a_few_places() -> None:
    relay = table(circuits=8)
    held = [carry(relay.open(PEERS[number], PEERS[0], 0.0, b"flood"), 1) for number in (1, 2)]
    assert relay.open(PEERS[3], PEERS[0], 1.0, b"honest") is not None
    assert sum(circuit.scope.cancel_called for circuit in held) == 1 and len(relay.circuits) == 2


@pytest.mark.trio
async def test_dialling_again_replaces_the_circuit_and_the_end_of_the_first_does_not_end_the_second() -> None:
    relay = table()
    first, second = relay.open(*PEERS[:2], 0.0), relay.open(*PEERS[:2], 1.0)
    assert first is not None and second is not None
    assert first.scope.cancel_called and not second.scope.cancel_called
    relay.close(first)
    assert relay.circuits == [second]


def test_bytes_are_shared_evenly_and_not_at_all_while_one_peer_alone_wants_them() -> None:
    relay = table(rate=1000)
    assert relay.spend(PEERS[0], 1000, 0.0) == 0.0
    assert relay.spend(PEERS[0], 1000, 0.0) == 1.0  # alone: the whole rate
    assert relay.spend(PEERS[1], 1000, 0.0) == 0.0
    assert relay.spend(PEERS[1], 1000, 0.0) == 2.0  # two at a time: half each
    assert relay.spend(PEERS[2], 1, 100.0) == 0.0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans()), max_size=60))
def test_the_count_of_circuits_is_always_right(steps: list[tuple[int, int, bool]]) -> None:
    relay = table(circuits=6)
    for source, target, opens in steps:
        if opens and source != target:
            relay.open(PEERS[source], PEERS[target], 0.0)
        elif relay.circuits:
            relay.close(relay.circuits[source % len(relay.circuits)])
        circuits = relay.circuits
        ends = [peer for circuit in circuits for peer in (circuit.source, circuit.target)]
        assert len(circuits) <= 6 and dict(relay._per_peer) == {peer: ends.count(peer) for peer in set(ends)}
        assert max(map(ends.count, ends), default=0) <= relay.limits.max_circuits_per_peer


# Circuits between hosts


def relaying(number: int, locate: Callable[[bytes], Sequence[str]] = lambda peer: (), **limits: int) -> Libp2pNetwork:
    relay = RelayLimits(**limits)
    return Libp2pNetwork(make_key(number), LOOPBACK, RealRuntime(), directory=Directory(locate), relay=relay)


def through(relay: Libp2pNetwork) -> list[str]:
    return [format_circuit_address(relay.me, address) for address in relay.listen_addresses]


@asynccontextmanager
async def behind_a_relay(**limits: int) -> AsyncIterator[tuple[Libp2pNetwork, Libp2pNetwork, Libp2pNetwork]]:
    """A relay, a node that holds a reservation there, and another one with a circuit to it. None of the two listens."""
    relay, one, other = relaying(1, **limits), network(2, listen=()), network(3, listen=())
    for node in (relay, one, other):
        node.handle(ECHO, echo)
    async with running(relay, one, other):
        await one.connect(relay.me, relay.listen_addresses)
        assert 3500 < await one.reserve(relay.me) <= 3600
        await other.connect(one.me, through(relay))
        await eventually(lambda: other.me in one.peers())
        yield relay, one, other


@pytest.mark.trio
async def test_a_circuit_is_a_connection_like_any_other() -> None:
    async with behind_a_relay() as (relay, one, other):
        assert one.peers() == {relay.me, other.me} and other.peers() == {relay.me, one.me}
        assert other.is_relayed(one.me) and one.is_relayed(other.me) and not one.is_relayed(relay.me)
        assert await echoes(other, one) and await echoes(one, other)
        inbox = one.subscribe(TOPIC)
        other.subscribe(TOPIC)
        await gossip_works(other, inbox, TOPIC)  # over the circuit: the relay has not subscribed
        await other.disconnect(one.me)
        await eventually(lambda: one.peers() == {relay.me})
        await eventually(lambda: relay.relay is not None and not relay.relay.table.circuits)


@pytest.mark.trio
async def test_megabytes_cross_a_circuit_unharmed_both_ways() -> None:
    payload = bytes(range(256)) * (4 << 12)  # 4 MiB
    async with behind_a_relay() as (_, one, other):
        for source, target in ((one, other), (other, one)):
            stream = await source.open_stream(target.me, ECHO)
            received = bytearray()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send, payload)
                while len(received) < len(payload):
                    received += await stream.receive()
            assert received == payload


@pytest.mark.trio
async def test_a_relay_keeps_little_of_a_circuit_however_fast_it_is_filled() -> None:
    async with behind_a_relay() as (relay, one, other):
        stream = await other.open_stream(one.me, ECHO)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send, bytes(4 << 20))
            received = 0
            while received < 4 << 20:
                received += len(await stream.receive())
        windows = [
            stream.target_recv_window
            for connection in swarm_of(relay).get_connections()
            for stream in cast(Yamux, connection.muxed_conn).streams.values()
        ]
        assert len(windows) >= 2 and max(windows) <= DEFAULT_WINDOW_SIZE


@pytest.mark.trio
async def test_the_end_of_the_relay_ends_its_circuits_at_once_at_both_ends() -> None:
    one, other = network(2, listen=()), network(3, listen=())
    for node in (one, other):
        node.handle(ECHO, echo)
    async with running(one, other):
        async with running(relay := relaying(1)):
            await one.connect(relay.me, relay.listen_addresses)
            await one.reserve(relay.me)
            await other.connect(one.me, through(relay))
            stream = await other.open_stream(one.me, ECHO)
            await stream.send(b"before")
            assert await stream.receive() == b"before"
        with trio.fail_after(PATIENCE), pytest.raises(NetworkError):
            await stream.receive()
        await eventually(lambda: one.peers() == other.peers() == frozenset())
        # It comes back, and everything is as before once both have asked again.
        async with running(relay := relaying(1)):
            await one.connect(relay.me, relay.listen_addresses)
            with pytest.raises(NetworkError, match="no reservation"):
                await other.connect(one.me, through(relay))
            await one.reserve(relay.me)
            await other.connect(one.me, through(relay))
            assert await echoes(other, one)


@pytest.mark.trio
async def test_a_relay_that_hangs_is_noticed_and_ends_its_circuits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.host.workarounds.yamux, "KEEPALIVE_INTERVAL_S", 0.2)
    monkeypatch.setattr(p2p.host.workarounds.yamux, "KEEPALIVE_TIMEOUT_S", 1.0)
    relay, one, other = relaying(1), network(2, listen=()), network(3, listen=())
    async with running(relay, one, other) as nursery:
        link = Link(relay.listen_addresses[0])
        await nursery.start(link.run)
        for node in (one, other):
            await node.connect(relay.me, [link.address])
        await one.reserve(relay.me)
        await other.connect(one.me, through(relay))
        link.freeze()
        await eventually(lambda: one.peers() == other.peers() == frozenset())


@pytest.mark.trio
async def test_circuits_that_come_and_go_leave_nothing_behind() -> None:
    async with behind_a_relay() as (relay, one, other):

        def count() -> tuple[int, int]:
            streams = sum(
                len(connection.get_streams())
                for node in (relay, one, other)
                for connection in swarm_of(node).get_connections()
            )
            return trio.lowlevel.current_statistics().tasks_living, streams

        await other.disconnect(one.me)
        await eventually(lambda: relay.relay is not None and not relay.relay.table.circuits)
        await trio.sleep(0.5)
        tasks, streams = count()
        for _ in range(10):
            await other.connect(one.me, through(relay))
            assert await echoes(other, one)
            await other.disconnect(one.me)
        await eventually(lambda: count() <= (tasks + 2, streams + 2))


@pytest.mark.trio
async def test_a_client_that_leaves_does_not_touch_the_circuit_of_another() -> None:
    newer = network(4, listen=())
    newer.handle(ECHO, echo)
    async with behind_a_relay() as (relay, one, older), running(newer):
        await newer.connect(one.me, through(relay))
        stream = await newer.open_stream(one.me, ECHO)
        await older.disconnect(relay.me)
        await eventually(lambda: older.me not in one.peers())
        await stream.send(b"still here")
        assert await stream.receive() == b"still here"
        assert await echoes(one, newer)


@pytest.mark.trio
async def test_who_does_not_answer_is_not_held_in_the_table() -> None:
    async with behind_a_relay() as (relay, one, other):
        assert relay.relay is not None
        await other.disconnect(one.me)
        one._protocols.handlers.pop(STOP)  # every offer now fails
        with pytest.raises(NetworkError, match="connection failed"):
            await other.connect(one.me, through(relay))
        assert relay.relay.table.circuits == []


@pytest.mark.trio
async def test_a_reservation_is_for_the_peer_that_asks_alone() -> None:
    relay, honest, forger = relaying(1, max_reservations=2), network(2, listen=()), network(3, listen=())
    async with running(relay, honest, forger):
        await forger.connect(relay.me, relay.listen_addresses)
        for number in range(10, 14):
            stream = MessageStream(await forger.open_stream(relay.me, HOP))
            claimed = pb.PeerId(id=peer_id_of(make_key(number).public_key).to_bytes())
            await stream.send_message(pb.HopMessage(type=pb.HopMessage.RESERVE, peer=claimed))
            assert (await stream.receive_message(pb.HopMessage)).status == pb.OK
        await honest.connect(relay.me, relay.listen_addresses)
        assert await honest.reserve(relay.me) > 3500
        with pytest.raises(NetworkError, match="no reservation"):
            await open_circuit(forger, relay.me, make_key(10).public_key)


@pytest.mark.trio
async def test_limits_hold_and_what_is_given_back_can_be_had_again() -> None:
    nodes = [network(number, listen=()) for number in range(2, 6)]
    relay = relaying(1, max_reservations=1, max_circuits=2)
    async with running(relay, *nodes):
        for node in nodes:
            await node.connect(relay.me, relay.listen_addresses)
        target = nodes[0]
        await target.reserve(relay.me)
        await target.reserve(relay.me)
        with pytest.raises(NetworkError, match="reservation refused"):
            await nodes[1].reserve(relay.me)
        await nodes[1].connect(target.me, through(relay))
        await nodes[2].connect(target.me, through(relay))
        with pytest.raises(NetworkError, match="resource limit exceeded"):
            await nodes[3].connect(target.me, through(relay))
        await nodes[1].disconnect(target.me)
        await eventually(lambda: relay.relay is not None and len(relay.relay.table.circuits) == 1)
        await nodes[3].connect(target.me, through(relay))
        await target.disconnect(relay.me)
        await eventually(lambda: target.me not in relay.peers())
        await nodes[1].reserve(relay.me)  # a reservation ends with the connection


@pytest.mark.trio
async def test_a_peer_that_floods_requests_is_refused() -> None:
    relay, one = relaying(1), network(2, listen=())
    async with running(relay, one):
        await one.connect(relay.me, relay.listen_addresses)
        with pytest.raises(NetworkError, match="resource limit exceeded"):
            for _ in range(60):
                await one.reserve(relay.me)


@pytest.mark.trio
@pytest.mark.parametrize("junk", [b"", b"\x05hello", b"\xff\xff\xff\x7f", b"\x02\x08\x07"])
async def test_junk_is_answered_or_reset_and_the_relay_serves_on(junk: bytes) -> None:
    async with behind_a_relay() as (relay, one, other):
        stream = await other.open_stream(relay.me, HOP)
        await stream.send(junk)
        await stream.close()
        stream = await other.open_stream(one.me, STOP)
        await stream.send(junk)
        await stream.close()
        assert await echoes(other, one)


@pytest.mark.trio
async def test_a_relay_cannot_fill_a_node_with_circuits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.host.circuits, "MAX_CIRCUITS_PER_RELAY", 2)
    relay, target, *others = relaying(1), *(network(number, listen=()) for number in range(2, 6))
    async with running(relay, target, *others):
        await target.connect(relay.me, relay.listen_addresses)
        await target.reserve(relay.me)
        for node in others[:2]:
            await node.connect(target.me, through(relay))
        with pytest.raises(NetworkError):
            await others[2].connect(target.me, through(relay))
        await others[0].disconnect(target.me)
        await eventually(lambda: len(target.peers()) == 2)
        await others[2].connect(target.me, through(relay))


async def offer_circuit(relay: Libp2pNetwork, victim: Libp2pNetwork, sybil: Libp2pNetwork) -> None:
    """Have ``sybil`` connect to the victim through ``relay``, which does not check whether it may."""
    stream = MessageStream(await relay.open_stream(victim.me, STOP))
    peer = pb.PeerId(id=peer_id_of(sybil.me).to_bytes())
    await stream.send_message(pb.StopMessage(type=pb.StopMessage.CONNECT, peer=peer))
    await stream.receive_message(pb.StopMessage)
    with trio.fail_after(PATIENCE):
        raw = CircuitEnd(stream).as_connection(True, relay.me)
        await swarm_of(sybil).upgrade_outbound_raw_conn(raw, peer_id_of(victim.me))


@pytest.mark.trio
async def test_circuits_do_not_get_around_the_limits_of_an_address() -> None:
    limits = ConnectionLimits(max_per_address=6)
    victim = Libp2pNetwork(make_key(1), LOOPBACK, RealRuntime(), public=True, limits=limits)
    attacker, *sybils = (network(number, listen=()) for number in range(2, 12))
    async with running(victim, attacker, *sybils):
        await attacker.connect(victim.me, victim.listen_addresses)
        for sybil in sybils:
            with suppress(Exception):  # whatever the library raises when it is cut off
                await offer_circuit(attacker, victim, sybil)
        await eventually(lambda: victim.refusals()["address"] == 6)
        assert len(victim.peers()) == 1 + 3


@pytest.mark.trio
async def test_who_is_banned_has_no_reservation_any_more() -> None:
    async with behind_a_relay() as (relay, one, other):
        assert relay.relay is not None and relay.relay.table.has_reservation(one.me, trio.current_time())
        assert relay._get_weight(one.me)
        for _ in range(3):
            relay.report_misbehaviour(one.me, Misbehaviour.FORGERY)
        assert not relay.relay.table.has_reservation(one.me, trio.current_time())
        await eventually(lambda: one.me not in relay.peers() and other.me not in one.peers())
        with suppress(NetworkError):  # it hears of the refusal a moment later
            await one.connect(relay.me, relay.listen_addresses)
        await eventually(lambda: relay.me not in one.peers())


@pytest.mark.trio
async def test_a_relay_that_breaks_the_rules_is_banned_by_its_clients() -> None:
    async with behind_a_relay() as (relay, one, _):
        for _ in range(3):
            one.report_misbehaviour(relay.me, Misbehaviour.FORGERY)
        await eventually(lambda: relay.me not in one.peers())
        assert not one._circuits.has_reservation(relay.me)


@pytest.mark.trio
async def test_a_relay_dials_for_others_no_nearer_than_it_can_be_dialled() -> None:
    near, lan, far = "/ip4/127.0.0.1/tcp/1", "/ip4/192.168.1.1/tcp/1", "/ip4/8.8.8.8/tcp/1"
    everywhere = [near, lan, far, "/dns4/localhost/tcp/1", format_circuit_address(make_key(9).public_key, lan)]
    name = "/dns4/node.example/tcp/1"
    for announce, expected in ((near, everywhere), (lan, [lan, far, everywhere[-1]]), (far, [far]), (name, [far])):
        relay = Libp2pNetwork(
            make_key(1),
            LOOPBACK,
            RealRuntime(),
            directory=Directory(lambda peer: everywhere),
            announce=[announce],
            relay=RelayLimits(),
        )
        assert list(relay._get_addresses_for_others(make_key(2).public_key)) == expected
        relay._get_addresses_for_others(make_key(3).public_key)
        assert not relay._get_addresses_for_others(make_key(4).public_key), "however many peers announce them"


@pytest.mark.trio
async def test_direct_addresses_that_lead_nowhere_leave_time_for_the_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.host.dialer, "DIRECT_HEAD_START_S", 0.5)
    silent = trio.socket.socket()
    with silent:
        await silent.bind(("127.0.0.1", 0))
        silent.listen(1)  # without accept: the handshake gets no answer
        nowhere = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}"
        relay, one, other = relaying(1), network(2, listen=()), network(3, listen=())
        async with running(relay, one, other):
            await one.connect(relay.me, relay.listen_addresses)
            await one.reserve(relay.me)
            with trio.fail_after(PATIENCE):
                await other.connect(one.me, ["nonsense", *through(relay), nowhere, nowhere])
            assert other.is_relayed(one.me)


@pytest.mark.trio
async def test_a_node_that_does_not_relay_says_so() -> None:
    plain, one = network(1), network(2, listen=())
    async with running(plain, one):
        await one.connect(plain.me, plain.listen_addresses)
        with pytest.raises(NetworkError):
            await one.reserve(plain.me)


@pytest.mark.trio
async def test_silent_circuits_are_cut_and_living_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.nat.relay_server, "CIRCUIT_IDLE_TIMEOUT_S", 1.0)

    async def attempt() -> None:
        async with behind_a_relay() as (relay, one, other):  # pings are rarer than that
            stream = await other.open_stream(one.me, ECHO)
            for _ in range(8):
                await stream.send(b"x")
                assert await stream.receive() == b"x"
                await trio.sleep(0.3)
            await eventually(lambda: one.me not in other.peers() and other.me not in one.peers())
            assert relay.me in one.peers() and relay.me in other.peers()

    await undisturbed(attempt, 0.3)


@pytest.mark.trio
async def test_an_unused_circuit_lives_on_its_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.nat.relay_server, "CIRCUIT_IDLE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(p2p.host.workarounds.yamux, "CIRCUIT_KEEPALIVE_INTERVAL_S", 0.3)

    async def attempt() -> None:
        async with behind_a_relay() as (_, one, other):
            await trio.sleep(3)
            assert await echoes(other, one)

    await undisturbed(attempt, 0.3)


@pytest.mark.trio
async def test_no_circuit_lasts_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.nat.relay_server, "MAX_DURATION_S", 4.0)

    async def outlive() -> None:
        async with behind_a_relay() as (_, one, other):
            stream = await other.open_stream(one.me, ECHO)
            with trio.fail_after(PATIENCE), pytest.raises(NetworkError):
                while True:
                    await stream.send(b"x")
                    assert await stream.receive() == b"x"
                    await trio.sleep(0.1)

    await undisturbed(outlive, 1.0)


def test_a_request_of_an_hour_fits_into_a_circuit() -> None:
    assert p2p.nat.relay_server.MAX_DURATION_S > 3600
    assert (
        p2p.nat.relay_server.CIRCUIT_IDLE_TIMEOUT_S
        > p2p.host.workarounds.yamux.CIRCUIT_KEEPALIVE_INTERVAL_S
        + p2p.host.workarounds.yamux.CIRCUIT_KEEPALIVE_TIMEOUT_S
    )


@pytest.mark.trio
async def test_a_slow_relay_slows_a_circuit_and_does_not_break_it() -> None:
    async with behind_a_relay(bytes_per_second=400_000) as (_, one, other):
        read = 0
        done = trio.Event()

        async def count(stream: RawStream) -> None:
            nonlocal read
            while data := await stream.receive():
                read += len(data)
            done.set()

        one.handle("/test/count/1", count)
        stream = await other.open_stream(one.me, "/test/count/1")
        begun = trio.current_time()
        await stream.send(bytes(2_000_000))
        await stream.close()
        await done.wait()
        assert read == 2_000_000
        assert trio.current_time() - begun > 2.5  # 5 s at that rate, of which a second's worth may be on the way
        assert await echoes(other, one)


@pytest.mark.trio
async def test_a_direct_connection_takes_over_from_a_circuit_when_that_has_done_its_work() -> None:
    relay, one, other = relaying(1), network(2), network(3, listen=())
    one.handle(ECHO, echo)
    async with running(relay, one, other):
        await one.connect(relay.me, relay.listen_addresses)
        await one.reserve(relay.me)
        await other.connect(one.me, through(relay))
        stream = await other.open_stream(one.me, ECHO)
        await other.connect(one.me, ["/ip4/127.0.0.1/tcp/1"])  # where nothing answers
        assert other.is_relayed(one.me)
        await other.connect(one.me, one.listen_addresses)
        await eventually(lambda: not other.is_relayed(one.me) and not one.is_relayed(other.me))
        await trio.sleep(1)
        await stream.send(b"the request that was running")
        assert await stream.receive() == b"the request that was running"
        assert await echoes(other, one)
        await stream.close()
        await eventually(lambda: len(swarm_of(one).get_connections(peer_id_of(other.me))) == 1)
        assert await echoes(other, one)


@pytest.mark.trio
async def test_who_has_a_reservation_is_taken_to_peers_that_have_none() -> None:
    """The way out of an anonymous node: its relay finds the peer, at addresses that the node cannot choose."""
    public, stranger = network(2), network(3, listen=())
    public.handle(ECHO, echo)
    relay = relaying(1, lambda peer: public.listen_addresses if peer == public.me else ())
    async with running(relay, public, stranger):
        hidden = Libp2pNetwork(make_key(4), (), RealRuntime(), rules=DialRules.only(relay.listen_addresses))
        async with running(hidden):
            await hidden.connect(relay.me, relay.listen_addresses)
            with pytest.raises(NetworkError, match="no address"):
                await hidden.connect(public.me, public.listen_addresses)
            await hidden.reserve(relay.me)
            await hidden.connect(public.me, public.listen_addresses)
            assert hidden.is_relayed(public.me) and await echoes(hidden, public)
            await stranger.connect(relay.me, relay.listen_addresses)
            with pytest.raises(NetworkError, match="no reservation"):
                await stranger.connect(public.me, through(relay))
            with pytest.raises(NetworkError, match="no reservation"):
                await hidden.connect(make_key(9).public_key, ())


@pytest.mark.trio
async def test_two_nodes_with_nothing_in_common_but_the_network_meet_over_two_relays() -> None:
    right = relaying(2)
    left = relaying(1, lambda peer: through(right))
    async with running(left, right):
        one = Libp2pNetwork(make_key(3), (), RealRuntime(), rules=DialRules.only(left.listen_addresses))
        other = Libp2pNetwork(make_key(4), (), RealRuntime(), rules=DialRules.only(right.listen_addresses))
        other.handle(ECHO, echo)
        async with running(one, other):
            for node, relay in ((one, left), (other, right)):
                await node.connect(relay.me, relay.listen_addresses)
                await node.reserve(relay.me)
            await one.connect(other.me, through(right))
            assert await echoes(one, other)
            assert left.is_relayed(other.me)
            with pytest.raises(NetworkError):  # a relay takes no requests from who came through another
                await other.reserve(left.me)
