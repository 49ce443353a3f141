"""Scores of executors: who is asked last, for how long, and how much is remembered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.offload.originator.executor_scores import (
    HALF_LIFE_S,
    MAX_RETRY_AFTER_S,
    OUTCOME_DECAY,
    STALL_MEMORY_S,
    UNREACHABLE_WAIT_S,
    ExecutorScores,
    Rank,
)
from serving.scheduling.circuit_breaker import FIRST_OPEN_S, OPEN_AFTER
from tests.support.keys import make_peer

ONE, TWO, THREE, NEW = (make_peer(number) for number in range(1, 5))
MODEL = "model"
MOST = 1 / (1 - OUTCOME_DECAY)
"""What all outcomes of a score weigh together at most."""


def rank(scores: ExecutorScores, executor: bytes, now: float, model: str = MODEL) -> Rank:
    return scores.rank(executor, model, now)


@pytest.mark.parametrize("fault", [ExecutorScores.note_failed, ExecutorScores.note_unshared_error])
def test_a_newcomer_is_good_until_its_first_fault_and_again_after_a_while(fault) -> None:  # type: ignore[no-untyped-def]
    scores = ExecutorScores()
    assert rank(scores, ONE, 0.0) is Rank.GOOD and len(scores) == 0
    fault(scores, ONE, MODEL, 0.0)
    assert rank(scores, ONE, 0.9 * HALF_LIFE_S) is Rank.FAULTY
    assert rank(scores, ONE, 1.1 * HALF_LIFE_S) is Rank.GOOD
    assert rank(scores, TWO, 0.0) is Rank.GOOD and rank(scores, ONE, 0.0, "another model") is Rank.GOOD


def test_a_failure_that_a_user_waited_for_counts_for_longer() -> None:
    for waited_s, half_lives in ((0.0, 1), (30.0, 3), (150.0, 5)):
        scores = ExecutorScores()
        scores.note_failed(ONE, MODEL, 0.0, waited_s)
        assert rank(scores, ONE, (half_lives - 0.1) * HALF_LIFE_S) is Rank.FAULTY
        assert rank(scores, ONE, (half_lives + 0.1) * HALF_LIFE_S) is Rank.GOOD


def test_one_users_requests_that_it_cannot_answer_do_not_break_an_executor() -> None:
    scores = ExecutorScores()
    for _ in range(8):
        scores.note_delivered(ONE, MODEL, 0.0)
    for _ in range(2):
        scores.note_failed(ONE, MODEL, 0.0, user="a rival's key")
    assert rank(scores, ONE, 0.0) is Rank.GOOD
    scores.note_failed(ONE, MODEL, 0.0, user="another key")
    assert rank(scores, ONE, 0.0) is Rank.BROKEN
    for others in ({"user": "a key"}, {}), ({}, {"user": "a key"}), ({}, {}):
        scores = ExecutorScores()
        for fields in others:
            scores.note_failed(ONE, MODEL, 0.0, **fields)  # type: ignore[arg-type]
        assert rank(scores, ONE, 0.0) is Rank.BROKEN, "silence, or the owner's own requests"
    for _ in range(9):
        scores.note_failed(TWO, MODEL, 0.0, user="a key")
    assert rank(scores, TWO, 0.0) is Rank.FAULTY, "it counts all the same"


def test_a_stall_that_is_paid_is_remembered_for_hours_unless_the_record_outweighs_it() -> None:
    scores = ExecutorScores()
    scores.note_stalled(ONE, MODEL, 0.0, 1_000)
    assert rank(scores, ONE, 0.99 * STALL_MEMORY_S) is Rank.FAULTY
    assert rank(scores, ONE, 1.01 * STALL_MEMORY_S) is Rank.GOOD
    for paid, expected in ((6_900, Rank.FAULTY), (7_100, Rank.GOOD)):
        scores = ExecutorScores()
        scores.note_delivered(TWO, MODEL, 0.0, paid)
        scores.note_stalled(TWO, MODEL, 0.0, 1_000)
        assert rank(scores, TWO, 2 * HALF_LIFE_S) is expected, "a share of what it was paid"
    scores.note_stalled(THREE, MODEL, 0.0, 0)
    assert rank(scores, THREE, 2 * HALF_LIFE_S) is Rank.GOOD, "nothing was paid"


def test_one_out_of_reach_waits_a_moment_and_is_faulty_only_after_several_times() -> None:
    scores, now = ExecutorScores(), 0.0
    for expected in (Rank.GOOD, Rank.GOOD, Rank.FAULTY):
        scores.note_unreachable(ONE, MODEL, now)
        assert rank(scores, ONE, now + 0.9 * UNREACHABLE_WAIT_S) is (
            Rank.WAITING if expected is Rank.GOOD else expected
        )
        now += 1.1 * UNREACHABLE_WAIT_S
        assert rank(scores, ONE, now) is expected


def test_a_good_record_outweighs_single_faults_but_not_a_series() -> None:
    scores = ExecutorScores()
    for _ in range(1_000):
        scores.note_delivered(ONE, MODEL, 0.0)
    ranks = []
    for _ in range(6):
        scores.note_failed(ONE, MODEL, 0.0)
        ranks.append(rank(scores, ONE, FIRST_OPEN_S))  # once its breaker lets one through
    assert ranks[:3] == [Rank.GOOD] * 3 and ranks[4:] == [Rank.FAULTY] * 2


def test_two_failures_in_a_row_open_its_breaker_whatever_its_record_and_one_request_tries_it_again() -> None:
    scores, now = ExecutorScores(), 0.0
    for _ in range(100):
        scores.note_delivered(ONE, MODEL, now)
    scores.note_failed(ONE, MODEL, now)
    assert rank(scores, ONE, now) is Rank.GOOD
    scores.note_failed(ONE, MODEL, now)
    assert rank(scores, ONE, now + 0.9 * FIRST_OPEN_S) is Rank.BROKEN
    assert rank(scores, ONE, now, "another model") is rank(scores, TWO, now) is Rank.GOOD
    now += FIRST_OPEN_S
    assert rank(scores, ONE, now) is Rank.GOOD
    scores.note_asked(ONE, MODEL, now)
    assert rank(scores, ONE, now) is Rank.BROKEN, "one tries it, and no other"
    scores.note_delivered(ONE, MODEL, now + 1.0)
    assert rank(scores, ONE, now + 1.0) is Rank.GOOD


def test_after_a_time_that_makes_all_equal_one_that_failed_is_tried_by_one_request_alone() -> None:
    scores, now = ExecutorScores(), 5 * HALF_LIFE_S
    for _ in range(OPEN_AFTER):
        scores.note_failed(ONE, MODEL, 0.0)
    assert rank(scores, ONE, now) is Rank.GOOD
    scores.note_asked(ONE, MODEL, now)
    assert rank(scores, ONE, now) is Rank.BROKEN


def test_one_that_lets_requests_queue_in_vain_comes_before_one_that_is_silent() -> None:
    scores = ExecutorScores()
    for _ in range(OPEN_AFTER):
        scores.note_failed(ONE, MODEL, 0.0, waited_s=120.0, is_queued=True)
        scores.note_failed(TWO, MODEL, 0.0, waited_s=2.0)
    assert rank(scores, ONE, 0.0) is Rank.FAULTY < rank(scores, TWO, 0.0) is Rank.BROKEN
    assert rank(scores, TWO, FIRST_OPEN_S) is Rank.FAULTY, "then one request tries it"


def test_one_that_failed_a_thousand_times_is_back_after_a_few_half_lives_or_answers() -> None:
    scores = ExecutorScores()
    for _ in range(1_000):
        scores.note_failed(ONE, MODEL, 0.0)
    assert rank(scores, ONE, 3 * HALF_LIFE_S) is Rank.FAULTY
    assert rank(scores, ONE, 4.1 * HALF_LIFE_S) is Rank.GOOD
    for _ in range(8):
        scores.note_delivered(ONE, MODEL, 0.0)
    assert rank(scores, ONE, 0.0) is Rank.GOOD


def test_one_that_declines_waits_as_long_as_it_says_within_a_limit() -> None:
    scores = ExecutorScores()
    scores.note_declined(ONE, MODEL, 10.0, 2.0)
    assert rank(scores, ONE, 11.9) is Rank.WAITING and rank(scores, ONE, 12.0) is Rank.GOOD
    scores.note_declined(ONE, MODEL, 20.0, 1e12)
    assert rank(scores, ONE, 19.9 + MAX_RETRY_AFTER_S) is Rank.WAITING
    assert rank(scores, ONE, 20.0 + MAX_RETRY_AFTER_S) is Rank.GOOD
    scores.note_declined(TWO, MODEL, 20.0, 30.0)
    scores.note_delivered(TWO, MODEL, 21.0)
    assert rank(scores, TWO, 21.0) is Rank.GOOD


def test_the_score_forgotten_first_is_the_one_that_changed_longest_ago() -> None:
    scores = ExecutorScores(max_scores=2)
    scores.note_failed(ONE, MODEL, 0.0)
    scores.note_failed(TWO, MODEL, 1.0)
    scores.note_failed(ONE, MODEL, 2.0)
    scores.note_failed(THREE, MODEL, 3.0)
    assert scores.find(TWO, MODEL, 3.0) is None
    assert len(scores) == 2 and Rank.GOOD not in (rank(scores, ONE, 3.0), rank(scores, THREE, 3.0))


EVENTS = st.tuples(
    st.integers(0, 5), st.sampled_from(["delivered", "failed", "unshared", "declined"]), st.floats(0, 900)
)


@given(st.lists(EVENTS, max_size=200))
def test_whatever_happens_memory_and_weights_are_bounded_and_time_makes_all_equal(
    events: list[tuple[int, str, float]],
) -> None:
    scores, now = ExecutorScores(max_scores=4), 0.0
    executors = [bytes([number]) for number in range(6)]
    for number, event, value in events:
        executor, now = executors[number], now + value
        match event:
            case "delivered":
                scores.note_delivered(executor, MODEL, now)
            case "failed":
                scores.note_failed(executor, MODEL, now)
            case "unshared":
                scores.note_unshared_error(executor, MODEL, now)
            case _:
                scores.note_declined(executor, MODEL, now, value)
        assert len(scores) <= 4
        score = scores.find(executor, MODEL, now)
        assert score is not None
        assert 0 <= score.delivered + score.failed + score.unshared_errors <= MOST + 1e-6
        unknown = [each for each in executors if scores.find(each, MODEL, now) is None]
        assert all(scores.rank(each, MODEL, now) is Rank.GOOD for each in unknown)
    later = now + 5 * HALF_LIFE_S
    assert {scores.rank(each, MODEL, later) for each in executors} == {Rank.GOOD}
