"""After how many requests credit, or the win rate, orders three classes of nodes by quality.

Each class has ``REPLICAS`` nodes of equal stake. What one request moves is enumerated: who executes, whether there is a
duel, against whom, who wins, who judges. The sum over n requests tends to a normal distribution with n times the mean
and the covariance of one, so that the probability of the right order is that of a quadrant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

from chain.parameters.duels import DuelParameters

REPLICAS = 2
"""Nodes of each class."""
POINTS = 400
"""Intervals of an integration."""
SPAN = 8.0
"""Standard deviations below the mean from which on nothing is left to integrate."""
MAX_REQUESTS = 10**12
"""Requests after which an order that has not come is said never to come."""
NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one request may lead to; ``credits`` are by node, in prices of a request.

    ``winner`` and ``loser`` are None without a duel.
    """

    probability: float
    credits: tuple[float, ...]
    winner: int | None = None
    loser: int | None = None


@dataclass(frozen=True, slots=True)
class Gaps:
    """Means and covariance, per request, of the lead of the first class over the second, and of that over the third."""

    means: tuple[float, float]
    variances: tuple[float, float]
    covariance: float


def enumerate_outcomes(duels: DuelParameters, qualities: Sequence[float]) -> Iterator[Outcome]:
    """All that a request of price 1 may lead to, where judges see without error who is better."""
    classes = [number for number in range(len(qualities)) for _ in range(REPLICAS)]
    nodes = range(len(classes))
    rate = duels.rate / 1_000
    income = 1 - duels.levy * rate / 1_000
    won, lost, judge = duels.executor_won / 1_000, duels.executor_lost / 1_000, duels.judge / 1_000

    def pay(*amounts: tuple[int, float]) -> tuple[float, ...]:
        credits = [0.0] * len(classes)
        for node, amount in amounts:
            credits[node] += amount
        return tuple(credits)

    for executor in nodes:
        yield Outcome((1 - rate) / len(nodes), pay((executor, income)))
        for challenger in nodes:
            if challenger == executor:
                continue
            panels = list(combinations([node for node in nodes if node not in (executor, challenger)], duels.judges))
            each = rate / len(nodes) / (len(nodes) - 1) / len(panels)
            win = (1 + qualities[classes[executor]] - qualities[classes[challenger]]) / 2
            for panel in panels:
                paid = [(node, judge) for node in panel]
                better = pay((executor, income + won), (challenger, duels.challenger_lost / 1_000), *paid)
                worse = pay((executor, income - lost), (challenger, duels.challenger / 1_000), *paid)
                yield Outcome(each * win, better, executor, challenger)
                yield Outcome(each * (1 - win), worse, challenger, executor)


def compute_credit_gaps(outcomes: Sequence[Outcome]) -> Gaps:
    """The gaps of the mean credit of a class."""
    return _compute_gaps(outcomes, lambda outcome: _average(outcome.credits))


def compute_rate_gaps(outcomes: Sequence[Outcome]) -> Gaps:
    """The gaps of the win rates, times the number of requests: each class's duels are taken as many as expected."""
    classes = len(outcomes[0].credits) // REPLICAS
    won, met = [0.0] * classes, [0.0] * classes
    for outcome in outcomes:
        if outcome.winner is not None and outcome.loser is not None:
            won[outcome.winner // REPLICAS] += outcome.probability
            for node in (outcome.winner, outcome.loser):
                met[node // REPLICAS] += outcome.probability
    rates = [wins / duels for wins, duels in zip(won, met, strict=True)]

    def value(outcome: Outcome) -> list[float]:
        values = list(rates)
        if outcome.winner is not None and outcome.loser is not None:
            one, other = outcome.winner // REPLICAS, outcome.loser // REPLICAS
            values[one] += (1 - rates[one]) / met[one]
            values[other] -= rates[other] / met[other]
        return values

    return _compute_gaps(outcomes, value)


def _average(credits: Sequence[float]) -> list[float]:
    """The mean of each class."""
    return [sum(credits[start : start + REPLICAS]) / REPLICAS for start in range(0, len(credits), REPLICAS)]


def _compute_gaps(outcomes: Sequence[Outcome], value: Callable[[Outcome], Sequence[float]]) -> Gaps:
    found = []
    for outcome in outcomes:
        first, second, third = value(outcome)
        found.append((outcome.probability, first - second, second - third))
    means = (sum(p * one for p, one, _ in found), sum(p * two for p, _, two in found))
    variances = (sum(p * one**2 for p, one, _ in found), sum(p * two**2 for p, _, two in found))
    covariance = sum(p * one * two for p, one, two in found) - means[0] * means[1]
    return Gaps(means, (variances[0] - means[0] ** 2, variances[1] - means[1] ** 2), covariance)


def compute_order_chance(gaps: Gaps, requests: float) -> float:
    """The probability that all three classes stand in the right order after a number of requests."""
    one, two = (
        math.sqrt(requests) * mean / math.sqrt(variance)
        for mean, variance in zip(gaps.means, gaps.variances, strict=True)
    )
    correlation = gaps.covariance / math.sqrt(gaps.variances[0] * gaps.variances[1])
    return compute_quadrant(one, two, correlation)


def compute_ends_chance(gaps: Gaps, requests: float) -> float:
    """The probability that the first class stands above the third."""
    mean, variance = sum(gaps.means), sum(gaps.variances) + 2 * gaps.covariance
    return NORMAL.cdf(math.sqrt(requests) * mean / math.sqrt(variance))


def compute_quadrant(one: float, two: float, correlation: float) -> float:
    """P(X < one, Y < two) of two standard normal variables with a correlation, by Simpson's rule."""
    rest = math.sqrt(1 - correlation**2)
    low, high = -SPAN, min(one, SPAN)
    if high <= low:
        return 0.0
    width = (high - low) / POINTS
    total = 0.0
    for number in range(POINTS + 1):
        x = low + number * width
        weight = 1 if number in (0, POINTS) else 4 if number % 2 else 2
        total += weight * NORMAL.pdf(x) * NORMAL.cdf((two - correlation * x) / rest)
    return total * width / 3


def find_requests(chance: Callable[[float], float], wanted: float = 0.95) -> float | None:
    """The least number of requests with a chance of ``wanted``; None if that never comes."""
    if chance(MAX_REQUESTS) < wanted:
        return None
    low, high = 0.0, math.log(MAX_REQUESTS)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if chance(math.exp(middle)) >= wanted else (middle, high)
    return math.exp(high)
