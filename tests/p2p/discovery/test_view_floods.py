"""What a flood of frames about the view costs, all of it well formed and well signed by invented peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import trio

import p2p.peers.announcement
import p2p.peers.suspect_message
from chain import crypto
from chain.exceptions import CodecError
from p2p.coarse_clock import MAX_LAG_MS
from p2p.discovery.sync_handler import (
    INLINE_VERIFICATIONS,
    ITEM_RATE,
    SYNC_RATE,
    TOTAL_ITEM_RATE,
    UNTIMELY_REPORT_INTERVAL_S,
    VERIFICATION_BATCH,
)
from p2p.limits.rate_limit import Rate
from p2p.network import Misbehaviour, NetworkError
from p2p.peers.announcement import MAX_AHEAD_MS, Announcement, PeerLoad, sign_announcement
from p2p.peers.anti_entropy import FINGERPRINT_BYTES, MAX_SYNC_ITEMS, AgedAnnouncement, SyncFrame
from p2p.peers.suspect_message import sign_suspect_message
from p2p.peers.table import MAX_TABLE_PEERS
from p2p.simulation.runtime import SimulatedClock, SimulatedRuntime
from tests.support.discovery_world import CHAIN, Node, Stranger, World, world

pytestmark = pytest.mark.trio


def invent(w: World, first: int, count: int, age: int = 0) -> list[Announcement]:
    """Announcements of peers that do not exist, ``age`` ms old."""
    now = SimulatedRuntime.EPOCH_MS + round(trio.current_time() * 1000) - age
    made = []
    for number in range(first, first + count):
        key = w.key(1_000_000 + number)
        unsigned = Announcement(key.public_key, now, now, False, (), (), (), PeerLoad(), 7_200_000, bytes(64))
        made.append(sign_announcement(key, CHAIN, unsigned))
    return made


def known(announcements: list[Announcement]) -> SyncFrame:
    return SyncFrame(announcements=tuple(AgedAnnouncement(one.encode(), 0) for one in announcements))


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The keys whose signatures were checked, in order."""
    keys: list[bytes] = []
    verify = crypto.verify

    def count(key: bytes, *arguments: Any) -> bool:
        keys.append(key)
        return verify(key, *arguments)

    monkeypatch.setattr(crypto, "verify", count)
    p2p.peers.announcement.decode_announcement.cache_clear()
    p2p.peers.suspect_message.decode_suspect_message.cache_clear()
    return keys


