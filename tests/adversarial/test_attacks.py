"""Nothing is gained by any of the attacks in ``attacks/``."""

from __future__ import annotations

import pytest

from tests.adversarial.attacks.table import Attack, find_attacks, is_answered

SLOW = {"unpaid_offers", "state_growth", "clock_fingerprint"}
"""Attacks that take long to play; other tests of their rules are shorter."""


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(attack, id=name, marks=[pytest.mark.long] if name in SLOW else [])
        for name, attack in find_attacks().items()
    ],
)
def test_nothing_is_gained(attack: Attack) -> None:
    outcome = attack.run()
    assert is_answered(attack, outcome), outcome
    assert outcome.unit == attack.before.unit
