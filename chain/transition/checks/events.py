"""Events of checks of the model in a block. No rule depends on them: they inform nodes, audits and people."""

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
    """A check has ended. ``check`` is its last state, ``movements`` what each account got or paid.

    ``history`` is that of the executor under the identity, with this check included. A check that ``is_substitution``
    ends the history.
    """

    hold: bytes
    check: ModelCheck
    finding: CheckFinding
    history: AccountHistory
    is_substitution: bool
    movements: tuple[Movement, ...]


CheckEvent = CheckOpened | CheckSettled
