"""The view: the newest announcement stands in any order, the dead stay dead, the table is bounded."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.exceptions import CodecError
from p2p.announcements import ACCEPTANCE, Announcement, PeerLoad
from p2p.peers import TOMBSTONE, Change, ChangeKind, PeerState, PeerView, Sighting

ME = b"\0" * 32
LIFETIME = 35.0
ROOM = 1 << 20


def key(number: int) -> bytes:
    return bytes([number]) * 32


def make(peer: int, incarnation: int = 1, sequence: int = 1, leaving: bool = False, mark: int = 0) -> Announcement:
    """An announcement whose signature nobody checks here; ``mark`` tells apart two of one order."""
    return Announcement(
        peer=key(peer),
        incarnation=incarnation,
        sequence=sequence,
        leaving=leaving,
        addresses=(f"/memory/{peer}",),
        relays=(),
        models=("model",),
        load=PeerLoad(),
        expires_after=round(LIFETIME * 1000),
        signature=bytes([mark]) * 64,
    )


def kind(change: Change | None) -> ChangeKind | None:
    return None if change is None else change.kind


announcements = st.builds(
    make, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 1)
)


def snapshot(view: PeerView) -> object:
    return view.present(), [(key(peer), view.state(key(peer))) for peer in range(1, 4)], versions(view)


def versions(view: PeerView) -> list[bytes]:
    digest = view.digest()
    return sorted(digest[start : start + 49] for start in range(0, len(digest), 49))


@given(st.lists(announcements, max_size=12), st.randoms(use_true_random=False), st.data())
def test_merging_is_commutative_and_idempotent(heard: list[Announcement], random: object, data: st.DataObject) -> None:
    again = data.draw(st.permutations(heard)) + data.draw(st.lists(st.sampled_from(heard or [make(1)]), max_size=4))
    one, other = PeerView(ME), PeerView(ME)
    for announcement in heard or [make(1)]:
        one.apply(announcement, 0.0)
    for announcement in again or [make(1)]:
        other.apply(announcement, 0.0)
    assert snapshot(one) == snapshot(other)
    for announcement in again:
        assert one.apply(announcement, 1.0) is None
    assert snapshot(one) == snapshot(other)


@given(st.lists(announcements, max_size=12), st.lists(announcements, max_size=12))
def test_two_views_agree_after_one_reconciliation(mine: list[Announcement], theirs: list[Announcement]) -> None:
    one, other = PeerView(ME), PeerView(key(9))
    feed(one, mine)
    feed(other, theirs)
    digest = one.digest()
    answer, wanted = other.newer_than(digest, 1.0, ROOM), other.older_than(digest)
    feed(one, received(answer), 1.0)
    feed(other, received(one.select(wanted, 1.0, ROOM)), 1.0)
    assert versions(one) == versions(other)
    assert one.newer_than(other.digest(), 1.0, ROOM) == ()
    assert one.older_than(other.digest()) == ()


def feed(view: PeerView, heard: Iterable[Announcement], now: float = 0.0) -> None:
    for announcement in heard:
        view.apply(announcement, now)


def received(sightings: Iterable[Sighting]) -> list[Announcement]:
    return [Announcement.decode(sighting.announcement) for sighting in sightings]


@given(
    st.lists(st.tuples(announcements, st.floats(0, 30)), min_size=1, max_size=15),
    st.floats(0, 20),
)
def test_tombstones_hold(history: list[tuple[Announcement, float]], gap: float) -> None:
    """After a goodbye, nothing of that incarnation or an earlier one makes the peer present."""
    view = PeerView(ME)
    view.apply(make(1, incarnation=3, sequence=1, leaving=True), 0.0)
    now = 0.0
    for announcement, age in history:
        now += gap
        view.expire(now)
        view.apply(announcement, now, age)
        assert view.find(key(1)) is None


def test_the_life_of_a_peer() -> None:
    view = PeerView(ME)
    assert kind(view.apply(make(1, sequence=1), 0.0)) is ChangeKind.JOINED
    assert kind(view.apply(make(1, sequence=1), 0.0)) is None
    assert kind(view.apply(make(1, sequence=2), 1.0)) is ChangeKind.UPDATED
    assert kind(view.apply(make(1, sequence=1), 2.0)) is None
    assert view.find(key(1)) == make(1, sequence=2)
    assert len(view) == 1
    assert kind(view.apply(make(1, sequence=3, leaving=True), 3.0)) is ChangeKind.LEFT
    assert (len(view), view.find(key(1)), view.state(key(1))) == (0, None, PeerState.LEFT)
    assert kind(view.apply(make(1, sequence=9), 4.0)) is None
    assert kind(view.apply(make(1, incarnation=2), 5.0)) is ChangeKind.JOINED


def test_silence_expires_after_the_announced_lifetime() -> None:
    view = PeerView(ME)
    view.apply(make(1), 0.0)
    view.apply(make(2), 0.0)
    view.apply(make(1, sequence=2), 20.0)
    assert view.expire(LIFETIME - 0.1) == []
    assert [(change.kind, change.peer) for change in view.expire(LIFETIME)] == [(ChangeKind.EXPIRED, key(2))]
    assert [change.peer for change in view.expire(20 + LIFETIME)] == [key(1)]
    assert kind(view.apply(make(1, sequence=2), 60.0)) is None
    assert kind(view.apply(make(1, sequence=3), 60.0)) is ChangeKind.JOINED


def test_what_is_passed_on_does_not_grow_young() -> None:
    first, second = PeerView(ME), PeerView(key(8))
    first.apply(make(1), 0.0)
    (sighting,) = first.newer_than(b"", 30.0, ROOM)
    assert sighting.age == 30_000
    second.apply(make(1), 30.0, sighting.age / 1000)
    assert [change.peer for change in second.expire(LIFETIME)] == [key(1)]
    assert kind(PeerView(ME).apply(make(1), 50.0, age=LIFETIME)) is None


def test_a_crash_outlives_announcements_made_before_it() -> None:
    view = PeerView(ME)
    view.apply(make(1, sequence=1), 0.0)
    assert view.suspect(key(1))
    assert not view.suspect(key(1))
    assert view.find(key(1)) is not None
    assert kind(view.crash(key(1), 10.0)) is ChangeKind.CRASHED
    assert view.crash(key(1), 10.0) is None
    assert kind(view.apply(make(1, sequence=1), 11.0)) is None
    assert kind(view.apply(make(1, sequence=2), 12.0, age=3.0)) is None
    assert view.find(key(1)) is None
    assert view.newer_than(b"", 12.0, ROOM) == ()
    assert kind(view.apply(make(1, sequence=3), 13.0, age=1.0)) is ChangeKind.JOINED


def test_a_restart_after_a_crash_is_alive_again() -> None:
    view = PeerView(ME)
    view.apply(make(1), 0.0)
    view.suspect(key(1))
    view.crash(key(1), 10.0)
    assert [known.peer for known in view.lost()] == [key(1)]
    assert kind(view.apply(make(1, incarnation=2), 10.0)) is ChangeKind.JOINED
    assert view.lost() == []


def test_a_suspect_is_cleared_by_a_connection_or_a_newer_announcement() -> None:
    view = PeerView(ME)
    view.apply(make(1), 0.0)
    view.suspect(key(1))
    view.confirm(key(1))
    assert view.state(key(1)) is PeerState.ONLINE
    view.suspect(key(1))
    view.apply(make(1, sequence=2), 1.0)
    assert view.state(key(1)) is PeerState.ONLINE
    assert not view.suspect(key(7))


def test_tombstones_outlast_every_acceptable_announcement_and_then_go() -> None:
    view = PeerView(ME)
    view.apply(make(1), 0.0)
    view.apply(make(1, sequence=2, leaving=True), 5.0)
    view.expire(5.0 + ACCEPTANCE - 1)
    assert view.state(key(1)) is PeerState.LEFT
    assert view.expire(5.0 + TOMBSTONE) == []
    assert view.state(key(1)) is None
    assert view.digest() == b""


def test_a_revived_tombstone_expires_on_time() -> None:
    view = PeerView(ME)
    view.apply(make(1), 0.0)
    view.apply(make(1, leaving=True), 0.0)
    view.apply(make(1, incarnation=2), 100.0)
    assert [change.kind for change in view.expire(100.0 + LIFETIME)] == [ChangeKind.EXPIRED]
    assert view.expire(100.0 + LIFETIME) == []


def test_the_table_is_bounded_and_tombstones_yield_first() -> None:
    view = PeerView(ME, max_peers=3)
    view.apply(make(1, leaving=True), 0.0)
    view.apply(make(2, leaving=True), 1.0)
    view.apply(make(3), 2.0)
    assert kind(view.apply(make(4), 3.0)) is ChangeKind.JOINED
    assert view.state(key(1)) is None
    assert kind(view.apply(make(5), 4.0)) is ChangeKind.JOINED
    assert kind(view.apply(make(6), 5.0)) is None
    assert [known.peer for known in view.present()] == [key(3), key(4), key(5)]


def test_my_own_entry_is_passed_on_but_is_no_peer() -> None:
    view = PeerView(key(1))
    view.apply(make(1), 0.0)
    assert (len(view), view.present()) == (0, [])
    assert received(view.newer_than(b"", 1.0, ROOM)) == [make(1)]
    assert view.expire(1000.0) == []
    assert not view.suspect(key(1))
    assert view.crash(key(1), 0.0) is None


def test_a_malformed_digest_is_refused() -> None:
    view = PeerView(ME)
    with pytest.raises(CodecError):
        view.newer_than(bytes(48), 0.0, ROOM)
    with pytest.raises(CodecError):
        view.older_than(bytes(50))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_reply_keeps_to_its_room(count: int) -> None:
    view = PeerView(ME)
    feed(view, [make(1), make(2), make(3)])
    size = len(make(1).encode())
    assert len(view.newer_than(b"", 0.0, count * size + size - 1)) == count
