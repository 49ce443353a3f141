"""The sequential test: what its integers are, that honest accounts are hardly ever found, and that cheats are."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.codec import MAX_INT
from chain.state.sequential_test import (
    E_VALUE_UNIT,
    PPM,
    AccountHistory,
    CheckHistory,
    SequentialTest,
    SubstitutionTest,
)

PARAMETERS = st.tuples(st.integers(1, PPM - 2), st.integers(2, PPM - 1), st.integers(1, PPM - 1)).filter(
    lambda drawn: drawn[0] < drawn[1]
)
OUTCOMES = st.lists(st.booleans(), max_size=60)


def add_all(test: SequentialTest, outcomes: list[bool]) -> CheckHistory:
    history = CheckHistory()
    for is_failed in outcomes:
        history = test.add(history, is_failed)
    return history


@given(PARAMETERS, OUTCOMES)
def test_the_integer_never_exceeds_the_exact_mixture_over_all_beginnings(
    parameters: tuple[int, int, int], outcomes: list[bool]
) -> None:
    test = SequentialTest(*parameters)
    p0, p1 = Fraction(test.honest_ppm, PPM), Fraction(test.cheating_ppm, PPM)
    ratios = [p1 / p0 if is_failed else (1 - p1) / (1 - p0) for is_failed in outcomes]
    exact = Fraction(0)
    for beginning in range(1, len(ratios) + 1):
        product = Fraction(1, beginning * (beginning + 1))
        for ratio in ratios[beginning - 1 :]:
            product *= ratio
        exact += product
    history = add_all(test, outcomes)
    assert (history.checks, history.failures) == (len(outcomes), sum(outcomes))
    assert Fraction(history.e_value, E_VALUE_UNIT) <= exact


@given(PARAMETERS, OUTCOMES)
def test_an_honest_check_does_not_raise_the_expectation(parameters: tuple[int, int, int], outcomes: list[bool]) -> None:
    """With what is still to be bet on later beginnings, 1/(t+1) after t checks, the e-value is a supermartingale."""
    test = SequentialTest(*parameters)
    before = add_all(test, outcomes)
    after = [test.add(before, is_failed).e_value for is_failed in (False, True)]
    checks = len(outcomes)
    expected = Fraction((PPM - test.honest_ppm) * after[0] + test.honest_ppm * after[1], PPM)
    held, left = Fraction(E_VALUE_UNIT, checks + 1), Fraction(E_VALUE_UNIT, checks + 2)
    assert expected + left <= before.e_value + held


@given(PARAMETERS, OUTCOMES)
def test_a_history_fits_its_record_whatever_happens(parameters: tuple[int, int, int], outcomes: list[bool]) -> None:
    test = SequentialTest(*parameters)
    history = add_all(test, [*outcomes, *[True] * 60])
    assert history.e_value <= test.threshold <= MAX_INT
    assert CheckHistory.decode(history.encode()) == history


@given(PARAMETERS, OUTCOMES)
def test_one_more_failure_never_helps_an_account(parameters: tuple[int, int, int], outcomes: list[bool]) -> None:
    test = SequentialTest(*parameters)
    history = add_all(test, outcomes)
    assert test.add(history, is_failed=True).e_value >= test.add(history, is_failed=False).e_value


def test_honest_accounts_are_found_more_seldom_than_the_bound_says() -> None:
    """With a bound of 1 in 20 and honest nodes that fail as often as is granted to them: 3,000 lives of 300 checks."""
    test = SequentialTest(honest_ppm=30_000, false_alarm_ppm=50_000)
    chance, found = random.Random(7), 0
    for _ in range(3000):
        history = CheckHistory()
        for _ in range(300):
            history = test.add(history, chance.random() < 0.03)
            if test.is_crossed(history):
                found += 1
                break
    # Of 3,000 at 1 in 20 more than 187 come with a probability below 10^-3; a test that finds none proves nothing.
    assert 0 < found <= 187


def test_no_honest_account_is_found_at_the_bound_that_is_in_force() -> None:
    test = SequentialTest(honest_ppm=30_000)
    chance = random.Random(7)
    for _ in range(1000):
        history = CheckHistory()
        for _ in range(300):
            history = test.add(history, chance.random() < 0.03)
            assert not test.is_crossed(history)


@pytest.mark.parametrize(("share", "most"), [(1.0, 4), (0.5, 40)])
def test_cheats_are_found(share: float, most: int) -> None:
    test, chance, history = SequentialTest(honest_ppm=10_000), random.Random(7), CheckHistory()
    while not test.is_crossed(history):
        history = test.add(history, chance.random() < share)
    assert history.checks <= most


def test_a_long_honest_past_is_no_credit() -> None:
    test = SequentialTest(honest_ppm=10_000)
    needed = [test.count_failures_needed(passed) for passed in (0, 10, 100, 1000, 10_000)]
    assert needed == sorted(needed) and needed[0] == 3 and needed[-1] <= 8


def test_a_cheat_that_fails_more_seldom_than_is_granted_is_not_found() -> None:
    test = SequentialTest(honest_ppm=100_000)
    history = add_all(test, ([True] + [False] * 19) * 200)
    assert not test.is_crossed(history)


@pytest.mark.parametrize(
    ("honest", "cheating", "alarm"), [(0, 5, 5), (5, 5, 5), (6, 5, 5), (5, PPM, 5), (5, 6, 0), (5, 6, PPM)]
)
def test_parameters_that_contradict_each_other_are_refused(honest: int, cheating: int, alarm: int) -> None:
    with pytest.raises(ValueError, match=r"must fail|between 0 and 1"):
        SequentialTest(honest, cheating, alarm)


def test_either_statistic_is_proof_and_both_share_the_false_alarms() -> None:
    test = SubstitutionTest.make(shortfall_ppm=90_000, distance_ppm=10_000, false_alarm_ppm=100)
    assert test.shortfall.false_alarm_ppm + test.distance.false_alarm_ppm == 100
    for failed in ((True, False), (False, True)):
        history = AccountHistory()
        while not test.is_substitution(history):
            history = test.add(history, *failed)
        assert test.shortfall.is_crossed(history.shortfall) is failed[0]
        assert test.distance.is_crossed(history.distance) is failed[1]
        assert AccountHistory.decode(history.encode()) == history
