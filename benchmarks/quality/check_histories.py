"""What checks that were measured say about any number of checks: who is found, after how many, and how surely.

A history draws its checks one by one from those that were measured. Checks of one answer have tokens in common, and are
no independent sample: a bound on how often checks fail, such as :func:`bound_false_alarm` takes, counts an answer once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence

from chain.parameters.checks import CheckParameters
from chain.state.sequential_test import E_VALUE_UNIT, PPM, AccountHistory, SequentialTest
from serving.quality.same_model.calibration import Calibration, Limit
from serving.quality.same_model.statistics import Measurement

GRID_STEP = 0.01
"""Distance of neighbouring e-values in :func:`bound_false_alarm`, in nats."""


def get_network_limits(parameters: CheckParameters) -> Calibration:
    """The limits of a network in the form of a calibration."""
    return Calibration(
        checks=0,
        shortfall=Limit(parameters.max_shortfall / 1_000, parameters.honest_shortfall_ppm),
        distance=Limit(parameters.max_distance / PPM, parameters.honest_distance_ppm),
    )


def count_failed(limits: Calibration, measurements: Sequence[Measurement]) -> tuple[int, int]:
    """How many of ``measurements`` exceed the limits of the shortfall and of the distance."""
    shortfalls = sum(each.shortfall > limits.shortfall.threshold for each in measurements)
    return shortfalls, sum(each.distance > limits.distance.threshold for each in measurements)


def find_after(limits: Calibration, measurements: Iterable[Measurement]) -> int | None:
    """Checks until an account with these is found; None if it never is."""
    history = AccountHistory()
    test = limits.test
    shortfall, distance = limits.shortfall.threshold, limits.distance.threshold
    for number, each in enumerate(measurements, 1):
        history = test.add(history, each.shortfall > shortfall, each.distance > distance)
        if test.is_substitution(history):
            return number
    return None


def play(limits: Calibration, measurements: Sequence[Measurement], runs: int, most: int, seed: int) -> list[int | None]:
    """Checks until an account is found in each run, or None if ``most`` do not find it.

    Each run draws its checks from those that were measured, with replacement.
    """
    chance = random.Random(seed)

    def draw() -> Iterator[Measurement]:
        for _ in range(most):
            yield chance.choice(measurements)

    return [find_after(limits, draw()) for _ in range(runs)]


def bound_false_alarm(test: SequentialTest, failing: float, checks: int) -> float:
    """Bound on the probability that one statistic finds an account within ``checks``. Each check fails with a
    probability of at most ``failing``, whatever happened before.

    The distribution of the e-value is followed on a grid. E-values are rounded up to it, which can only raise the
    result, as the next e-value grows with the last.
    """
    import numpy  # here: it takes a fifth of a second, and only full runs need it

    lowest = -math.log(2 * checks * (checks + 1))
    top = math.ceil((math.log(test.threshold / E_VALUE_UNIT) - lowest) / GRID_STEP)
    values = numpy.exp(lowest + GRID_STEP * numpy.arange(top))
    values[0] = 0.0
    shares = numpy.zeros(top)
    shares[0] = 1.0
    passed_ratio = (PPM - test.cheating_ppm) / (PPM - test.honest_ppm)
    branches = ((failing, test.cheating_ppm / test.honest_ppm), (1 - failing, passed_ratio))
    found = 0.0
    for number in range(1, checks + 1):
        bets = values + 1 / (number * (number + 1))
        following = numpy.zeros(top)
        for chance, ratio in branches:
            places = numpy.ceil((numpy.log(bets * ratio) - lowest) / GRID_STEP).clip(1, top).astype(int)
            moved = numpy.bincount(places, weights=shares * chance, minlength=top + 1)
            found += float(moved[top])
            following += moved[:top]
        shares = following
    return found
