"""What became of the checks that a node took part in since it started, for its owner. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

from chain.collections import BoundedDict
from chain.state.check_records import ModelCheck
from chain.transition.checks.events import CheckEvent, CheckSettled
from chain.transition.checks.finding import CheckFinding, CheckOutcome
from serving.quality.duels.texts import find_checker

MAX_LISTED_CHECKS = 256
"""Checks that are remembered."""


class CheckRole(Enum):
    """What an account is in a check."""

    EXECUTOR = "executor"
    ORIGINATOR = "originator"
    CHECKER = "checker"


def find_check_role(check: ModelCheck, public_key: bytes) -> CheckRole | None:
    """The role of an account in a check. No account has two."""
    if public_key == check.executor:
        return CheckRole.EXECUTOR
    if public_key == check.payer:
        return CheckRole.ORIGINATOR
    return CheckRole.CHECKER if find_checker(check, public_key) is not None else None


@dataclass(slots=True)
class CheckRecord:
    """One check. ``moved`` is what this node got by it or (negative) paid, in micro-credits."""

    hold: bytes
    role: CheckRole
    check: ModelCheck
    finding: CheckFinding | None = None
    is_substitution: bool = False
    moved: int = 0


@dataclass(slots=True)
class CheckLog:
    """The last checks of a node, and counts of all since it started. Amounts are in micro-credits."""

    public_key: bytes
    records: BoundedDict[bytes, CheckRecord] = field(default_factory=lambda: BoundedDict(MAX_LISTED_CHECKS))
    opened: Counter[CheckRole] = field(default_factory=Counter)
    settled: Counter[tuple[CheckRole, CheckOutcome]] = field(default_factory=Counter)
    earned: int = 0
    paid: int = 0

    def note_open(self, hold: bytes, check: ModelCheck) -> CheckRecord | None:
        """An open check. Returns the record of it, if this node takes part."""
        role, record = find_check_role(check, self.public_key), self.records.get(hold)
        if record is not None:
            record.check = check
        elif role is not None:
            record = self.records[hold] = CheckRecord(hold, role, check)
            self.opened[role] += 1
        return record

    def note(self, event: CheckEvent) -> CheckRecord | None:
        """What a final block did about a check. Returns the record of it, if this node takes part."""
        record = self.note_open(event.hold, event.check)
        if record is None or not isinstance(event, CheckSettled):
            return record
        record.finding, record.is_substitution = event.finding, event.is_substitution
        self.settled[record.role, event.finding.outcome] += 1
        for movement in event.movements:
            if movement.public_key == self.public_key:
                record.moved += movement.amount
                self.earned += max(0, movement.amount)
                self.paid += max(0, -movement.amount)
        return record
