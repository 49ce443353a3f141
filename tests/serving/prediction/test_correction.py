"""Corrections: a node that is slower than it says loses its attraction at once, and gets it back in time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.prediction.correction import CHANCE_FACTOR, HALF_LIFE_S, MAX_FACTORS, MIN_FACTOR, OFFSET_S, Corrections
from serving.prediction.predicted_time import PredictedTime, RequestSize

ONE, TWO = b"1" * 32, b"2" * 32
SMALL, LARGE = RequestSize(100, 100.0), RequestSize(10_000, 1000.0)
TIME = PredictedTime(1.0, 10.0)
SOON = PredictedTime(0.0, 0.0)


def note(
    corrections: Corrections, first: float, total: float, now: float = 0.0, predicted: PredictedTime = TIME
) -> None:
    corrections.note(ONE, "m", SMALL, predicted, now, first, total)


def test_one_measurement_of_slowness_is_believed_whole() -> None:
    corrections = Corrections()
    assert corrections.correct(ONE, "m", SMALL, TIME, 0.0) == TIME
    note(corrections, 4.0, 30.0, predicted=SOON)
    found = corrections.correct(ONE, "m", SMALL, SOON, 0.0)
    assert found.first_token == pytest.approx(4.0) and found.total == pytest.approx(30.0)
    assert corrections.correct(TWO, "m", SMALL, SOON, 0.0) == SOON
    assert corrections.correct(ONE, "other", SMALL, SOON, 0.0) == SOON


def test_what_differs_by_chance_moves_it_little_and_is_believed_if_it_stays() -> None:
    corrections = Corrections()

    def measure(factor: float) -> float:
        total_s = factor * (TIME.total + OFFSET_S) - OFFSET_S
        note(corrections, TIME.first_token, total_s)
        return corrections.correct(ONE, "m", SMALL, TIME, 0.0).total / TIME.total

    assert all(0.95 < measure(factor) < 1.05 for factor in (1.4, 1 / 1.4) * 20)
    assert [measure(1.4) for _ in range(30)][-1] == pytest.approx(1.4, rel=0.05)
    assert measure(2.2) > 1.8, "that is more than chance"


def test_quickness_is_believed_slowly_and_within_a_bound() -> None:
    corrections = Corrections()
    note(corrections, 0.01, 0.1)
    once = corrections.correct(ONE, "m", SMALL, TIME, 0.0).total
    assert 0.8 * TIME.total < once < TIME.total
    for _ in range(200):
        note(corrections, 0.01, 0.1)
    assert corrections.correct(ONE, "m", SMALL, TIME, 0.0).total == pytest.approx(
        MIN_FACTOR * (TIME.total + OFFSET_S) - OFFSET_S
    )


def test_one_that_pretended_to_be_slow_first_gains_a_few_requests_at_most() -> None:
    corrections, honest_s = Corrections(), 10.0
    for _ in range(100):
        note(corrections, 5.0, 10.0, predicted=PredictedTime(5000.0, 10_000.0))

    def gain(until: float) -> int:
        """Requests that it gets while it looks quicker by more than a factor."""
        asked = 0
        while until * corrections.correct(ONE, "m", SMALL, SOON, 0.0).total < honest_s:
            note(corrections, 5.0, honest_s, predicted=SOON)
            asked += 1
        return asked

    assert gain(CHANCE_FACTOR) <= 5, "found out as far as it cannot be chance"
    assert gain(1.1) <= 15


def test_a_correction_fades() -> None:
    corrections = Corrections()
    note(corrections, 4.0, 40.0)
    after = [corrections.correct(ONE, "m", SMALL, TIME, HALF_LIFE_S * number).total for number in range(12)]
    assert after == sorted(after, reverse=True) and after[0] == pytest.approx(40.0)
    assert after[1] == pytest.approx(20.0, rel=0.05) and after[-1] == pytest.approx(TIME.total, rel=0.01)


def test_a_class_of_size_of_which_nothing_is_known_is_as_the_nearest() -> None:
    corrections = Corrections()
    note(corrections, 4.0, 40.0)
    assert corrections.correct(ONE, "m", LARGE, TIME, 0.0).total == pytest.approx(40.0)
    corrections.note(ONE, "m", LARGE, TIME, 0.0, None, 10.0)
    assert corrections.correct(ONE, "m", LARGE, TIME, 0.0) == TIME
    assert corrections.correct(ONE, "m", SMALL, TIME, 0.0).total == pytest.approx(40.0)


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0, 1e4)), max_size=30))
def test_a_corrected_time_is_a_time(measured: list[tuple[float, float, float, float]]) -> None:
    corrections, now = Corrections(), 0.0
    for first, more, predicted_s, wait in measured:
        now += wait
        corrections.note(ONE, "m", SMALL, PredictedTime(predicted_s, predicted_s + more), now, first, first + more)
        found = corrections.correct(ONE, "m", SMALL, TIME, now)
        assert 0.0 <= found.first_token <= found.total < 1e6


def test_memory_is_bounded() -> None:
    corrections = Corrections()
    for number in range(MAX_FACTORS + 1):
        corrections.note(number.to_bytes(32), "m", SMALL, TIME, 0.0, 1.0, 1.0)
    assert len(corrections) == MAX_FACTORS
