"""How soon credit and win rates order classes of nodes, and how many requests modelled engines serve."""

from __future__ import annotations

import math
from random import Random

import pytest

from benchmarks.quality.credit_order import (
    compute_credit_gaps,
    compute_ends_chance,
    compute_order_chance,
    compute_quadrant,
    compute_rate_gaps,
    enumerate_outcomes,
    find_requests,
)
from benchmarks.quality.equilibrium import make_qualities
from benchmarks.quality.incentives import (
    CURVES,
    EVALUATION,
    PUBLIC,
    QUALITY,
    compute_throughput,
    count_wins,
    draw_poisson,
    make_market,
    run_course,
    run_speed,
)

RATES = tuple(QUALITY["capacity"].values())
QUALITIES = make_qualities(RATES)
OUTCOMES = list(enumerate_outcomes(EVALUATION, QUALITIES))


def test_outcomes_are_all_and_pay_what_the_rules_say() -> None:
    assert sum(outcome.probability for outcome in OUTCOMES) == pytest.approx(1)
    levy, judges = EVALUATION.levy * EVALUATION.rate / 1_000_000, 3 * EVALUATION.judge / 1_000
    totals = {round(sum(outcome.credits), 6) for outcome in OUTCOMES}
    # Without a duel; an executor that wins against a challenger that loses; one that loses.
    assert totals == {round(1 - levy + more, 6) for more in (0, 0.4 + judges, judges)}


def test_gaps_are_those_of_the_formula() -> None:
    gaps = compute_credit_gaps(OUTCOMES)
    scale = 0.5 * 3 / sum(RATES)
    at_stake = (400 + 1_000 + 1_000) / 1_000
    # Each of six nodes executes and challenges as often.
    for mean, one, two in zip(gaps.means, RATES, RATES[1:], strict=False):
        assert mean == pytest.approx(0.25 * at_stake * (one - two) * scale / 6)
    rates = compute_rate_gaps(OUTCOMES)
    assert rates.means == pytest.approx([(RATES[0] - RATES[1]) * scale, (RATES[1] - RATES[2]) * scale])


@pytest.mark.parametrize(("one", "two", "correlation"), [(0.0, 0.0, 0.5), (0.0, 0.0, -0.5), (0.0, 0.0, 0.0)])
def test_quadrants_of_the_normal_distribution(one: float, two: float, correlation: float) -> None:
    assert compute_quadrant(one, two, correlation) == pytest.approx(
        0.25 + math.asin(correlation) / 2 / math.pi, abs=1e-6
    )
    assert compute_quadrant(9.0, 1.0, correlation) == pytest.approx(0.8413447, abs=1e-6)


def test_chances_of_the_order_are_those_of_sums() -> None:
    gaps = compute_credit_gaps(OUTCOMES)
    random, requests, runs = Random(3), 400, 400
    drawn = random.choices(OUTCOMES, [outcome.probability for outcome in OUTCOMES], k=requests * runs)
    right = ends = 0
    for run in range(runs):
        picked = drawn[run * requests : (run + 1) * requests]
        sums = [
            sum(outcome.credits[2 * number] + outcome.credits[2 * number + 1] for outcome in picked)
            for number in range(3)
        ]
        right += sums[0] > sums[1] > sums[2]
        ends += sums[0] > sums[2]
    assert right / runs == pytest.approx(compute_order_chance(gaps, requests), abs=0.08)
    assert ends / runs == pytest.approx(compute_ends_chance(gaps, requests), abs=0.06)


def test_requests_are_the_least_with_the_chance_and_may_never_come() -> None:
    found = find_requests(lambda requests: 1 - 1 / requests)
    assert found == pytest.approx(20)
    assert find_requests(lambda requests: 0.9) is None


def test_win_rates_on_the_ledger_are_the_input() -> None:
    market, players = make_market(EVALUATION, QUALITIES, seed=1)
    course = run_course(market, players, 1_500)
    won, met = count_wins(market, players)
    assert sum(won) == sum(met) / 2 == len(market.settled) > 300
    for wins, duels, rate in zip(won, met, RATES, strict=True):
        assert wins / duels == pytest.approx(rate, abs=4 * 0.5 / math.sqrt(duels))
    # All credit that the nodes have was paid to them by users, or out of the treasury.
    assert course.requests[-1] == 1_500 and 0 < sum(course.credits[-1]) * 2 < 1_500 * 1.1


def test_fast_engines_serve_more_once_there_is_too_much_for_all() -> None:
    speeds = [compute_throughput(curve) for curve in CURVES["hardware"]]
    assert speeds == sorted(speeds, reverse=True)

    def share(load: float) -> list[float]:
        servers, _, _ = run_speed("hardware", load, 600, seed=1)
        served = [sum(server.counts["served"] for server in servers if server.group == group) for group in range(3)]
        return [number / served[0] for number in served]

    idle, busy = share(0.1), share(1.5)
    assert idle[2] > 0.75
    for place, speed in enumerate(speeds):
        assert busy[place] == pytest.approx(speed / speeds[0], abs=0.12)


def test_arrivals_have_their_mean() -> None:
    random = Random(1)
    assert sum(draw_poisson(random, 3.0) for _ in range(2_000)) / 2_000 == pytest.approx(3.0, abs=0.15)
    assert PUBLIC.rate == 50
