"""Abuse by peers that have made a proper connection: frames, streams, gossip and announcements, and thirty Sybils."""

from __future__ import annotations

import struct
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from itertools import count, cycle
from pathlib import Path
from typing import Any

import pytest
import trio
from libp2p.pubsub.pb import rpc_pb2
from libp2p.stream_muxer.yamux.yamux import (
    FLAG_RST,
    FLAG_SYN,
    TYPE_DATA,
    TYPE_PING,
    TYPE_WINDOW_UPDATE,
    YAMUX_HEADER_FORMAT,
)
from libp2p.utils.varint import encode_varint_prefixed
from nacl.signing import SigningKey

from chain.crypto import KeyPair
from p2p.discovery.plumtree import PLUMTREE_PROTOCOL as VIEWS
from p2p.discovery.service import Discovery
from p2p.host.network import Libp2pNetwork
from p2p.host.stream import Libp2pStream
from p2p.network import NetworkError, RawStream
from p2p.peer_id import peer_id_of
from p2p.peers.announcement import Announcement, PeerLoad, sign_announcement
from p2p.peers.anti_entropy import AgedAnnouncement, SyncFrame
from p2p.runtime import RealRuntime
from p2p.streams.frames import MAX_FRAME_BYTES, Frame, Kind
from tests.adversarial.overlay.attackers import (
    HONEST,
    Peer,
    attack,
    attacking,
    connect,
    get_muxer,
    keep_connecting,
    open_gossip,
)
from tests.adversarial.overlay.victim import ASK, CHAIN, KEY, TOPIC, UNREAD, WRITE_INTERVAL, Victim, running_victim
from tests.support.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.trio, pytest.mark.usefixtures("sources")]
ME = KEY.public_key
YEAR = 365 * 24 * 3600 * 1000


async def wait_banned(peer: Peer, victim: Victim) -> None:
    """Wait until the peer is cut off and banned. That a ban keeps it out for its time is for the tests of the gater."""
    await eventually(lambda: not peer.connected, message="it was not cut off")
    await eventually(lambda: victim.read()["banned"] > peer.bans_before, message="it was not banned")


async def send_until_cut_off(peer: Peer, protocol: str, data: bytes, streams: int) -> None:
    for _ in range(streams):
        with suppress(NetworkError):
            stream = await peer.network.open_stream(ME, protocol)
            await stream.send(data)
            with trio.move_on_after(10):
                await stream.receive()


# Frames and streams


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 64,
        struct.pack(">IBI", 2 * MAX_FRAME_BYTES, Kind.DATA, 1),
        Frame(Kind.WINDOW_UPDATE, 1, b"\xff" * 4).encode(),
    ],
    ids=["garbage", "oversize", "credit"],
)
async def test_broken_frames_lead_to_a_ban(victim: Victim, data: bytes) -> None:
    number = 10 + data[0] % 7 + len(data)
    source = f"127.1.1.{number}"
    begin = Frame(Kind.DATA, 1, b"x").encode()
    async with attack(victim), attacking(2000 + number, victim, source) as peer:
        await send_until_cut_off(peer, ASK, begin + data if data[0] == 0 and data[4] == Kind.WINDOW_UPDATE else data, 4)
        await wait_banned(peer, victim)


async def test_frames_without_an_end_do_not_fill_the_memory(victim: Victim) -> None:
    """A byte less than a whole frame on every stream that there may be."""
    source = "127.1.2.1"
    part = Frame(Kind.DATA, 1, bytes(MAX_FRAME_BYTES)).encode()[:-1]
    async with attack(victim), attacking(2100, victim, source) as peer, trio.open_nursery() as nursery:

        async def begin() -> None:
            with suppress(NetworkError), trio.move_on_after(10):
                stream = await peer.network.open_stream(ME, ASK)
                await stream.send(part)
                await stream.receive()

        for _ in range(100):
            nursery.start_soon(begin)


