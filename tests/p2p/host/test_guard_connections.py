"""The guards of ``p2p.host.workarounds`` against their faults: with a guard off its fault shows, with it on it does
not.

Most guards override one method of a library class, so that "off" is the class without the override. A test that fails
for ``guard_off`` means that the library has been mended and the guard can go.
"""

from __future__ import annotations

import logging
import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.secp256k1 import create_new_key_pair as create_secp256k1_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import StreamFailure
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.io.trio import TrioTCPStream
from libp2p.io.utils import read_exactly
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.envelope import consume_envelope
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.pubsub.pb import rpc_pb2
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import FLAG_SYN, TYPE_PING, YAMUX_HEADER_FORMAT, Yamux
from libp2p.transport.tcp import tcp
from multiaddr import Multiaddr

import p2p.host.connections
import p2p.host.gossip
import p2p.host.network
import p2p.host.stream
import p2p.host.workarounds.host
import p2p.host.workarounds.process
import p2p.host.workarounds.swarm
import p2p.host.workarounds.yamux
from p2p.host.network import Libp2pNetwork
from p2p.host.workarounds.host import GuardedHost
from p2p.host.workarounds.swarm import GuardedSwarm
from p2p.host.workarounds.yamux import GuardedUpgrader, GuardedYamux
from p2p.host.yamux_limits import BufferBudget
from p2p.nat.dial_back import PROTOCOL as REACHABILITY
from p2p.nat.relay_client import STOP
from p2p.network import NetworkError, RawStream
from p2p.peer_id import peer_id_of, public_key_of
from p2p.rate_limit import Rate
from p2p.streams.frames import Frame, FrameReader, Kind
from tests.p2p.hosts import (
    ECHO,
    TOPIC,
    Link,
    echo,
    echoes,
    gossip_works,
    guard,
    key,
    library,
    muxer,
    network,
    pair,
    running,
    survives,
    swarm_of,
)
from tests.support.waiting import eventually

STOCK_REMOTE_ADDRESS = TrioTCPStream.get_remote_address
STOCK_REUSE_FLAGS = tcp._set_reuse_flags  # before any host is made, which replaces it


# Items 1, 2 and 10


