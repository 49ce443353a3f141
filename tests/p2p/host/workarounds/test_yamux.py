"""The guards of the multiplexer, on and off: frames, windows, keepalive, unread bytes."""

from __future__ import annotations

import math
import random
import struct
from contextlib import suppress
from functools import partial
from typing import cast

import pytest
import trio
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.io.utils import read_exactly
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.stream.exceptions import StreamError
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID
from libp2p.stream_muxer.yamux.yamux import (
    FLAG_SYN,
    TYPE_DATA,
    TYPE_PING,
    YAMUX_HEADER_FORMAT,
    Yamux,
    YamuxStream,
)
from trio.testing import assert_checkpoints

import p2p.host.stream
import p2p.host.workarounds.yamux
from p2p.host.workarounds.swarm import GuardedSwarm
from p2p.host.workarounds.yamux import BATCH_BYTES, MAX_UNNOTED_BYTES, GuardedUpgrader, GuardedYamux
from p2p.host.yamux_limits import BufferBudget
from p2p.limits.rate_limit import Rate
from p2p.network import NetworkError, RawStream
from p2p.streams.frames import Frame, FrameReader, Kind
from tests.support.hosts import (
    ECHO,
    Link,
    cancelled_after,
    echo,
    echoes,
    guard,
    library,
    muxer,
    network,
    pair,
    running,
    swarm_of,
)
from tests.support.waiting import PATIENCE, eventually, undisturbed


@pytest.mark.trio
async def test_a_frame_may_come_in_any_number_of_pieces() -> None:
    """The library's reader gives up after a hundred pieces, on a connection that is all right."""
    frame = Frame(Kind.DATA, 1, bytes(1000))
    wire = frame.encode()

    class Dribble:
        def __init__(self) -> None:
            self.position = 0

        async def read(self, n: int | None = None) -> bytes:
            self.position += 1
            return wire[self.position - 1 : self.position]

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
        with trio.fail_after(PATIENCE), pytest.raises(NetworkError, match="took nothing"):
            await stream.send(bytes(1 << 21))


