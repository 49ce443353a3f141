"""Thresholds from honest pairs, with a bound on how often honest checks exceed them.

The shortfall of honest answers comes from sampling. Its threshold is a quantile: a lower one finds small differences
sooner, and large differences later. The distance of honest answers comes from rounding. Its threshold is the largest
value seen, times a margin.

If k of n honest checks were above a threshold, the bound on the share of later ones above it is exact binomial (order
statistics of any distribution: Wilks, *Determination of sample sizes for setting tolerance limits*, 1941). It is the
share p at which at most k successes in n trials of probability p are as improbable as the confidence allows. It assumes
that later honest checks are drawn like those of the calibration: with its hardware, engine, batches and kind of
requests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from chain.parameters.checks import CheckParameters
from chain.state.sequential_test import PPM, AccountHistory, SubstitutionTest
from serving.quality.same_model.statistics import Measurement

CONFIDENCE = 0.99
"""Probability with which both bounds of a calibration hold."""
SHORTFALL_RATE = 0.05
"""Share of honest checks that may be above the threshold of the shortfall."""
DISTANCE_MARGIN = 1.5
"""By how much the threshold of the distance is above the largest honest value."""
MIN_CHECKS = 20
"""Fewest honest checks of a calibration: with fewer, the bounds come near the failure rate that is assumed of a
cheat."""
LEAST_SHORTFALL = 1.0
"""Lowest threshold of the shortfall in standard deviations."""
LEAST_DISTANCE = 0.005
"""Lowest threshold of the distance."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What a statistic must not exceed, and a bound on how often an honest check does, in parts per million."""

    threshold: float
    honest_ppm: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """The limits that are proposed after ``checks`` honest checks."""

    checks: int
    shortfall: Limit
    distance: Limit

    @property
    def test(self) -> SubstitutionTest:
        """The sequential test with these bounds."""
        return SubstitutionTest.make(self.shortfall.honest_ppm, self.distance.honest_ppm)

    def add(self, history: AccountHistory, measurement: Measurement) -> AccountHistory:
        """The history of an account after one more check."""
        shortfall_failed = measurement.shortfall > self.shortfall.threshold
        return self.test.add(history, shortfall_failed, measurement.distance > self.distance.threshold)


def calibrate(honest: Sequence[Measurement]) -> Calibration:
    """Propose limits from the checks of honest pairs.

    Raises:
        ValueError: there are fewer than :data:`MIN_CHECKS`.
    """
    count = len(honest)
    if count < MIN_CHECKS:
        raise ValueError(f"a calibration takes {MIN_CHECKS} honest checks or more, and there are {count}")
    shortfalls = sorted((each.shortfall for each in honest), reverse=True)
    above = int(SHORTFALL_RATE * count)
    shortfall = max(LEAST_SHORTFALL, shortfalls[above])
    distance = max(LEAST_DISTANCE, DISTANCE_MARGIN * max(each.distance for each in honest))
    return Calibration(
        checks=count,
        shortfall=Limit(shortfall, compute_honest_ppm(count, above)),
        distance=Limit(distance, compute_honest_ppm(count, 0)),
    )


class Holds(Enum):
    """Whether a limit of a network is kept by the honest answers of a calibration."""

    YES = "holds"
    NO = "does not hold"
    UNKNOWN = "is not known to hold"
    """There are too few checks to say."""


@dataclass(frozen=True, slots=True)
class NetworkLimit:
    """How honest answers compare with a limit of a network: ``above`` of the ``checks`` exceeded it.

    The network assumes that at most ``honest_ppm`` of honest checks do, in parts per million.
    """

    threshold: float
    honest_ppm: int
    above: int
    checks: int

    @property
    def bound_ppm(self) -> int:
        """Bound on the share of honest checks above the limit, in parts per million."""
        return compute_honest_ppm(self.checks, self.above)

    @property
    def holds(self) -> Holds:
        """Whether the limit can be relied on."""
        if self.bound_ppm <= self.honest_ppm:
            return Holds.YES
        return Holds.NO if self.above * PPM > self.honest_ppm * self.checks else Holds.UNKNOWN


def judge_limits(honest: Sequence[Measurement], network: CheckParameters) -> tuple[NetworkLimit, NetworkLimit]:
    """How the honest answers of an identity compare with a network's limits of the shortfall and of the distance."""
    shortfall, distance = network.max_shortfall / 1_000, network.max_distance / PPM
    above_shortfall = sum(each.shortfall > shortfall for each in honest)
    above_distance = sum(each.distance > distance for each in honest)
    return (
        NetworkLimit(shortfall, network.honest_shortfall_ppm, above_shortfall, len(honest)),
        NetworkLimit(distance, network.honest_distance_ppm, above_distance, len(honest)),
    )


def compute_honest_ppm(checks: int, above: int) -> int:
    """Bound on the share of honest checks above a threshold, if ``above`` of ``checks`` were: ppm, rounded up."""
    low, high, room = 0, PPM, (1 - CONFIDENCE) / 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _compute_at_most(checks, above, middle / PPM) <= room else (middle, high)
    return high


def _compute_at_most(trials: int, successes: int, probability: float) -> float:
    """Probability of ``successes`` or fewer in ``trials`` (binomial distribution)."""

    def compute(count: int) -> float:
        ways = math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1)
        return math.exp(ways + count * math.log(probability) + (trials - count) * math.log1p(-probability))

    return math.fsum(map(compute, range(successes + 1)))
