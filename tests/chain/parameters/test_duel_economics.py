"""Parameters of duels that contradict each other are refused by name, and the defaults are not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chain.exceptions import GenesisError
from chain.genesis import load_genesis
from chain.parameters.parameters import Parameters, Price, choose_parameters
from chain.transition.duels.money import compute_levy
from tests.support.chain_builder import make_test_genesis
from tests.support.chains.duel_chain import DUEL_PARAMETERS, DUELS
from tests.support.keys import make_keys

PUBLIC = Parameters(min_validator_bond=1_000)
"""The defaults, with validators that tests can afford."""


def check(parameters: Parameters) -> None:
    make_test_genesis(make_keys(4), parameters=parameters)


def test_duels_that_punish_no_useless_answer_need_no_fine() -> None:
    check(change(fraud=0))
    check(change(fraud=1_516))


@pytest.mark.parametrize("rate", [1, 7, 24, 49, 50, 250])
def test_the_rarer_duels_are_the_more_is_at_stake(rate: int) -> None:
    parameters = choose_parameters(rate, PUBLIC)
    check(parameters)
    duels = parameters.duels
    assert duels.rate == rate and duels.lock == duels.fraud
    expected = max(rate, 50) * 20_000
    assert expected - rate < duels.fraud * rate <= expected
    assert expected // 10 - rate < duels.void * rate <= expected // 10
    assert parameters.min_service_bond == 1_000_000 * 50 // min(rate, 50)


def test_without_duels_nothing_is_at_stake() -> None:
    assert choose_parameters(0, PUBLIC) == PUBLIC


@pytest.mark.parametrize("rate", [0, 50, 250])
def test_the_defaults_hold_at_any_rate_that_the_levy_can_carry(rate: int) -> None:
    parameters = replace(PUBLIC, duels=replace(PUBLIC.duels, rate=rate))
    check(parameters)
    assert compute_levy(parameters.duels, 1_000_000, rate) == 1_750 * rate


def change(**changes: int) -> Parameters:
    return replace(DUEL_PARAMETERS, duels=replace(DUELS, **changes))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (change(judges=2), "judges 2 is even"),
        (change(judge=295, executor_lost=300), "judge 295 earns a judge less than the 245"),
        (change(executor_lost=501), "a verdict is worth 751 .* it would be bought"),
        (change(executor_won=251), "a verdict is worth 751 .* it would be bought"),
        (change(challenger_lost=1_001), "it would pay to lose"),
        (
            change(guessing=34_900, repeat_rate=143),
            "guessing 34900, at a duels.repeat_rate of 143, costs a judge that guesses",
        ),
        (change(repeat_rate=0), "at a duels.repeat_rate of 0"),
        (change(fraud=1_515), "fraud 1515, at a duels.rate of 500, costs .* less .* than the 500 that it saves"),
        (replace(PUBLIC, duels=replace(PUBLIC.duels, rate=37)), "fraud 20000, at a duels.rate of 37, costs"),
        (change(levy=1_555), "levy 1555 cannot pay for duels, which cost 1556 on average"),
        (change(rate=572), "levy 1750 takes more than was captured at a rate of 572"),
        (change(lock=19_999), "lock 19999 is less than the penalty 20000"),
        (change(void=20_001), "lock 20000 is less than the penalty 20001"),
        (change(fraud=20_001), "lock 20000 is less than the penalty 20001"),
        (
            change(
                executor_lost=20_001, judge=14_000, levy=50_000, rate=20, probation_rate=20, repeat_rate=250, fraud=0
            ),
            "less than the penalty 20001",
        ),
        (replace(DUEL_PARAMETERS, min_service_bond=1_999), "min_service_bond 1999 is less than .* 2000"),
        (replace(DUEL_PARAMETERS, price=Price(101, 1, 10)), "min_service_bond 2000 is less than .* 2020"),
        (replace(DUEL_PARAMETERS, unbonding_epochs=69), "may be over in 70000 ms, before the longest duel, 71000 ms"),
        (change(reveal_ms=DUELS.reveal_ms + 15_001), "101000 ms, before the longest duel, 101002 ms"),
    ],
)
def test_what_cannot_work_is_refused(parameters: Parameters, message: str) -> None:
    with pytest.raises(GenesisError, match=message):
        check(parameters)
    check(replace(parameters, duels=replace(parameters.duels, rate=0)))


def test_a_bond_that_leaves_just_after_the_longest_duel_is_long_enough() -> None:
    check(replace(DUEL_PARAMETERS, unbonding_epochs=70))
    check(change(reveal_ms=DUELS.reveal_ms + 15_000))


def test_a_genesis_file_may_leave_out_what_it_does_not_change(tmp_path: Path) -> None:
    path = tmp_path / "genesis.json"
    genesis = make_test_genesis(make_keys(4), parameters=replace(PUBLIC, duels=replace(PUBLIC.duels, rate=50)))
    path.write_text(genesis.to_json())
    assert load_genesis(path) == genesis
    content: dict[str, Any] = json.loads(genesis.to_json())
    content["parameters"]["duels"] = {"rate": 50}
    path.write_text(json.dumps(content))
    assert load_genesis(path) == genesis
    content["parameters"]["duels"] = {"rate": 50, "judges": 4}
    path.write_text(json.dumps(content))
    with pytest.raises(GenesisError, match=r"genesis.json.*judges 4 is even"):
        load_genesis(path)
