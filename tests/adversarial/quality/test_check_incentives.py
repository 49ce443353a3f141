"""Liars in checks of the model: what a checker gains that guesses, and what accusers and shields can do by their share.

The numbers are those of the default parameters. Honest measurements of one answer differ by rounding alone; those of
different answers differ by chance, which is what a guesser cannot know.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from chain.crypto import hash_bytes
from chain.parameters.check_economics import SCORING_COST
from chain.parameters.parameters import Parameters
from chain.state.check_records import CHECK_REVEAL, CheckerSeat, ModelCheck
from chain.state.sequential_test import AccountHistory, SubstitutionTest
from chain.transition.checks.finding import decide
from chain.transition.checks.settlement import compute_dues
from chain.types.checks import CheckReport, make_measured_report

PARAMETERS = Parameters()
CHECKS = PARAMETERS.checks
TEST = SubstitutionTest.make(CHECKS.honest_shortfall_ppm, CHECKS.honest_distance_ppm)
PRICE = 1_000
"""Micro-credits of an answer: a share is then its thousandths."""
ACCUSED, SHIELDED = make_measured_report(9.0, 0.5), make_measured_report(0.0, 0.005)
"""What accusers report of an honest answer, and shields of another one."""

Measure = Callable[[], CheckReport]


def make_check(reports: list[CheckReport]) -> ModelCheck:
    keys = [hash_bytes("test checker", bytes([number])) for number in range(len(reports))]
    seats = tuple(CheckerSeat(key, bytes(32), report) for key, report in zip(keys, reports, strict=True))
    digest = bytes(32)
    return ModelCheck(
        digest, digest, "m", digest, PRICE, digest, digest, digest, digest, CHECK_REVEAL, 0, seats, locked=0, reserved=0
    )


def draw_answer(chance: random.Random, cheats: bool = False) -> Measure:
    """What honest checkers measure of one answer."""
    shortfall, distance = chance.gauss(4.0 if cheats else 0.0, 1.0), chance.uniform(0.002, 0.02)
    return lambda: make_measured_report(shortfall + chance.uniform(-0.2, 0.2), distance + chance.uniform(0, 0.002))


def test_a_checker_that_guesses_loses_more_than_it_saves() -> None:
    """Even one that knows how honest answers are distributed."""
    chance, gained, rounds = random.Random(5), 0, 4_000
    for _ in range(rounds):
        measure, guess = draw_answer(chance), draw_answer(chance)
        check = make_check([guess(), measure(), measure()])
        dues = {due.public_key: due.amount for due in compute_dues(PARAMETERS, check, decide(CHECKS, check))}
        gained += dues[check.seats[0].public_key]
        assert all(dues[seat.public_key] == CHECKS.checker for seat in check.seats[1:])
    assert gained / rounds < -2 * SCORING_COST


def test_two_that_guess_pay_each_other_nothing() -> None:
    chance, gained, rounds = random.Random(6), 0, 4_000
    for _ in range(rounds):
        check = make_check([draw_answer(chance)() for _ in range(3)])
        gained += sum(due.amount for due in compute_dues(PARAMETERS, check, decide(CHECKS, check)))
    assert gained < 0


def run_checks(seed: int, share: float, lie: CheckReport, cheats: bool) -> Iterator[AccountHistory]:
    """The history of an account after each check, if so large a share of the stake under its identity tells a lie."""
    chance, history = random.Random(seed), AccountHistory()
    while True:
        measure = draw_answer(chance, cheats)
        check = make_check([lie if chance.random() < share else measure() for _ in range(3)])
        finding = decide(CHECKS, check)
        if finding.is_counted:
            history = TEST.add(history, finding.shortfall_failed, finding.distance_failed)
        yield history


def count_found(share: float, lie: CheckReport, *, cheats: bool, checks: int, accounts: int = 60) -> int:
    """How many accounts are found guilty within so many checks."""

    def is_found(number: int) -> bool:
        histories = run_checks(number, share, lie, cheats)
        return any(TEST.is_substitution(next(histories)) for _ in range(checks))

    return sum(map(is_found, range(accounts)))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2])
def test_a_fifth_of_the_stake_cannot_have_honest_executors_punished(share: float) -> None:
    assert count_found(share, ACCUSED, cheats=False, checks=300) == 0


def test_two_fifths_of_the_stake_can() -> None:
    """As the protocol says of what is weak: two of three checkers decide."""
    assert count_found(0.4, ACCUSED, cheats=False, checks=300) > 10


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_a_cheat_is_found_soon_although_a_fifth_of_the_stake_shields_it(share: float) -> None:
    assert count_found(share, SHIELDED, cheats=True, checks=20) == 60


def test_one_accuser_of_three_moves_no_finding() -> None:
    chance = random.Random(7)
    for _ in range(200):
        measure = draw_answer(chance)
        honest = [measure(), measure()]
        finding = decide(CHECKS, make_check([*honest, ACCUSED]))
        alone = decide(replace(CHECKS, checkers=1), make_check(honest[:1]))
        assert (finding.shortfall_failed, finding.distance_failed) == (alone.shortfall_failed, alone.distance_failed)
        assert finding.differed == (make_check([*honest, ACCUSED]).seats[2].public_key,)
