"""Hole punching: whom to dial and when, and what hostile peers get. Real NATs are in ``tests/nat``."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from random import Random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p.transport.exceptions import OpenConnectionError
from trio.testing import MockClock

import p2p.host.transport.simultaneous_open
import p2p.nat.hole_punching
from chain.exceptions import CodecError
from p2p.addresses import Endpoint, format_circuit_address
from p2p.backoff import Backoff
from p2p.host.network import Libp2pNetwork
from p2p.host.transport.simultaneous_open import open_simultaneously
from p2p.host.transport.tcp import DialRules, GuardedTCP
from p2p.length_prefixed import receive_record, send_record
from p2p.limits.rate_limit import Rate
from p2p.nat.hole_punching import (
    FAILURE_BACKOFF,
    MAX_REMEMBERED_PEERS,
    POSTPONEMENT_BACKOFF,
    PUNCH_PROTOCOL,
    ObservedAddress,
    PunchSchedule,
    is_dialable,
)
from p2p.nat.relay_server import RelayLimits
from p2p.network import NetworkError, RawStream
from p2p.runtime import RealRuntime
from p2p.streams.exchange import Exchange
from p2p.streams.exchanges import Streams
from tests.support.hosts import ECHO, LOOPBACK, echo, echoes, network, running, swarm_of
from tests.support.keys import make_key
from tests.support.waiting import PATIENCE, eventually, undisturbed

MINE = ObservedAddress("198.51.100.1", 40000)
MINE6 = ObservedAddress("2a00::1", 40000)

# Whom to dial


@pytest.mark.parametrize("host", ["203.0.113.9", "198.51.100.2", "45.67.89.1", "172.32.0.1"])
def test_public_places_are_dialled(host: str) -> None:
    assert is_dialable(ObservedAddress(host, 1024), MINE) and is_dialable(ObservedAddress(host, 65535), MINE)
    assert not is_dialable(ObservedAddress(host, 1023), MINE) and not is_dialable(ObservedAddress(host, 0), MINE)
    assert not is_dialable(ObservedAddress(host, 40000), MINE6)


@pytest.mark.parametrize(
    "host",
    [
        *("", "x", "localhost", "1.2.3", "01.2.3.4", "1.2.3.4 ", "1.2.3.4%eth0", "::ffff:45.67.89.1"),
        *("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("0.0.0.0", "0.1.2.3", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", MINE.host),
    ],
)
def test_nothing_else_is_dialled(host: str) -> None:
    assert not is_dialable(ObservedAddress(host, 40000), MINE)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("2a00::2", True),
        *((host, False) for host in ("::1", "::", "fe80::1", "fe80::1%1", "fd00::1", "ff02::1", "2A00::2", MINE6.host)),
        *((host, False) for host in ("2002:7f00:1::", "2001:0:7f00:1::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1")),
    ],
)
def test_addresses_of_ipv6(host: str, allowed: bool) -> None:
    assert is_dialable(ObservedAddress(host, 40000), MINE6) is allowed


@given(st.text(max_size=45), st.integers(0, 65535))
def test_no_text_breaks_the_check(host: str, port: int) -> None:
    is_dialable(ObservedAddress(host, port), MINE)


@given(st.binary(max_size=100))
def test_junk_is_no_place(raw: bytes) -> None:
    with suppress(CodecError):
        assert len(ObservedAddress.decode(raw).host) <= 45


# When


def test_a_punch_that_failed_waits_longer_each_time_and_one_that_worked_is_forgotten() -> None:
    schedule, peer = PunchSchedule(), b"p"
    assert schedule.get_delay(peer, 0.0) == 0
    schedule.note(peer, False, 0.0)
    assert schedule.get_delay(peer, 0.0) == FAILURE_BACKOFF.first_s and schedule.get_delay(b"q", 0.0) == 0
    assert schedule.get_delay(peer, FAILURE_BACKOFF.first_s) == 0
    schedule.note(peer, False, 0.0)
    assert schedule.get_delay(peer, 0.0) == 2 * FAILURE_BACKOFF.first_s
    for _ in range(100):
        schedule.note(peer, False, 0.0)
    assert schedule.get_delay(peer, 0.0) == FAILURE_BACKOFF.max_s
    schedule.note(peer, True, 0.0)
    assert schedule.get_delay(peer, 0.0) == 0


def test_one_that_came_to_no_dial_is_tried_again_sooner() -> None:
    schedule, peer = PunchSchedule(), b"p"
    delays = []
    for _ in range(30):
        schedule.note(peer, None, 0.0)
        delays.append(schedule.get_delay(peer, 0.0))
    first = POSTPONEMENT_BACKOFF.first_s
    assert delays[:3] == [first, 2 * first, 4 * first] and delays[-1] == FAILURE_BACKOFF.first_s


def test_only_so_many_peers_are_remembered() -> None:
    schedule = PunchSchedule()
    for number in range(MAX_REMEMBERED_PEERS + 1):
        schedule.note(number.to_bytes(4, "big"), False, 0.0)
    assert schedule.get_delay(bytes(4), 0.0) == 0 < schedule.get_delay(MAX_REMEMBERED_PEERS.to_bytes(4, "big"), 0.0)
    assert len(schedule._peers) == MAX_REMEMBERED_PEERS


# TCP


async def free_endpoint(host: str = "127.0.0.1") -> Endpoint:
    with trio.socket.socket() as probe:
        await probe.bind((host, 0))
        return str(probe.getsockname()[0]), int(probe.getsockname()[1])


@pytest.mark.trio
@pytest.mark.parametrize("lead", [0.0, 0.05, 1.0])
async def test_two_ends_that_dial_each_other_have_one_connection_whichever_is_first(lead: float) -> None:
    here, there = await free_endpoint("127.0.0.1"), await free_endpoint("127.0.0.2")
    made: dict[str, trio.SocketStream] = {}

    async def meet(name: str, local: Endpoint, remote: Endpoint, delay: float) -> None:
        await trio.sleep(delay)
        made[name] = await open_simultaneously(local, remote)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(meet, "here", here, there, 0.0)
            nursery.start_soon(meet, "there", there, here, lead)
        async with made["here"], made["there"]:
            await made["here"].send_all(b"hello")
            assert await made["there"].receive_some() == b"hello"
            assert made["here"].socket.getpeername() == there and made["there"].socket.getpeername() == here


@pytest.mark.trio
async def test_a_caller_from_elsewhere_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.host.transport.simultaneous_open, "PUNCH_TIMEOUT_S", 1.0)

    async def attempt() -> None:
        here, there = await free_endpoint(), await free_endpoint("127.0.0.2")
        async with trio.open_nursery() as nursery:

            async def intrude() -> None:
                await trio.sleep(0.3)
                stream = await trio.open_tcp_stream(*here)  # from 127.0.0.1
                with suppress(trio.BrokenResourceError):
                    assert await stream.receive_some() == b""

            nursery.start_soon(intrude)
            with pytest.raises(OSError, match="no connection"):
                await open_simultaneously(here, there)

    await undisturbed(attempt, 0.3)


@pytest.mark.trio
async def test_dials_are_bounded_and_so_is_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.host.transport.simultaneous_open, "PUNCH_TIMEOUT_S", 1.0)
    monkeypatch.setattr(p2p.host.transport.simultaneous_open, "PUNCH_INTERVAL_S", 0.001)
    dials = 0
    bind = p2p.host.transport.simultaneous_open._bind

    async def counted(local: Endpoint) -> trio.socket.SocketType:
        nonlocal dials
        dials += 1
        return await bind(local)

    monkeypatch.setattr(p2p.host.transport.simultaneous_open, "_bind", counted)
    with trio.fail_after(PATIENCE), pytest.raises(OSError, match="no connection"):
        await open_simultaneously(await free_endpoint(), await free_endpoint("127.0.0.2"))
    assert dials == 1 + p2p.host.transport.simultaneous_open.MAX_PUNCHES


@pytest.mark.trio
async def test_a_port_that_is_in_use_is_an_error() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listeners[0]:
        taken = listeners[0].socket.getsockname()
        with pytest.raises(OpenConnectionError, match="no hole"):
            await GuardedTCP(DialRules()).open_simultaneously(taken, ("127.0.0.2", 40000), True)


@pytest.mark.trio
@pytest.mark.parametrize("rules", [DialRules.only(["/ip4/127.0.0.2/tcp/40000"]), DialRules(proxy=("127.0.0.1", 1))])
async def test_the_rules_hold_here_too(rules: DialRules) -> None:
    with pytest.raises(OpenConnectionError, match="punches no holes"):
        await GuardedTCP(rules).open_simultaneously(await free_endpoint(), ("127.0.0.2", 40000), True)


# Between hosts


def private(number: int, *, hole_punching: bool = True) -> Libp2pNetwork:
    made = Libp2pNetwork(make_key(number), LOOPBACK, RealRuntime(), public=False, hole_punching=hole_punching)
    made.handle(ECHO, echo)
    return made


@asynccontextmanager
async def circuit(one: Libp2pNetwork, other: Libp2pNetwork) -> AsyncIterator[Libp2pNetwork]:
    """``one`` has dialled ``other`` through the relay, which is given."""
    relay = Libp2pNetwork(make_key(9), LOOPBACK, RealRuntime(), public=True, relay=RelayLimits())
    async with running(relay, one, other):
        for node in (one, other):
            await node.connect(relay.me, relay.listen_addresses)
        await other.reserve(relay.me)
        await one.connect(other.me, [format_circuit_address(relay.me, relay.listen_addresses[0])])
        yield relay


@pytest.fixture
def on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take addresses of this machine for public ones."""
    monkeypatch.setattr(p2p.nat.hole_punching, "is_local", lambda host: False)
    monkeypatch.setattr(p2p.nat.hole_punching, "is_dialable", lambda observed, mine: observed.port >= 1024)


