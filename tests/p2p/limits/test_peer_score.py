"""Scores and bans: what adds up, what wears off, and how long a ban lasts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2p.limits.peer_score import BAN_BACKOFF, MEMORY_S, PeerScores
from p2p.network import Misbehaviour
from tests.support.keys import make_peer

ONE, TWO = make_peer(1), make_peer(2)


def ban(bans: PeerScores, now: float) -> None:
    while not bans.report(ONE, Misbehaviour.FORGERY, now):
        pass


def test_faults_add_up_to_a_ban_of_that_name_alone() -> None:
    bans = PeerScores(100)
    assert [bans.report(ONE, Misbehaviour.GARBAGE, 0.0) for _ in range(3)] == [False, False, True]
    assert bans.is_banned(ONE, BAN_BACKOFF.first_s - 0.1) and not bans.is_banned(ONE, BAN_BACKOFF.first_s)
    assert not bans.is_banned(TWO, 0.0)
    assert bans.ban_count == 1


def test_rare_faults_never_add_up() -> None:
    bans = PeerScores(100)
    assert not any(bans.report(ONE, Misbehaviour.GARBAGE, now * Misbehaviour.GARBAGE.value) for now in range(1000))


def test_a_ban_lasts_twice_as_long_each_time_up_to_a_limit() -> None:
    bans, now, lengths = PeerScores(100), 0.0, []
    for _ in range(9):
        ban(bans, now)
        start = now
        while bans.is_banned(ONE, now):
            now += BAN_BACKOFF.first_s
        lengths.append(now - start)
    assert lengths[:4] == [
        BAN_BACKOFF.first_s,
        2 * BAN_BACKOFF.first_s,
        4 * BAN_BACKOFF.first_s,
        8 * BAN_BACKOFF.first_s,
    ]
    assert lengths[-1] == BAN_BACKOFF.max_s


def test_faults_during_a_ban_do_not_prolong_it() -> None:
    bans = PeerScores(100)
    ban(bans, 0.0)
    assert not any(bans.report(ONE, Misbehaviour.FORGERY, BAN_BACKOFF.first_s / 2) for _ in range(100))
    assert not bans.is_banned(ONE, BAN_BACKOFF.first_s)


def test_who_behaves_for_long_begins_anew() -> None:
    bans = PeerScores(100)
    ban(bans, 0.0)
    now = BAN_BACKOFF.first_s + MEMORY_S
    ban(bans, now)
    assert not bans.is_banned(ONE, now + BAN_BACKOFF.first_s)


@given(st.lists(st.tuples(st.integers(0, 50), st.sampled_from(Misbehaviour), st.floats(0, 100)), max_size=300))
def test_no_number_of_names_takes_more_than_its_room(events: list[tuple[int, Misbehaviour, float]]) -> None:
    bans, now = PeerScores(100, max_names=10), 0.0
    for name, fault, pause in events:
        now += pause
        bans.report(bytes([name]), fault, now)
        assert len(bans) <= 10
