"""How long views and quorums take: what is counted, and what says nothing and is not."""

from __future__ import annotations

from consensus.agreement_times import MAX_OPEN_VOTES, AgreementTimes


def test_a_view_counts_from_when_there_is_something_to_agree_about_to_its_end() -> None:
    times = AgreementTimes()
    times.note_view((0, 1), 10.0)
    times.note_busy((0, 1), 100.0)
    times.note_busy((0, 1), 103.0)  # its timer is set again
    times.note_view((0, 1), 104.0)
    assert times.views.count == 0
    times.note_view((0, 2), 105.0)
    assert (times.views.count, times.views.sum) == (1, 5.0)
    times.note_busy((0, 2), 106.0)
    times.note_idle()
    times.note_view((0, 3), 900.0)
    assert times.views.count == 1
    times.note_busy((0, 3), 901.0)
    times.note_busy((1, 1), 903.0)  # the end was not seen by itself; views begin at 1 in each epoch
    assert (times.views.count, times.views.sum) == (2, 7.0)


def test_a_quorum_counts_from_the_first_vote_for_its_block() -> None:
    times = AgreementTimes()
    times.note_vote(b"a", 1.0)
    times.note_vote(b"a", 2.0)
    times.note_final(b"a", 4.0)
    times.note_final(b"a", 9.0)
    times.note_final(b"never voted for", 9.0)
    assert (times.quorums.count, times.quorums.sum) == (1, 3.0)


def test_votes_for_blocks_that_come_to_nothing_are_forgotten() -> None:
    times = AgreementTimes()
    for number in range(MAX_OPEN_VOTES + 1):
        times.note_vote(bytes([number]), 0.0)
    times.note_final(bytes([0]), 1.0)
    times.note_final(bytes([1]), 1.0)
    assert times.quorums.count == 1
