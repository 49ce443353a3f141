"""No strategy in duels pays, beyond what is accepted for a stated reason; and honesty costs no more than it should."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean

import pytest

from chain.parameters.duels import DEFAULT_RATE
from tests.adversarial.duels.checkers import ALONE, FEW, HONEST_CHECKER
from tests.adversarial.duels.honest import Burden, measure_burden
from tests.adversarial.duels.judges import HONEST_JUDGE
from tests.adversarial.duels.rubbish import BELIEFS, compare_shares
from tests.adversarial.duels.strategy import ATTACKER, ERRORS, QUICK, Scene, Size, Strategy, is_answered, measure
from tests.adversarial.duels.substitutes import Substitute
from tests.adversarial.duels.table import FAMILIES, find_strategies
from tests.support.strategies.check_market import CheckMarket
from tests.support.strategies.ledger_market import DUEL_RATE

STRATEGIES = [pytest.param(each, id=each.title) for family in FAMILIES for each in find_strategies(family)]
MOST = {DUEL_RATE: (100, 80), DEFAULT_RATE: (110, 170)}
"""By the rate of duels: thousandths of a price that an honest node may lose by each answer, and thousandths of what the
answers cost that all inference for duels and checks may cost."""


@pytest.mark.parametrize("strategy", [each for each in STRATEGIES if each.values[0].quick])  # type: ignore[attr-defined]
def test_nothing_is_gained(strategy: Strategy) -> None:
    assert is_answered(strategy, gain := measure(strategy, strategy.quick)), gain


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_is_gained_in_many_requests(strategy: Strategy) -> None:
    assert is_answered(strategy, gain := measure(strategy)), gain
    assert bool(strategy.accepted) == (strategy.limit > 0)


def test_other_weights_than_declared_are_found_soon_and_lose() -> None:
    """With half of the answers checked; so that few requests do."""
    honest, cheating = ALONE.play(90, 1), replace(ALONE, agent=Substitute).play(90, 1)
    assert isinstance(cheating, CheckMarket)
    found = [event for event in cheating.checked if event.is_substitution]
    assert found and all(cheating.agents[event.check.executor].owner == ATTACKER for event in found)
    assert found[0].history.distance.checks == found[0].history.distance.failures == 8
    assert cheating.gain(ATTACKER) < honest.gain(ATTACKER)


def test_an_honest_checker_gains_more_than_scoring_costs() -> None:
    gain = measure(HONEST_CHECKER, FEW)
    assert gain.mean - ERRORS * gain.error > 0


def test_an_honest_judge_gains_more_than_judging_costs() -> None:
    gain = measure(HONEST_JUDGE, QUICK)
    assert gain.mean - ERRORS * gain.error > 0


@pytest.mark.parametrize(
    "size", [pytest.param(Size(350, 2), id="short"), pytest.param(Size(1_400, 4), id="long", marks=pytest.mark.long)]
)
@pytest.mark.parametrize("scene", BELIEFS.values(), ids=BELIEFS)
def test_no_one_can_tell_which_answers_will_be_compared(scene: Scene, size: Size) -> None:
    """Of duels no smaller part is about rubbish than of answers, beyond what chance may bring."""
    answers, rubbish, duels, caught = compare_shares(scene, size)
    share = rubbish / answers
    assert 0 < share < 1 and caught / duels > share - ERRORS * math.sqrt(share * (1 - share) / duels)


@pytest.mark.parametrize(
    ("rate", "size"),
    [
        pytest.param(DEFAULT_RATE, Size(1_000, 2), id="short"),
        pytest.param(DEFAULT_RATE, Size(10_000, 4), id="long", marks=pytest.mark.long),
        pytest.param(DUEL_RATE, Size(20_000, 4), id="long, rare", marks=pytest.mark.long),
    ],
)
def test_honesty_costs_little(rate: int, size: Size) -> None:
    burdens: list[Burden] = [measure_burden(rate, size.requests, seed) for seed in range(size.seeds)]
    lost, work = MOST[rate]
    assert fmean(burden.lost for burden in burdens) <= lost
    assert fmean(burden.work_of_inference for burden in burdens) <= work
