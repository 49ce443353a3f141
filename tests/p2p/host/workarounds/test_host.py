"""The guards of the host, on and off: stream handlers, its end, and what it tells peers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import trio
from libp2p.peer.envelope import consume_envelope
from libp2p.pubsub.pb import rpc_pb2
from trio.testing import wait_all_tasks_blocked

import p2p.host.network
import p2p.host.workarounds.host
from p2p.addresses import get_endpoint
from p2p.host.network import Libp2pNetwork
from p2p.host.workarounds.host import GuardedHost
from p2p.host.workarounds.swarm import GuardedSwarm
from p2p.nat.dial_back import DIAL_BACK_PROTOCOL
from p2p.nat.relay_client import STOP
from p2p.network import NetworkError
from tests.support.hosts import (
    ECHO,
    TOPIC,
    echoes,
    gossip_works,
    guard,
    library,
    network,
    pair,
    running,
    survives,
    swarm_of,
)
from tests.support.waiting import PATIENCE, eventually


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


@pytest.mark.trio
async def test_a_peer_has_no_more_streams_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.host.workarounds.host, "MAX_STREAMS_PER_CONNECTION", 4)  # of which gossip takes two
    async with pair() as (one, other):

        def count() -> int:
            return sum(len(connection.get_streams()) for connection in swarm_of(one).get_connections())

        await eventually(lambda: count() == 2)
        streams = [await other.open_stream(one.me, ECHO) for _ in range(2)]
        with pytest.raises(NetworkError):
            await other.open_stream(one.me, ECHO)
        for stream in streams:
            await stream.close()
        await eventually(lambda: count() == 2)
        assert await echoes(other, one)


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
        await wait_all_tasks_blocked(0.1)
        before = resources()
        for _ in range(3):
            other = network(2)
            async with running(other):
                await other.connect(one.me, one.listen_addresses)
        with trio.move_on_after(PATIENCE if on else 2):
            while any(now > then for now, then in zip(resources(), before, strict=True)):
                await trio.sleep(0.05)
        assert all(now <= then for now, then in zip(resources(), before, strict=True)) is on


@guard
@pytest.mark.trio
async def test_a_host_that_has_no_time_to_close_listens_no_more(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.setattr(GuardedSwarm, "stop_listening", lambda _: None)
    monkeypatch.setattr(p2p.host.network, "CLOSE_TIMEOUT_S", 0.0)  # as after a stall
    host = network(1)
    async with running(host):
        place = get_endpoint(host.listen_addresses[0])

    async def is_open() -> bool:
        try:
            stream = await trio.open_tcp_stream(*place)
        except OSError:
            return False
        await stream.aclose()
        return True

    with trio.fail_after(PATIENCE):
        while on and await is_open():
            await trio.sleep(0.05)
    assert await is_open() is not on


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


@pytest.mark.trio
async def test_a_node_tells_no_peer_its_listen_addresses() -> None:
    async with pair() as (one, other):
        assert set(library(one).host.get_mux().get_protocols()) == {
            "/ipfs/ping/1.0.0",
            "/meshsub/1.1.0",
            STOP,
            DIAL_BACK_PROTOCOL,
            ECHO,
        }
        with pytest.raises(NetworkError):
            await other.open_stream(one.me, "/ipfs/id/1.0.0")
