"""Real hosts on loopback for the tests of this folder, and what the tests of the guards share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest
import trio
from libp2p.stream_muxer.yamux.yamux import Yamux

import p2p.dht.service
import p2p.host.connection_gater
import p2p.host.dialer
import p2p.host.gossip.pubsub
import p2p.host.isolated
import p2p.host.protocols
import p2p.host.workarounds.host
import p2p.host.workarounds.swarm
import p2p.host.workarounds.yamux
import p2p.nat.dial_back
import p2p.nat.relay_client
import p2p.nat.relay_server
from p2p.host.lifetime import RunningHost
from p2p.host.network import Libp2pNetwork
from p2p.host.workarounds.swarm import GuardedSwarm
from p2p.network import EmptyDirectory, GossipMessage, NetworkError, RawStream
from p2p.peer_id import peer_id_of
from p2p.runtime import RealRuntime
from tests.support.keys import make_key
from tests.support.waiting import PATIENCE

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
ECHO = "/test/echo/1"
TOPIC = "test"
PROBE = b"are you there?"
"""What :func:`gossip_works` publishes. Some may still be on the way when it has ended."""

TIME_LIMITS: dict[ModuleType, tuple[str, ...]] = {
    p2p.dht.service: ("DHT_REQUEST_TIMEOUT_S",),
    p2p.host.connection_gater: ("UPGRADE_TIMEOUT_S", "PATIENT_UPGRADE_TIMEOUT_S"),
    p2p.host.dialer: ("DIAL_TIMEOUT_S", "DIRECT_HEAD_START_S", "CIRCUIT_TIMEOUT_S"),
    p2p.host.gossip.pubsub: ("RPC_TIMEOUT_S",),
    p2p.host.isolated: ("ISOLATED_DIAL_TIMEOUT_S", "UPGRADE_TIMEOUT_S"),
    p2p.host.protocols: ("STREAM_OPEN_TIMEOUT_S",),
    p2p.host.workarounds.host: ("UPGRADE_TIMEOUT_S", "PATIENT_UPGRADE_TIMEOUT_S"),
    p2p.host.workarounds.swarm: ("UPGRADE_TIMEOUT_S",),
    p2p.host.workarounds.yamux: (
        "BODY_TIMEOUT_S",
        "FRAME_WRITE_TIMEOUT_S",
        "KEEPALIVE_TIMEOUT_S",
        "CIRCUIT_WRITE_TIMEOUT_S",
        "CIRCUIT_KEEPALIVE_TIMEOUT_S",
    ),
    p2p.nat.dial_back: ("REPORT_TIMEOUT_S", "DIAL_BACK_REQUEST_TIMEOUT_S"),
    p2p.nat.relay_client: ("RELAY_REQUEST_TIMEOUT_S", "CIRCUIT_TIMEOUT_S"),
    p2p.nat.relay_server: ("RELAY_REQUEST_TIMEOUT_S", "CIRCUIT_TIMEOUT_S"),
}
"""By module, what a peer that is merely slow may exceed."""


def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have hosts wait for each other as long as tests do: all of them share one process, which may be stopped for
    longer than a node waits for a stranger."""
    for module, names in TIME_LIMITS.items():
        for name in names:
            monkeypatch.setattr(module, name, PATIENCE)


def network(number: int, listen: Sequence[str] = LOOPBACK) -> Libp2pNetwork:
    return Libp2pNetwork(make_key(number), listen, RealRuntime())


class Directory(EmptyDirectory):
    """Has the addresses that ``locate(peer)`` gives."""

    def __init__(self, locate: Callable[[bytes], Sequence[str]]) -> None:
        self._locate = locate

    def get_addresses(self, peer: bytes) -> tuple[str, ...]:
        return tuple(self._locate(peer))


@asynccontextmanager
async def running(*networks: Libp2pNetwork) -> AsyncIterator[trio.Nursery]:
    """The networks are up inside, and closed afterwards."""
    async with trio.open_nursery() as nursery:
        for one in networks:
            await nursery.start(one.run)
        yield nursery
        nursery.cancel_scope.cancel()


async def echo(stream: RawStream) -> None:
    while data := await stream.receive():
        await stream.send(data)


