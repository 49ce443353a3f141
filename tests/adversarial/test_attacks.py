"""Nothing is gained by any of the attacks in ``attacks/``."""

from __future__ import annotations

import pytest

from tests.adversarial.attacks.table import Attack, find_attacks, is_answered


@pytest.mark.parametrize("attack", find_attacks().values(), ids=find_attacks().keys())
def test_nothing_is_gained(attack: Attack) -> None:
    outcome = attack.run()
    assert is_answered(attack, outcome), outcome
    assert outcome.unit == attack.before.unit
