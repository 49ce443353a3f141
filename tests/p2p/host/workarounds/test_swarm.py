"""The guards of the swarm, on and off: inbound slots, dials, duplicates, keys."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import pytest
import trio
from libp2p import new_host
from libp2p.abc import IMuxedConn
from libp2p.crypto.secp256k1 import create_new_key_pair as create_secp256k1_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import StreamFailure
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

import p2p.host.connections
import p2p.host.workarounds.swarm
from p2p.host.workarounds.swarm import GuardedSwarm
from p2p.network import NetworkError
from p2p.peer_id import peer_id_of, public_key_of
from tests.support.hosts import (
    ECHO,
    TOPIC,
    cancelled_after,
    echoes,
    gossip_works,
    guard,
    library,
    muxer,
    network,
    pair,
    running,
    swarm_of,
)
from tests.support.waiting import eventually


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
            if on:
                await eventually(lambda: not swarm_of(one)._inbound_limiter.borrowed_tokens)
            else:
                await trio.sleep(0.3)
        assert served == (4 if on else 2)


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
        if on:
            await eventually(lambda: yamux.stream_backlog_semaphore.value == 255)
        else:
            await trio.sleep(0.2)
            assert yamux.stream_backlog_semaphore.value < 255


@guard
@pytest.mark.trio
async def test_mutual_dialling_leaves_one_connection(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.setattr(p2p.host.connections, "surplus_connections", lambda connections, outbound_wins: [])
    ends, add_conn = 0, GuardedSwarm.add_conn

    async def count(swarm: GuardedSwarm, connection: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        nonlocal ends
        ends += 1
        return await add_conn(swarm, connection, direction)

    monkeypatch.setattr(GuardedSwarm, "add_conn", count)
    async with pair(connected=False) as (one, other):
        inboxes = one.subscribe(TOPIC), other.subscribe(TOPIC)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.connect, other.me, other.listen_addresses)
            nursery.start_soon(other.connect, one.me, one.listen_addresses)
        await eventually(lambda: ends == 4)
        if on:
            for node in (one, other):
                await eventually(lambda node=node: len(swarm_of(node).get_connections()) == 1)  # type: ignore[misc]
        else:
            await trio.sleep(2)
            assert len(swarm_of(one).get_connections()) == len(swarm_of(other).get_connections()) == 2
        assert one.peers() == {other.me} and other.peers() == {one.me}
        assert await echoes(one, other) and await echoes(other, one)
        await gossip_works(one, inboxes[1], TOPIC)
        await gossip_works(other, inboxes[0], TOPIC)


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
async def test_no_peer_is_dialled_unasked(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
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
async def test_opening_a_stream_dials_no_peer(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(GuardedSwarm, "dial_peer")
    async with pair(connected=False) as (one, other):
        host = library(one).host
        host.get_peerstore().add_addrs(peer_id_of(other.me), [Multiaddr(other.listen_addresses[0])], 60)
        with suppress(StreamFailure, SwarmException):
            await host.new_stream(peer_id_of(other.me), [TProtocol(ECHO)])
        assert (one.peers() == frozenset()) is on
