"""The rules of hedging: how many hedges there may be, and who has won."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from serving.offload.originator.hedging import MAX_PERCENT, WINDOW, HedgeBudget, Race


def play(late: list[bool]) -> list[bool]:
    """Each request makes an attempt, and one that is late a second one if there is room. Returns which were hedges."""
    budget, attempts = HedgeBudget(), list[bool]()

    def ask(is_hedge: bool) -> None:
        budget.note_attempt(is_hedge=is_hedge)
        attempts.append(is_hedge)

    for is_late in late:
        ask(False)
        if is_late and budget.has_room:
            ask(True)
    return attempts


@given(st.lists(st.booleans(), max_size=4 * WINDOW))
def test_hedges_are_few_from_the_first_attempt_on_and_in_every_window(late: list[bool]) -> None:
    attempts = play(late)
    sums = [0, *accumulate(attempts)]
    assert all(100 * count <= MAX_PERCENT * number for number, count in enumerate(sums))
    for end, count in enumerate(sums):
        assert 100 * (count - sums[max(0, end - WINDOW)]) <= MAX_PERCENT * WINDOW


def test_where_all_are_late_every_twentieth_attempt_is_a_hedge() -> None:
    attempts = play([True] * 10 * WINDOW)
    assert sum(attempts) == len(attempts) * MAX_PERCENT // 100


def test_unused_room_is_not_saved_up_beyond_the_window() -> None:
    attempts = play([False] * 10 * WINDOW + [True] * WINDOW)
    assert sum(attempts[-WINDOW:]) == WINDOW * MAX_PERCENT // 100


def test_the_first_that_has_content_has_won_for_good() -> None:
    race = Race()
    assert race.claim(b"2") and race.claim(b"2")
    assert not race.claim(b"1") and race.claim(b"2")
