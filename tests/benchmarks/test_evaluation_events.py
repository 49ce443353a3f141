"""Evaluation of events and policies: what is counted, and small runs of each kind."""

from __future__ import annotations

import math

import pytest

from benchmarks.evaluation import dynamics, mixed, policies
from benchmarks.evaluation.harness import Task
from benchmarks.evaluation.policies import MAX_DEVIATION, Count, compute_deviation
from benchmarks.evaluation.replay import TIMEOUT_S, Result
from benchmarks.report import get_percentile


def test_a_share_is_off_by_standard_errors_of_independent_decisions() -> None:
    assert compute_deviation(Count(60, 100), 0.5) == pytest.approx(2.0)
    assert compute_deviation(Count(100, 100), 1.0) == 0.0
    assert compute_deviation(Count(99, 100), 1.0) == math.inf


def test_a_window_counts_misses_with_the_time_that_users_wait() -> None:
    results = (Result(0, 0, 10.0, 5.0, 1), Result(1, 0, 20.0, TIMEOUT_S, None), Result(2, 0, 90.0, 7.0, 0))
    outcome = dynamics.Outcome(results, ())
    first, second, third, fourth = dynamics.compute_windows([outcome], 120.0, 4)
    assert first == (5.0 + TIMEOUT_S) / 2 and math.isnan(second) and math.isnan(third) and fourth == 7.0
    assert dynamics.compute_mean_after(outcome, 15.0) == (TIMEOUT_S + 7.0) / 2


def test_goodput_counts_whole_answers_within_the_deadline_alone() -> None:
    late = mixed.DEADLINE_S + 1
    results = (Result(0, 1, 0.0, 5.0, 1), Result(1, 1, 0.0, late, 1), Result(2, 1, 0.0, TIMEOUT_S, None))
    assert mixed.compute_goodput(mixed.Outcome(results), 10.0) == 0.1


@pytest.mark.long
@pytest.mark.parametrize("experiment", ["stake", "acceptance", "offload"])
def test_shares_are_as_expected(experiment: str) -> None:
    counts = policies.work(Task("market", experiment, 1, "60"))
    expected = policies.get_expected(experiment)
    assert sum(count.hits for count in counts) > 30
    for count, share in zip(counts, expected, strict=True):
        assert compute_deviation(count, share) < MAX_DEVIATION


@pytest.mark.long
def test_a_node_that_joins_is_given_work_and_one_that_left_is_not() -> None:
    joined = dynamics.work(Task("market", "join", 1, "300"))
    assert None not in joined.delays
    assert {result.executor for result in joined.results} >= {2, 3}
    left = dynamics.work(Task("market", "leave", 1, "150"))
    assert all(result.is_answered or result.executor is None for result in left.results)
    assert left.delays[0] is None or left.delays[0] < 1.0


@pytest.mark.long
def test_requests_of_an_executor_that_stalls_are_given_to_others_and_paid_once() -> None:
    # Only few requests are on their way to the node when it stalls, in some workloads none.
    outcomes = [mixed.work(Task("mixed", mixed.STALLS, seed, "60")) for seed in (4, 7, 9)]
    beyond = [late for outcome in outcomes for late in outcome.beyond]
    assert beyond and get_percentile(beyond, 50) < mixed.MAX_BEYOND_S
    assert not any(outcome.paid_in_vain for outcome in outcomes)


@pytest.mark.long
def test_hedges_are_few_and_give_answers() -> None:
    outcome = mixed.work(Task("mixed", mixed.HICCUPS_HEDGED, 1, "60"))
    assert 0 < outcome.hedges <= mixed.MAX_HEDGES * outcome.attempts
    assert outcome.hedges_won and outcome.paid_in_vain <= outcome.hedges