@pytest.mark.parametrize("kind", ["frames", pytest.param("streams", marks=pytest.mark.long), "gossip"])
async def test_several_peers_of_one_address_do_not_fill_the_memory(victim: Victim, kind: str) -> None:
    """Each keeps to what one peer may have waiting: frames and RPCs without an end, and streams that are not read."""
    peers, streams = {"frames": (10, 15), "streams": (10, 60), "gossip": (4, 40)}[kind]
    source = f"127.1.11.{peers + len(kind)}"

    settled = 0  # streams that are full, or were refused

    async def fill(peer: Peer) -> None:
        nonlocal settled
        stream: RawStream | None = None
        try:
            if kind == "frames":
                stream = await peer.network.open_stream(ME, ASK)
                await stream.send(Frame(Kind.DATA, 1, bytes(MAX_FRAME_BYTES)).encode()[:-1])
            elif kind == "streams":
                stream = await peer.network.open_stream(ME, UNREAD)
                await stream.send(bytes(1 << 18))
            else:
                stream = await open_gossip(peer)
                await stream.send(encode_varint_prefixed(bytes(MAX_FRAME_BYTES))[:-1])
        except NetworkError:
            stream = None
        settled += 1
        with suppress(NetworkError):
            while stream is not None:
                await stream.receive()

    async def be_greedy(number: int) -> None:
        nonlocal settled
        try:
            async with (
                attacking(3000 + 100 * len(kind) + number, victim, source) as peer,
                trio.open_nursery() as nursery,
            ):
                for _ in range(streams):
                    nursery.start_soon(fill, peer)
        except NetworkError:
            settled += streams

    async with attack(victim), trio.open_nursery() as nursery:
        for number in range(peers):
            nursery.start_soon(be_greedy, number)
            await trio.sleep(0.2)  # their address arrives no faster
        with trio.move_on_after(20):
            while settled < peers * streams:
                await trio.sleep(0.05)
        await trio.sleep(0.5)
        nursery.cancel_scope.cancel()


@pytest.mark.long
async def test_a_byte_a_second_in_frames(victim: Victim, is_long: bool) -> None:
    async with attack(victim), attacking(2200, victim, "127.1.3.1") as peer, trio.open_nursery() as nursery:

        async def dribble() -> None:
            with suppress(NetworkError):
                stream = await peer.network.open_stream(ME, ASK)
                for byte in Frame(Kind.DATA, 1, b"slow").encode()[: 6 if is_long else 4]:
                    await stream.send(bytes([byte]))
                    await trio.sleep(1)

        for _ in range(100):
            nursery.start_soon(dribble)


async def test_who_ignores_the_window_is_cut_off(victim: Victim) -> None:
    async with attack(victim), attacking(2300, victim, "127.1.4.1") as peer:
        stream = await peer.network.open_stream(ME, UNREAD)
        assert isinstance(stream, Libp2pStream)
        muxed: Any = stream._stream.muxed_stream
        block = 1 << 15
        frame = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_DATA, 0, muxed.stream_id, block) + bytes(block)
        with suppress(Exception):  # whatever the library raises when it is cut off
            for _ in range(100 * (1 << 20) // block):
                await muxed.conn.secured_conn.write(frame)
        await eventually(lambda: not peer.connected, message="it was not cut off")


@pytest.mark.parametrize("reset", [True, False])
async def test_a_flood_of_streams(victim: Victim, reset: bool) -> None:
    """Frames that open a stream, and those that end it at once or never, as fast as they go."""
    source = f"127.1.5.{1 + reset}"
    async with attack(victim), attacking(2400 + reset, victim, source) as peer:
        secured: Any = get_muxer(peer).secured_conn
        with suppress(Exception), trio.move_on_after(PATIENCE):  # whatever the library raises when it is cut off
            for stream_id in range(10_001, 50_001, 2):
                frame = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_WINDOW_UPDATE, FLAG_SYN, stream_id, 0)
                if reset:
                    frame += struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_WINDOW_UPDATE, FLAG_RST, stream_id, 0)
                await secured.write(frame)
        await eventually(lambda: not peer.connected, message="it was not cut off")
        await wait_banned(peer, victim)


