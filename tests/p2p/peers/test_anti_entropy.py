"""How two views become one: names, wants, fingerprints, buckets; and what is not passed on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.exceptions import CodecError
from p2p.peers.announcement import ITEM_ID, Announcement, PeerLoad, get_item_id
from p2p.peers.anti_entropy import BUCKET, HASH, MAX_ROOM, PULL_TIME, RECENT, Reconciliation, Views
from p2p.peers.failure_detector import Suspicion
from p2p.peers.suspect_message import Accusation
from p2p.peers.table import PeerView


def key(number: int) -> bytes:
    return number.to_bytes(2, "big") * 16


def make(number: int, sequence: int = 1, leaving: bool = False, model: str = "model") -> Announcement:
    return Announcement(key(number), 1, sequence, leaving, (), (), (model,), PeerLoad(), 300_000, bytes(64))


class Side:
    """One view, and what it answers."""

    def __init__(self, number: int) -> None:
        self.me = key(number)
        self.view = PeerView(self.me)
        self.suspicion = Suspicion(self.view)
        self.reconciliation = Reconciliation(self.view, self.suspicion)
        self.bytes = 0

    def take(self, peer: Side, frame: Views, now: float) -> Views | None:
        self.bytes += len(frame.encode())
        for sighting in frame.known:
            self.view.apply(Announcement.decode(sighting.announcement), now, sighting.age / 1000)
        for raw in frame.accused:
            self.suspicion.accuse(Accusation.decode(raw), now)
        return self.reconciliation.answer(peer.me, frame, now)


def reconcile(one: Side, other: Side, now: float = 1.0) -> int:
    """Let them speak until nothing is left to say. Returns how many frames that took."""
    frame: Views | None = Views(root=one.reconciliation.root)
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
            side.view.apply(announcement, 0.0)
    reconcile(one, other)
    assert one.view.root == other.view.root
    assert [known.peer for known in one.view.present()] == [known.peer for known in other.view.present()]
    assert reconcile(one, other) == 1


def test_a_newcomer_learns_all_and_is_learnt() -> None:
    old, new = Side(0), Side(999)
    for number in range(400):
        old.view.apply(make(number), 0.0)
    new.view.apply(make(999), 0.0)
    reconcile(new, old)
    assert len(new.view) == 400
    assert old.view.find(key(999)) == make(999)


def test_newcomers_that_come_at_once_are_all_served() -> None:
    """Whoever begins: who has much and hears of somebody with nothing is not itself the one that fetches."""
    old, newcomers = Side(0), [Side(900 + number) for number in range(4)]
    for number in range(400):
        old.view.apply(make(number), 0.0)
    for number, new in enumerate(newcomers):
        new.view.apply(make(900 + number), 0.0)
        reconcile(*((old, new) if number % 2 else (new, old)))
        assert len(new.view) >= 400 and old.view.find(new.me) == make(900 + number)


def test_a_newcomer_fetches_the_view_from_one_peer_at_a_time() -> None:
    peers, new = [Side(0), Side(1)], Side(999)
    for peer in peers:
        for number in range(400):
            peer.view.apply(make(number), 0.0)
    new.view.apply(make(999), 0.0)
    fingerprints = [peer.take(new, Views(root=new.reconciliation.root), 1.0) for peer in peers]
    answers = [new.take(peer, frame, 1.0) for peer, frame in zip(peers, fingerprints, strict=True) if frame is not None]
    assert answers[0] is not None and answers[0].parts and answers[1] is None
    assert new.take(peers[1], fingerprints[1] or Views(), 1.0 + PULL_TIME) is not None


def test_the_price_of_one_difference_does_not_grow_with_the_view() -> None:
    prices = []
    for count in (200, 1600):
        one, other = Side(5000), Side(5001)
        for number in range(count):
            for side in (one, other):
                side.view.apply(make(number), 0.0)
        assert reconcile(one, other) == 1
        assert one.bytes + other.bytes < 40
        one.view.apply(make(7, sequence=2), 0.0)
        reconcile(one, other)
        assert other.view.find(key(7)) == make(7, sequence=2)
        prices.append(one.bytes + other.bytes)
    buckets = 2 * 1600 // BUCKET * ITEM_ID
    assert prices[1] < prices[0] + buckets < 1600 * ITEM_ID


def test_offers_are_asked_for_once_and_only_when_they_are_news() -> None:
    one, other = Side(1000), Side(1001)
    one.view.apply(make(1), 0.0)
    item = one.view.entries[key(1)].id
    asked = other.take(one, Views(have=item), 0.0)
    assert asked == Views(want=item)
    assert other.take(one, Views(have=item), 0.1) is None  # somebody was asked a moment ago
    assert other.take(one, Views(have=item), 5.0) == asked  # and did not send it
    sent = one.take(other, asked, 5.0)
    assert sent is not None
    assert other.take(one, sent, 5.0) is None
    assert other.view.find(key(1)) == make(1)
    assert other.take(one, Views(have=item), 6.0) is None


def test_what_is_passed_on_keeps_its_age() -> None:
    one, other = Side(1000), Side(1001)
    one.view.apply(make(1), 0.0)
    reconcile(other, one, 299.0)
    assert [change.peer for change in other.view.expire(300.0)] == [key(1)]


def test_the_dead_are_not_passed_on_but_may_hear_of_themselves() -> None:
    one, dead = Side(1000), Side(1)
    one.view.apply(make(1), 0.0)
    item = one.view.entries[key(1)].id
    one.view.crash(key(1), 1.0)
    assert one.take(Side(1001), Views(want=item), 1.0) is None
    answer = one.take(dead, Views(want=item), 1.0)
    assert answer is not None
    assert len(answer.known) == 1


def test_goodbyes_travel_as_long_as_they_are_news() -> None:
    one, other, late = Side(1000), Side(1001), Side(1002)
    for side in (one, other, late):
        side.view.apply(make(1), 0.0)
        side.view.apply(make(2), 0.0)
    one.view.apply(make(1, leaving=True), 1.0)
    reconcile(other, one, 2.0)
    assert other.view.find(key(1)) is None
    late.view.apply(make(3), 2.0)
    reconcile(late, one, 2.0 + RECENT)
    assert late.view.find(key(1)) is not None  # not listed any more
    newer = one.reconciliation.correct(make(1))
    assert newer == get_item_id(make(1, leaving=True).encode())  # but told to whoever passes on the old one
    assert one.reconciliation.correct(make(1, leaving=True)) == b""


def test_accusations_reach_those_who_missed_them() -> None:
    one, other = Side(1000), Side(1001)
    for side in (one, other):
        for number in range(1, 10):
            side.view.apply(make(number), -100.0)
    for observer in (2, 3, 4):
        one.suspicion.accuse(Accusation(key(1), 1, 1, key(observer), bytes(64)), 0.0)
    one.suspicion.judge(5.0, ())
    assert one.view.find(key(1)) is None
    reconcile(other, one, 6.0)
    assert other.suspicion.is_believed(key(1))


def test_a_frame_keeps_to_its_room() -> None:
    one, other = Side(1000), Side(1001)
    for number in range(200):
        one.view.apply(make(number, model="x" * 100), 0.0)
    items = b"".join(entry.id for entry in one.view.entries.values())
    answer = one.take(other, Views(want=items * 10), 1.0)
    assert answer is not None
    size = len(answer.known[0].announcement)
    assert MAX_ROOM < sum(len(sighting.announcement) for sighting in answer.known) <= MAX_ROOM + size


@pytest.mark.parametrize("room", [0, 100, 700, 1600])
def test_a_list_longer_than_a_frame_is_cut_to_whole_buckets(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    monkeypatch.setattr("p2p.peers.anti_entropy.MAX_IDS", room)
    one, other, buckets = Side(1000), Side(1001), 16
    for number in range(200):
        one.view.apply(make(number), 0.0)
    answer = one.take(other, Views(buckets=bytes(HASH * buckets)), 1.0) or Views()
    assert len(answer.have) <= room
    assert (len(answer.parts) == buckets) is (room == 200 * ITEM_ID)
    listed = {answer.have[start : start + ITEM_ID] for start in range(0, len(answer.have), ITEM_ID)}
    assert listed == {*one.reconciliation._list(answer.parts, buckets, 1.0)}


@pytest.mark.parametrize(
    "frame",
    [
        Views(have=b"x" * 7),
        Views(want=b"x" * 9),
        Views(buckets=b"x" * 15),
        Views(parts=b"\x04", count=4),
        Views(parts=b"\x00", count=0),
    ],
)
def test_malformed_lists_are_refused(frame: Views) -> None:
    with pytest.raises(CodecError):
        Side(1).take(Side(2), frame, 0.0)