async def gossip_works(source: Libp2pNetwork, inbox: trio.MemoryReceiveChannel[GossipMessage], topic: str) -> None:
    """Publish until something arrives: the mesh takes a moment, and gossip is a hint. Then forget what arrived."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            async def publish() -> None:
                while True:
                    await source.publish(topic, PROBE)
                    await trio.sleep(0.1)

            nursery.start_soon(publish)
            while (await inbox.receive()).sender != source.me:
                pass
            nursery.cancel_scope.cancel()


async def drained(inbox: trio.MemoryReceiveChannel[GossipMessage], seconds: float = 0.5) -> list[GossipMessage]:
    """What arrives until nothing has for ``seconds``, but for probes."""
    messages: list[GossipMessage] = []
    while True:
        with trio.move_on_after(seconds) as scope:
            messages.append(await inbox.receive())
        if scope.cancelled_caught:
            return _without_probes(messages)


async def collected(
    inbox: trio.MemoryReceiveChannel[GossipMessage], count: int, patience: float = PATIENCE
) -> list[GossipMessage]:
    """The next ``count`` messages, or fewer after ``patience`` seconds, and what comes directly behind them, but for
    probes."""
    messages: list[GossipMessage] = []
    with trio.move_on_after(patience):
        while len(messages) < count:
            messages += _without_probes([await inbox.receive()])
    return messages + await drained(inbox, 0.3)


def _without_probes(messages: Sequence[GossipMessage]) -> list[GossipMessage]:
    return [message for message in messages if message.payload != PROBE]


guard = pytest.mark.parametrize(
    "on", [pytest.param(True, id="guard_on"), pytest.param(False, id="guard_off", marks=pytest.mark.long)]
)


def library(node: Libp2pNetwork) -> RunningHost:
    assert node._lifetime.running is not None
    return node._lifetime.running


def swarm_of(node: Libp2pNetwork) -> GuardedSwarm:
    return node._lifetime.swarm


def muxer(node: Libp2pNetwork, peer: Libp2pNetwork) -> Yamux:
    connection = swarm_of(node).get_connection(peer_id_of(peer.me))
    assert connection is not None and isinstance(connection.muxed_conn, Yamux)
    return connection.muxed_conn


async def echoes(node: Libp2pNetwork, peer: Libp2pNetwork) -> bool:
    """Whether ``peer`` answers on a new stream of the connection there is."""
    try:
        with trio.fail_after(PATIENCE):
            stream = await node.open_stream(peer.me, ECHO)
            await stream.send(b"hello")
            return await stream.receive() == b"hello"
    except (NetworkError, trio.TooSlowError):
        return False


@asynccontextmanager
async def pair(*, connected: bool = True) -> AsyncIterator[tuple[Libp2pNetwork, Libp2pNetwork]]:
    one, other = network(1), network(2)
    for node in (one, other):
        node.handle(ECHO, echo)
    async with running(one, other):
        if connected:
            await other.connect(one.me, one.listen_addresses)
        yield one, other


async def survives(attack: Callable[[Libp2pNetwork, Libp2pNetwork], Any]) -> bool:
    """Whether a node is still there and serves after the other one's ``attack``."""
    try:
        async with pair() as (victim, attacker):
            await attack(victim, attacker)
            await trio.sleep(0.5)
            return await echoes(attacker, victim)
    except BaseExceptionGroup:
        return False


async def cancelled_after(checkpoints: int, function: Callable[[], Any]) -> None:
    """Start ``function`` and cancel it when it has had about this many chances to go on."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(function)
        for _ in range(checkpoints):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


class Link:
    """A TCP relay in front of a node that can be frozen: both ends stay open and nothing passes, as on a dead link."""

    def __init__(self, target: str) -> None:
        self._port = int(target.rsplit("/", 1)[1])
        self._open = trio.Event()
        self._open.set()
        self.address = ""

    def freeze(self) -> None:
        self._open = trio.Event()

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.address = f"/ip4/127.0.0.1/tcp/{listeners[0].socket.getsockname()[1]}"
        await trio.serve_listeners(self._relay, listeners, task_status=task_status)

    async def _relay(self, client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream("127.0.0.1", self._port)
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, client, server)
            await self._pump(server, client)
            nursery.cancel_scope.cancel()

    async def _pump(self, source: trio.SocketStream, target: trio.SocketStream) -> None:
        try:
            while data := await source.receive_some():
                await self._open.wait()
                await target.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
