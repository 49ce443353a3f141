"""Whom to believe dead: enough observers, one's own probe, refutations, liars."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chain.crypto import KeyPair
from chain.exceptions import CodecError
from p2p.peers.announcement import Announcement, PeerLoad, get_item_id
from p2p.peers.failure_detector import (
    ACCUSERS,
    ARRIVAL,
    GRACE,
    MAX_PASSED,
    MAX_REFUTED,
    MAX_REFUTED_BY,
    PENALTY,
    PROBE_DELAY,
    PROBERS,
    PROMPT,
    SETTLED,
    TOLERATED,
    Suspicion,
)
from p2p.peers.suspect_message import Accusation, decode_accusation, sign_accusation
from p2p.peers.table import ChangeKind, PeerState, PeerView

CHAIN = b"c" * 32
ME = b"\0" * 32
SUSPECT = 1


def key(number: int) -> bytes:
    return bytes([number]) * 32


def make(number: int, sequence: int = 1, incarnation: int = 1) -> Announcement:
    return Announcement(key(number), incarnation, sequence, False, (), (), (), PeerLoad(), 300_000, bytes(64))


def accuse(observer: int, sequence: int = 1, incarnation: int = 1) -> Accusation:
    return Accusation(key(SUSPECT), incarnation, sequence, key(observer), bytes(64))


def world(count: int = 10) -> tuple[PeerView, Suspicion]:
    """A view in which everybody has been for long enough."""
    view = PeerView(ME)
    for number in range(SUSPECT, SUSPECT + count):
        view.apply(make(number), -SETTLED)
    return view, Suspicion(view)


def refute(view: PeerView, suspicion: Suspicion, sequence: int, now: float) -> None:
    assert view.apply(make(SUSPECT, sequence), now) is not None
    suspicion.clear(key(SUSPECT), now, refuted=True)


def test_it_takes_enough_observers_and_no_refutation_in_time() -> None:
    view, suspicion = world()
    for observer in range(2, 2 + ACCUSERS - 1):
        assert suspicion.accuse(accuse(observer), 0.0)
    assert suspicion.judge(1000.0, ()) == []
    assert view.state(key(SUSPECT)) is PeerState.ONLINE
    assert suspicion.accuse(accuse(9), 0.0)
    assert view.state(key(SUSPECT)) is PeerState.SUSPECT
    assert suspicion.judge(GRACE - 0.1, ()) == []
    assert [change.kind for change in suspicion.judge(GRACE, ())] == [ChangeKind.CRASHED]
    assert suspicion.judge(2 * GRACE, ()) == []


def test_one_observer_counts_once_and_words_about_other_announcements_not_at_all() -> None:
    _, suspicion = world()
    assert suspicion.accuse(accuse(2), 0.0)
    for again in (accuse(2), accuse(3, sequence=2), accuse(3, sequence=0), accuse(3, incarnation=2)):
        assert not suspicion.accuse(again, 0.0)
    assert not suspicion.accuse(Accusation(key(99), 1, 1, key(2), bytes(64)), 0.0)
    assert not suspicion.accuse(Accusation(ME, 1, 1, key(2), bytes(64)), 0.0)


def test_a_failed_probe_of_ones_own_is_enough() -> None:
    view, suspicion = world()
    suspicion.condemn(key(SUSPECT), 0.0)
    assert [change.peer for change in suspicion.judge(GRACE, ())] == [key(SUSPECT)]
    assert view.find(key(SUSPECT)) is None


def test_whoever_is_connected_believes_nothing() -> None:
    view, suspicion = world()
    for observer in range(2, 2 + ACCUSERS):
        suspicion.accuse(accuse(observer), 0.0)
    assert suspicion.judge(GRACE, {key(SUSPECT)}) == []
    assert view.find(key(SUSPECT)) is not None


def test_a_refutation_ends_the_case_and_its_accusers_are_not_heard_again_for_a_while() -> None:
    view, suspicion = world()
    for observer in range(2, 2 + ACCUSERS):
        suspicion.accuse(accuse(observer), 0.0)
    refute(view, suspicion, 2, 1.0)
    assert view.state(key(SUSPECT)) is PeerState.ONLINE
    assert suspicion.judge(GRACE, ()) == []
    for observer in range(2, 2 + ACCUSERS):
        assert not suspicion.accuse(accuse(observer, sequence=2), PENALTY)
    assert suspicion.accuse(accuse(8, sequence=2), 2.0)
    assert suspicion.accuse(accuse(2, sequence=2), 1.0 + PENALTY)


def refute_by(view: PeerView, suspicion: Suspicion, suspect: int, observers: range, now: float, later: float) -> int:
    """Have ``suspect`` accused at ``now`` by each of ``observers`` and refute it ``later``. Returns who was heard."""
    entry = view.entries[key(suspect)]
    said = entry.announcement
    heard = 0
    for observer in observers:
        heard += suspicion.accuse(Accusation(key(suspect), 1, said.sequence, key(observer), bytes(64)), now)
    view.apply(make(suspect, said.sequence + 1), now + later)
    suspicion.clear(key(suspect), now + later, refuted=True)
    return heard


def test_whoever_is_refuted_by_several_is_heard_about_nobody_for_a_while() -> None:
    view, suspicion = world(200)
    liars = range(190, 190 + ACCUSERS)
    heard = [refute_by(view, suspicion, suspect, liars, float(suspect) / 10, 1.0) for suspect in range(1, 150)]
    assert heard == [ACCUSERS] * TOLERATED + [0] * (149 - TOLERATED)
    assert refute_by(view, suspicion, 150, range(170, 171), 20.0, 1.0) == 1  # others are
    assert refute_by(view, suspicion, 160, liars, 0.1 + 1.0 + PENALTY, 1.0) == ACCUSERS
    assert refute_by(view, suspicion, 161, liars, 0.2 + 1.0 + PENALTY, 1.0) == ACCUSERS


def test_who_refutes_after_a_partition_shows_nothing_about_its_accusers_beyond_itself() -> None:
    view, suspicion = world(100)
    observers = range(90, 93)
    for suspect in range(1, 2 * TOLERATED):
        assert refute_by(view, suspicion, suspect, observers, 0.0, PROMPT + 1.0) == 3
    assert refute_by(view, suspicion, 50, observers, 40.0, 1.0) == 3
    assert refute_by(view, suspicion, 1, observers, 41.0, 1.0) == 0


def test_what_is_remembered_of_accusers_is_bounded_and_who_floods_it_flushes_nobody_else() -> None:
    _, suspicion = world(10)
    suspicion.note_refuted(key(2), key(SUSPECT), 0.0)
    for number in range(5000):
        suspicion.note_refuted(key(3), number.to_bytes(32, "big"), 1.0)
    assert len(suspicion._refuted) == 2 and len(suspicion._refuted[key(3)].refuted_by) == MAX_REFUTED_BY
    assert not suspicion.accuse(accuse(2), 2.0)
    for number in range(5000):
        suspicion.note_refuted(number.to_bytes(32, "big"), key(SUSPECT), 1.0)
    assert len(suspicion._refuted) == MAX_REFUTED


def test_a_peer_that_answered_is_not_looked_for_again_at_once() -> None:
    _, suspicion = world(100)
    suspicion.accuse(accuse(2), 0.0)
    before = suspicion.unresolved(30.0, 100)
    suspicion.absolve(key(SUSPECT), 30.0)
    assert before and suspicion.unresolved(30.0, 100) == []
    assert suspicion.unresolved(30.0 + PROBE_DELAY, 100)[0][1] == pytest.approx(PROBERS / 2 / 100)


def test_made_up_observers_are_not_heard() -> None:
    view, suspicion = world()
    for observer in range(100, 110):
        view.apply(make(observer), 0.0)
        assert not suspicion.accuse(accuse(observer), 1.0)  # new, and never seen
        assert not suspicion.accuse(accuse(observer + 50), 1.0)  # not even announced
    view.confirm(key(100), dialled=True)
    assert suspicion.accuse(accuse(100), 1.0)
    assert suspicion.accuse(accuse(101), SETTLED)


def test_whoever_was_there_when_a_node_came_counts_at_once() -> None:
    view = PeerView(ME)
    suspicion = Suspicion(view)
    view.apply(replace(make(1), peer=ME), 100.0)
    for number, heard_of in ((SUSPECT, 101.0), (2, 101.0), (3, 100.0 + ARRIVAL), (4, 101.0 + ARRIVAL)):
        view.apply(make(number), heard_of)
    now = 102.0 + ARRIVAL
    assert [suspicion.accuse(accuse(number), now) for number in (2, 3, 4)] == [True, True, False]


def test_a_dead_observer_is_not_heard() -> None:
    view, suspicion = world()
    view.crash(key(2), 0.0)
    assert not suspicion.accuse(accuse(2), 0.0)


@pytest.mark.parametrize(("count", "needed"), [(1, 1), (2, 2), (3, 3), (50, ACCUSERS)])
def test_a_small_network_has_fewer_observers(count: int, needed: int) -> None:
    assert world(count)[1].needed == needed


def test_no_more_words_travel_than_are_needed() -> None:
    _, suspicion = world()
    assert suspicion.wants_accusers(key(SUSPECT))
    assert sum(suspicion.accuse(accuse(observer), 0.0) for observer in range(2, 10)) == ACCUSERS
    assert not suspicion.wants_accusers(key(SUSPECT))
    assert len(suspicion.ids_against(key(SUSPECT))) == ACCUSERS
    assert all(suspicion.find(item) is not None for item in suspicion.ids_against(key(SUSPECT)))


def test_what_counts_for_nothing_is_known_and_not_asked_for_again() -> None:
    view, suspicion = world()

    def is_known_after(accusation: Accusation) -> bool:
        suspicion.pass_over(accusation)
        return suspicion.knows(get_item_id(accusation.encode()))

    refute(view, suspicion, 2, 0.0)
    assert is_known_after(accuse(2, sequence=1))  # of the past
    assert not is_known_after(accuse(2, sequence=3))  # of an announcement that may still come
    assert not is_known_after(accuse(2, sequence=2))  # its observer may count one day
    assert not is_known_after(replace(accuse(2), suspect=key(99)))  # of a peer that may be heard of
    for observer in range(2, 2 + ACCUSERS):
        assert suspicion.accuse(accuse(observer, sequence=2), 0.0)
    assert is_known_after(accuse(9, sequence=2))  # there are enough
    held = suspicion.ids_against(key(SUSPECT))
    refute(view, suspicion, 3, 1.0)
    assert all(suspicion.knows(item) and suspicion.find(item) is None for item in held)  # refuted
    for number in range(MAX_PASSED):
        suspicion.pass_over(accuse(2 + number % 8, sequence=1, incarnation=0))
        suspicion.pass_over(replace(accuse(2, incarnation=0), sequence=number))
    assert len(suspicion._passed) == MAX_PASSED and not any(map(suspicion.knows, held))


def test_too_few_words_make_ever_more_nodes_look_for_themselves() -> None:
    view, suspicion = world(100)
    suspicion.accuse(accuse(2), 0.0)
    assert suspicion.unresolved(PROBE_DELAY - 0.1, 100) == []
    ((peer, chance),) = suspicion.unresolved(PROBE_DELAY, 100)
    assert peer == key(SUSPECT)
    assert chance * len(view) == pytest.approx(PROBERS / 2)
    assert suspicion.unresolved(PROBE_DELAY + 20.0, 100)[0][1] > 1.0
    for observer in (3, 4):
        suspicion.accuse(accuse(observer), 0.0)
    assert suspicion.unresolved(PROBE_DELAY, 100) == []


def test_a_case_against_one_that_is_forgotten_is_dropped() -> None:
    view, suspicion = world()
    suspicion.accuse(accuse(2), 0.0)
    for change in view.expire(1e6):
        assert change.kind is ChangeKind.EXPIRED
    view.expire(1e9)
    suspicion.judge(1e9, ())
    assert suspicion.ids_against(key(SUSPECT)) == []


def test_an_accusation_is_signed_by_its_observer() -> None:
    observer = KeyPair(b"k" * 32)
    signed = sign_accusation(observer, CHAIN, make(SUSPECT))
    assert decode_accusation(signed.encode(), CHAIN) == signed
    assert signed.is_about(make(SUSPECT))
    forged = Accusation(signed.suspect, signed.incarnation, signed.sequence + 1, signed.observer, signed.signature)
    other = Accusation(signed.suspect, signed.incarnation, signed.sequence, key(3), signed.signature)
    for raw, chain in ((forged.encode(), CHAIN), (other.encode(), CHAIN), (signed.encode(), b"d" * 32), (b"x", CHAIN)):
        with pytest.raises(CodecError):
            decode_accusation(raw, chain)
