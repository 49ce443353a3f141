"""What the tests of abuse are made of: connections from chosen loopback addresses, and an honest peer that watches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from multiaddr import Multiaddr

from chain.crypto import KeyPair
from p2p.addresses import get_endpoint
from p2p.host.network import Libp2pNetwork
from p2p.host.transport.tcp import GuardedTCP
from p2p.host.workarounds.yamux import GuardedUpgrader
from p2p.network import NetworkError, RawStream
from p2p.peer_id import peer_id_of
from p2p.runtime import RealRuntime
from p2p.streams.exchanges import Streams
from tests.adversarial.overlay.victim import ASK, KEY, Victim
from tests.support.hosts import be_patient
from tests.support.waiting import PATIENCE, eventually

HONEST = "127.0.0.2"
MIB = 1 << 20
MAX_GROWTH = 100 * MIB
ASK_INTERVAL_S = 0.3
"""Between two questions of an honest peer: it opens fewer streams than a victim allows."""
STILL_S, AFTERMATH_S = 2.0, 15.0
"""A process that stands still for so long may lose its streams to a victim, which shows within the time after it."""
SLACK = 10
"""Descriptors and tasks that may be more than before."""

SCALES = [
    pytest.param(False, id="shortened"),
    pytest.param(True, id="shipped", marks=pytest.mark.long),
]
"""Whether a victim is as it is shipped, and floods are in full."""

_source: ContextVar[str | None] = ContextVar("source", default=None)


def choose_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have :func:`connect` say where connections come from, and all who connect wait for a victim on a busy machine."""

    async def dial(transport: GuardedTCP, address: Multiaddr) -> Any:
        host, port = get_endpoint(str(address))
        return RawConnection(TrioTCPStream(await trio.open_tcp_stream(host, port, local_address=_source.get())), True)

    monkeypatch.setattr(GuardedTCP, "dial", dial)
    be_patient(monkeypatch)


async def connect(node: Libp2pNetwork, victim: Victim, source: str) -> None:
    """Connect to the victim from the loopback address ``source``."""
    _source.set(source)
    await node.connect(KEY.public_key, [victim.address])


async def keep_connecting(node: Libp2pNetwork, victim: Victim, source: str) -> None:
    """Connect, again and again: a handshake may take longer than a victim on a busy machine waits."""
    with trio.fail_after(PATIENCE):
        while KEY.public_key not in node.peers():
            with suppress(NetworkError):
                await connect(node, victim, source)
            await trio.sleep(0.1)


class Peer:
    """A host with streams."""

    def __init__(self, seed: int) -> None:
        self.key = KeyPair(seed.to_bytes(32, "big"))
        self.network = Libp2pNetwork(self.key, (), RealRuntime(), public=False)
        self.streams = Streams(self.network)
        self.bans_before = 0
        """How many the victim had banned when this one came."""

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.network.run)
            await nursery.start(self.streams.run)
            task_status.started()

    async def ask(self) -> None:
        """Ask the victim something.

        Raises:
            NetworkError: it does not answer, or wrongly.
        """
        if await self.streams.request(KEY.public_key, ASK, b"are you there?", PATIENCE) != b"are you there?":
            raise NetworkError("a wrong answer")

    @property
    def connected(self) -> bool:
        return KEY.public_key in self.network.peers()


class Watch:
    """Honest peers that ask all the time: one on a connection that stays, one on a new connection each time.

    The first is always answered, unless this process has stood still. The second comes in: it may be turned away, or
    take longer for a handshake than a victim on a busy machine waits, and then it tries again.
    """

    def __init__(self, victim: Victim) -> None:
        self._victim = victim
        self._stood_still_at = -AFTERMATH_S
        self.answered = 0
        self.reconnected = 0
        self.failures: list[str] = []

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        stays, comes = Peer(1), Peer(2)
        async with trio.open_nursery() as nursery:
            await nursery.start(stays.run)
            await nursery.start(comes.run)
            nursery.start_soon(self._watch_the_clock)
            nursery.start_soon(self._come_and_go, comes)
            while not self.reconnected:
                await trio.sleep(0.05)
            await keep_connecting(stays.network, self._victim, HONEST)
            nursery.start_soon(self._stay, stays)
            while not self.answered:
                await trio.sleep(0.05)
            task_status.started()

    async def _watch_the_clock(self) -> None:
        while True:
            began = trio.current_time()
            await trio.sleep(STILL_S / 10)
            if trio.current_time() > began + STILL_S:
                self._stood_still_at = trio.current_time()

    async def _stay(self, peer: Peer) -> None:
        while True:
            try:
                await peer.ask()
                self.answered += 1
            except NetworkError as error:
                await trio.sleep(STILL_S / 10)  # so that standing still just now is noted
                if trio.current_time() > self._stood_still_at + AFTERMATH_S:
                    self.failures.append(f"on the connection: {error}")
                else:
                    await keep_connecting(peer.network, self._victim, HONEST)
            await trio.sleep(ASK_INTERVAL_S)

    async def _come_and_go(self, peer: Peer) -> None:
        failed, last = 0, trio.current_time()
        while True:
            try:
                await connect(peer.network, self._victim, HONEST)
                await peer.ask()
                self.reconnected += 1
                last = trio.current_time()
            except NetworkError as error:
                failed += 1
                if trio.current_time() > last + PATIENCE:
                    self.failures.append(f"on new connections, {failed} times: {error}")
            await peer.network.disconnect(KEY.public_key)
            await trio.sleep(ASK_INTERVAL_S)