@pytest.fixture
def keep_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again as often as it takes: a dial may fail because this process stood still, and what follows it is refused
    while the other side still dials."""
    for name in ("POSTPONEMENT_BACKOFF", "FAILURE_BACKOFF"):
        monkeypatch.setattr(p2p.nat.hole_punching, name, Backoff(1.0, 4.0))
    for name in ("PUNCH_RATE", "TOTAL_PUNCH_RATE"):
        monkeypatch.setattr(p2p.nat.hole_punching, name, Rate(items=10, size=math.inf, burst=60.0))
    monkeypatch.setattr(p2p.nat.hole_punching, "PUNCH_MESSAGE_TIMEOUT_S", PATIENCE)


@pytest.fixture
def dials(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, Endpoint]]:
    """Nothing is dialled, but noted: by whom, and where to."""
    noted: list[tuple[bytes, Endpoint]] = []

    async def note(self: Libp2pNetwork, peer: bytes, local: Endpoint, remote: Endpoint, initiator: bool) -> bool:
        noted.append((self.me, remote))
        return False

    monkeypatch.setattr(Libp2pNetwork, "open_simultaneously", note)
    return noted


@pytest.mark.trio
async def test_a_circuit_becomes_a_direct_connection(on_loopback: None, keep_trying: None) -> None:
    one, other = private(1), private(2)
    async with circuit(one, other) as relay:
        await eventually(lambda: not one.is_relayed(other.me) and not other.is_relayed(one.me))
        assert await echoes(one, other) and await echoes(other, one)
        await eventually(lambda: len(swarm_of(one).get_connections()) == 2)  # the unused circuit is gone
        await eventually(lambda: other.gater.secured == 1)  # the direct one is counted like any other
        for node in (one, other):
            await relay.disconnect(node.me)
        await eventually(lambda: relay.me not in one.peers() | other.peers())
        assert await echoes(one, other) and await echoes(other, one)


@pytest.mark.trio
async def test_exchanges_leave_the_circuit_and_those_under_way_go_on(on_loopback: None, keep_trying: None) -> None:
    """Streams of the pool are not used again once there is a better way."""
    one, other = private(1), private(2)
    opener, answerer = Streams(one), Streams(other)

    async def answer(exchange: Exchange) -> None:
        while (payload := await exchange.receive()) is not None:
            await exchange.send(payload)

    answerer.handle("/test/1", answer)
    punch = one.hole_puncher
    one.hole_puncher = None  # not yet
    async with circuit(one, other), trio.open_nursery() as nursery:
        for streams in (opener, answerer):
            await nursery.start(streams.run)
        async with opener.open(other.me, "/test/1") as long:
            await long.send(b"begun")
            assert await long.receive() == b"begun"
            assert await opener.request(other.me, "/test/1", b"through the relay", PATIENCE) == b"through the relay"
            pool = opener._idle
            await eventually(lambda: bool(pool.get((other.me, "/test/1"))))
            (idle,) = pool[other.me, "/test/1"]
            assert not idle.raw.is_superseded
            assert punch is not None
            with trio.fail_after(PATIENCE):
                await punch.run(other.me)
            assert not one.is_relayed(other.me) and idle.raw.is_superseded and long.stream.raw.is_superseded
            assert await opener.request(other.me, "/test/1", b"directly", PATIENCE) == b"directly"
            await eventually(lambda: idle.failure_reason is not None)
            await eventually(lambda: bool(pool.get((other.me, "/test/1"))))
            (fresh,) = pool[other.me, "/test/1"]
            assert fresh is not idle and not fresh.raw.is_superseded
            await trio.sleep(1)
            with trio.fail_after(PATIENCE):
                await long.send(b"still here")
                assert await long.receive() == b"still here"
        await eventually(lambda: len(swarm_of(one).get_connections()) == 2)
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_two_that_begin_at_once_make_one_connection(
    on_loopback: None, keep_trying: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not both put the other off."""
    first_outcomes: dict[bytes, bool | None] = {}
    note = PunchSchedule.note

    def keep(self: PunchSchedule, peer: bytes, outcome: bool | None, now: float) -> None:
        first_outcomes.setdefault(peer, outcome)
        note(self, peer, outcome, now)

    monkeypatch.setattr(PunchSchedule, "note", keep)
    one, other = private(1), private(2)
    first, second = one.hole_puncher, other.hole_puncher
    one.hole_puncher = None
    async with circuit(one, other):
        assert first is not None and second is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.run, one.me)
            nursery.start_soon(first.run, other.me)
            await eventually(lambda: not one.is_relayed(other.me) and not other.is_relayed(one.me))
            await eventually(lambda: any(outcome is not None for outcome in first_outcomes.values()))
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        await eventually(lambda: len(swarm_of(one).get_connections()) == 2)
        assert await echoes(other, one)


