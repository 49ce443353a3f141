"""How two views become one: names, wants, fingerprints, buckets; and what is not passed on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.exceptions import CodecError
from p2p.peers.announcement import ITEM_ID_BYTES, Announcement, PeerLoad, get_item_id
from p2p.peers.anti_entropy import (
    BUCKET_PEERS,
    FINGERPRINT_BYTES,
    GOODBYE_LISTING_S,
    MAX_ITEMS_BYTES,
    PULL_PERIOD_S,
    AntiEntropy,
    SyncFrame,
)
from p2p.peers.failure_detector import FailureDetector
from p2p.peers.suspect_message import SuspectMessage
from p2p.peers.table import PeerTable
from tests.support.keys import make_peer


def make(number: int, sequence: int = 1, leaving: bool = False, model: str = "model") -> Announcement:
    return Announcement(make_peer(number), 1, sequence, leaving, (), (), (model,), PeerLoad(), 300_000, bytes(64))


class Side:
    """One table, and what it answers."""

    def __init__(self, number: int) -> None:
        self.me = make_peer(number)
        self.table = PeerTable(self.me)
        self.failure_detector = FailureDetector(self.table)
        self.anti_entropy = AntiEntropy(self.table, self.failure_detector)
        self.bytes = 0

    def take(self, peer: Side, frame: SyncFrame, now: float) -> SyncFrame | None:
        self.bytes += len(frame.encode())
        for aged in frame.announcements:
            self.table.apply(Announcement.decode(aged.announcement), now, aged.age / 1000)
        for raw in frame.suspects:
            self.failure_detector.on_suspect_message(SuspectMessage.decode(raw), now)
        return self.anti_entropy.answer(peer.me, frame, now)


def reconcile(one: Side, other: Side, now: float = 1.0) -> int:
    """Let them speak until nothing is left to say. Returns how many frames that took."""
    frame: SyncFrame | None = SyncFrame(root=one.anti_entropy.root)
    frames = 0
    while frame is not None:
        frames += 1
        one, other = other, one
        frame = one.take(other, frame, now)
        assert frames < 20
    return frames


announcements = st.builds(make, st.integers(1, 60), st.integers(1, 3), st.booleans())


@given(st.lists(announcements, max_size=80), st.lists(announcements, max_size=80))
def test_two_views_agree_after_one_reconciliation(mine: list[Announcement], theirs: list[Announcement]) -> None:
    one, other = Side(1000), Side(1001)
    for side, heard in ((one, mine), (other, theirs)):
        for announcement in heard:
            side.table.apply(announcement, 0.0)
    reconcile(one, other)
    assert one.table.root == other.table.root
    assert [known.peer for known in one.table.present()] == [known.peer for known in other.table.present()]
    assert reconcile(one, other) == 1


def test_a_newcomer_learns_all_and_is_learnt() -> None:
    old, new = Side(0), Side(999)
    for number in range(400):
        old.table.apply(make(number), 0.0)
    new.table.apply(make(999), 0.0)
    reconcile(new, old)
    assert len(new.table) == 400
    assert old.table.find(make_peer(999)) == make(999)


def test_newcomers_that_come_at_once_are_all_served() -> None:
    """Whichever side begins: a node with a full table does not fetch from one with an empty table."""
    old, newcomers = Side(0), [Side(900 + number) for number in range(4)]
    for number in range(400):
        old.table.apply(make(number), 0.0)
    for number, new in enumerate(newcomers):
        new.table.apply(make(900 + number), 0.0)
        reconcile(*((old, new) if number % 2 else (new, old)))
        assert len(new.table) >= 400 and old.table.find(new.me) == make(900 + number)


def test_a_newcomer_fetches_the_view_from_one_peer_at_a_time() -> None:
    peers, new = [Side(0), Side(1)], Side(999)
    for peer in peers:
        for number in range(400):
            peer.table.apply(make(number), 0.0)
    new.table.apply(make(999), 0.0)
    fingerprints = [peer.take(new, SyncFrame(root=new.anti_entropy.root), 1.0) for peer in peers]
    answers = [new.take(peer, frame, 1.0) for peer, frame in zip(peers, fingerprints, strict=True) if frame is not None]
    assert answers[0] is not None and answers[0].bucket_numbers and answers[1] is None
    assert new.take(peers[1], fingerprints[1] or SyncFrame(), 1.0 + PULL_PERIOD_S) is not None


def test_the_price_of_one_difference_does_not_grow_with_the_view() -> None:
    prices = []
    for count in (200, 1600):
        one, other = Side(5000), Side(5001)
        for number in range(count):
            for side in (one, other):
                side.table.apply(make(number), 0.0)
        assert reconcile(one, other) == 1
        assert one.bytes + other.bytes < 40
        one.table.apply(make(7, sequence=2), 0.0)
        reconcile(one, other)
        assert other.table.find(make_peer(7)) == make(7, sequence=2)
        prices.append(one.bytes + other.bytes)
    buckets = 2 * 1600 // BUCKET_PEERS * ITEM_ID_BYTES
    assert prices[1] < prices[0] + buckets < 1600 * ITEM_ID_BYTES


def test_offers_are_asked_for_once_and_only_when_they_are_news() -> None:
    one, other = Side(1000), Side(1001)
    one.table.apply(make(1), 0.0)
    item = one.table.entries[make_peer(1)].id
    asked = other.take(one, SyncFrame(have=item), 0.0)
    assert asked == SyncFrame(want=item)
    assert other.take(one, SyncFrame(have=item), 0.1) is None  # a peer was asked a moment ago
    assert other.take(one, SyncFrame(have=item), 5.0) == asked  # and did not send it
    sent = one.take(other, asked, 5.0)
    assert sent is not None
    assert other.take(one, sent, 5.0) is None
    assert other.table.find(make_peer(1)) == make(1)
    assert other.take(one, SyncFrame(have=item), 6.0) is None


def test_what_is_passed_on_keeps_its_age() -> None:
    one, other = Side(1000), Side(1001)
    one.table.apply(make(1), 0.0)
    reconcile(other, one, 299.0)
    assert [change.peer for change in other.table.expire(300.0)] == [make_peer(1)]


def test_the_dead_are_not_passed_on_but_may_hear_of_themselves() -> None:
    one, dead = Side(1000), Side(1)
    one.table.apply(make(1), 0.0)
    item = one.table.entries[make_peer(1)].id
    one.table.mark_crashed(make_peer(1), 1.0)
    assert one.take(Side(1001), SyncFrame(want=item), 1.0) is None
    answer = one.take(dead, SyncFrame(want=item), 1.0)
    assert answer is not None
    assert len(answer.announcements) == 1


def test_goodbyes_travel_as_long_as_they_are_news() -> None:
    one, other, late = Side(1000), Side(1001), Side(1002)
    for side in (one, other, late):
        side.table.apply(make(1), 0.0)
        side.table.apply(make(2), 0.0)
    one.table.apply(make(1, leaving=True), 1.0)
    reconcile(other, one, 2.0)
    assert other.table.find(make_peer(1)) is None
    late.table.apply(make(3), 2.0)
    reconcile(late, one, 2.0 + GOODBYE_LISTING_S)
    assert late.table.find(make_peer(1)) is not None  # not listed any more
    newer = one.anti_entropy.correct(make(1))
    assert newer == get_item_id(make(1, leaving=True).encode())  # but told to the peer that passes on the old one
    assert one.anti_entropy.correct(make(1, leaving=True)) == b""


def test_accusations_reach_those_who_missed_them() -> None:
    one, other = Side(1000), Side(1001)
    for side in (one, other):
        for number in range(1, 10):
            side.table.apply(make(number), -100.0)
    for observer in (2, 3, 4):
        one.failure_detector.on_suspect_message(SuspectMessage(make_peer(1), 1, 1, make_peer(observer), bytes(64)), 0.0)
    one.failure_detector.expire(5.0, ())
    assert one.table.find(make_peer(1)) is None
    reconcile(other, one, 6.0)
    assert other.failure_detector.is_failing(make_peer(1))


def test_a_frame_keeps_to_its_room() -> None:
    one, other = Side(1000), Side(1001)
    for number in range(200):
        one.table.apply(make(number, model="x" * 100), 0.0)
    items = b"".join(entry.id for entry in one.table.entries.values())
    answer = one.take(other, SyncFrame(want=items * 10), 1.0)
    assert answer is not None
    size = len(answer.announcements[0].announcement)
    assert MAX_ITEMS_BYTES < sum(len(aged.announcement) for aged in answer.announcements) <= MAX_ITEMS_BYTES + size


@pytest.mark.parametrize("room", [0, 100, 700, 1600])
def test_a_list_longer_than_a_frame_is_cut_to_whole_buckets(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    monkeypatch.setattr("p2p.peers.anti_entropy.MAX_ITEM_IDS_BYTES", room)
    one, other, buckets = Side(1000), Side(1001), 16
    for number in range(200):
        one.table.apply(make(number), 0.0)
    answer = one.take(other, SyncFrame(buckets=bytes(FINGERPRINT_BYTES * buckets)), 1.0) or SyncFrame()
    assert len(answer.have) <= room
    assert (len(answer.bucket_numbers) == buckets) is (room == 200 * ITEM_ID_BYTES)
    listed = {answer.have[start : start + ITEM_ID_BYTES] for start in range(0, len(answer.have), ITEM_ID_BYTES)}
    assert listed == {*one.anti_entropy._list(answer.bucket_numbers, buckets, 1.0)}


@pytest.mark.parametrize(
    "frame",
    [
        SyncFrame(have=b"x" * 7),
        SyncFrame(want=b"x" * 9),
        SyncFrame(buckets=b"x" * 15),
        SyncFrame(bucket_numbers=b"\x04", bucket_count=4),
        SyncFrame(bucket_numbers=b"\x00", bucket_count=0),
    ],
)
def test_malformed_lists_are_refused(frame: SyncFrame) -> None:
    with pytest.raises(CodecError):
        Side(1).take(Side(2), frame, 0.0)
