"""By when a first token is expected: it follows what was measured, and gives way to one that it was wrong about."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from serving.prediction.first_token_bound import (
    MAX_BOUNDS,
    MAX_DOUBLINGS,
    MIN_LATE_MARGIN_S,
    MIN_MARGIN_S,
    MIN_SAMPLES,
    FirstTokenBounds,
)
from serving.prediction.predicted_time import RequestSize

ONE, TWO = b"1" * 32, b"2" * 32
SMALL, LARGE = RequestSize(100, 100.0), RequestSize(10_000, 1000.0)


def make(off_s: float = 0.0, samples: int = MIN_SAMPLES) -> FirstTokenBounds:
    """Predictions of ``samples`` first tokens were off by ``off_s``, in turns above and below."""
    bounds = FirstTokenBounds()
    for number in range(samples):
        bounds.note(ONE, "m", SMALL, 10.0, 10.0 + off_s * (-1) ** number)
    return bounds


def test_nothing_is_bounded_that_was_not_measured() -> None:
    assert make(samples=MIN_SAMPLES - 1).get(ONE, "m", SMALL, 1.0) is None
    bounds = make()
    assert bounds.get(ONE, "m", SMALL, 1.0) == 1.0 + MIN_MARGIN_S
    assert (
        bounds.get(TWO, "m", SMALL, 1.0) is bounds.get(ONE, "x", SMALL, 1.0) is bounds.get(ONE, "m", LARGE, 1.0) is None
    )


def test_a_margin_that_was_too_short_is_doubled_until_a_first_token_comes() -> None:
    bounds = make()
    bounds.note_late(TWO, "m", SMALL, 0.0, 0.0)
    assert len(bounds) == 1, "of whom nothing is known, nothing is kept"
    for times in range(1, MAX_DOUBLINGS + 3):
        bounds.note_late(ONE, "m", SMALL, float(times), times + 0.5)
        assert bounds.get(ONE, "m", SMALL, 0.0) == MIN_MARGIN_S * 2 ** min(times, MAX_DOUBLINGS)
    bounds.note(ONE, "m", SMALL, 1.0, 9.0)
    assert bounds.get(ONE, "m", SMALL, 0.0) == 4 * 8.0 / 4, "a quarter of the new deviation, four times"


def test_all_that_wait_through_one_stall_double_the_margin_once() -> None:
    bounds = make()
    for begun_at in (0.0, 0.5, 1.0):
        bounds.note_late(ONE, "m", SMALL, begun_at, begun_at + 1.5)
    assert bounds.get(ONE, "m", SMALL, 0.0) == 2 * MIN_MARGIN_S
    bounds.note_late(ONE, "m", SMALL, 2.0, 4.0)
    assert bounds.get(ONE, "m", SMALL, 0.0) == 4 * MIN_MARGIN_S, "it was sent with the margin of before"


def test_it_is_late_before_the_bound_and_no_later_for_one_that_was_late() -> None:
    assert make(samples=MIN_SAMPLES - 1).get_late(ONE, "m", SMALL, 1.0) is None
    assert make().get_late(ONE, "m", SMALL, 1.0) == 1.0 + MIN_LATE_MARGIN_S
    bounds = make(off_s=3.0)
    before = bounds.get_late(ONE, "m", SMALL, 1.0), bounds.get(ONE, "m", SMALL, 1.0)
    bounds.note_late(ONE, "m", SMALL, 0.0, 13.0)
    assert before == (1.0 + 6.0, 1.0 + 12.0)
    assert (bounds.get_late(ONE, "m", SMALL, 1.0), bounds.get(ONE, "m", SMALL, 1.0)) == (1.0 + 6.0, 1.0 + 24.0)


@given(st.floats(0.0, 3.0), st.integers(0, 1 << 32))
def test_few_honest_first_tokens_come_later(spread_s: float, seed: int) -> None:
    chance, bounds, late = random.Random(seed), make(), 0
    for number in range(400):
        measured = max(0.0, chance.gauss(5.0, spread_s))
        within = bounds.get(ONE, "m", SMALL, 5.0)
        late += number >= 20 and within is not None and measured > within
        bounds.note(ONE, "m", SMALL, 5.0, measured)
    assert late <= 0.05 * 400


def test_memory_is_bounded() -> None:
    bounds = FirstTokenBounds()
    for number in range(MAX_BOUNDS + 10):
        bounds.note(number.to_bytes(32, "big"), "m", SMALL, 1.0, 1.0)
    assert len(bounds) == MAX_BOUNDS
