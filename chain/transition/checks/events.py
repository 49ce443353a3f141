"""What a block did about checks of the model. No rule depends on it: nodes, audits and people learn of checks by it."""

from __future__ import annotations

from dataclasses import dataclass

from chain.state.check_records import ModelCheck
from chain.state.sequential_test import AccountHistory
from chain.transition.checks.finding import CheckFinding
from chain.transition.duels.money import Movement


@dataclass(frozen=True, slots=True)
class CheckOpened:
    """A check was drawn; ``check`` says of whom, and by whom."""

    hold: bytes
    check: ModelCheck


@dataclass(frozen=True, slots=True)
class CheckSettled:
    """A check came to its end. ``check`` is as it was then, ``movements`` what each account got or paid by that.

    ``history`` is that of the executor under the identity, with this check; it ends with a check that
    ``is_substitution``.
    """

    hold: bytes
    check: ModelCheck
    finding: CheckFinding
    history: AccountHistory
    is_substitution: bool
    movements: tuple[Movement, ...]


CheckEvent = CheckOpened | CheckSettled