@asynccontextmanager
async def attack(victim: Victim) -> AsyncIterator[Watch]:
    """Attack inside. Everybody is answered throughout, memory stays, descriptors and tasks come back."""
    watch = Watch(victim)
    async with trio.open_nursery() as nursery:
        await nursery.start(watch.run)
        await victim.get_report()
        await trio.sleep(0.3)
        before, quiet = victim.read(), await victim.get_report()
        asked = watch.answered, watch.reconnected
        yield watch
        # They ask on after the attack too, so that a short one is followed by a question as well.
        await eventually(
            lambda: watch.answered >= asked[0] + 3 and watch.reconnected >= asked[1] + 2, message="answers"
        )
        report = await victim.get_report()

        def is_back() -> bool:
            now = victim.read()
            return all(now[name] <= before[name] + SLACK for name in ("fds", "tasks"))

        await eventually(is_back, message=lambda: f"{before} {victim.read()}")
        nursery.cancel_scope.cancel()
    growth = report.peak - quiet.peak
    print(
        f"peers answered {watch.answered - asked[0]} and {watch.reconnected - asked[1]} on new connections, "
        f"users {report.answered}, slowest {report.slowest * 1000:.0f} ms ({quiet.slowest * 1000:.0f} before), "
        f"memory {quiet.peak / MIB:.0f} + {growth / MIB:.1f} MiB, refusals {victim.read()['refusals']}"
    )
    assert (watch.failures, report.failures) == ([], []), (watch.failures, report.failures)
    assert report.answered > 0
    assert growth <= MAX_GROWTH, growth
    assert victim.process.is_alive()


@asynccontextmanager
async def attacking(seed: int, victim: Victim, source: str) -> AsyncIterator[Peer]:
    """A peer of this key that is connected to the victim.

    It tries three times: a shortened victim waits 2 s for a handshake, which may take longer while machines are busy.

    Raises:
        NetworkError: the victim refuses it.
    """
    peer = Peer(seed)
    peer.bans_before = victim.read()["banned"]
    async with trio.open_nursery() as nursery:
        await nursery.start(peer.run)
        for _ in range(2):
            with suppress(NetworkError):
                await connect(peer.network, victim, source)
                break
            await trio.sleep(0.2)
        else:
            await connect(peer.network, victim, source)
        yield peer
        nursery.cancel_scope.cancel()


def get_muxer(peer: Peer) -> Any:
    """The library's end of the peer's connection to the victim."""
    return peer.network._lifetime.swarm.get_connections(peer_id_of(KEY.public_key))[0].muxed_conn


async def shake_hands(seed: int, victim: Victim, source: str) -> trio.SocketStream:
    """A connection on which Noise and Yamux are agreed, and one end falls silent: the least that a full one costs.

    Raises:
        Exception: whatever the library raises when the victim hangs up.
    """
    stream = await open_socket(victim, source)
    try:
        upgrader = GuardedUpgrader(create_new_key_pair(seed.to_bytes(32, "big")))
        peer = peer_id_of(KEY.public_key)
        secured = await upgrader.upgrade_security(RawConnection(TrioTCPStream(stream), True), True, peer)
        await upgrader.upgrade_connection(secured, peer)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def open_gossip(peer: Peer) -> RawStream:
    """A gossip stream to the victim, in place of the library's own.

    Raises:
        NetworkError: the victim has cut the peer off.
    """
    running = peer.network._lifetime.running
    assert running is not None
    await eventually(lambda: peer_id_of(KEY.public_key) in running.pubsub.peers or not peer.connected)
    return await peer.network.open_stream(KEY.public_key, str(PROTOCOL_ID_V11))


async def open_socket(victim: Victim, source: str) -> trio.SocketStream:
    """A bare connection."""
    return await trio.open_tcp_stream("127.0.0.1", victim.port, local_address=source)


async def hung_up(stream: trio.SocketStream) -> None:
    """Read until the victim hangs up."""
    with suppress(trio.BrokenResourceError):
        while await stream.receive_some():
            pass
