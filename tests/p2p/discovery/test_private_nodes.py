"""Nodes that others cannot dial: their links, their reservations, and how others reach them; a restart from disk."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio

from chain.crypto import format_address
from p2p.addresses import get_addresses
from p2p.discovery.announcer import RELAY_LOSS_DELAY_S
from p2p.discovery.connection_manager import PUBLIC_LINKS, TARGET_RESERVATIONS
from p2p.discovery.peer_store import PeerStore
from p2p.peers.table import ChangeKind
from p2p.simulation.runtime import SimulatedClock
from tests.support.discovery_world import Node, World, world

pytestmark = pytest.mark.trio


def start_public(w: World, count: int) -> list[Node]:
    """Public nodes, each in a network of its own; the first is everybody's bootstrap peer."""
    w.bootstrap = [(w.key(0).public_key, "/ip4/10.0.0.1/tcp/1")]
    return [w.start(number, address=f"/ip4/10.{number}.0.1/tcp/1", max_reservations=4) for number in range(count)]


async def start_with_private(w: World, count: int) -> tuple[list[Node], Node]:
    """Public nodes, and one that is not and has its reservations."""
    public, private = start_public(w, count), w.start(10, listen=False)
    await w.until_agreed(15)
    await trio.sleep(10)
    return public, private


def public_links(node: Node, public: list[Node]) -> int:
    links = {peer for peer in node.network.peers() if not node.network.is_relayed(peer)}
    return len(links & {other.me for other in public})


def relays_of(reader: Node, node: Node) -> tuple[str, ...]:
    announcement = reader.discovery.find(node.me)
    return () if announcement is None else announcement.relays


async def test_a_private_node_is_reached_through_its_relays(simulated_clock: SimulatedClock) -> None:
    async with world(0) as w:
        public = start_public(w, 6)
        one, two = (w.start(10 + number, listen=False, target=PUBLIC_LINKS) for number in range(2))
        await w.until_agreed(15)
        await trio.sleep(10)
        for node in (one, two):
            assert public_links(node, public) >= PUBLIC_LINKS
            assert len(relays_of(public[0], node)) == TARGET_RESERVATIONS
        await one.network.disconnect(two.me)
        known = one.discovery.find(two.me)
        assert known is not None and known.addresses == ()
        await one.network.connect(two.me, get_addresses(known))
        assert one.network.is_relayed(two.me) and two.network.is_relayed(one.me)


async def test_a_relay_that_dies_is_replaced_and_one_that_restarts_is_used_again(
    simulated_clock: SimulatedClock,
) -> None:
    async with world(0) as w:
        public, private = await start_with_private(w, 3)
        held = private.discovery._connector.manager.get_relays(trio.current_time())
        victim = next(node for node in public if node.me in held)
        number = public.index(victim)
        w.crash(victim)
        await trio.sleep(40)
        reader = next(node for node in public if node is not victim)
        assert len(relays_of(reader, private)) == TARGET_RESERVATIONS
        assert all(str(victim.network.relay_addresses[0]) != relay for relay in relays_of(reader, private))
        public[number] = w.start(number, address=f"/ip4/10.{number}.0.1/tcp/1", max_reservations=4)
        await w.until_agreed(20)
        await trio.sleep(10)
        assert public[number].me in private.network.peers()  # directly, or dialled through the other relay


async def test_a_relay_that_is_replaced_at_once_is_announced_once(simulated_clock: SimulatedClock) -> None:
    async with world(0) as w:
        public, private = await start_with_private(w, 5)
        held = private.discovery._connector.manager.get_relays(trio.current_time())
        victim, reader = (
            next(node for node in public[1:] if (node.me in held) is is_held) for is_held in (True, False)
        )
        before, said = relays_of(reader, private), set()
        w.crash(victim, notice=0.1)
        for _ in range(150):
            await trio.sleep(0.1)
            said.add(relays_of(reader, private))
        assert len(said) == 2 and before in said and all(len(relays) == TARGET_RESERVATIONS for relays in said)
        last = private.discovery._connector.manager.get_relays(trio.current_time())
        for node in w.nodes:
            if node.me not in last:
                node.network.max_reservations = 0  # no relay takes another: then the loss is said, after a while
        w.crash(next(node for node in w.nodes if node.me in last and node is not reader), notice=0.1)
        await trio.sleep(RELAY_LOSS_DELAY_S / 2)
        assert len(relays_of(reader, private)) == TARGET_RESERVATIONS
        await trio.sleep(2 * RELAY_LOSS_DELAY_S)
        assert len(relays_of(reader, private)) == TARGET_RESERVATIONS - 1


@pytest.mark.long
async def test_probes_of_private_nodes_leave_no_connections_behind(simulated_clock: SimulatedClock) -> None:
    async with world(0) as w:
        w.bootstrap = [(w.key(0).public_key, "/ip4/10.0.0.1/tcp/1")]
        public = [w.start(n, address=f"/ip4/10.{n}.0.1/tcp/1", max_reservations=8, target=3) for n in range(16)]
        for number in range(20, 36):
            w.start(number, listen=False, target=3)
        await w.until_agreed(40)
        for _ in range(2):
            await trio.sleep(150)
            own = [sum(node.network.is_outbound(peer) for peer in node.network.peers()) for node in public]
            assert max(own) <= 3 + 3 and sum(own) <= 4.5 * len(own)  # the bootstrap peer, and a probe under way
            for node in w.nodes[len(public) : len(public) + 8]:  # the dead are looked for now and then, at their relays
                w.crash(node)


