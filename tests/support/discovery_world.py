"""Nodes of the overlay, without a ledger, on a network in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from chain.crypto import KeyPair
from p2p.discovery.plumtree import PLUMTREE_PROTOCOL
from p2p.discovery.service import Discovery
from p2p.peers.announcement import Announcement, PeerLoad, sign_announcement
from p2p.peers.anti_entropy import SyncFrame
from p2p.peers.table import ChangeKind
from p2p.simulation.internet import SimulatedInternet
from p2p.simulation.network import SimulatedNetwork
from p2p.simulation.runtime import SimulatedRuntime
from p2p.streams.exchanges import Streams

CHAIN = b"c" * 32


class Node:
    def __init__(self, world: World, number: int, **options: object) -> None:
        self.key = world.key(number)
        self.network = SimulatedNetwork(
            world.hub,
            self.key.public_key,
            listen=bool(options.pop("listen", True)),
            address=str(options.pop("address", "")),
            max_reservations=int(str(options.pop("max_reservations", 0))),
        )
        self.streams = Streams(self.network)
        runtime = SimulatedRuntime(f"{number}:{trio.current_time()}", skew=int(str(options.pop("skew", 0))))
        self.discovery = Discovery(
            self.network,
            self.streams,
            runtime,
            self.key,
            CHAIN,
            **{"bootstrap": world.bootstrap, **options},  # type: ignore[arg-type]
        )
        self.events = self.discovery.events()
        self.scope = trio.CancelScope()
        self.left = trio.Event()

    @property
    def me(self) -> bytes:
        return self.key.public_key

    async def run(self) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.streams.run)
                await self.discovery.run()
                self.left.set()
                await trio.sleep_forever()

    def seen(self) -> list[tuple[ChangeKind, bytes]]:
        """What happened since the last call."""
        seen = []
        while True:
            try:
                change = self.events.receive_nowait()
            except trio.WouldBlock:
                return seen
            seen.append((change.kind, change.peer))

    def present(self) -> set[bytes]:
        return {announcement.peer for announcement in self.discovery.table.present()}


class World:
    def __init__(self, nursery: trio.Nursery, hub: SimulatedInternet) -> None:
        self.nursery = nursery
        self.hub = hub
        self.nodes: list[Node] = []
        self.bootstrap = [(self.key(0).public_key, "/memory/0")]

    @staticmethod
    def key(number: int) -> KeyPair:
        return KeyPair(number.to_bytes(32, "big"))

    def start(self, number: int, **options: object) -> Node:
        node = Node(self, number, **options)
        self.nodes.append(node)
        self.nursery.start_soon(node.run)
        return node

    def crash(self, node: Node, notice: float = 0.5) -> None:
        node.scope.cancel()
        self.hub.kill(node.me, notice)
        self.nodes.remove(node)

    def agreed(self) -> bool:
        everyone = {node.me for node in self.nodes}
        return all(node.present() == everyone - {node.me} for node in self.nodes)

    async def until_agreed(self, timeout: float) -> float:
        """Simulated seconds until every living node sees exactly the living others."""
        start = trio.current_time()
        with trio.fail_after(timeout):
            while not self.agreed():
                await trio.sleep(0.1)
        return trio.current_time() - start


@asynccontextmanager
async def world(count: int, loss: float = 0.0) -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        hub = SimulatedInternet(1, loss=loss)
        await nursery.start(hub.run)
        world = World(nursery, hub)
        for number in range(count):
            world.start(number)
        yield world
        assert not hub.errors
        nursery.cancel_scope.cancel()


class Stranger:
    """A peer that is connected, speaks the protocol and says what it likes."""

    def __init__(self, w: World, number: int) -> None:
        self.key = w.key(number)
        self.network = SimulatedNetwork(w.hub, self.key.public_key)
        self.streams = Streams(self.network)
        w.nursery.start_soon(self.streams.run)

    @property
    def me(self) -> bytes:
        return self.key.public_key

    async def connect(self, node: Node) -> None:
        await trio.sleep(0)  # until its streams run
        await self.network.connect(node.me, node.network.listen_addresses)

    async def say(self, node: Node, frame: SyncFrame) -> None:
        async with self.streams.open(node.me, PLUMTREE_PROTOCOL) as exchange:
            await exchange.send(frame.encode(), end=True)
            await exchange.receive()

    def announce(self) -> Announcement:
        now = SimulatedRuntime.EPOCH_MS + round(trio.current_time() * 1000)
        unsigned = Announcement(self.me, now, now, False, (), (), (), PeerLoad(), 7_200_000, bytes(64))
        return sign_announcement(self.key, CHAIN, unsigned)
