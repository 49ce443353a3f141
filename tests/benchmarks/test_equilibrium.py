"""The stake dynamics of the paper: its forms agree, its condition says who grows, and the ledger plays the game."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from benchmarks.quality.duel_conditions import (
    SUBSTITUTIONS,
    compute_exposure,
    compute_needed_rate,
    compute_saving,
    compute_verdict_gap,
)
from benchmarks.quality.equilibrium import CASES, WIN_RATES, make_qualities, summarize
from benchmarks.quality.ledger_players import compare_by_quality, fit_parameters, make_players, play_on_ledger
from benchmarks.quality.stake_dynamics import (
    Game,
    compute_majority,
    find_critical_share,
    integrate,
    normalize,
    play,
    solve,
)
from chain.parameters.duel_economics import check_duels
from chain.parameters.duels import DuelParameters
from tests.support.strategies.market_agents import Text

PLAIN = {name: game for name, game in CASES.items() if game.friends is None}


@pytest.mark.parametrize("name", PLAIN)
def test_ode_and_closed_form_agree(name: str) -> None:
    assert integrate(PLAIN[name], 1_000).shares == pytest.approx(solve(PLAIN[name], 1_000), abs=1e-6)


@pytest.mark.parametrize("name", PLAIN)
def test_the_condition_says_which_class_grows(name: str) -> None:
    game = PLAIN[name]
    before, after = normalize(game.stakes), integrate(game, 1_000).shares
    assert (after[0] / after[-1] > before[0] / before[-1]) == (game.compute_margin(0, -1) > 0)


def test_agents_follow_the_ode_and_no_quality_is_pure_luck() -> None:
    game = Game((0.9, 0.1), (0.5, 0.5), (50, 50), accounts=4)
    found = summarize([play(game, 500, Random(seed)) for seed in range(100)])
    assert found.shares[0] == pytest.approx(integrate(game, 500).shares[0], abs=4 * found.error)
    assert found.shares[0] > 0.5 + 4 * found.error
    equal = Game((0.5, 0.5), (0.5, 0.5), (50, 50))
    assert integrate(equal, 500).shares == pytest.approx([0.5, 0.5])


def test_stake_is_gone_when_the_closed_form_says() -> None:
    ends = {name: game.compute_end() for name, game in CASES.items()}
    assert {name for name, end in ends.items() if end is not None} == {"R below cost", "P above margin"}
    for name, end in ends.items():
        if end is not None:
            assert integrate(CASES[name], 2 * end).end == pytest.approx(end, rel=0.01)


def test_colluding_judges_win_half_of_their_duels_from_the_critical_share_on() -> None:
    share = find_critical_share(0.6)
    game = Game((0.9, 0.3), (0.5, 0.5), (1 - share, share), friends=1)
    assert game.compute_win(1, 0, share) == pytest.approx(0.5)
    assert game.compute_win(0, 1, share) == pytest.approx(0.5)
    assert compute_majority(0.0) == 0 and compute_majority(0.5) == 0.5 and compute_majority(1.0) == 1


def test_an_account_is_not_its_own_opponent_where_accounts_are_counted() -> None:
    game = Game((0.9, 0.1), (0.5, 0.5), (1, 1), accounts=1)
    assert game.compute_payoffs((1.0, 1.0))[0] == pytest.approx(1 - 0.5 + 0.25 * (0.9 - 0.1))


def test_qualities_give_the_win_rates() -> None:
    qualities = make_qualities(WIN_RATES)
    for number, rate in enumerate(WIN_RATES):
        others = [quality for quality in qualities for _ in range(2)]
        others.remove(qualities[number])
        found = sum((1 + qualities[number] - other) / 2 for other in others) / len(others)
        assert found == pytest.approx(rate * 1.5 / sum(WIN_RATES))


def test_the_better_text_wins_as_often_as_the_game_says_and_in_any_order() -> None:
    random = Random(1)
    won = 0
    for _ in range(4_000):
        good, bad = (Text(b"", score, 1, random.randbytes(32)) for score in (0.9, 0.3))
        assert compare_by_quality(good, bad) == -compare_by_quality(bad, good)
        won += compare_by_quality(good, bad) > 0
    assert won / 4_000 == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("name", CASES)
def test_the_ledger_can_play_every_case(name: str) -> None:
    game = CASES[name]
    parameters = fit_parameters(game)
    duels, price = parameters.duels, parameters.price.per_request / 1_000_000
    check_duels(parameters)
    assert price * (1 - duels.levy * duels.rate / 1_000_000) == pytest.approx(game.reward, abs=1e-3)
    assert price * duels.executor_won / 1_000 == pytest.approx(game.bonus, rel=0.01)
    assert price * duels.executor_lost / 1_000 == pytest.approx(game.penalty, rel=0.01)


def test_stakes_on_the_ledger_grow_by_what_the_game_pays() -> None:
    """Without duels the game has no chance in it but who is drawn."""
    game = replace(CASES["equal costs"], accounts=2, duel_rate=0.001)
    assert sum(play_on_ledger(game, 200, seed=1)) == pytest.approx(300 + 200 * 0.5, abs=2)
    assert sum(player.bonded for player in make_players([(0.5, 0.5, 10.0)], 4)) == 10_000_000


def test_our_verdicts_against_what_a_worse_model_saves() -> None:
    duels = DuelParameters(rate=50)
    worst = SUBSTITUTIONS[0]
    assert compute_verdict_gap(duels, worst.win_gap) == pytest.approx(0.05 * 1.15 * 0.18)
    assert compute_needed_rate(duels, worst.win_gap, worst.gain) is None
    rate = compute_needed_rate(duels, 0.5, 0.05)
    assert rate is not None
    needed = replace(duels, rate=round(1_000 * rate))
    assert compute_verdict_gap(needed, 0.5) == pytest.approx(compute_saving(needed, 0.05), rel=0.02)


@pytest.mark.parametrize("win_rate", [0.5, 0.45, 0.32])
def test_exposure_is_the_odds_to_the_power_of_the_exponent(win_rate: float) -> None:
    assert compute_exposure(win_rate, 3) == pytest.approx((win_rate / (1 - win_rate)) ** 3, rel=0.01)
