"""What became of the duels that a node took part in since it started, for its owner. Pure.

The ledger has all of it for good (``chain show --duels``); this is a short copy, from one node's point of view.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from chain.collections import BoundedDict
from chain.state.duel_records import Duel
from chain.transition.duels.events import (
    ChallengerReplaced,
    DuelEvent,
    DuelOpened,
    DuelSettled,
    ExecutorAccused,
    VotesRepeated,
)
from chain.transition.duels.money import Movement
from chain.transition.duels.verdict import DuelVerdict
from serving.quality.duels.duties import Role, find_role

MAX_LISTED_DUELS = 256
"""Duels that are remembered."""


@dataclass(slots=True)
class DuelRecord:
    """One duel. ``moved`` is what this node got by it or (negative) paid, in micro-credits, so far."""

    hold: bytes
    role: Role
    duel: Duel
    verdict: DuelVerdict | None = None
    moved: int = 0


@dataclass(slots=True)
class DuelLog:
    """The last duels of a node, and counts of all since it started. Amounts are in micro-credits."""

    public_key: bytes
    records: BoundedDict[bytes, DuelRecord] = field(default_factory=lambda: BoundedDict(MAX_LISTED_DUELS))
    opened: Counter[Role] = field(default_factory=Counter)
    settled: Counter[tuple[Role, DuelVerdict]] = field(default_factory=Counter)
    earned: int = 0
    paid: int = 0

    def note_open(self, hold: bytes, duel: Duel) -> DuelRecord | None:
        """An open duel. Returns the record of it, if this node takes part, or did."""
        role, record = find_role(duel, self.public_key), self.records.get(hold)
        if record is not None:
            record.duel = duel
        elif role is not None:
            record = self.records[hold] = DuelRecord(hold, role, duel)
            self.opened[role] += 1
        return record

    def note(self, event: DuelEvent) -> DuelRecord | None:
        """What a final block did about a duel. Returns the record of it, if this node takes part, or did."""
        record = self.note_open(event.hold, event.duel)
        movements: tuple[Movement, ...] = ()
        match event:
            case DuelOpened() | VotesRepeated():
                pass
            case ChallengerReplaced():
                movements = (event.fine,)
            case ExecutorAccused():
                movements = event.movements
            case DuelSettled():
                movements = event.movements
                if record is not None:
                    record.verdict = event.verdict
                    self.settled[record.role, event.verdict] += 1
        for movement in movements:
            if record is not None and movement.public_key == self.public_key:
                record.moved += movement.amount
                self.earned += max(0, movement.amount)
                self.paid += max(0, -movement.amount)
        return record