@guard
@pytest.mark.trio
async def test_a_cancelled_write_leaves_the_connection_whole(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(GuardedYamux, "_write_frame")
    async with pair() as (one, other):
        whole = True
        # Where it is cut depends on what else runs: without the guard it may take some rounds to find a bad place.
        for checkpoints in [*range(12)] * (1 if on else 10):
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
        if on:
            await eventually(lambda: not one.peers())
        else:
            await trio.sleep(0.5)
            assert one.peers()


@guard
@pytest.mark.trio
async def test_small_frames_of_many_streams_share_a_write(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(GuardedYamux, "_write_frame")
    async with pair() as (one, other):
        streams = [await other.open_stream(one.me, ECHO) for _ in range(30)]
        secured, written = muxer(other, one).secured_conn, 0
        write = secured.write

        async def count(data: bytes) -> None:
            nonlocal written
            written += 1
            await write(data)

        vars(secured)["write"] = count
        async with trio.open_nursery() as nursery:
            for number, stream in enumerate(streams):
                nursery.start_soon(stream.send, b"%d" % number)
        assert (written < 10) is on
        assert [await stream.receive() for stream in streams] == [b"%d" % number for number in range(30)]


@guard
@pytest.mark.trio
async def test_frames_that_only_bring_data_pass_no_loop_and_may_come_in_any_pieces(
    on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not on:
        monkeypatch.setattr(GuardedYamux, "_take_in", lambda muxer, header: False)
    chance, looped = random.Random(1), 0
    read_body = GuardedYamux._read_data_body

    async def count(yamux: GuardedYamux, length: int) -> bytes:
        nonlocal looped
        looped += 1
        return await read_body(yamux, length)

    async with pair() as (one, other):
        stream = await other.open_stream(one.me, ECHO)
        await stream.send(b"first")
        assert await stream.receive() == b"first"
        muxed, payload, frames = stream._stream.muxed_stream, chance.randbytes(60_000), bytearray()
        assert isinstance(muxed, YamuxStream)
        start = 0
        while start < len(payload):
            part = payload[start : start + chance.choice((1, 300, 300))]
            start += len(part)
            frames += struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_DATA, 0, muxed.stream_id, len(part)) + part
        monkeypatch.setattr(GuardedYamux, "_read_data_body", count)
        muxed.send_window -= len(payload)
        while frames:
            size = chance.choice((1, 11, 5_000, 15_000))
            await muxed.conn.secured_conn.write(bytes(frames[:size]))
            del frames[:size]
        received = b""
        while len(received) < len(payload):
            received += await stream.receive()
        assert received == payload
    assert (looped < 150) is on


@pytest.mark.trio
async def test_who_reads_what_has_come_already_gives_others_their_turn() -> None:
    async with pair() as (one, other):
        stream = await other.open_stream(one.me, ECHO)
        await stream.send(b"twice")
        await eventually(lambda: len(muxer(other, one).stream_buffers[stream._stream.muxed_stream.stream_id]) == 5)  # type: ignore[attr-defined]
        with assert_checkpoints():
            assert await stream.receive(2) == b"tw"
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.receive()
        assert await stream.receive() == b"ice", "a read that is cancelled has taken nothing"


@pytest.mark.trio
async def test_what_waits_to_be_written_has_a_bound() -> None:
    async with pair() as (one, other), trio.open_nursery() as nursery:
        stream = await other.open_stream(one.me, ECHO)
        yamux, sent = muxer(other, one), 0
        assert isinstance(yamux, GuardedYamux)

        async def write() -> None:
            async with yamux._write_lock:  # as one does for which the connection has no room
                await trio.sleep_forever()

        nursery.start_soon(write)
        await eventually(yamux._write_lock.locked)

        async def pour() -> None:
            nonlocal sent
            while True:
                await stream.send(bytes(50))
                sent += 1

        nursery.start_soon(pour)
        await eventually(lambda: sent > 0)
        await trio.sleep(0.3)
        assert sent * 62 <= BATCH_BYTES + 62
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_stream_that_is_not_read_holds_up_no_other() -> None:
    async def read_nothing(stream: RawStream) -> None:
        await trio.sleep_forever()

    async with pair() as (one, other):
        one.handle("/test/nothing/1", read_nothing)
        full = await other.open_stream(one.me, "/test/nothing/1")
        live = await other.open_stream(one.me, ECHO)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(full.send, bytes(4 << 20))
            await eventually(lambda: full._stream.muxed_stream.send_window <= 0)
            for _ in range(100):
                await live.send(bytes(5000))
                received = 0
                while received < 5000:
                    received += len(await live.receive())
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_connection_whose_peer_takes_nothing_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.host.workarounds.yamux, "FRAME_WRITE_TIMEOUT_S", 0.5)
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

        with trio.fail_after(PATIENCE):
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


@pytest.mark.trio
async def test_who_reads_past_the_end_holds_up_no_other_task() -> None:
    async def close(stream: RawStream) -> None:
        await stream.close()

    async with pair() as (one, other):
        one.handle("/test/close/1", close)
        stream = await other.open_stream(one.me, "/test/close/1")
        assert await stream.receive() == b""
        with assert_checkpoints():
            assert await stream.receive() == b""


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
        assert victim.peers(), "a peer that sends too fast is only read more slowly"


@guard
@pytest.mark.trio
async def test_unread_bytes_of_all_connections_have_a_bound(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
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
        # Small frames of each connection are taken in before they are counted.
        assert (kept <= (1 << 20) + len(others) * MAX_UNNOTED_BYTES) is on
        assert await echoes(others[0], victim), "who keeps little stays"


@guard
@pytest.mark.trio
async def test_a_dead_link_is_noticed(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.host.workarounds.yamux, "KEEPALIVE_INTERVAL_S", 0.2)
    monkeypatch.setattr(p2p.host.workarounds.yamux, "KEEPALIVE_TIMEOUT_S", 1.0)
    if not on:
        monkeypatch.delattr(GuardedYamux, "_measure_rtt_loop")

    async def attempt() -> None:
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

    await undisturbed(attempt, 0.5)


@pytest.mark.trio
async def test_traffic_is_a_sign_of_life_when_pongs_are_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.host.workarounds.yamux, "KEEPALIVE_INTERVAL_S", 0.2)
    monkeypatch.setattr(p2p.host.workarounds.yamux, "KEEPALIVE_TIMEOUT_S", 1.0)

    async def attempt() -> None:
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

    await undisturbed(attempt, 0.5)


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


@pytest.mark.trio
async def test_the_upgrader_builds_the_guarded_multiplexer() -> None:
    async with pair() as (one, other):
        assert isinstance(library(one).host.get_network(), GuardedSwarm)
        assert isinstance(swarm_of(one).upgrader, GuardedUpgrader)
        assert type(muxer(one, other)) is type(muxer(other, one)) is GuardedYamux