async def test_a_flood_of_invented_peers_is_checked_at_a_bounded_rate(
    simulated_clock: SimulatedClock, checked: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rates a tenth of the real ones, and four that each send ten times as much as is taken of all."""
    each, total = (Rate(rate.items / 10, rate.size, rate.burst) for rate in (ITEM_RATE, TOTAL_ITEM_RATE))
    monkeypatch.setattr("p2p.discovery.sync_handler.ITEM_RATE", each)
    monkeypatch.setattr("p2p.discovery.sync_handler.TOTAL_ITEM_RATE", total)
    async with world(4) as w:
        await w.until_agreed(10)
        victim, flooders = w.nodes[1], [Stranger(w, 500 + number) for number in range(4)]
        for flooder in flooders:
            await flooder.connect(victim)
        invented = invent(w, 0, 4000)
        frames = [known(invented[start : start + 50]) for start in range(0, len(invented), 50)]
        checked.clear()
        started = trio.current_time()
        for frame in frames[:20]:
            await flooders[0].say(victim, frame)
        took = trio.current_time() - started
        assert each.items * each.burst <= len(checked) <= each.items * (each.burst + took) + 50
        for step, frame in enumerate(frames[20:]):
            await flooders[step % len(flooders)].say(victim, frame)
        took = trio.current_time() - started
        shared = 2 * total.items * (total.burst + took) + len(flooders) * 50  # in common, and as much in equal shares
        assert len(checked) <= shared < len(invented) / 2
        newcomer = w.start(20)  # hears of all that, and is heard of
        await trio.sleep(60)
        assert {node.me for node in w.nodes} - {newcomer.me} <= newcomer.present()
        assert newcomer.me in victim.present()


async def test_what_would_make_no_difference_is_not_checked(
    simulated_clock: SimulatedClock, checked: list[bytes]
) -> None:
    async with world(4) as w:
        await w.until_agreed(10)
        victim, stranger = w.nodes[1], Stranger(w, 500)
        await stranger.connect(victim)
        old, new = invent(w, 0, 100, age=5000), invent(w, 0, 100)
        await stranger.say(victim, known(new))
        assert len(victim.present()) >= 100
        said = victim.discovery._announcer.announced
        assert said is not None
        accusers = [w.key(2_000_000 + number) for number in range(50)]
        nobodies = tuple(sign_suspect_message(key, CHAIN, said).encode() for key in accusers)
        outdated = tuple(sign_suspect_message(stranger.key, CHAIN, one).encode() for one in old[:50])
        checked.clear()
        for frame in (known(new), known(old), SyncFrame(suspects=nobodies), SyncFrame(suspects=outdated)):
            await stranger.say(victim, frame)
        ours = {node.me for node in w.nodes}
        assert not [key for key in checked if key not in ours]
        for untimely in (invent(w, 200, 50, age=9_000_000), invent(w, 300, 50, age=-2 * MAX_AHEAD_MS)):
            checked.clear()
            await stranger.say(victim, known(untimely))
            assert [key for key in checked if key not in ours] == [untimely[0].peer], "one of a frame"


async def test_untimely_announcements_make_one_line_a_minute_and_forged_ones_blame_their_sender(
    simulated_clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with world(2) as w:
        await w.until_agreed(10)
        victim, stranger, blamed = w.nodes[1], Stranger(w, 500), []
        await stranger.connect(victim)
        monkeypatch.setattr(victim.network, "report_misbehaviour", lambda peer, fault: blamed.append((peer, fault)))
        caplog.clear()
        stale = known(invent(w, 200, 50, age=9_000_000))
        for _ in range(20):
            await stranger.say(victim, stale)
            await trio.sleep(1)
        assert [line for line in caplog.messages if "50 announcements were untimely" in line] == caplog.messages[:1]
        assert len(caplog.messages) == 1 and not blamed
        await trio.sleep(UNTIMELY_REPORT_INTERVAL_S)
        await stranger.say(victim, stale)
        assert len(caplog.messages) == 2 and "1000 announcements were untimely" in caplog.messages[1]
        forged = [replace(one, signature=bytes(64)) for one in invent(w, 200, 50, age=9_000_000)]
        with pytest.raises(NetworkError, match="not signed by its peer"):
            await stranger.say(victim, known(forged))
        assert blamed == [(stranger.me, Misbehaviour.FORGERY)]


async def test_many_signatures_are_checked_in_small_batches_out_of_the_loop(
    simulated_clock: SimulatedClock, checked: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(2) as w:
        await w.until_agreed(10)
        victim, stranger = w.nodes[1], Stranger(w, 500)
        await stranger.connect(victim)
        batches: list[int] = []

        async def run_sync(function: Callable[..., Any], *arguments: Any) -> Any:
            checked.clear()
            result = function(*arguments)
            batches.append(len(checked))
            await trio.sleep(1)
            return result

        monkeypatch.setattr(victim.discovery._runtime, "run_sync", run_sync)
        invented = invent(w, 0, 3 * VERIFICATION_BATCH + 1)
        await stranger.say(victim, known(invented))
        assert batches == [VERIFICATION_BATCH] * 3 + [1]
        assert {one.peer for one in invented} <= victim.present()
        await stranger.say(victim, known(invent(w, 1000, INLINE_VERIFICATIONS)))
        assert len(batches) == 4


async def test_one_bad_signature_among_many_is_found_and_nothing_of_the_frame_taken(
    simulated_clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(2) as w:
        await w.until_agreed(10)
        victim, stranger, blamed = w.nodes[1], Stranger(w, 500), []
        await stranger.connect(victim)
        monkeypatch.setattr(victim.network, "report_misbehaviour", lambda peer, fault: blamed.append(peer))
        invented = invent(w, 0, 100)
        forged = sign_announcement(w.key(3), CHAIN, invented[99])
        with pytest.raises(Exception, match="not signed by its peer"):
            await stranger.say(victim, known([*invented[:99], forged]))
        assert blamed == [stranger.me] and len(victim.present()) == 1


async def test_a_frame_of_too_many_items_is_none() -> None:
    few = tuple(AgedAnnouncement(b"x", 0) for _ in range(MAX_SYNC_ITEMS))
    assert len(SyncFrame.decode(SyncFrame(announcements=few).encode()).announcements) == MAX_SYNC_ITEMS
    with pytest.raises(CodecError):
        SyncFrame(announcements=(*few, few[0])).encode()
    with pytest.raises(CodecError):
        SyncFrame(suspects=(b"x",) * (MAX_SYNC_ITEMS + 1)).encode()


async def test_walks_through_the_view_have_a_rate(
    simulated_clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(4) as w:
        await w.until_agreed(10)
        victim, stranger = w.nodes[1], Stranger(w, 500)
        await stranger.connect(victim)
        walks: list[SyncFrame] = []
        answer = victim.discovery._anti_entropy.answer

        def count(peer: bytes, frame: SyncFrame, now: float) -> SyncFrame | None:
            if peer == stranger.me and (frame.root or frame.buckets or frame.bucket_numbers):
                walks.append(frame)
            return answer(peer, frame, now)

        monkeypatch.setattr(victim.discovery._anti_entropy, "answer", count)
        started = trio.current_time()
        for _ in range(100):
            for frame in (
                SyncFrame(root=b"x" * FINGERPRINT_BYTES),
                SyncFrame(buckets=bytes(4 * FINGERPRINT_BYTES)),
                SyncFrame(bucket_numbers=b"\x00", bucket_count=4),
            ):
                await stranger.say(victim, frame)
        took = trio.current_time() - started
        assert SYNC_RATE.burst <= len(walks) <= SYNC_RATE.items * (SYNC_RATE.burst + took) + 1
        assert w.agreed()


async def test_fingerprints_are_computed_once_as_long_as_nothing_changes(simulated_clock: SimulatedClock) -> None:
    async with world(4) as w:
        await w.until_agreed(10)
        anti_entropy = w.nodes[1].discovery._anti_entropy
        first = anti_entropy._fingerprints(16)
        assert anti_entropy._fingerprints(16) is first and anti_entropy._fingerprints(8) is not first
        first = anti_entropy._fingerprints(16)
        w.start(9)
        await w.until_agreed(10)
        assert anti_entropy._fingerprints(16) != first


async def test_a_full_view_is_learnt_within_the_rates(simulated_clock: SimulatedClock) -> None:
    """No flood: a newcomer fetches some 3,000 announcements from its neighbours, a frame at a time."""
    assert MAX_TABLE_PEERS > 3000
    async with world(3) as w:
        await w.until_agreed(10)
        invented = invent(w, 0, 3000)
        now = trio.current_time()
        for node in w.nodes:
            for one in invented:
                node.discovery.table.apply(one, now)
        newcomer: Node = w.start(9)
        await trio.sleep(30)
        assert len(newcomer.present()) == 3003


async def test_an_old_announcement_does_not_grow_young_on_the_way(simulated_clock: SimulatedClock) -> None:
    async with world(2) as w:
        await w.until_agreed(10)
        victim, stranger = w.nodes[1], Stranger(w, 500)
        await stranger.connect(victim)
        age = 7_000_000
        await stranger.say(victim, known(invent(w, 0, 10, age=age)))
        assert len(victim.present()) == 11
        await trio.sleep((7_200_000 - age + MAX_AHEAD_MS + MAX_LAG_MS) / 1000 + 5)
        assert len(victim.present()) == 1


def place(w: World, announcements: list[Announcement]) -> list[Announcement]:
    """The same with addresses at which no node answers."""
    return [
        sign_announcement(
            w.key(1_000_000 + number), CHAIN, replace(one, addresses=(f"/ip4/20.{number % 250}.0.1/tcp/1",))
        )
        for number, one in enumerate(announcements)
    ]


async def test_those_that_count_are_checked_before_a_crowd_of_invented_suspects(
    simulated_clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(6) as w:
        await w.until_agreed(20)
        await trio.sleep(5)
        node = w.nodes[1]
        dialled = [peer for peer in sorted(node.network.peers()) if node.network.is_outbound(peer)]
        victim = next(other for other in w.nodes if other.me in dialled)
        invented = sorted(place(w, invent(w, 0, 300)), key=lambda one: one.peer)
        for one in invented:
            node.discovery.table.apply(one, trio.current_time())
            node.discovery.table.mark_suspect(one.peer)
        checked: list[bytes] = []
        monkeypatch.setattr(node.discovery._prober, "start", lambda peer, delay=0.0: checked.append(peer))
        w.crash(victim, notice=0.0)
        await trio.sleep(0.1)
        checked.clear()
        await trio.sleep(1.2)
        assert checked[0] == victim.me  # proven
        others = checked[1:]
        assert len(others) >= 300 and others[:300] != sorted(others[:300])  # and no other by a key of its choice


async def test_invented_peers_that_do_not_answer_do_not_count_as_a_large_network(
    simulated_clock: SimulatedClock,
) -> None:
    async with world(11) as w:
        node = w.start(20, target=20)  # it looks for more than there are, so that it finds out soon
        await w.until_agreed(30)
        honest = node.discovery._announcer.get_interval()
        for one in (*place(w, invent(w, 0, 250)), *invent(w, 5000, 100)):
            node.discovery.table.apply(one, trio.current_time())
        await trio.sleep(20)
        assert len(node.discovery.table) > 100
        assert node.discovery._announcer.get_interval() < 2 * honest
