"""A payer that has an honest executor punished spends about as much as it destroys, and its rival gains nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.adversarial.duels.aimed import ALONE, CHEAP, WITH_RIVAL, NewVictim, measure_damage
from tests.adversarial.duels.strategy import Scene, Size

FULL, SHORT = Size(1_600, 4), Size(800, 1)
WORST = replace(WITH_RIVAL, payer_options=CHEAP)
"""The victim's probation would pay its rival, if a cheap fraud could bring it about."""
CASES = {
    "alone": (replace(ALONE, only_own_requests=True), 1.5),
    "alone, at a newcomer": (replace(ALONE, others=NewVictim, only_own_requests=True), 1.75),
    "alone, beside users": (ALONE, 2.25),
    "alone, cheaply, beside users": (replace(ALONE, payer_options=CHEAP), 1.5),
    "with a rival": (replace(WITH_RIVAL, only_own_requests=True), 2.25),
    "with a rival, beside users": (WITH_RIVAL, 3.0),
    "with a rival, cheaply, beside users": (WORST, 1.25),
}
"""Attacks, and how many prices a victim may lose for each that the attacker spends."""


@pytest.mark.parametrize(
    ("scene", "limit", "size"),
    [
        pytest.param(WORST.sooner, 1.25, SHORT, id="short"),
        *(pytest.param(*case, FULL, id=title, marks=pytest.mark.long) for title, case in CASES.items()),
    ],
)
def test_who_has_an_executor_punished_spends_about_as_much(scene: Scene, limit: float, size: Size) -> None:
    damage = measure_damage(scene, size)
    assert damage.spent > 0 and damage.lost < limit * damage.spent, damage