@pytest.mark.trio
@pytest.mark.parametrize("hole_punching", [True, False])
async def test_whom_a_relay_shows_only_local_addresses_tells_none(
    dials: list[tuple[bytes, Endpoint]], hole_punching: bool
) -> None:
    one, other = private(1), private(2, hole_punching=hole_punching)
    async with circuit(one, other):
        assert one.hole_puncher is not None
        schedule = one.hole_puncher.schedule
        await eventually(lambda: schedule.get_delay(other.me, 0.0) > 0)
        assert one.is_relayed(other.me) and not dials


def test_who_punches_no_holes() -> None:
    rules = DialRules(proxy=("127.0.0.1", 1))
    for made in (
        Libp2pNetwork(make_key(1), LOOPBACK, RealRuntime()),
        Libp2pNetwork(make_key(1), (), RealRuntime(), hole_punching=True),
        Libp2pNetwork(make_key(1), LOOPBACK, RealRuntime(), rules=rules, hole_punching=True),
    ):
        assert made.hole_puncher is None and PUNCH_PROTOCOL not in made._protocols.handlers
    with pytest.raises(ValueError, match="anonymous"):
        Libp2pNetwork(make_key(1), (), RealRuntime(), rules=DialRules.only([]), hole_punching=True)


@pytest.mark.trio
async def test_only_dialled_connections_lend_their_port() -> None:
    one, other = network(1), private(2, hole_punching=False)
    async with circuit(other, private(3, hole_punching=False)) as relay, running(one):
        await one.connect(relay.me, relay.listen_addresses)
        assert one.share_port(relay.me) == relay.get_remote_endpoint(one.me)
        assert relay.share_port(one.me) is None and one.share_port(other.me) is None
        assert other.share_port(make_key(3).public_key) is None  # a circuit
        await one.disconnect(relay.me)
        assert one.share_port(relay.me) is None


