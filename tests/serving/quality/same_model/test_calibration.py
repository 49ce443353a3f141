"""Limits from honest checks: what they are, and that their bounds hold."""

from __future__ import annotations

import math
import random

import pytest

from chain.parameters.checks import CheckParameters
from chain.state.sequential_test import PPM, AccountHistory
from serving.quality.same_model.calibration import (
    CONFIDENCE,
    DISTANCE_MARGIN,
    LEAST_DISTANCE,
    LEAST_SHORTFALL,
    MIN_CHECKS,
    SHORTFALL_RATE,
    Holds,
    calibrate,
    compute_honest_ppm,
    judge_limits,
)
from serving.quality.same_model.statistics import Measurement


def draw(chance: random.Random, count: int) -> list[Measurement]:
    return [Measurement(chance.gauss(0, 1), abs(chance.gauss(0, 0.004)), 10) for _ in range(count)]


@pytest.mark.parametrize(("checks", "above"), [(20, 0), (100, 0), (100, 5), (1000, 50)])
def test_the_bound_is_the_share_at_which_so_few_above_the_threshold_are_improbable(checks: int, above: int) -> None:
    share = compute_honest_ppm(checks, above) / PPM
    at_most = sum(math.comb(checks, k) * share**k * (1 - share) ** (checks - k) for k in range(above + 1))
    assert at_most == pytest.approx((1 - CONFIDENCE) / 2, rel=0.01)
    assert at_most <= (1 - CONFIDENCE) / 2


def test_the_thresholds_are_a_quantile_and_the_largest_value_with_a_margin() -> None:
    honest = [Measurement(number / 10, number / 1000, 10) for number in range(100)]
    found = calibrate(random.Random(7).sample(honest, 100))
    assert sum(each.shortfall > found.shortfall.threshold for each in honest) == SHORTFALL_RATE * 100
    assert found.distance.threshold == pytest.approx(DISTANCE_MARGIN * 0.099)
    assert found.distance.honest_ppm < found.shortfall.honest_ppm


def test_thresholds_have_a_lowest_value() -> None:
    found = calibrate([Measurement(0, 0, 10)] * MIN_CHECKS)
    assert (found.shortfall.threshold, found.distance.threshold) == (LEAST_SHORTFALL, LEAST_DISTANCE)


def test_too_few_checks_are_no_calibration() -> None:
    with pytest.raises(ValueError, match="20 honest checks or more"):
        calibrate([Measurement(0, 0, 10)] * (MIN_CHECKS - 1))


def test_later_honest_checks_fail_no_more_often_than_the_bound_says() -> None:
    chance = random.Random(7)
    for _ in range(20):
        found = calibrate(draw(chance, 200))
        later = draw(chance, 2000)
        shortfalls = sum(each.shortfall > found.shortfall.threshold for each in later)
        distances = sum(each.distance > found.distance.threshold for each in later)
        assert shortfalls <= 2000 * found.shortfall.honest_ppm / PPM
        assert distances <= 2000 * found.distance.honest_ppm / PPM


def test_an_honest_account_is_not_found_and_a_cheat_by_either_statistic_is() -> None:
    chance = random.Random(7)
    found = calibrate(draw(chance, 300))
    history = AccountHistory()
    for each in draw(chance, 3000):
        history = found.add(history, each)
        assert not found.test.is_substitution(history)
    for cheat in (Measurement(9.0, 0.0, 10), Measurement(0.0, 0.05, 10)):
        history, checks = AccountHistory(), 0
        while not found.test.is_substitution(history):
            history, checks = found.add(history, cheat), checks + 1
        assert checks <= 8


@pytest.mark.parametrize(
    ("checks", "above", "holds"),
    [(300, 0, Holds.YES), (100, 0, Holds.UNKNOWN), (100, 2, Holds.UNKNOWN), (100, 3, Holds.NO), (2000, 20, Holds.YES)],
)
def test_a_limit_of_a_network_holds_once_enough_honest_checks_keep_it(checks: int, above: int, holds: Holds) -> None:
    honest = [Measurement(0.0, 0.06, 10)] * above + [Measurement(0.0, 0.04, 10)] * (checks - above)
    network = CheckParameters(max_distance=50_000, honest_distance_ppm=20_000)
    shortfall, distance = judge_limits(honest, network)
    assert (distance.above, distance.holds) == (above, holds)
    assert shortfall.above == 0 and shortfall.threshold == network.max_shortfall / 1_000
