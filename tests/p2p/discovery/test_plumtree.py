"""The tree along which news spreads: how often it comes and how soon, and what those can do who do not play along."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Any

import pytest
import trio

from p2p.discovery.plumtree import MAX_EAGER_INBOUND, Plumtree
from p2p.peers.announcement import get_item_id
from p2p.peers.anti_entropy import FINGERPRINT_BYTES, SyncFrame
from p2p.simulation.runtime import run_simulation
from tests.support.discovery_world import Node, World, world

COUNT = 24


def simulated(body: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test that goes the same way each time."""

    @wraps(body)
    def test(**fixtures: Any) -> None:
        run_simulation(1, partial(body, **fixtures))

    return test


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[bytes, bytes]]:
    """How often each node was sent each item, by key and short name."""
    counts: Counter[tuple[bytes, bytes]] = Counter()
    change = Plumtree._change_tree

    def count(self: Plumtree, talk: object, frame: SyncFrame, *more: object) -> SyncFrame | None:
        for one in frame.announcements:
            counts[self._network.me, get_item_id(one.announcement)] += 1
        return change(self, talk, frame, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Plumtree, "_change_tree", count)
    return counts


def say_something(node: Node, step: int) -> bytes:
    """Have ``node`` announce something new, by its short name."""
    node.discovery._announcer._models = (f"model-{step}",)
    node.discovery._announcer.announce()
    return node.discovery.table.entries[node.me].id


def knowing(w: World, item: bytes) -> int:
    return sum(item in node.discovery.table.by_id for node in w.nodes)


def eager(node: Node) -> set[bytes]:
    return {peer for peer, talk in node.discovery._plumtree._sessions.items() if talk.is_eager}


@simulated
async def test_news_comes_soon_and_hardly_ever_twice(received: Counter[tuple[bytes, bytes]]) -> None:
    async with world(COUNT) as w:
        await w.until_agreed(30)
        late, copies = 0, []
        for step in range(30):
            item = say_something(w.nodes[step % COUNT], step)
            await trio.sleep(1.5)
            late += knowing(w, item) < COUNT
            await trio.sleep(1.5)
            copies.append(sum(received[node.me, item] for node in w.nodes) / (COUNT - 1))
        assert late <= 7, "of 30; in other worlds of this size it was 5 to 15 of 60"
        assert sum(copies[10:]) / len(copies[10:]) < 1.35


@simulated
async def test_news_of_many_at_once_reaches_all() -> None:
    """Where circles are opened by several items at a time the tree may fall apart: what was offered mends it."""
    async with world(COUNT) as w:
        await w.until_agreed(30)
        for step in range(5):
            items = [say_something(node, step) for node in w.nodes]
            await trio.sleep(8)
            assert [knowing(w, item) for item in items] == [COUNT] * COUNT


@simulated
async def test_a_link_of_the_tree_that_is_lost_is_replaced_at_once() -> None:
    async with world(COUNT) as w:
        await w.until_agreed(30)
        await trio.sleep(20)
        for step in range(4):
            victim = max(w.nodes[1:], key=lambda node: len(eager(node)))
            orphans = [node for node in w.nodes if victim.me in eager(node)]
            w.crash(victim, notice=0.1)
            await trio.sleep(0.5)
            assert orphans and all(eager(node) for node in orphans)
            item = say_something(w.nodes[step], 100 + step)
            await trio.sleep(1)
            assert knowing(w, item) >= 0.8 * len(w.nodes)
            await trio.sleep(7)
            assert knowing(w, item) == len(w.nodes)


@simulated
async def test_who_takes_a_place_in_the_tree_and_passes_nothing_on_only_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of the nodes push nothing, offer nothing, and graft every link that they have, all the time."""
    async with world(COUNT) as w:
        await w.until_agreed(30)
        liars, honest = w.nodes[1::3], [node for node in w.nodes if node not in w.nodes[1::3]]

        async def graft(liar: Node) -> None:
            while True:
                for peer in liar.discovery._plumtree.peers():
                    liar.discovery._plumtree.send(peer, SyncFrame(graft=True))
                await trio.sleep(3)

        for liar in liars:
            monkeypatch.setattr(liar.discovery._plumtree, "broadcast", lambda *arguments, **options: None)
            w.nursery.start_soon(graft, liar)
        await trio.sleep(5)
        soon = 0
        for step in range(4):
            item = say_something(honest[step % len(honest)], step)
            await trio.sleep(6)
            soon += sum(item in node.discovery.table.by_id for node in honest)
            await trio.sleep(14)
            assert all(item in node.discovery.table.by_id for node in honest)
        assert soon >= 0.97 * 4 * len(honest)


@simulated
async def test_of_the_links_that_others_have_made_few_are_in_the_tree() -> None:
    async with world(COUNT) as w:
        await w.until_agreed(30)
        hub = w.nodes[0]
        for node in w.nodes[1:]:
            await node.network.connect(hub.me, hub.network.listen_addresses)
        await trio.sleep(5)
        made = {peer for peer in hub.network.peers() if hub.network.is_outbound(peer)}
        assert len(hub.discovery._plumtree.peers()) == COUNT - 1 and len(made) < COUNT - MAX_EAGER_INBOUND
        for _ in range(2):
            for node in w.nodes[1:]:
                node.discovery._plumtree.send(hub.me, SyncFrame(graft=True))
            await trio.sleep(0.2)
            assert len(eager(hub) - made) == MAX_EAGER_INBOUND and made <= eager(hub)


@simulated
async def test_without_a_link_in_the_tree_a_node_asks_for_one() -> None:
    """A neighbour that prunes them all does not silence a node."""
    async with world(COUNT) as w:
        await w.until_agreed(30)
        await trio.sleep(10)
        node = w.nodes[5]
        for peer in eager(node):
            other = next(one for one in w.nodes if one.me == peer)
            other.discovery._plumtree._sessions[node.me].is_eager = False
            other.discovery._plumtree.send(node.me, SyncFrame(prune=True))
        await trio.sleep(0.2)
        assert eager(node)
        item = say_something(node, 1)
        await trio.sleep(2)
        assert knowing(w, item) >= 0.75 * COUNT


@simulated
async def test_what_all_neighbours_are_told_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(COUNT) as w:
        await w.until_agreed(30)
        node, encode, encoded = w.nodes[3], SyncFrame.encode, Counter[SyncFrame]()
        frame = SyncFrame(root=w.nodes[3].discovery.table.root.to_bytes(FINGERPRINT_BYTES), refresh=True)
        heard: set[bytes] = set()
        change = Plumtree._change_tree

        def count(frame: SyncFrame) -> bytes:
            encoded[frame] += 1
            return encode(frame)

        def hear(self: Plumtree, session: Any, given: SyncFrame, *more: Any) -> SyncFrame | None:
            if given == frame and session.exchange.peer == node.me:
                heard.add(self._network.me)
            return change(self, session, given, *more)

        monkeypatch.setattr(SyncFrame, "encode", count)
        monkeypatch.setattr(Plumtree, "_change_tree", hear)
        node.discovery._plumtree.send_to_all(frame)
        await trio.sleep(0.5)
        assert heard == {*node.discovery._plumtree.peers()} and len(heard) > 3
        assert encoded[frame] == 1
