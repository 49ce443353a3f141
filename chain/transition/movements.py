"""What a block did to the balances of accounts, and why (pure).

A block executes in steps: one for each operation, and those in which the protocol itself takes and gives. The
transition records which entries each step set. From these, and from the state before, follow the movements
(:class:`Movement`) of each account. They add up to the difference of its balance, since every change belongs to exactly
one step.

Nothing of this is part of the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from chain.codec import Record
from chain.state.keys import ACCOUNT_PREFIX
from chain.state.records import Account
from chain.state.state import StateOverlay, StateReader


class Balance(NamedTuple):
    """The credit of an account by what it is bound to, in micro-credits; or a difference of two."""

    available: int = 0
    held: int = 0
    bonded: int = 0
    unbonding: int = 0
    deposit: int = 0

    @classmethod
    def of(cls, account: Account) -> Balance:
        unbonding = sum(part.amount for part in account.unbonding) if account.unbonding else 0
        return cls(account.available, account.held, account.bonded, unbonding, account.deposit)

    @property
    def total(self) -> int:
        return sum(self)

    def minus(self, other: Balance) -> Balance:
        return Balance(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))


class Stage(StrEnum):
    """The steps of a block that are no operation, in order."""

    MISSED_LEADS = "missed leads"
    """Validators that led no block pay for it."""
    DRAWS = "draws"
    """Duels and checks are opened."""
    SETTLEMENT = "settlement"
    """Captures without a receipt are paid after their grace time."""
    DUELS = "duels"
    CHECKS = "checks"
    """Stages of duels and of checks of the model end: what is due is paid and taken."""
    END = "end"
    """The end of a round or of an epoch."""


Cause = int | Stage
"""Number of an operation in its block, or a step of the protocol itself."""
Steps = tuple[tuple[Cause, Mapping[bytes, Record | None]], ...]
"""What each step of a block set (None: removed), in order."""


@dataclass(frozen=True, slots=True)
class Movement:
    """By how much one step changed the balance of an account."""

    cause: Cause
    change: Balance


class SteppedOverlay(StateOverlay):
    """The changes of a block, by the step that made them. Before the first step nothing may be changed."""

    __slots__ = ("_current", "_steps")

    def __init__(self, parent: StateReader) -> None:
        super().__init__(parent)
        self._steps: list[tuple[Cause, dict[bytes, Record | None]]] = []
        self._current: dict[bytes, Record | None] = {}

    def begin(self, cause: Cause) -> None:
        """Further changes belong to this step. A step that changed nothing is not kept."""
        if self._steps and not self._current:
            self._steps.pop()
        self._current = {}
        self._steps.append((cause, self._current))

    @property
    def steps(self) -> Steps:
        return tuple(self._steps)

    def put(self, key: bytes, record: Record | None) -> None:
        self.changes[key] = self._current[key] = record

    def merge(self, other: StateOverlay) -> None:
        self.changes.update(other.changes)
        self._current.update(other.changes)


def compute_movements(before: StateReader, steps: Steps) -> dict[bytes, list[Movement]]:
    """The movements of each account whose balance changed, in order. ``before`` is the state before the block."""
    found: dict[bytes, list[Movement]] = {}
    known: dict[bytes, Balance] = {}
    for cause, changes in steps:
        for key, record in changes.items():
            if key[:1] != ACCOUNT_PREFIX:
                continue
            public_key = key[1:]
            old = known.get(public_key)
            if old is None:
                old = Balance.of(before.account(public_key))
            new = Balance.of(record) if isinstance(record, Account) else Balance()
            if new != old:
                known[public_key] = new
                found.setdefault(public_key, []).append(Movement(cause, new.minus(old)))
    return found
