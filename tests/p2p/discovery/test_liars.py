"""What liars can do to membership: accusations by one, by two, by three, by strangers; and requests to renew."""

from __future__ import annotations

import pytest
import trio

from p2p.discovery.announcer import REFRESH_BURST, REFRESH_INTERVAL_S, REFRESH_MIN_AGE_S
from p2p.discovery.plumtree import PLUMTREE_PROTOCOL
from p2p.network import Misbehaviour
from p2p.peers.announcement import ITEM_ID_BYTES, Announcement
from p2p.peers.anti_entropy import MAX_ITEM_IDS_BYTES, AgedAnnouncement, SyncFrame
from p2p.peers.failure_detector import CONFIRMATIONS, OBSERVER_MIN_AGE_S, SUSPICION_TIMEOUT_S
from p2p.peers.suspect_message import sign_suspect_message
from p2p.peers.table import ChangeKind
from p2p.simulation.runtime import SimulatedClock
from tests.support.discovery_world import CHAIN, Node, Stranger, World, world

pytestmark = pytest.mark.trio
COUNT = 12


def find(w: World, peer: bytes) -> Announcement:
    found = next(node for node in w.nodes if node.me != peer).discovery.find(peer)
    assert found is not None
    return found


async def accuse(w: World, liars: list[Node], victim: Node) -> None:
    """Each liar accuses the victim to all of its neighbours at once."""
    for liar in liars:
        message = sign_suspect_message(liar.key, CHAIN, find(w, victim.me)).encode()
        for peer in sorted(liar.network.peers()):
            if peer != victim.me:
                await liar.discovery._plumtree.request(peer, SyncFrame(suspects=(message,)))


def deaths(w: World, victim: Node) -> int:
    return sum((ChangeKind.CRASHED, victim.me) in node.seen() for node in w.nodes)


@pytest.mark.parametrize("count", [1, CONFIRMATIONS - 1])
async def test_too_few_liars_remove_no_peer_from_any_table(simulated_clock: SimulatedClock, count: int) -> None:
    async with world(COUNT) as w:
        await w.until_agreed(30)
        await trio.sleep(65)
        await accuse(w, w.nodes[10 : 10 + count], w.nodes[5])
        await trio.sleep(30)
        assert deaths(w, w.nodes[5]) == 0
        assert w.agreed()


async def test_enough_liars_are_refuted_and_not_heard_again(simulated_clock: SimulatedClock) -> None:
    async with world(COUNT) as w:
        await w.until_agreed(30)
        await trio.sleep(65)
        victim, before = w.nodes[5], find(w, w.nodes[5].me)
        await accuse(w, w.nodes[10 : 10 + CONFIRMATIONS], victim)
        await trio.sleep(3 * SUSPICION_TIMEOUT_S)
        assert find(w, victim.me).sequence > before.sequence
        assert w.agreed()
        liars = {node.me for node in w.nodes[10 : 10 + CONFIRMATIONS]}
        refused = [{*node.discovery.failure_detector._observers} for node in w.nodes]
        # It takes all of them, so a node that does not hear one is not fooled; some heard the truth before the lie.
        assert sum(bool(liars & observers) for observers in refused) > COUNT // 2
        deaths(w, victim)
        await accuse(w, w.nodes[10 : 10 + CONFIRMATIONS], victim)
        await trio.sleep(3 * SUSPICION_TIMEOUT_S)
        assert deaths(w, victim) <= COUNT // 2
        assert w.agreed()


async def test_strangers_are_not_heard_at_all(simulated_clock: SimulatedClock) -> None:
    async with world(COUNT) as w:
        await w.until_agreed(30)
        await trio.sleep(65)
        victim, before = w.nodes[5], find(w, w.nodes[5].me)
        accused = tuple(sign_suspect_message(w.key(500 + number), CHAIN, before).encode() for number in range(20))
        for peer in sorted(w.nodes[10].network.peers()):
            await w.nodes[10].discovery._plumtree.request(peer, SyncFrame(suspects=accused))
        await trio.sleep(30)
        assert all(node.discovery.failure_detector.get_item_ids(victim.me) == [] for node in w.nodes)
        assert w.agreed()


async def test_requests_to_renew_are_answered_seldom(simulated_clock: SimulatedClock) -> None:
    async with world(3) as w:
        await w.until_agreed(10)
        victim, liar = w.nodes[1:]
        await trio.sleep(5)
        first, started = find(w, victim.me).sequence, trio.current_time()
        sequences = set()
        for _ in range(200):
            async with liar.streams.open(victim.me, PLUMTREE_PROTOCOL) as exchange:
                await exchange.send(SyncFrame(refresh=True).encode(), end=True)
                await exchange.receive()
            await trio.sleep(0.1)
            sequences.add(find(w, victim.me).sequence)
        assert len(sequences - {first}) <= (trio.current_time() - started) / REFRESH_MIN_AGE_S + 1


@pytest.mark.parametrize("victim", [0, COUNT - 1])
async def test_whatever_fails_over_what_a_peer_sent_ends_nothing(
    simulated_clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, victim: int
) -> None:
    """The victim is the one that opened the conversations (least key), or the one that answers in them."""
    async with world(COUNT) as w:
        await w.until_agreed(30)
        node, blamed = w.nodes[victim], []
        monkeypatch.setattr(node.network, "report_misbehaviour", lambda peer, fault: blamed.append((peer, fault)))

        def fail(*arguments: object) -> None:
            raise RuntimeError("a mistake of this node")

        for broken in (node.discovery._anti_entropy, node.discovery._connector, node.network):
            for name in ("answer", "reserve", "connect"):
                if hasattr(broken, name):
                    monkeypatch.setattr(broken, name, fail)
        for peer in sorted(node.network.peers())[:4]:
            await node.network.disconnect(peer)
        await trio.sleep(30)
        assert not node.left.is_set() and node.discovery._tasks.is_open
        assert blamed and {fault for _, fault in blamed} == {Misbehaviour.GARBAGE}
        monkeypatch.undo()
        await trio.sleep(60)
        assert w.agreed()
        w.hub.errors.clear()
        caplog.clear()