# Frames of the multiplexer


@pytest.mark.parametrize(
    "kind", ["unknown", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("ping", "window"))]
)
async def test_a_flood_of_small_frames(victim: Victim, is_long: bool, kind: str) -> None:
    """As many as fit into the link, from eight peers."""
    frame = {
        "unknown": struct.pack(YAMUX_HEADER_FORMAT, 0, 9, 0, 0, 0),
        "ping": struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_PING, FLAG_SYN, 0, 1),
        "window": struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_WINDOW_UPDATE, 0, 99_999, 1),
    }[kind]

    async def flood(number: int) -> None:
        async with attacking(4000 + 10 * len(kind) + number, victim, f"127.1.12.{10 * len(kind) + number}") as peer:
            secured = get_muxer(peer).secured_conn
            with suppress(Exception), trio.move_on_after(30 if is_long else 3):  # as above
                while True:
                    await secured.write(frame * 5000)
            if kind == "unknown":
                await eventually(lambda: not peer.connected, message="it was not cut off")

    async with attack(victim), trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(flood, number)


# Gossip


async def send_rpcs(peer: Peer, rpcs: list[rpc_pb2.RPC]) -> None:
    stream = await open_gossip(peer)
    for rpc in rpcs:
        await stream.send(encode_varint_prefixed(rpc.SerializeToString()))


def make_crowded_rpc(kind: str) -> bytes:
    """Tens of kilobytes, or one megabyte, of as many items as fit."""
    if kind == "empty":
        return b"\x12\x00" * (1 << 19)
    rpc = rpc_pb2.RPC()
    for number in range(8000):
        match kind:
            case "messages":
                rpc.publish.add(topicIDs=[TOPIC])
            case "subscriptions":
                rpc.subscriptions.add(subscribe=number % 2 == 0, topicid=TOPIC)
            case "control":
                rpc.control.prune.add(topicID=f"{number:050}")
    return rpc.SerializeToString()


@pytest.mark.parametrize("kind", ["messages", "subscriptions", "control", "empty"])
async def test_an_rpc_with_far_too_much_in_it(victim: Victim, kind: str) -> None:
    """One of these stopped the victim for a minute: here they cost the sender its connection."""
    source = f"127.1.13.{len(kind)}"
    async with attack(victim), attacking(4200 + len(kind), victim, source) as peer:
        for _ in range(4):
            with suppress(NetworkError):
                stream = await open_gossip(peer)
                await stream.send(encode_varint_prefixed(make_crowded_rpc(kind)))
                with trio.move_on_after(5):
                    await stream.receive()
        await wait_banned(peer, victim)


@pytest.mark.parametrize(
    "kind", ["valid", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("unsigned", "toggling"))]
)
async def test_a_flood_of_gossip(victim: Victim, is_long: bool, kind: str) -> None:
    """RPCs as full as they may be, as fast as they go, from three peers: signed, not signed, and (un)subscribing."""

    def make_rpc(peer: Peer, turn: int) -> rpc_pb2.RPC:
        rpc = rpc_pb2.RPC()
        for number in range(64):
            if kind == "toggling":
                rpc.subscriptions.add(subscribe=number % 2 == 0, topicid=TOPIC)
            else:
                sequence = struct.pack(">Q", turn * 64 + number)
                sender = peer_id_of(peer.key.public_key).to_bytes()
                message = rpc.publish.add(topicIDs=[TOPIC], from_id=sender, seqno=sequence, data=bytes(100))
                signed = b"libp2p-pubsub:" + message.SerializeToString()
                message.signature = SigningKey(peer.key.seed).sign(signed).signature if kind == "valid" else bytes(64)
        return rpc

    async def flood(number: int) -> None:
        async with attacking(4300 + 10 * len(kind) + number, victim, f"127.1.14.{10 * len(kind) + number}") as peer:
            rpcs = [encode_varint_prefixed(make_rpc(peer, turn).SerializeToString()) for turn in range(100)]
            with suppress(NetworkError), trio.move_on_after(30 if is_long else 3):
                stream = await open_gossip(peer)
                for rpc in cycle(rpcs):
                    await stream.send(rpc)

    async with attack(victim), trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(flood, number)


