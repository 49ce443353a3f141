"""The boxes themselves: what passes, what does not, and which holes can be punched through them."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from random import Random

import pytest

from tests.nat.box import TCP, UDP, NatType, Translation
from tests.nat.lab import Home, Host, Lab, open_lab
from tests.nat.namespaces import Namespace
from tests.support.waiting import PATIENCE, wait_until

SOON = 0.3
"""Seconds in which a packet that is not dropped arrives many times over, where none is expected."""
PUNCH_TIMEOUT = 2.5
"""Seconds for a hole that is not expected: the first segment may be dropped, and is sent again after one."""
PORT = 4001

ALL = list(NatType)
RESTRICTED, CONE, SYMMETRIC = NatType.PORT_RESTRICTED, NatType.CONE, NatType.SYMMETRIC


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with open_lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def server(lab: Lab) -> Host:
    return lab.add_host("server")


@pytest.fixture(scope="module")
def stranger(lab: Lab) -> Host:
    return lab.add_host("stranger")


@pytest.fixture(scope="module")
def homes(lab: Lab) -> dict[tuple[NatType, int], Home]:
    """Two of each type."""
    return {(kind, copy): lab.add_home(f"{kind}{copy}", kind) for kind in ALL for copy in (1, 2)}


@pytest.fixture
def home(homes: dict[tuple[NatType, int], Home], request: pytest.FixtureRequest) -> Home:
    return homes[request.param, 1]


each_type = pytest.mark.parametrize("home", ALL, indirect=True)


def make_socket(namespace: Namespace, kind: socket.SocketKind = socket.SOCK_STREAM, port: int = 0) -> socket.socket:
    with namespace:
        made = socket.socket(socket.AF_INET, kind)
    made.settimeout(PATIENCE)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # one port for dialling and listening
    made.bind(("0.0.0.0", port))
    return made


def listen(host: Host, port: int = 0) -> socket.socket:
    listener = make_socket(host.namespace, port=port)
    listener.listen()
    return listener


def connect(host: Host, target: tuple[str, int], port: int = 0) -> socket.socket:
    dialler = make_socket(host.namespace, port=port)
    try:
        dialler.connect(target)
    except BaseException:
        dialler.close()
        raise
    return dialler


def is_cut_off(host: Host, target: tuple[str, int]) -> bool:
    """Whether a dial leads nowhere. What does lead somewhere is tried with :func:`connect`, which is patient."""
    with closing(make_socket(host.namespace)) as dialler:
        dialler.settimeout(SOON)
        try:
            dialler.connect(target)
        except OSError:
            return True
        return False


def check_reached(host: Host, target: tuple[str, int], is_expected: bool) -> None:
    """AssertionError unless a dial leads there, or nowhere, as expected."""
    if is_expected:
        connect(host, target).close()
    else:
        assert is_cut_off(host, target)


@each_type
def test_a_connection_carries_bytes_both_ways(home: Home, server: Host) -> None:
    data = Random(1).randbytes(2_000_000)
    with closing(listen(server)) as listener, closing(connect(home, (server.address, port_of(listener)))) as near:
        far, remote = listener.accept()
        with far:
            far.settimeout(PATIENCE)
            assert remote[0] == home.box.address
            for source, target in ((near, far), (far, near)):
                sender = threading.Thread(target=source.sendall, args=(data,))
                sender.start()
                assert read(target, len(data)) == data
                sender.join()
    flows = home.box.flows
    assert any(flow.outbound and flow.source[0] == home.address and flow.target[0] == server.address for flow in flows)


@each_type
def test_datagrams_pass_both_ways(home: Home, server: Host) -> None:
    with (
        closing(make_socket(server.namespace, socket.SOCK_DGRAM)) as far,
        closing(make_socket(home.namespace, socket.SOCK_DGRAM)) as near,
    ):
        near.sendto(b"ping", (server.address, port_of(far)))
        data, remote = far.recvfrom(100)
        assert (data, remote[0]) == (b"ping", home.box.address)
        far.sendto(b"pong", remote)
        assert near.recvfrom(100) == (b"pong", (server.address, port_of(far)))


@each_type
def test_no_host_comes_in_unasked(home: Home, server: Host) -> None:
    with closing(listen(home, PORT)):
        assert is_cut_off(server, (home.box.address, PORT))
        assert is_cut_off(server, (home.address, PORT))


@each_type
def test_who_comes_in_by_an_open_port(home: Home, server: Host, stranger: Host) -> None:
    """By the port through which the home talks to a server: everybody, if the box is a cone."""
    home.box.flush()
    with (
        closing(listen(server)) as listener,
        closing(listen(home, PORT + 1)),
        closing(connect(home, (server.address, port_of(listener)), PORT + 1)),
    ):
        far, outer = listener.accept()
        with far:
            assert (outer[1] == PORT + 1) == (home.box.nat_type is not SYMMETRIC)
            check_reached(stranger, outer, home.box.nat_type is CONE)


@each_type
def test_the_port_that_others_see(home: Home, server: Host, stranger: Host) -> None:
    seen = set()
    with closing(listen(server)) as first, closing(listen(stranger)) as second:
        for host, listener in ((server, first), (stranger, second)):
            with closing(connect(home, (host.address, port_of(listener)), PORT + 2)):
                far, outer = listener.accept()
                far.close()
                seen.add(outer)
    assert len(seen) == (2 if home.box.nat_type is SYMMETRIC else 1)


@each_type
@pytest.mark.parametrize("how", ["flush", "change address", "block"])
def test_what_cuts_connections(home: Home, server: Host, how: str) -> None:
    """Neither end is told; and what is dialled afterwards works, unless everything is dropped."""
    with closing(listen(server)) as listener:
        target = server.address, port_of(listener)
        with closing(connect(home, target)) as near:
            far, outer = listener.accept()
            with far:
                {"flush": home.box.flush, "change address": home.box.change_address, "block": home.box.block}[how]()
                near.send(b"lost")
                far.send(b"lost")
                for end in (near, far):
                    end.settimeout(SOON)
                    with pytest.raises(TimeoutError):
                        end.recv(10)
        check_reached(home, target, how != "block")
        if how != "block":
            with listener.accept()[0] as again:
                assert (again.getpeername()[0] == outer[0]) == (how == "flush")
        home.box.block(False)
        check_reached(home, target, True)


@pytest.mark.parametrize(
    "one,other,works",
    [
        (RESTRICTED, RESTRICTED, True),
        (RESTRICTED, CONE, True),
        (CONE, CONE, True),
        (CONE, SYMMETRIC, True),
        (RESTRICTED, SYMMETRIC, False),
        (SYMMETRIC, SYMMETRIC, False),
    ],
)
def test_which_holes_can_be_punched(
    homes: dict[tuple[NatType, int], Home], server: Host, one: NatType, other: NatType, works: bool
) -> None:
    """Both tell a server by which port they are seen, learn the other's, and dial it from the same port at once."""
    pair = homes[one, 1], homes[other, 2]
    outer = []
    for home in pair:
        home.box.flush()
        with (
            closing(listen(server)) as listener,
            closing(connect(home, (server.address, port_of(listener)), PORT + 3)),
        ):
            far, seen = listener.accept()
            far.close()
            outer.append(seen)
    connected: list[int] = []

    def punch(number: int) -> None:
        deadline = time.monotonic() + (PATIENCE if works else PUNCH_TIMEOUT)
        while (left := deadline - time.monotonic()) > 0:
            with closing(make_socket(pair[number].namespace, port=PORT + 3)) as end:
                end.settimeout(left)
                try:
                    end.connect(outer[1 - number])
                except ConnectionRefusedError:  # let in by a cone before the other end dials
                    continue
                except TimeoutError:
                    return
                connected.append(number)
                finished.wait(PATIENCE)
                return

    with ExitStack() as closing_at_end:
        if other is SYMMETRIC:  # by whatever port it comes, a cone lets it in to one that listens
            closing_at_end.enter_context(closing(listen(pair[0], PORT + 3)))
        diallers = [1] if other is SYMMETRIC else [0, 1]
        finished = threading.Barrier(len(diallers)) if works else threading.Barrier(1)
        threads = [threading.Thread(target=punch, args=(number,)) for number in diallers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(connected) == (diallers if works else [])


def test_payloads_are_recorded_when_asked(homes: dict[tuple[NatType, int], Home], server: Host) -> None:
    home = homes[CONE, 2]
    with (
        closing(make_socket(server.namespace, socket.SOCK_DGRAM)) as far,
        closing(make_socket(home.namespace, socket.SOCK_DGRAM)) as near,
    ):
        near.sendto(b"before", (server.address, port_of(far)))
        far.recvfrom(100)
        home.box.record()
        near.sendto(b"after", (server.address, port_of(far)))
        far.recvfrom(100)
    assert home.box.recorded == b"after"


def test_packets_of_ipv6_are_counted_and_dropped(homes: dict[tuple[NatType, int], Home]) -> None:
    home = homes[RESTRICTED, 2]
    with home.namespace:
        sender = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with closing(sender):
        sender.sendto(b"x", ("2001:db8::1", 99))
    wait_until(
        lambda: any(flow.target == ("2001:db8::1", 99) and flow.source[0] == home.address6 for flow in home.box.flows),
        "the packet was not counted",
    )


# The packets themselves.


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_checksums_stay_right(protocol: int) -> None:
    random = Random(protocol)
    for _ in range(300):
        inner, outer, remote = (random.randbytes(4) for _ in range(3))
        translation = Translation(SYMMETRIC, socket.inet_ntoa(outer), random)
        packet = make_packet(
            protocol, inner, remote, random.randint(1, 65535), 443, random.randbytes(random.randint(0, 64))
        )
        assert is_sound(packet)
        sent = bytearray(packet)
        assert translation.send(sent)
        assert is_sound(sent) and sent[12:16] == outer and sent[16:20] == remote
        answer = make_packet(protocol, remote, outer, 443, struct.unpack_from("!H", sent, 20)[0], random.randbytes(9))
        assert translation.receive(answer)
        assert is_sound(answer) and answer[16:20] == inner and answer[22:24] == packet[20:22]


def test_what_is_no_packet_is_dropped() -> None:
    random = Random(3)
    translation = Translation(CONE, "198.51.100.1", random)
    good = make_packet(UDP, random.randbytes(4), random.randbytes(4), 1, 2, b"")
    for size in range(len(good)):
        assert not translation.send(good[:size])
    fragment = bytearray(good)
    fragment[7] = 1
    assert not translation.send(fragment)
    assert translation.send(good)


def make_packet(protocol: int, source: bytes, target: bytes, port: int, target_port: int, data: bytes) -> bytearray:
    """An IPv4 packet, of TCP with the flag SYN."""
    if protocol == TCP:
        header = struct.pack("!HHIIBBHHH", port, target_port, 7, 0, 5 << 4, 0x02, 1000, 0, 0)
    else:
        header = struct.pack("!HHHH", port, target_port, 8 + len(data), 0)
    place = 20 + (16 if protocol == TCP else 6)
    size = 20 + len(header) + len(data)
    packet = bytearray(struct.pack("!BBHHHBBH4s4s", 0x45, 0, size, 1, 0x4000, 64, protocol, 0, source, target))
    packet += header + data
    struct.pack_into("!H", packet, 10, ~add_up(packet[:20]) & 0xFFFF)
    struct.pack_into("!H", packet, place, ~add_up(with_pseudo_header(packet)) & 0xFFFF or 0xFFFF)
    return packet


def is_sound(packet: bytearray) -> bool:
    return add_up(packet[:20]) == 0xFFFF and add_up(with_pseudo_header(packet)) == 0xFFFF


def with_pseudo_header(packet: bytearray) -> bytes:
    return bytes(packet[12:20]) + struct.pack("!BBH", 0, packet[9], len(packet) - 20) + bytes(packet[20:])


def add_up(data: bytes | bytearray) -> int:
    """The sum that RFC 1071 defines."""
    data = bytes(data) + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def read(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = source.recv(1 << 16)
        assert chunk, "the connection ended early"
        data += chunk
    return data


def port_of(bound: socket.socket) -> int:
    return int(bound.getsockname()[1])