@pytest.mark.parametrize("times", [2, pytest.param(24, marks=pytest.mark.long)])
async def test_reservations_are_renewed_for_hours(simulated_clock: SimulatedClock, times: int) -> None:
    async with world(0) as w:
        start_public(w, 3)
        private = w.start(10, listen=False)
        await w.until_agreed(15)
        await trio.sleep(10)
        for _ in range(times):
            await trio.sleep(600)
            assert len(private.discovery._connector.manager.get_relays(trio.current_time())) == TARGET_RESERVATIONS


async def test_a_new_address_of_the_whole_site_is_survived(simulated_clock: SimulatedClock) -> None:
    """All connections of a private node are cut at once: it is back, with reservations, within a minute."""
    async with world(0) as w:
        public, private = await start_with_private(w, 5)
        w.hub.partition([[private.me]])
        await trio.sleep(20)
        w.hub.heal()
        await trio.sleep(40)
        assert w.agreed()
        assert public_links(private, public) >= PUBLIC_LINKS
        assert len(relays_of(public[0], private)) == TARGET_RESERVATIONS


async def test_a_public_node_that_moves_is_found_at_its_new_address(simulated_clock: SimulatedClock) -> None:
    async with world(6) as w:
        await w.until_agreed(15)
        await trio.sleep(10)
        mover = w.nodes[3]
        w.hub.move(mover.me, "/memory/elsewhere")
        await trio.sleep(15)
        assert w.agreed()
        for node in w.nodes:
            found = node.discovery.find(mover.me)
            assert node is mover or (found is not None and found.addresses == ("/memory/elsewhere",))


async def test_a_restart_needs_no_bootstrap_node(simulated_clock: SimulatedClock, tmp_path: Path) -> None:
    async with world(4) as w:
        node = w.start(9, store=PeerStore(tmp_path / "peers.db"))
        await w.until_agreed(15)
        await trio.sleep(5)
        await node.discovery.leave()
        w.crash(node)
        w.crash(w.nodes[0])  # the bootstrap node
        await w.until_agreed(20)
        again = w.start(9, store=PeerStore(tmp_path / "peers.db"), bootstrap=[])
        await w.until_agreed(10)
        assert again.present() == {other.me for other in w.nodes[:3]}
        lost = w.start(77, bootstrap=[])  # no peer knows it, and it remembers no peer
        w.nodes.remove(lost)
        await trio.sleep(10)
        assert lost.present() == set()


LONG = "/dns4/" + ".".join("a" * 63 for _ in range(3)) + ".example/tcp/4001"
"""An address that may be announced, but not as that of a relay: with a key behind it is too long."""


async def test_a_relay_is_announced_where_it_was_dialled_whatever_it_says_of_itself(
    simulated_clock: SimulatedClock,
) -> None:
    async with world(0) as w:
        w.bootstrap = [(w.key(0).public_key, "/ip4/10.0.0.1/tcp/1")]
        for number in range(3):
            real = f"/ip4/10.{number}.0.1/tcp/1"
            announced = (LONG, "/ip4/10.99.0.1/tcp/1", real)
            relay = w.start(number, address=real, max_reservations=4)
            relay.discovery._announcer._get_addresses = partial(tuple, announced)  # type: ignore[method-assign]
        private = w.start(10, listen=False)
        await w.until_agreed(20)
        await trio.sleep(10)
        relays = relays_of(w.nodes[0], private)
        assert len(relays) == TARGET_RESERVATIONS
        assert {*relays} <= {node.network.relay_addresses[0] for node in w.nodes[:3]}


async def test_a_relay_that_cannot_be_announced_is_not_asked(simulated_clock: SimulatedClock) -> None:
    async with world(0) as w:
        w.bootstrap = [(w.key(0).public_key, "/ip4/10.0.0.1/tcp/1")]
        w.start(0, address="/ip4/10.0.0.1/tcp/1", max_reservations=4)
        for number in range(1, 4):
            w.start(number, address=LONG.replace("4001", str(number)), max_reservations=4)
        private = w.start(10, listen=False)
        await w.until_agreed(20)
        await trio.sleep(60)
        assert private.discovery._connector.manager.get_relays(trio.current_time()) == [w.nodes[0].me]
        assert relays_of(w.nodes[1], private) == w.nodes[0].network.relay_addresses


async def test_what_does_not_fit_into_an_announcement_is_left_out(simulated_clock: SimulatedClock) -> None:
    async with world(2) as w:
        odd = ("", "/a b", "/x\n", "no multiaddress", "/dns4/\u00e9/tcp/1", "/" + 256 * "x", "/memory/1")
        writer = w.start(5, models=["", "m" * 129, "model", *(str(number) for number in range(20))])
        writer.network._listen_addresses = odd
        await w.until_agreed(10)
        far, near = w.key(8).public_key, w.key(9).public_key
        connector = writer.discovery._connector
        connector._bootstrap = {far: (LONG,), near: ("/memory/2",)}
        for relay in (far, near):
            connector.manager.reserved(relay, 1000.0, trio.current_time())
        await trio.sleep(3)
        known = w.nodes[0].discovery.find(writer.me)
        assert known is not None
        assert (known.addresses, known.relays) == (("/memory/1",), (f"/memory/2/p2p/{format_address(near)}",))
        assert known.models == ("model", *(str(number) for number in range(15)))
        w.nodes[0].seen()
        await trio.sleep(30)  # what was left out does not count as a change
        assert w.nodes[0].seen().count((ChangeKind.UPDATED, writer.me)) <= 5