@pytest.mark.long
async def test_a_flood_of_subscriptions_leaves_few_topics(victim: Victim) -> None:
    rpcs = []
    for turn in range(200):
        rpc = rpc_pb2.RPC()
        for number in range(50):
            rpc.subscriptions.add(subscribe=True, topicid=f"{turn}/{number}/" + "x" * 100)
        rpcs.append(rpc)
    async with attack(victim):
        async with attacking(2500, victim, "127.1.6.1") as peer:
            with suppress(NetworkError), trio.move_on_after(5):  # they are read slower and slower
                await send_rpcs(peer, rpcs)
            await eventually(lambda: victim.read()["topics"] > 30, message="some are believed")
            assert victim.read()["topics"] <= 100
        await eventually(lambda: victim.read()["topics"] <= 5, message="the topics of who has left")


async def test_a_flood_of_prunes_of_unknown_topics(victim: Victim) -> None:
    source, rpcs = "127.1.7.1", []
    for turn in range(2000):
        rpc = rpc_pb2.RPC()
        for number in range(100):
            rpc.control.prune.add(topicID=f"{turn}/{number}/" + "x" * 200)
        rpcs.append(rpc)
    async with attack(victim), attacking(2600, victim, source) as peer:
        with suppress(NetworkError):
            await send_rpcs(peer, rpcs)
        await wait_banned(peer, victim)


async def test_gossip_that_does_not_parse(victim: Victim) -> None:
    source = "127.1.8.1"
    async with attack(victim), attacking(2700, victim, source) as peer:
        for _ in range(4):
            with suppress(NetworkError):
                stream = await open_gossip(peer)
                await stream.send(encode_varint_prefixed(b"\xff" * 50))
                with trio.move_on_after(5):
                    await stream.receive()
        await wait_banned(peer, victim)


# Announcements


def announce(key: KeyPair, now: int, **changes: Any) -> Announcement:
    said = Announcement(
        peer=key.public_key,
        incarnation=now,
        sequence=now,
        leaving=False,
        addresses=(),
        relays=(),
        models=(),
        load=PeerLoad(),
        expires_after=600_000,
        signature=bytes(64),
    )
    return sign_announcement(key, CHAIN, replace(said, **changes))


async def tell(peer: Peer, *announcements: Announcement) -> None:
    frame = SyncFrame(announcements=tuple(AgedAnnouncement(one.encode(), 0) for one in announcements))
    with suppress(NetworkError):
        await peer.streams.request(ME, VIEWS, frame.encode(), 5)


async def keep_telling(peer: Peer, victim: Victim, source: str, announcement: Announcement) -> None:
    """Tell the victim, again and again, until it believes it: a frame gets lost while machines stand still."""
    with trio.fail_after(PATIENCE):
        while victim.read()["view"].get(announcement.peer.hex()) != announcement.sequence:
            await tell_anew(peer, victim, source, announcement)


async def tell_anew(peer: Peer, victim: Victim, source: str, announcement: Announcement) -> None:
    """Connect where that is needed, tell, and give the victim time to write what has become of it."""
    with suppress(NetworkError):
        await connect(peer.network, victim, source)
    await tell(peer, announcement)
    await trio.sleep(3 * WRITE_INTERVAL)


async def test_forged_announcements_lead_to_a_ban_and_change_nothing(victim: Victim) -> None:
    source, honest, now = "127.1.9.1", KeyPair(b"h" * 32), RealRuntime().now()
    true = announce(honest, now)
    async with attack(victim), attacking(2800, victim, source) as peer:
        await keep_telling(peer, victim, source, true)
        with trio.fail_after(PATIENCE):
            for sequence in count(now + 1):
                if victim.read()["banned"] > peer.bans_before:
                    break
                await tell_anew(peer, victim, source, replace(true, sequence=sequence, leaving=True))
        await wait_banned(peer, victim)
        assert victim.read()["view"][honest.public_key.hex()] == now


