"""Membership under churn in simulation: forty nodes, a quarter of them private, come and go for two minutes.

Nothing is timed here (``benchmarks/network/overlay.py`` does): afterwards every view holds exactly the living, at their
latest addresses, and a node that was wrongly held dead has refuted it everywhere.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from random import Random

import pytest
import trio

from p2p.discovery.connection_manager import PUBLIC_LINKS
from p2p.peers.table import ChangeKind
from p2p.simulation.runtime import run_simulation
from tests.support.discovery_world import Node, World, world

PUBLIC = 4
"""Every one but each fourth node can be dialled."""
CHURN = 120.0
MEAN_INTERVAL = 3.0
"""Seconds between changes: as many as 30 % of a network in a minute."""
QUIET = 60.0


class Churn:
    """What happens to one world, as a seed has it."""

    def __init__(self, seed: int, w: World) -> None:
        self.random = Random(f"churn:{seed}")
        self.world = w
        self.started = 0
        self.done: Counter[str] = Counter()
        self.deaths: Counter[str] = Counter()
        w.bootstrap = [(w.key(0).public_key, "/ip4/10.0.0.1/tcp/1")]

    def start(self, number: int | None = None) -> Node:
        if number is None:
            number, self.started = self.started, self.started + 1
        address = f"/ip4/10.{number}.0.1/tcp/1"
        is_private = number % PUBLIC == PUBLIC - 1
        return self.world.start(number, listen=not is_private, address=address, max_reservations=8)

    def draw(self) -> Node:
        return self.random.choice(self.world.nodes[1:])

    async def change(self) -> None:
        kind = self.random.choice(["join", "leave", "crash", "silence", "restart", "move", "cut"])
        self.done[kind] += 1
        hub, nodes = self.world.hub, self.world.nodes
        if kind == "join":
            self.start()
            return
        node = self.draw()
        if kind == "leave":
            nodes.remove(node)
            await node.discovery.leave()
            node.scope.cancel()
            hub.kill(node.me)
        elif kind in ("crash", "restart"):
            self.world.crash(node, self.random.uniform(0.1, 0.5))
            if kind == "restart":
                await trio.sleep(self.random.uniform(0.0, 20.0))
                numbers = [n for n in range(self.started) if self.world.key(n).public_key == node.me]
                self.start(numbers[0])
        elif kind == "silence":
            node.scope.cancel()
            nodes.remove(node)
            hub.kill(node.me, self.random.uniform(5.0, 8.0), silent=True)
        elif kind == "move" and node.network.listen_addresses:
            hub.move(node.me, f"/ip4/10.200.{self.random.randrange(256)}.{self.random.randrange(256)}/tcp/1")
        elif kind == "cut":
            for peer in self.random.sample(sorted(node.network.peers()), min(4, len(node.network.peers()))):
                await node.network.disconnect(peer)

    def look(self) -> str:
        """Take note of who was held dead by whom, and return a hash of it."""
        alive = {node.me for node in self.world.nodes}
        trace = hashlib.sha256()
        for node in self.world.nodes:
            for kind, peer in node.seen():
                trace.update(node.me + kind.value.encode() + peer)
                if kind in (ChangeKind.CRASHED, ChangeKind.EXPIRED):
                    self.deaths["living" if peer in alive else "dead"] += 1
        return trace.hexdigest()


async def churn(count: int, seed: int) -> str:
    async with world(0) as w:
        story = Churn(seed, w)
        for _ in range(count):
            story.start()
            await trio.sleep(0.5)
        await trio.sleep(60)
        assert w.agreed()
        end = trio.current_time() + CHURN
        while trio.current_time() < end:
            await trio.sleep(story.random.expovariate(1 / MEAN_INTERVAL))
            await story.change()
        await trio.sleep(QUIET)
        trace = story.look()
        alive = {node.me for node in w.nodes}
        for node in w.nodes:
            assert node.present() == alive - {node.me}
            for other in w.nodes:
                known = node.discovery.find(other.me)
                assert other is node or (known is not None and known.addresses == other.network.listen_addresses)
        private = [node for node in w.nodes if not node.network.listen_addresses]
        assert len(private) >= 3
        for node in private:
            links = [peer for peer in node.network.peers() if not node.network.is_relayed(peer)]
            assert len(links) >= PUBLIC_LINKS
        assert min(story.done.values()) >= 1 and len(story.done) == 7
        assert story.deaths["dead"] > 0
        return trace


@pytest.mark.parametrize(
    ("count", "seed"), [(18, 4), *(pytest.param(count, 1, marks=pytest.mark.long) for count in (24, 40))]
)
def test_every_view_holds_exactly_the_living_afterwards(count: int, seed: int) -> None:
    run_simulation(seed, lambda: churn(count, seed))