@guard
@pytest.mark.trio
async def test_an_exception_in_a_library_handler(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(GuardedHost, "_swarm_stream_handler")

    async def attack(victim: Libp2pNetwork, attacker: Libp2pNetwork) -> None:
        async def fail(stream: Any) -> None:
            raise ValueError("a bug")

        library(victim).host.set_stream_handler(cast(Any, "/test/fail/1"), fail)
        with pytest.raises(NetworkError):
            await (await attacker.open_stream(victim.me, "/test/fail/1")).receive()

    assert await survives(attack) is on


@guard
@pytest.mark.trio
async def test_inbound_slots_are_free_again_when_peers_have_left(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(GuardedSwarm, "_do_handle_inbound_connection")
    async with pair(connected=False) as (one, other):
        swarm_of(one)._inbound_limiter.total_tokens = 2
        served = 0
        for _ in range(4):
            try:
                await other.connect(one.me, one.listen_addresses)
            except NetworkError:
                break
            served += 1
            await other.disconnect(one.me)
            await eventually(lambda: not one.peers())
            await trio.sleep(0.3)
        assert served == (4 if on else 2)


@pytest.mark.trio
async def test_a_peer_has_no_more_streams_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.host.workarounds.host, "MAX_STREAMS", 4)  # of which gossip takes two
    async with pair() as (one, other):
        await eventually(lambda: len(swarm_of(one).get_connections()[0].get_streams()) == 2)
        streams = [await other.open_stream(one.me, ECHO) for _ in range(2)]
        with pytest.raises(NetworkError):
            await other.open_stream(one.me, ECHO)
        for stream in streams:
            await stream.close()
        await eventually(lambda: len(swarm_of(one).get_connections()[0].get_streams()) == 2)
        assert await echoes(other, one)


@guard
@pytest.mark.trio
async def test_a_failed_dial_does_not_block_the_next(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:

        async def dial(self: GuardedSwarm, peer: ID, address: Multiaddr) -> None:
            self.peerstore.add_addrs(peer, [address], 60)
            await self.dial_peer(peer)

        monkeypatch.setattr(GuardedSwarm, "dial", dial)
    async with pair(connected=False) as (one, other):
        with pytest.raises(NetworkError):
            await other.connect(one.me, ["/ip4/127.0.0.1/tcp/1"])
        try:
            await other.connect(one.me, one.listen_addresses)
        except NetworkError:
            assert not on
        else:
            assert on


# Items 11 to 13, and other faults of streams


@pytest.mark.trio
async def test_a_frame_may_come_in_any_number_of_pieces() -> None:
    """The library's reader gives up after a hundred pieces, on a connection that is all right."""
    frame = Frame(Kind.DATA, 1, bytes(1000))
    wire = frame.encode()

    class Dribble:
        def __init__(self) -> None:
            self.place = 0

        async def read(self, n: int | None = None) -> bytes:
            self.place += 1
            return wire[self.place - 1 : self.place]

    with pytest.raises(IncompleteReadError):
        await read_exactly(Dribble(), len(wire))
    source, reader, received = Dribble(), FrameReader(), []
    while data := await source.read():
        received += reader.feed(data)
    assert received == [frame]


@pytest.mark.trio
async def test_a_writer_outwaits_a_reader_that_pauses() -> None:
    received = []

    async def pause(stream: RawStream) -> None:
        await trio.sleep(6)
        total = 0
        while data := await stream.receive():
            total += len(data)
        received.append(total)

    async with pair() as (one, other):
        one.handle("/test/pause/1", pause)
        guarded = await other.open_stream(one.me, "/test/pause/1")
        stock = await other.open_stream(one.me, "/test/pause/1")
        await trio.sleep(0.2)  # the windows have been told
        size = max(stream._stream.muxed_stream.send_window for stream in (guarded, stock)) + 1000
        async with trio.open_nursery() as nursery:
            nursery.start_soon(guarded.send, bytes(size))
            with pytest.raises(StreamError):
                await stock._stream.write(bytes(size))
        await guarded.close()
        await eventually(lambda: received == [size])


@pytest.mark.trio
async def test_a_window_that_never_opens_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.host.workarounds.yamux, "WINDOW_TIMEOUT_S", 0.5)

    async def read_nothing(stream: RawStream) -> None:
        await trio.sleep_forever()

    async with pair() as (one, other):
        one.handle("/test/nothing/1", read_nothing)
        stream = await other.open_stream(one.me, "/test/nothing/1")
        with trio.fail_after(20), pytest.raises(NetworkError, match="took nothing"):
            await stream.send(bytes(1 << 21))


async def cancelled_after(checkpoints: int, function: Callable[[], Any]) -> None:
    """Start ``function`` and cancel it when it has had about this many chances to go on."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(function)
        for _ in range(checkpoints):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


@guard
@pytest.mark.trio
async def test_a_cancelled_open_gives_its_slot_back(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(GuardedSwarm, "new_stream")
    async with pair() as (one, other):
        yamux = muxer(other, one)
        await eventually(lambda: yamux.stream_backlog_semaphore.value == 255)  # gossip has one
        for checkpoints in range(20):
            await cancelled_after(checkpoints, partial(other.open_stream, one.me, ECHO))
        await trio.sleep(0.2)
        assert (yamux.stream_backlog_semaphore.value == 255) is on


@guard
@pytest.mark.trio
async def test_a_cancelled_write_leaves_the_connection_whole(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(GuardedYamux, "_write_frame")
    async with pair() as (one, other):
        whole = True
        for checkpoints in range(12):
            if whole:
                stream = await other.open_stream(one.me, ECHO)
                await cancelled_after(checkpoints, partial(stream.send, bytes(1000)))
                whole = await echoes(other, one)
        assert whole is on


@guard
@pytest.mark.trio
async def test_a_failed_write_ends_the_connection(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(GuardedYamux, "_write_frame")
    async with pair() as (one, other):
        await eventually(lambda: bool(one.peers()))
        yamux = muxer(one, other)

        async def fail(data: bytes) -> None:
            raise ConnectionClosedError("the peer has closed the connection")

        vars(yamux.secured_conn)["write"] = fail
        await muxer(other, one).secured_conn.write(struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_PING, FLAG_SYN, 0, 0))
        await trio.sleep(0.5)
        assert (not one.peers()) is on


@pytest.mark.trio
async def test_a_connection_whose_peer_takes_nothing_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.host.workarounds.yamux, "WRITE_TIMEOUT_S", 0.5)
    one, other = network(1), network(2)

    async def take(stream: RawStream) -> None:
        await trio.sleep_forever()

    one.handle("/test/take/1", take)
    async with running(one, other) as nursery:
        link = Link(one.listen_addresses[0])
        await nursery.start(link.run)
        await other.connect(one.me, [link.address])
        streams = [await other.open_stream(one.me, "/test/take/1") for _ in range(60)]
        link.freeze()

        async def send(stream: RawStream) -> None:
            with pytest.raises(NetworkError):
                await stream.send(bytes(1 << 20))

        with trio.fail_after(20):
            async with trio.open_nursery() as writers:
                for stream in streams:
                    writers.start_soon(send, stream)
            await other.disconnect(one.me)
        assert other.peers() == frozenset()


@guard
@pytest.mark.trio
async def test_a_reset_is_not_a_regular_end(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.setattr(p2p.host.stream, "was_reset", lambda stream: False)
    waiting = trio.Event()

    async def reset(stream: RawStream) -> None:
        await waiting.wait()
        await stream.reset()

    async with pair() as (one, other):
        one.handle("/test/reset/1", reset)
        stream = await other.open_stream(one.me, "/test/reset/1")
        waiting.set()
        try:
            end = await stream.receive()
        except NetworkError:
            assert on
        else:
            assert end == b"" and not on


# What a connection may carry


async def admit_all(muxed: GuardedYamux, header: bytes) -> None:
    """The library looks at nothing."""


@guard
@pytest.mark.trio
async def test_frames_of_no_known_kind_end_the_connection(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.setattr(GuardedYamux, "_admit", admit_all)
    async with pair() as (victim, attacker):
        await attacker.open_stream(victim.me, ECHO)
        secured = muxer(attacker, victim).secured_conn
        with suppress(RawConnError):
            await secured.write(struct.pack(YAMUX_HEADER_FORMAT, 0, 9, 0, 0, 0) * 1000)
        with trio.move_on_after(20 if on else 1):
            while victim.peers():
                await trio.sleep(0.05)
        assert (not victim.peers()) is on
        assert bool(len(victim.gater.peers)) is on


@guard
@pytest.mark.trio
async def test_pings_are_answered_no_faster_than_the_rate(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.host.workarounds.yamux, "FRAME_RATE", Rate(items=200, size=math.inf, burst=1.0))
    if not on:
        monkeypatch.setattr(GuardedYamux, "_admit", admit_all)
    async with pair() as (victim, attacker):
        await eventually(lambda: bool(victim.peers()))
        yamux, pongs = muxer(victim, attacker), 0
        write_frame = yamux._write_frame

        async def count(frame: bytes) -> None:
            nonlocal pongs
            pongs += frame[1] == TYPE_PING
            await write_frame(frame)

        vars(yamux)["_write_frame"] = count
        await muxer(attacker, victim).secured_conn.write(
            struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_PING, FLAG_SYN, 0, 0) * 1000
        )
        await trio.sleep(1)
        assert (pongs < 50) is on
        assert victim.peers(), "whoever sends too fast is only read more slowly"


@guard
@pytest.mark.trio
async def test_what_nobody_reads_of_all_connections_has_a_bound(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.host.workarounds.yamux, "MAX_BUFFERED_TOTAL_BYTES", 1 << 20)
    if not on:
        monkeypatch.setattr(BufferBudget, "note", lambda backlog, holder, size: None)
    victim, *others = (network(number) for number in range(1, 9))

    async def read_nothing(stream: RawStream) -> None:
        await trio.sleep_forever()

    victim.handle("/test/nothing/1", read_nothing)
    victim.handle(ECHO, echo)
    async with running(victim, *others):
        for other in others:
            await other.connect(victim.me, victim.listen_addresses)
        sent = await others[0].open_stream(victim.me, "/test/nothing/1")
        await sent.send(bytes(1 << 17))
        for other in others[1:]:
            with suppress(NetworkError):
                stream = await other.open_stream(victim.me, "/test/nothing/1")
                await stream.send(bytes(250_000))
        await trio.sleep(1)
        kept = sum(
            len(buffer)
            for connection in swarm_of(victim).get_connections()
            for buffer in cast(Yamux, connection.muxed_conn).stream_buffers.values()
        )
        assert (kept <= 1 << 20) is on
        assert await echoes(others[0], victim), "who keeps little stays"


# Items 14 to 16: connections


@guard
@pytest.mark.trio
async def test_a_dead_link_is_noticed(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.host.workarounds.yamux, "KEEPALIVE_INTERVAL_S", 0.2)
    monkeypatch.setattr(p2p.host.workarounds.yamux, "KEEPALIVE_TIMEOUT_S", 1.0)
    if not on:
        monkeypatch.delattr(GuardedYamux, "_measure_rtt_loop")
    one, other = network(1), network(2)
    async with running(one, other) as nursery:
        link = Link(one.listen_addresses[0])
        await nursery.start(link.run)
        await other.connect(one.me, [link.address])
        await trio.sleep(1.0)
        assert one.peers() and other.peers(), "a link that lives stays"
        link.freeze()
        with trio.move_on_after(20 if on else 3):
            while one.peers() or other.peers():
                await trio.sleep(0.05)
        assert (not one.peers() and not other.peers()) is on


@pytest.mark.trio
async def test_traffic_is_a_sign_of_life_when_pongs_are_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.host.workarounds.yamux, "KEEPALIVE_INTERVAL_S", 0.2)
    monkeypatch.setattr(p2p.host.workarounds.yamux, "KEEPALIVE_TIMEOUT_S", 1.0)
    async with pair() as (one, other):
        yamux = muxer(one, other)
        write_frame = yamux._write_frame

        async def write_no_ping_or_pong(frame: bytes) -> None:
            if frame[1] != TYPE_PING:
                await write_frame(frame)

        vars(yamux)["_write_frame"] = write_no_ping_or_pong
        stream = await other.open_stream(one.me, ECHO)
        with trio.move_on_after(2.5):
            while True:
                await stream.send(b"x")
                await stream.receive()
        assert other.peers() == {one.me}
        await eventually(lambda: not other.peers())


@guard
@pytest.mark.trio
async def test_leaving_the_network_leaves_nothing_behind(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def resources() -> list[int]:
        return [trio.lowlevel.current_statistics().tasks_living, len(list(Path("/proc/self/fd").iterdir()))]

    if not on:

        async def cancelled_instead(host: GuardedHost) -> None:
            """What an ordinary cancellation does to the library: every await of its cleanup fails at once."""

        monkeypatch.setattr(p2p.host.network, "close_host", cancelled_instead)
        monkeypatch.setattr(p2p.host.network, "CLOSE_TIMEOUT_S", 0.0)
    one = network(1)
    async with running(one):
        await trio.sleep(0.1)
        before = resources()
        for _ in range(3):
            other = network(2)
            async with running(other):
                await other.connect(one.me, one.listen_addresses)
        with trio.move_on_after(20 if on else 2):
            while any(now > then for now, then in zip(resources(), before, strict=True)):
                await trio.sleep(0.05)
        assert all(now <= then for now, then in zip(resources(), before, strict=True)) is on


@guard
@pytest.mark.trio
async def test_mutual_dialling_leaves_one_connection(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.setattr(p2p.host.connections, "surplus_connections", lambda connections, outbound_wins: [])
    async with pair(connected=False) as (one, other):
        inboxes = one.subscribe(TOPIC), other.subscribe(TOPIC)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.connect, other.me, other.listen_addresses)
            nursery.start_soon(other.connect, one.me, one.listen_addresses)
        await eventually(lambda: len(swarm_of(one).get_connections()) == len(swarm_of(other).get_connections()) == 2)
        with trio.move_on_after(2):
            while len(swarm_of(one).get_connections()) + len(swarm_of(other).get_connections()) > 2:
                await trio.sleep(0.05)
        counts = len(swarm_of(one).get_connections()), len(swarm_of(other).get_connections())
        assert counts == ((1, 1) if on else (2, 2))
        assert one.peers() == {other.me} and other.peers() == {one.me}
        assert await echoes(one, other) and await echoes(other, one)
        await gossip_works(one, inboxes[1], TOPIC)
        await gossip_works(other, inboxes[0], TOPIC)


# Who may connect, and whom the library would dial


@pytest.mark.trio
async def test_plaintext_is_not_spoken() -> None:
    one = network(1)
    async with running(one):
        client = await trio.open_tcp_stream("127.0.0.1", int(one.listen_addresses[0].rsplit("/", 1)[1]))
        async with client:
            for protocol in ("/multistream/1.0.0", PLAINTEXT_PROTOCOL_ID):
                line = protocol.encode() + b"\n"
                await client.send_all(bytes([len(line)]) + line)
            received = b""
            while not received.endswith(b"\x03na\n"):
                received += await client.receive_some()
    assert received == b"\x13/multistream/1.0.0\n\x03na\n"


@guard
@pytest.mark.trio
async def test_only_ed25519_keys_are_accounts(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(GuardedSwarm, "add_conn")
    one = network(1)
    async with running(one):
        stranger = new_host(key_pair=create_secp256k1_key_pair())
        assert public_key_of(stranger.get_id()) is None
        async with stranger.run([]):
            try:
                with trio.move_on_after(3):
                    await stranger.connect(PeerInfo(peer_id_of(one.me), [Multiaddr(one.listen_addresses[0])]))
                await trio.sleep(0.5)
                assert len(swarm_of(one).get_connections()) == (0 if on else 1)
                assert one.peers() == frozenset()
            finally:
                await stranger.close()


@guard
@pytest.mark.trio
async def test_nobody_is_dialled_unasked(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(p2p.host.workarounds.swarm._NoAutoConnector, "maybe_connect")
        monkeypatch.delattr(GuardedSwarm, "dial_peer")
    async with pair(connected=False) as (one, other):
        swarm = swarm_of(one)
        swarm.peerstore.add_addrs(peer_id_of(other.me), [Multiaddr(other.listen_addresses[0])], 60)
        await swarm.auto_connector.maybe_connect()
        assert (one.peers() == frozenset()) is on


@guard
@pytest.mark.trio
async def test_opening_a_stream_dials_nobody(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(GuardedSwarm, "dial_peer")
    async with pair(connected=False) as (one, other):
        host = library(one).host
        host.get_peerstore().add_addrs(peer_id_of(other.me), [Multiaddr(other.listen_addresses[0])], 60)
        with suppress(StreamFailure, SwarmException):
            await host.new_stream(peer_id_of(other.me), [TProtocol(ECHO)])
        assert (one.peers() == frozenset()) is on


@guard
@pytest.mark.trio
async def test_gossip_carries_no_addresses(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(p2p.host.workarounds.host.GuardedHost, "get_addrs")
    async with pair() as (one, other):
        inbox = other.subscribe(TOPIC)
        one.subscribe(TOPIC)
        await gossip_works(one, inbox, TOPIC)
        envelope = rpc_pb2.RPC.FromString(library(one).pubsub.get_hello_packet().SerializeToString()).senderRecord
        _, record = consume_envelope(envelope, "libp2p-peer-record")
        assert (record.addrs == []) is on


@guard
@pytest.mark.trio
async def test_a_reader_that_does_not_read_holds_up_little(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    p2p.host.workarounds.process.install()
    if not on:
        monkeypatch.setattr(yamux, "MAX_WINDOW_SIZE", 16 << 20)
    monkeypatch.setattr(yamux.YamuxStream, "_effective_rtt", lambda stream: 1.0)  # the window grows on slow links only
    unread, limit = 0, 2 << 20
    wake = trio.Event()

    async def read_eagerly_then_stop(stream: RawStream) -> None:
        read = 0
        while read < 8 << 20:  # the window grows with what is read
            read += len(await stream.receive())
        await wake.wait()

    async with pair() as (one, other):
        one.handle("/test/slow/1", read_eagerly_then_stop)
        stream = await other.open_stream(one.me, "/test/slow/1")
        await stream.send(bytes(8 << 20))
        with trio.move_on_after(1.0):
            while unread <= limit:
                await stream.send(bytes(64 << 10))
                unread += 64 << 10
        wake.set()
    assert (unread <= limit) is on


@guard
@pytest.mark.trio
async def test_windows_grow_with_what_is_read(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    p2p.host.workarounds.process.install()
    if not on:
        monkeypatch.setattr(yamux.YamuxStream, "_apply_autotune_epoch", p2p.host.workarounds.process.STOCK_AUTOTUNE)
    async with pair() as (one, other):
        stream = await other.open_stream(one.me, ECHO)
        for _ in range(5):
            await stream.send(b"hello")
            await stream.receive()
        largest = max(stream.target_recv_window for stream in muxer(one, other).streams.values())
        assert (largest == yamux.DEFAULT_WINDOW_SIZE) is on


@pytest.mark.trio
async def test_a_node_tells_no_peer_its_listen_addresses() -> None:
    async with pair() as (one, other):
        assert set(library(one).host.get_mux().get_protocols()) == {
            "/ipfs/ping/1.0.0",
            "/meshsub/1.1.0",
            STOP,
            REACHABILITY,
            ECHO,
        }
        with pytest.raises(NetworkError):
            await other.open_stream(one.me, "/ipfs/id/1.0.0")


@guard
@pytest.mark.trio
async def test_the_other_end_of_an_ipv6_connection_has_an_address(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    p2p.host.workarounds.process.install()
    if not on:
        monkeypatch.setattr(TrioTCPStream, "get_remote_address", STOCK_REMOTE_ADDRESS)
    one, other = network(1, listen=["/ip6/::1/tcp/0"]), network(2, listen=())
    async with running(one, other):
        await other.connect(one.me, one.listen_addresses)
        assert (muxer(other, one).get_remote_address() is not None) is on


@guard
@pytest.mark.trio
async def test_a_port_in_use_is_an_error(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    p2p.host.workarounds.process.install()
    if not on:
        monkeypatch.setattr(tcp, "_set_reuse_flags", STOCK_REUSE_FLAGS)
    one = network(1)
    async with running(one):
        second = network(2, listen=one.listen_addresses)
        try:
            with trio.move_on_after(1) as scope:
                await second.run()
        except NetworkError as error:
            assert on and "in use" in str(error)
        else:
            assert scope.cancelled_caught and not on


# Process-wide settings


QUIET = """
import logging, sys, trio
from tests.p2p.hosts import network, running
async def main():
    one, other = network(1), network(2)
    async with running(one, other):
        await other.connect(one.me, one.listen_addresses)
        client = await trio.open_tcp_stream("127.0.0.1", int(one.listen_addresses[0].rsplit("/", 1)[1]))
        await client.send_all(b"GET / HTTP/1.0\\r\\n\\r\\n")
        await client.aclose()
        await trio.sleep(0.3)
trio.run(main)
print(logging.getLogger().handlers)
"""


def test_the_library_is_quiet_and_leaves_the_root_logger_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", QUIET], capture_output=True, text=True, cwd=Path(__file__).parents[3], check=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_installing_is_idempotent_and_sets_what_it_says() -> None:
    p2p.host.workarounds.process.install()
    replaced = tcp._set_reuse_flags
    p2p.host.workarounds.process.install()
    assert tcp._set_reuse_flags is replaced
    assert os.environ["PY_YAMUX_RELEASE_ON_READ"] == "0"
    assert not logging.getLogger("libp2p.network.swarm").isEnabledFor(logging.CRITICAL)


@pytest.mark.trio
async def test_the_upgrader_builds_the_guarded_multiplexer() -> None:
    async with pair() as (one, other):
        assert isinstance(library(one).host.get_network(), GuardedSwarm)
        assert isinstance(swarm_of(one).upgrader, GuardedUpgrader)
        assert type(muxer(one, other)) is type(muxer(other, one)) is GuardedYamux


def test_keys_and_peer_ids_correspond() -> None:
    public_key = key(1).public_key
    assert public_key_of(peer_id_of(public_key)) == public_key
    assert str(peer_id_of(public_key)) == key(1).address
    assert public_key_of(b"") is public_key_of(peer_id_of(bytes(32)).to_bytes()) is None
