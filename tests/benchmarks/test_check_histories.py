"""What the substitution benchmark concludes from measured checks: histories and the bound on false alarms."""

from __future__ import annotations

from itertools import product

import pytest

from benchmarks.quality.check_histories import (
    bound_false_alarm,
    count_failed,
    find_after,
    get_network_limits,
    play,
)
from chain.parameters.checks import CheckParameters
from chain.state.sequential_test import CheckHistory, SequentialTest
from serving.quality.same_model.statistics import Measurement

LIMITS = get_network_limits(
    CheckParameters(max_shortfall=2_500, max_distance=50_000, honest_shortfall_ppm=100_000, honest_distance_ppm=50_000)
)
HONEST = Measurement(2.5, 0.05, 10)  # at both limits
UNLIKELY = Measurement(2.51, 0.0, 10)
OTHER = Measurement(0.0, 0.051, 10)


def test_a_check_fails_above_a_limit_and_not_at_it() -> None:
    assert count_failed(LIMITS, [HONEST, UNLIKELY, OTHER, OTHER]) == (1, 2)


def test_a_cheat_is_found_after_as_many_failures_as_the_sequential_test_takes() -> None:
    needed = LIMITS.test.distance.count_failures_needed()
    assert find_after(LIMITS, [OTHER] * 100) == needed
    assert play(LIMITS, [OTHER], runs=3, most=100, seed=7) == [needed] * 3
    assert play(LIMITS, [OTHER], runs=2, most=needed - 1, seed=7) == [None] * 2
    assert find_after(LIMITS, [HONEST] * 100) is None


@pytest.mark.parametrize("failing", [0.05, 0.3, 0.45])
def test_the_bound_on_false_alarms_is_above_what_they_are_and_near(failing: float) -> None:
    test = SequentialTest(300_000, false_alarm_ppm=200_000)
    exact = 0.0
    for outcomes in product((False, True), repeat=10):
        history, chance, is_found = CheckHistory(), 1.0, False
        for is_failed in outcomes:
            history = test.add(history, is_failed)
            is_found = is_found or test.is_crossed(history)
            chance *= failing if is_failed else 1 - failing
        exact += chance * is_found
    assert exact <= bound_false_alarm(test, failing, 10) <= 3 * exact
