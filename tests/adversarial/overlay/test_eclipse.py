"""Thirty Sybils against the connections of one node whose only bootstrap peer is honest, and dies.

They connect to it and come back whenever they are dropped, or wait to be dialled; answer whenever it dials, tell it of
each other and of no other peer, and accuse every honest peer that it might know to its face. They aim at its choice of
peers to dial: the node has to keep about as many connections of its own making to honest peers as a draw among all
networks would give, and to see all of them in the end.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio

from p2p.discovery.dial_scheduler import TARGET_OUTBOUND
from p2p.discovery.plumtree import PLUMTREE_PROTOCOL
from p2p.network import NetworkError
from p2p.peers.announcement import Announcement, PeerLoad, sign_announcement
from p2p.peers.anti_entropy import AgedAnnouncement, SyncFrame
from p2p.peers.suspect_message import sign_suspect_message
from p2p.simulation.network import SimulatedNetwork
from p2p.simulation.runtime import SimulatedRuntime, run_simulation
from p2p.streams.exchange import Exchange
from p2p.streams.exchanges import Streams
from tests.support.discovery_world import CHAIN, Node, World, world

SYBILS = 30
HONEST = 12
LOOKS = 50
LOOK = 2.0
PESTER = 10.0
"""Simulated seconds between looks at the victim, and between what each Sybil says to it."""


class Sybil:
    """One of many identities in one hand."""

    def __init__(self, attack: Attack, number: int) -> None:
        self.attack = attack
        self.key = attack.world.key(5000 + number)
        self.is_forward = number < attack.forward
        """Whether it connects, or waits to be dialled: who is connected cannot be chosen any more."""
        place = number % attack.networks
        self.network = SimulatedNetwork(
            attack.world.hub, self.key.public_key, address=f"/ip4/66.{place}.0.{number}/tcp/1"
        )
        self.streams = Streams(self.network)

    @property
    def me(self) -> bytes:
        return self.key.public_key

    def announce(self) -> bytes:
        now = SimulatedRuntime.EPOCH_MS + round(trio.current_time() * 1000)
        places = self.network.listen_addresses
        unsigned = Announcement(self.me, now, now, False, places, (), (), PeerLoad(), 7_200_000, bytes(64))
        return sign_announcement(self.key, CHAIN, unsigned).encode()

    async def run(self) -> None:
        self.streams.handle(PLUMTREE_PROTOCOL, self.answer, 16)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.streams.run)
            nursery.start_soon(self.pester)

    async def answer(self, exchange: Exchange) -> None:
        while await exchange.receive() is not None:
            await exchange.send(SyncFrame(announcements=self.attack.known()).encode())

    async def pester(self) -> None:
        due = 0.0
        while True:
            await trio.sleep(0.5)
            victim = self.attack.victim
            if victim is None:
                continue
            is_connected = victim.me in self.network.peers()
            if is_connected if trio.current_time() < due else not (is_connected or self.is_forward):
                continue
            due = trio.current_time() + PESTER
            with suppress(NetworkError):
                await self.network.connect(victim.me, victim.network.listen_addresses)
                async with self.streams.open(victim.me, PLUMTREE_PROTOCOL) as exchange:
                    await exchange.send(
                        SyncFrame(announcements=self.attack.known(), suspects=self.accuse(victim)).encode(), end=True
                    )
                    while await exchange.receive() is not None:
                        pass

    def accuse(self, victim: Node) -> tuple[bytes, ...]:
        """Every honest peer that the victim knows (the attacker has a node of its own to see what they announce)."""
        honest = {node.me for node in self.attack.world.nodes}
        held = [known for known in victim.discovery.table.present() if known.peer in honest]
        return tuple(sign_suspect_message(self.key, CHAIN, known).encode() for known in held)


class Attack:
    """The Sybils of one world, in so many networks (/16); so many of them are forward."""

    def __init__(self, w: World, networks: int, forward: int) -> None:
        self.world = w
        self.networks = networks
        self.forward = forward
        self.victim: Node | None = None
        self.sybils = [Sybil(self, number) for number in range(SYBILS)]
        self._announced = tuple(AgedAnnouncement(sybil.announce(), 0) for sybil in self.sybils)

    def known(self) -> tuple[AgedAnnouncement, ...]:
        return self._announced

    async def join(self, node: Node) -> None:
        """Have an honest node take the Sybils for members, and tell others."""
        sybil = self.sybils[0]
        await sybil.network.connect(node.me, node.network.listen_addresses)
        async with sybil.streams.open(node.me, PLUMTREE_PROTOCOL) as exchange:
            await exchange.send(SyncFrame(announcements=self.known()).encode(), end=True)
            await exchange.receive()


async def attack(number: int, networks: int, forward: int, sybils_first: bool) -> list[int]:
    """How many connections of its own the victim has to honest peers, from a minute on."""
    links: list[int] = []
    async with world(0) as w:
        w.bootstrap = [(w.key(0).public_key, "/ip4/45.0.0.1/tcp/1")]
        for honest in range(HONEST):
            w.start(honest, address=f"/ip4/45.{honest}.0.1/tcp/1")
        await w.until_agreed(60)
        sybils = Attack(w, networks, forward)

        async def begin() -> None:
            for sybil in sybils.sybils:
                w.nursery.start_soon(sybil.run)
            await trio.sleep(1)
            await sybils.join(w.nodes[0])
            await trio.sleep(60)

        if sybils_first:
            await begin()
        victim = Node(w, number, address="/ip4/45.100.0.1/tcp/1")
        w.nursery.start_soon(victim.run)
        sybils.victim = victim
        if not sybils_first:
            await trio.sleep(60)
            await begin()
        await trio.sleep(60)
        for step in range(LOOKS):
            if step == 10:
                w.crash(w.nodes[0])
            await trio.sleep(LOOK)
            living = {node.me for node in w.nodes}
            links.append(sum(victim.network.is_outbound(peer) for peer in victim.network.peers() & living))
        for _ in range(LOOKS):  # each accuser is believed once, and some are only now old enough to be
            if victim.present() >= {node.me for node in w.nodes}:
                break
            await trio.sleep(LOOK)
        assert victim.present() >= {node.me for node in w.nodes}
        assert len({sybil.me for sybil in sybils.sybils} & victim.network.peers()) >= forward - 2
    return links


@pytest.mark.parametrize(
    ("victims", "networks", "forward", "sybils_first"),
    [
        (1, 4, 1, True),
        pytest.param(4, 4, 1, True, marks=pytest.mark.long),
        pytest.param(4, SYBILS, SYBILS, True, marks=pytest.mark.long),
        pytest.param(4, SYBILS, 1, False, marks=pytest.mark.long),
        pytest.param(4, SYBILS, 1, True, marks=pytest.mark.long),
        pytest.param(4, SYBILS, SYBILS, False, marks=pytest.mark.long),
    ],
)
def test_a_node_keeps_honest_peers_of_its_own_choice(
    victims: int, networks: int, forward: int, sybils_first: bool
) -> None:
    """Over some victims, hardly fewer than a draw among all networks gives; and no node is cut off for long."""
    runs = [
        run_simulation(1, lambda number=number: attack(number, networks, forward, sybils_first))
        for number in range(100, 100 + victims)
    ]
    fair = TARGET_OUTBOUND * HONEST / (HONEST + networks)
    assert sum(map(sum, runs)) / sum(map(len, runs)) >= 0.75 * min(fair, HONEST)
    assert all(sum(links) >= 0.9 * len(links) for links in runs)