async def test_replays_and_sequence_numbers_of_the_future_change_nothing(victim: Victim) -> None:
    honest, now = KeyPair(b"r" * 32), RealRuntime().now()
    first, latest = (
        announce(honest, now),
        announce(honest, now, sequence=now + 1000, addresses=("/ip4/192.0.2.1/tcp/1",)),
    )
    source = "127.1.10.1"
    async with attack(victim), attacking(2900, victim, source) as peer:
        await tell(peer, first)
        await keep_telling(peer, victim, source, latest)
        for _ in range(50):
            await tell(peer, first)
        await tell(peer, announce(honest, now + YEAR), announce(honest, now, sequence=now + YEAR))
        await tell(peer, announce(KeyPair(b"f" * 32), now + YEAR))
        view = victim.read()["view"]
        # One that has dialled it in vain by now lists it no more.
        assert view.get(honest.public_key.hex(), now + 1000) == now + 1000
        assert KeyPair(b"f" * 32).public_key.hex() not in view


# Sybils


async def test_thirty_sybils_push_out_neither_the_honest_peer_nor_its_word(tmp_path: Path) -> None:
    """The victim takes in 20 connections; its one bootstrap peer is there first and stays, and so does what it says."""
    honest = Peer(1)
    runtime = RealRuntime()
    honest.network = Libp2pNetwork(honest.key, ["/ip4/127.0.0.1/tcp/0"], runtime, public=True)
    honest.streams.network = honest.network
    discovery = Discovery(honest.network, honest.streams, runtime, honest.key, CHAIN)
    lost = 0

    async def watch_honest() -> None:
        nonlocal lost
        with honest.network.peer_changes() as changes:
            async for peer, connected in changes:
                lost += peer == ME and not connected

    async def be_sybil(number: int, victim: Victim, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Stay connected as far as possible, and speak of thirty peers that do not exist."""
        invented = [KeyPair(struct.pack(">II24x", number, one)) for one in range(30)]
        async with AsyncExitStack() as stack:
            peer = Peer(5000 + number)
            nursery = await stack.enter_async_context(trio.open_nursery())
            await nursery.start(peer.run)
            task_status.started()
            while True:
                with suppress(NetworkError):
                    await connect(peer.network, victim, f"127.2.0.{number % 10 + 1}")
                    now = runtime.now()
                    await tell(peer, *(announce(key, now) for key in invented))
                    await tell(peer, announce(honest.key, 1000, leaving=True))
                await trio.sleep(2)

    async with trio.open_nursery() as nursery:
        await nursery.start(honest.run)
        await nursery.start(discovery.run)
        bootstrap = [(honest.key.public_key, honest.network.listen_addresses[0])]
        with running_victim(tmp_path, bootstrap, {"max_connections": 20}) as victim:
            await eventually(lambda: honest.connected and honest.key.public_key.hex() in victim.read()["view"])
            nursery.start_soon(watch_honest)
            async with trio.open_nursery() as sybils:
                for number in range(30):
                    await sybils.start(be_sybil, number, victim)
                await eventually(lambda: victim.read()["refusals"]["evicted"] >= 10, message="the room is used up")
                await eventually(lambda: len(victim.read()["view"]) > 300, message="inventions are believed")
                discovery.update(models=["news"])
                told = discovery.table.entries[honest.key.public_key].announcement.sequence
                await eventually(lambda: victim.read()["view"].get(honest.key.public_key.hex(), 0) > told)
                for _ in range(5):
                    await honest.ask()
                newcomer = Peer(3)
                await sybils.start(newcomer.run)
                await keep_connecting(newcomer.network, victim, HONEST)
                await newcomer.ask()
                # One that was evicted counts until its connection is closed, which takes a moment.
                await eventually(
                    lambda: len(victim.read()["peers"]) <= 22, message="more are connected than there is room"
                )
                sybils.cancel_scope.cancel()
            assert lost == 0 and honest.key.public_key.hex() in victim.read()["peers"]
        nursery.cancel_scope.cancel()
