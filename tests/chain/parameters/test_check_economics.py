"""Parameters of checks that contradict each other are refused by name, and the defaults are not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chain.exceptions import GenesisError
from chain.parameters.parameters import Parameters
from tests.support.chain_builder import make_test_genesis
from tests.support.chains.check_chain import CHECK_PARAMETERS, CHECKS
from tests.support.keys import make_keys


def check(parameters: Parameters) -> None:
    make_test_genesis(make_keys(4), parameters=parameters)


def change(**changes: int) -> Parameters:
    return replace(CHECK_PARAMETERS, checks=replace(CHECKS, **changes))


def test_the_defaults_hold() -> None:
    defaults = Parameters(min_validator_bond=1_000)
    check(replace(defaults, duels=replace(defaults.duels, rate=100)))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (change(checkers=2), "checkers 2 is even"),
        (change(checker=59), "checker 59 is less than the 60"),
        (change(levy=239), "levy 239 cannot pay for checks, which cost 240"),
        (change(checkers=5), "levy 240 cannot pay for checks, which cost 400"),
        (change(levy=251), "duels.levy 1750 and checks.levy 251 take more than was captured at a rate of 500"),
        (change(honest_shortfall_ppm=500_000), "honest_distance_ppm is out of range: a cheat must fail more often"),
        (change(honest_distance_ppm=500_000), "honest_distance_ppm is out of range: a cheat must fail more often"),
        (change(shortfall_tolerance=2_500), "reports would agree on anything"),
        (change(distance_tolerance=50_000), "reports would agree on anything"),
        (change(commit_ms=84_001), "101000 ms, before the longest check, 101001 ms"),
        (change(reveal_ms=81_001), "101000 ms, before the longest check, 101001 ms"),
    ],
)
def test_what_cannot_work_is_refused(parameters: Parameters, message: str) -> None:
    with pytest.raises(GenesisError, match=message):
        check(parameters)
    check(replace(parameters, duels=replace(parameters.duels, rate=0)))
    check(replace(parameters, checks=replace(parameters.checks, checkers=0)))


def test_what_is_just_enough_is_enough() -> None:
    check(change(checker=60, levy=250, commit_ms=84_000, honest_shortfall_ppm=499_999))