# Hostile initiators


async def claim(stream: RawStream, observed: ObservedAddress) -> ObservedAddress:
    """Be an initiator that says it is there; what the responder says in the end."""
    if ObservedAddress.decode(await receive_record(stream)) == ObservedAddress():
        return ObservedAddress()
    await send_record(stream, observed)
    return ObservedAddress.decode(await receive_record(stream))


@pytest.mark.trio
async def test_a_responder_dials_no_local_address_and_no_service(
    dials: list[tuple[bytes, Endpoint]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(p2p.nat.hole_punching, "PUNCH_RATE", p2p.nat.hole_punching.Rate(1000, 1, 10))
    monkeypatch.setattr(p2p.nat.hole_punching, "TOTAL_PUNCH_RATE", p2p.nat.hole_punching.Rate(1000, 1, 10))
    attacker, victim = private(1, hole_punching=False), private(2)
    monkeypatch.setattr(p2p.nat.hole_punching.HolePuncher, "_observe", seen_at(("127.0.0.1", 40000), MINE))
    async with circuit(attacker, victim):
        for observed in (
            ObservedAddress("127.0.0.1", 8001),
            ObservedAddress("192.168.1.1", 8080),
            ObservedAddress("45.67.89.1", 22),
            ObservedAddress(),
            MINE,
        ):
            with pytest.raises(NetworkError):
                await claim(await attacker.open_stream(victim.me, PUNCH_PROTOCOL), observed)
        assert not dials
        assert (
            await claim(await attacker.open_stream(victim.me, PUNCH_PROTOCOL), ObservedAddress("45.67.89.1", 5000))
            == MINE
        )
        await eventually(lambda: dials == [(victim.me, ("45.67.89.1", 5000))])
        assert await echoes(attacker, victim)


def seen_at(local: Endpoint, observed: ObservedAddress) -> Callable[..., object]:
    async def find(*_: object) -> tuple[Endpoint, ObservedAddress]:
        return local, observed

    return find


@pytest.mark.trio
@pytest.mark.parametrize("sent", [b"", b"\x00", b"\x00\x01\xc0", b"\xff\xff" + bytes(1000), b"\x00\x03" + bytes(600)])
async def test_garbage_and_silence_end_the_exchange_and_nothing_else(
    on_loopback: None, dials: list[tuple[bytes, Endpoint]], monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(p2p.nat.hole_punching, "PUNCH_MESSAGE_TIMEOUT_S", 0.5)
    attacker, victim = private(1, hole_punching=False), private(2)
    async with circuit(attacker, victim):
        stream = await attacker.open_stream(victim.me, PUNCH_PROTOCOL)
        await receive_record(stream)
        await stream.send(sent)
        with trio.fail_after(PATIENCE), suppress(NetworkError):
            assert await stream.receive() == b""
        await eventually(lambda: victim.hole_puncher is not None and not victim.hole_puncher._under_way)
        assert not dials and await echoes(attacker, victim)


@pytest.mark.trio
async def test_a_peer_gets_so_many_punches_and_one_at_a_time(
    on_loopback: None, dials: list[tuple[bytes, Endpoint]]
) -> None:
    attacker, victim = private(1, hole_punching=False), private(2)
    async with circuit(attacker, victim):
        first, second = [await attacker.open_stream(victim.me, PUNCH_PROTOCOL) for _ in range(2)]
        assert ObservedAddress.decode(await receive_record(first)) != ObservedAddress()
        assert ObservedAddress.decode(await receive_record(second)) == ObservedAddress()
        await send_record(first, ObservedAddress("127.0.0.2", 5000))
        await eventually(lambda: victim.hole_puncher is not None and not victim.hole_puncher._under_way)
        answers = [
            await claim(await attacker.open_stream(victim.me, PUNCH_PROTOCOL), ObservedAddress("127.0.0.2", 5000))
            for _ in range(4)
        ]
        assert answers.count(ObservedAddress()) >= 2 and len(dials) <= 3


@pytest.mark.trio
async def test_who_is_connected_directly_gets_no_punch(on_loopback: None, dials: list[tuple[bytes, Endpoint]]) -> None:
    attacker, victim = network(1), private(2)
    async with running(attacker, victim):
        await victim.connect(attacker.me, attacker.listen_addresses)
        assert (
            await claim(await attacker.open_stream(victim.me, PUNCH_PROTOCOL), ObservedAddress("127.0.0.2", 5000))
            == ObservedAddress()
        )
        assert not dials


# Hostile responders


@pytest.mark.trio
@pytest.mark.parametrize(
    "sent", [b"", b"\x00\x01\xc0", b"\xff\xff", ObservedAddress("192.168.1.1", 8080), ObservedAddress("8.8.8.8", 53)]
)
async def test_an_initiator_is_as_careful(
    dials: list[tuple[bytes, Endpoint]], monkeypatch: pytest.MonkeyPatch, sent: bytes | ObservedAddress
) -> None:
    monkeypatch.setattr(p2p.nat.hole_punching, "PUNCH_MESSAGE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(p2p.nat.hole_punching.HolePuncher, "_observe", seen_at(("127.0.0.1", 40000), MINE))
    told: list[bytes] = []

    async def attack(stream: RawStream) -> None:
        if isinstance(sent, ObservedAddress):
            await send_record(stream, sent)
        else:
            await stream.send(sent)
        if sent:
            told.append(await stream.receive())

    victim, attacker = private(1), private(2, hole_punching=False)
    attacker.handle(PUNCH_PROTOCOL, attack)
    async with circuit(victim, attacker):
        assert victim.hole_puncher is not None
        schedule = victim.hole_puncher.schedule
        await eventually(
            lambda: 0 < schedule.get_delay(attacker.me, trio.current_time()) <= POSTPONEMENT_BACKOFF.first_s
        )
        assert not dials and not any(told)  # nor does it learn where the node is
        assert await echoes(victim, attacker)


class Silent:
    """A network in which a circuit never becomes anything else."""

    me = b"me"

    def is_relayed(self, peer: bytes) -> bool:
        return True


@pytest.mark.trio
async def test_punches_that_fail_are_rare(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[float] = []

    async def fail(*_: object) -> bool:
        begun.append(trio.current_time())
        return False

    class Chance:
        random = Random(1)

    punching = p2p.nat.hole_punching.HolePuncher(Silent(), None, Chance())  # type: ignore[arg-type]
    monkeypatch.setattr(punching, "_initiate", fail)
    with trio.move_on_after(24 * 3600):
        async with trio.open_nursery() as nursery:
            for _ in range(5):  # dialling circuits again and again changes nothing
                nursery.start_soon(punching.run, b"peer")
    gaps = [after - before for before, after in pairwise(begun)]
    assert len(begun) > 20 and min(gaps) >= FAILURE_BACKOFF.first_s and max(gaps) <= 1.2 * FAILURE_BACKOFF.max_s
