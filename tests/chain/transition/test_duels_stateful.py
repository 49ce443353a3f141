"""Duels against their specification: random histories must leave both in the same state."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import seed, settings
from hypothesis.stateful import run_state_machine_as_test

from chain.state.judge_records import DIFFERENT, SAME
from chain.transition.duels.verdict import DuelVerdict
from tests.chain.specification.operations import DONE, REFUSED
from tests.chain.transition.duel_machine import DuelMachine

SELDOM = {DuelVerdict.FRAUD, DuelVerdict.NOT_CONFIRMED}
"""Verdicts that take two panels: random ballots seldom come to them."""


@pytest.mark.parametrize(
    ("seeds", "examples", "enough"), [((13, 17, 31), 2, 1), pytest.param(range(20), 4, 10, marks=pytest.mark.long)]
)
def test_both_come_to_the_same_verdicts(seeds: Sequence[int], examples: int, enough: int) -> None:
    """Every operation is included and refused, and every verdict given, often enough. If not, there are more rounds."""
    DuelMachine.outcomes.clear()
    DuelMachine.verdicts.clear()
    DuelMachine.repeats.clear()
    kinds = [(kind, outcome) for kind in ("DuelAnswer", "DuelCommit", "DuelReveal") for outcome in (DONE, REFUSED)]

    def is_enough() -> bool:
        counts = [DuelMachine.outcomes[each] for each in kinds]
        counts += [DuelMachine.verdicts[each] for each in DuelVerdict if each not in SELDOM]
        counts += [DuelMachine.repeats[each] for each in (SAME, DIFFERENT)]
        return min(counts) >= enough

    for number in (*seeds, *range(20, 120)):
        if number >= 20 and is_enough():
            break
        machine = settings(max_examples=examples, stateful_step_count=20)
        run_state_machine_as_test(seed(number)(DuelMachine), settings=machine)
    assert is_enough(), (DuelMachine.outcomes, DuelMachine.verdicts)
