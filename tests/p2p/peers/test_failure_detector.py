"""Whom to believe dead: enough observers, one's own probe, refutations, liars."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chain.exceptions import CodecError
from p2p.peers.announcement import Announcement, PeerLoad, get_item_id
from p2p.peers.failure_detector import (
    ARRIVAL_S,
    CONFIRMATIONS,
    MAX_FALSE_SUSPICIONS,
    MAX_IGNORED,
    MAX_REFUTED,
    MAX_REFUTED_BY,
    OBSERVER_MIN_AGE_S,
    PROBE_DELAY_S,
    PROBERS,
    PROMPT_REFUTATION_S,
    REFUTED_PENALTY_S,
    REPEATED_SUSPICION_TIMEOUT_S,
    SUSPICION_TIMEOUT_S,
    FailureDetector,
)
from p2p.peers.suspect_message import SuspectMessage, decode_suspect_message, sign_suspect_message
from p2p.peers.table import ChangeKind, PeerState, PeerTable
from tests.support.keys import make_key, make_peer

CHAIN = b"c" * 32
ME = make_peer(0)
SUSPECT = 1


def make(number: int, sequence: int = 1, incarnation: int = 1) -> Announcement:
    return Announcement(make_peer(number), incarnation, sequence, False, (), (), (), PeerLoad(), 300_000, bytes(64))


def suspect_message(observer: int, sequence: int = 1, incarnation: int = 1) -> SuspectMessage:
    return SuspectMessage(make_peer(SUSPECT), incarnation, sequence, make_peer(observer), bytes(64))


def world(count: int = 10) -> tuple[PeerTable, FailureDetector]:
    """A view in which everybody has been for long enough."""
    table = PeerTable(ME)
    for number in range(SUSPECT, SUSPECT + count):
        table.apply(make(number), -OBSERVER_MIN_AGE_S)
    return table, FailureDetector(table)


def refute(table: PeerTable, detector: FailureDetector, sequence: int, now: float) -> None:
    assert table.apply(make(SUSPECT, sequence), now) is not None
    detector.clear(make_peer(SUSPECT), now, refuted=True)


def test_it_takes_enough_observers_and_no_refutation_in_time() -> None:
    table, detector = world()
    for observer in range(2, 2 + CONFIRMATIONS - 1):
        assert detector.on_suspect_message(suspect_message(observer), 0.0)
    assert detector.expire(1000.0, ()) == []
    assert table.state(make_peer(SUSPECT)) is PeerState.ONLINE
    assert detector.on_suspect_message(suspect_message(9), 0.0)
    assert table.state(make_peer(SUSPECT)) is PeerState.SUSPECT
    assert detector.expire(SUSPICION_TIMEOUT_S - 0.1, ()) == []
    assert [change.kind for change in detector.expire(SUSPICION_TIMEOUT_S, ())] == [ChangeKind.CRASHED]
    assert detector.expire(2 * SUSPICION_TIMEOUT_S, ()) == []


def test_one_observer_counts_once_and_words_about_other_announcements_not_at_all() -> None:
    _, detector = world()
    assert detector.on_suspect_message(suspect_message(2), 0.0)
    for again in (
        suspect_message(2),
        suspect_message(3, sequence=2),
        suspect_message(3, sequence=0),
        suspect_message(3, incarnation=2),
    ):
        assert not detector.on_suspect_message(again, 0.0)
    assert not detector.on_suspect_message(SuspectMessage(make_peer(99), 1, 1, make_peer(2), bytes(64)), 0.0)
    assert not detector.on_suspect_message(SuspectMessage(ME, 1, 1, make_peer(2), bytes(64)), 0.0)


def test_a_failed_probe_of_ones_own_is_enough() -> None:
    table, detector = world()
    detector.probe_failed(make_peer(SUSPECT), 0.0)
    assert [change.peer for change in detector.expire(SUSPICION_TIMEOUT_S, ())] == [make_peer(SUSPECT)]
    assert table.find(make_peer(SUSPECT)) is None


def test_a_connected_node_believes_no_accusation() -> None:
    table, detector = world()
    for observer in range(2, 2 + CONFIRMATIONS):
        detector.on_suspect_message(suspect_message(observer), 0.0)
    assert detector.expire(SUSPICION_TIMEOUT_S, {make_peer(SUSPECT)}) == []
    assert table.find(make_peer(SUSPECT)) is not None


def test_a_refutation_ends_the_case_and_its_accusers_are_not_heard_again_for_a_while() -> None:
    table, detector = world()
    for observer in range(2, 2 + CONFIRMATIONS):
        detector.on_suspect_message(suspect_message(observer), 0.0)
    refute(table, detector, 2, 1.0)
    assert table.state(make_peer(SUSPECT)) is PeerState.ONLINE
    assert detector.expire(SUSPICION_TIMEOUT_S, ()) == []
    for observer in range(2, 2 + CONFIRMATIONS):
        assert not detector.on_suspect_message(suspect_message(observer, sequence=2), REFUTED_PENALTY_S)
    assert detector.on_suspect_message(suspect_message(8, sequence=2), 2.0)
    assert detector.on_suspect_message(suspect_message(2, sequence=2), 1.0 + REFUTED_PENALTY_S)


def refute_by(
    table: PeerTable, detector: FailureDetector, suspect: int, observers: range, now: float, later: float
) -> int:
    """Have ``suspect`` accused at ``now`` by each of ``observers`` and refute it ``later``. Returns who was heard."""
    entry = table.entries[make_peer(suspect)]
    said = entry.announcement
    heard = 0
    for observer in observers:
        heard += detector.on_suspect_message(
            SuspectMessage(make_peer(suspect), 1, said.sequence, make_peer(observer), bytes(64)), now
        )
    table.apply(make(suspect, said.sequence + 1), now + later)
    detector.clear(make_peer(suspect), now + later, refuted=True)
    return heard


def test_an_observer_refuted_by_several_is_not_heard_for_a_while() -> None:
    table, detector = world(200)
    liars = range(190, 190 + CONFIRMATIONS)
    heard = [refute_by(table, detector, suspect, liars, float(suspect) / 10, 1.0) for suspect in range(1, 150)]
    assert heard == [CONFIRMATIONS] * MAX_FALSE_SUSPICIONS + [0] * (149 - MAX_FALSE_SUSPICIONS)
    assert refute_by(table, detector, 150, range(170, 171), 20.0, 1.0) == 1  # others are
    assert refute_by(table, detector, 160, liars, 0.1 + 1.0 + REFUTED_PENALTY_S, 1.0) == CONFIRMATIONS
    assert refute_by(table, detector, 161, liars, 0.2 + 1.0 + REFUTED_PENALTY_S, 1.0) == CONFIRMATIONS


def test_who_refutes_after_a_partition_shows_nothing_about_its_accusers_beyond_itself() -> None:
    table, detector = world(100)
    observers = range(90, 93)
    for suspect in range(1, 2 * MAX_FALSE_SUSPICIONS):
        assert refute_by(table, detector, suspect, observers, 0.0, PROMPT_REFUTATION_S + 1.0) == 3
    assert refute_by(table, detector, 50, observers, 40.0, 1.0) == 3
    assert refute_by(table, detector, 1, observers, 41.0, 1.0) == 0


def test_what_is_remembered_of_observers_is_bounded_and_a_flood_flushes_no_other() -> None:
    _, detector = world(10)
    detector.note_refuted(make_peer(2), make_peer(SUSPECT), 0.0)
    for number in range(5000):
        detector.note_refuted(make_peer(3), number.to_bytes(32, "big"), 1.0)
    assert len(detector._observers) == 2 and len(detector._observers[make_peer(3)].refuted_by) == MAX_REFUTED_BY
    assert not detector.on_suspect_message(suspect_message(2), 2.0)
    for number in range(5000):
        detector.note_refuted(number.to_bytes(32, "big"), make_peer(SUSPECT), 1.0)
    assert len(detector._observers) == MAX_REFUTED


def test_a_peer_that_answered_is_not_looked_for_again_at_once() -> None:
    _, detector = world(100)
    detector.on_suspect_message(suspect_message(2), 0.0)
    before = detector.get_probe_chances(30.0, 100)
    detector.probe_succeeded(make_peer(SUSPECT), 30.0)
    assert before and detector.get_probe_chances(30.0, 100) == []
    assert detector.get_probe_chances(30.0 + PROBE_DELAY_S, 100)[0][1] == pytest.approx(PROBERS / 2 / 100)


def test_made_up_observers_are_not_heard() -> None:
    table, detector = world()
    for observer in range(100, 110):
        table.apply(make(observer), 0.0)
        assert not detector.on_suspect_message(suspect_message(observer), 1.0)  # new, and never seen
        assert not detector.on_suspect_message(suspect_message(observer + 50), 1.0)  # not even announced
    table.mark_alive(make_peer(100), dialled=True)
    assert detector.on_suspect_message(suspect_message(100), 1.0)
    assert detector.on_suspect_message(suspect_message(101), OBSERVER_MIN_AGE_S)


def test_a_peer_that_was_there_when_a_node_came_counts_at_once() -> None:
    table = PeerTable(ME)
    detector = FailureDetector(table)
    table.apply(replace(make(1), peer=ME), 100.0)
    for number, heard_of in ((SUSPECT, 101.0), (2, 101.0), (3, 100.0 + ARRIVAL_S), (4, 101.0 + ARRIVAL_S)):
        table.apply(make(number), heard_of)
    now = 102.0 + ARRIVAL_S
    assert [detector.on_suspect_message(suspect_message(number), now) for number in (2, 3, 4)] == [True, True, False]


def test_against_a_peer_with_stake_those_without_count_for_one() -> None:
    staked = {make_peer(number) for number in (SUSPECT, 7, 8)}
    table = PeerTable(ME, weight=lambda peer: int(peer in staked))
    for number in range(SUSPECT, SUSPECT + 10):
        table.apply(make(number), -OBSERVER_MIN_AGE_S)
    detector = FailureDetector(table)
    assert [detector.on_suspect_message(suspect_message(observer), 0.0) for observer in range(2, 7)] == [True] + 4 * [
        False
    ]
    assert not detector.is_failing(make_peer(SUSPECT)) and detector.get_probe_chances(PROBE_DELAY_S, 10.0)
    table.mark_alive(make_peer(6), dialled=True)
    assert detector.on_suspect_message(suspect_message(6), 0.0) and not detector.is_failing(make_peer(SUSPECT))
    assert detector.on_suspect_message(suspect_message(7), 0.0) and detector.is_failing(make_peer(SUSPECT))


def test_who_has_refuted_has_longer_to_do_it_again() -> None:
    table, detector = world(40)
    timeouts = []
    for turn, start in enumerate((0.0, 20.0, 40.0, 50.0 + REFUTED_PENALTY_S)):
        for observer in range(2 + turn * CONFIRMATIONS, 2 + (turn + 1) * CONFIRMATIONS):
            detector.on_suspect_message(suspect_message(observer, sequence=1 + turn), start)
        dies_at = detector._suspects[make_peer(SUSPECT)].dies_at
        assert dies_at is not None
        timeouts.append(dies_at - start)
        refute(table, detector, 2 + turn, start + 1.0)
    often = REPEATED_SUSPICION_TIMEOUT_S
    assert timeouts == [SUSPICION_TIMEOUT_S, often, often, SUSPICION_TIMEOUT_S]


def test_a_dead_observer_is_not_heard() -> None:
    table, detector = world()
    table.mark_crashed(make_peer(2), 0.0)
    assert not detector.on_suspect_message(suspect_message(2), 0.0)


@pytest.mark.parametrize(("count", "needed"), [(1, 1), (2, 2), (3, 3), (50, CONFIRMATIONS)])
def test_a_small_network_has_fewer_observers(count: int, needed: int) -> None:
    assert world(count)[1].confirmations_needed == needed


def test_no_more_words_travel_than_are_needed() -> None:
    _, detector = world()
    assert detector.needs_confirmations(make_peer(SUSPECT))
    assert (
        sum(detector.on_suspect_message(suspect_message(observer), 0.0) for observer in range(2, 10)) == CONFIRMATIONS
    )
    assert not detector.needs_confirmations(make_peer(SUSPECT))
    assert len(detector.get_item_ids(make_peer(SUSPECT))) == CONFIRMATIONS
    assert all(detector.find(item) is not None for item in detector.get_item_ids(make_peer(SUSPECT)))


def test_what_counts_for_nothing_is_known_and_not_asked_for_again() -> None:
    table, detector = world()

    def is_known_after(message: SuspectMessage) -> bool:
        detector.ignore(message)
        return detector.knows(get_item_id(message.encode()))

    refute(table, detector, 2, 0.0)
    assert is_known_after(suspect_message(2, sequence=1))  # of the past
    assert not is_known_after(suspect_message(2, sequence=3))  # of an announcement that may still come
    assert not is_known_after(suspect_message(2, sequence=2))  # its observer may count one day
    assert not is_known_after(replace(suspect_message(2), suspect=make_peer(99)))  # of a peer that may be heard of
    for observer in range(2, 2 + CONFIRMATIONS):
        assert detector.on_suspect_message(suspect_message(observer, sequence=2), 0.0)
    assert is_known_after(suspect_message(9, sequence=2))  # there are enough
    held = detector.get_item_ids(make_peer(SUSPECT))
    refute(table, detector, 3, 1.0)
    assert all(detector.knows(item) and detector.find(item) is None for item in held)  # refuted
    for number in range(MAX_IGNORED):
        detector.ignore(suspect_message(2 + number % 8, sequence=1, incarnation=0))
        detector.ignore(replace(suspect_message(2, incarnation=0), sequence=number))
    assert len(detector._ignored) == MAX_IGNORED and not any(map(detector.knows, held))


def test_too_few_words_make_ever_more_nodes_look_for_themselves() -> None:
    table, detector = world(100)
    detector.on_suspect_message(suspect_message(2), 0.0)
    assert detector.get_probe_chances(PROBE_DELAY_S - 0.1, 100) == []
    ((peer, chance),) = detector.get_probe_chances(PROBE_DELAY_S, 100)
    assert peer == make_peer(SUSPECT)
    assert chance * len(table) == pytest.approx(PROBERS / 2)
    assert detector.get_probe_chances(PROBE_DELAY_S + 20.0, 100)[0][1] > 1.0
    for observer in (3, 4):
        detector.on_suspect_message(suspect_message(observer), 0.0)
    assert detector.get_probe_chances(PROBE_DELAY_S, 100) == []


def test_a_case_against_one_that_is_forgotten_is_dropped() -> None:
    table, detector = world()
    detector.on_suspect_message(suspect_message(2), 0.0)
    for change in table.expire(1e6):
        assert change.kind is ChangeKind.EXPIRED
    table.expire(1e9)
    detector.expire(1e9, ())
    assert detector.get_item_ids(make_peer(SUSPECT)) == []


def test_an_accusation_is_signed_by_its_observer() -> None:
    observer = make_key("observer")
    signed = sign_suspect_message(observer, CHAIN, make(SUSPECT))
    assert decode_suspect_message(signed.encode(), CHAIN) == signed
    assert signed.is_about(make(SUSPECT))
    forged = SuspectMessage(signed.suspect, signed.incarnation, signed.sequence + 1, signed.observer, signed.signature)
    other = SuspectMessage(signed.suspect, signed.incarnation, signed.sequence, make_peer(3), signed.signature)
    for raw, chain in ((forged.encode(), CHAIN), (other.encode(), CHAIN), (signed.encode(), b"d" * 32), (b"x", CHAIN)):
        with pytest.raises(CodecError):
            decode_suspect_message(raw, chain)