async def test_a_reply_over_its_own_bound_is_cut_or_dropped(
    simulated_clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One more name than a frame may hold, whether the list is full of corrections or made too long by a mistake."""
    async with world(4) as w:
        await w.until_agreed(10)
        await trio.sleep(5)
        node, peer = w.nodes[:2]
        outdated = find(w, peer.me)
        peer.discovery.update(models=["new"])
        await trio.sleep(5)
        full = SyncFrame(have=bytes(MAX_ITEM_IDS_BYTES))
        monkeypatch.setattr(node.discovery._anti_entropy, "answer", lambda *arguments: full)
        reply = await node.discovery._handler.on_frame(
            peer.me, SyncFrame(announcements=(AgedAnnouncement(outdated.encode(), 0),))
        )
        assert reply is not None and len(SyncFrame.decode(reply.encode()).have) == MAX_ITEM_IDS_BYTES
        full = SyncFrame(have=bytes(MAX_ITEM_IDS_BYTES + ITEM_ID_BYTES))

        async def take(*arguments: object) -> SyncFrame:
            return full

        monkeypatch.setattr(node.discovery._handler, "on_frame", take)
        for _ in range(10):
            peer.discovery._plumtree.send(node.me, SyncFrame(root=b"?" * 8))
            node.discovery._plumtree.send(peer.me, full)
            await trio.sleep(1)
        assert not node.left.is_set() and peer.me in node.discovery._plumtree.peers()
        assert "cannot be sent" in caplog.text
        monkeypatch.undo()
        await trio.sleep(10)
        assert w.agreed()
        caplog.clear()


async def test_accusations_by_unknown_peers_make_no_node_renew(simulated_clock: SimulatedClock) -> None:
    async with world(8) as w:
        await w.until_agreed(20)
        await trio.sleep(70)
        victim, liar = w.nodes[3], Stranger(w, 500)
        await liar.connect(victim)
        first = find(w, victim.me).sequence
        sequences = {first}
        for number in range(60):
            unknown = w.key(1000 + number)
            message = sign_suspect_message(unknown, CHAIN, victim.discovery._announcer.announced or find(w, victim.me))
            await liar.say(victim, SyncFrame(suspects=(message.encode(),)))
            await trio.sleep(1)
            sequences.add(find(w, victim.me).sequence)
        assert len(sequences - {first}) <= 60 / (5 * len(w.nodes) * 0.8) + 1  # as it does anyway


async def test_accusations_by_many_who_count_are_all_refuted_but_not_one_by_one(
    simulated_clock: SimulatedClock,
) -> None:
    """Forty Sybils that have been in the view for a while accuse a node, one a second."""
    async with world(8) as w:
        await w.until_agreed(20)
        sybils = [Stranger(w, 500 + number) for number in range(40)]
        await sybils[0].connect(w.nodes[3])
        known = tuple(AgedAnnouncement(sybil.announce().encode(), 0) for sybil in sybils)
        await sybils[0].say(w.nodes[3], SyncFrame(announcements=known))
        await trio.sleep(OBSERVER_MIN_AGE_S + 10)
        victim, reader, started = w.nodes[3], w.nodes[5], trio.current_time()
        sequences, first = set(), find(w, victim.me).sequence
        for sybil in sybils:
            said = victim.discovery._announcer.announced
            assert said is not None
            message = sign_suspect_message(sybil.key, CHAIN, said)
            await sybils[0].say(victim, SyncFrame(suspects=(message.encode(),)))
            await sybils[0].say(victim, SyncFrame(refresh=True))
            await trio.sleep(1)
            sequences.add(find(w, victim.me).sequence)
        took = trio.current_time() - started
        assert REFRESH_BURST <= len(sequences - {first}) <= REFRESH_BURST + took / REFRESH_INTERVAL_S + 2
        last = victim.discovery._announcer.announced
        await trio.sleep(2 * REFRESH_INTERVAL_S)
        assert last is not None and find(w, victim.me).sequence > last.sequence  # the last one too, in the end
        again = sign_suspect_message(sybils[0].key, CHAIN, find(w, victim.me))
        assert not victim.discovery.failure_detector.counts(again, trio.current_time())
        assert reader.discovery.table.find(victim.me) is not None


async def test_a_connection_proves_a_peer_to_who_has_dialled_it(simulated_clock: SimulatedClock) -> None:
    async with world(12) as w:
        await w.until_agreed(20)
        node, stranger = w.nodes[5], Stranger(w, 500)
        await stranger.connect(node)
        await stranger.say(node, SyncFrame(announcements=(AgedAnnouncement(stranger.announce().encode(), 0),)))
        await trio.sleep(10)
        assert stranger.me in node.network.peers() and stranger.me in node.present()
        assert not node.discovery.table.is_verified(stranger.me)
        for one in w.nodes:
            own = [other.me for other in w.nodes if one.network.is_outbound(other.me)]
            assert all(one.discovery.table.is_verified(peer) for peer in own)
