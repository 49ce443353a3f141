"""What became of each duel, as the blocks of a chain say: who took part, how they voted, and which credit moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from chain.audit.replay import replay
from chain.audit.sources import ChainSource
from chain.state.duel_records import Duel, JudgeSeat
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


@dataclass(slots=True)
class DuelCounts:
    """How many duels and solo checks were opened, how they ended, how many challengers gave no answer, how many votes
    were repeated, and how many executors were accused.

    ``paid`` and ``taken`` are what they moved from and to the treasury, in micro-credits.
    """

    duels: int = 0
    solo_checks: int = 0
    silent: int = 0
    repeated: int = 0
    accused: int = 0
    verdicts: Counter[DuelVerdict] = field(default_factory=Counter)
    paid: int = 0
    taken: int = 0

    def add(self, events: Iterable[DuelEvent]) -> None:
        """Count what a block did."""
        for event in events:
            match event:
                case DuelOpened():
                    self.duels += event.duel.challenger is not None
                    self.solo_checks += event.duel.challenger is None
                case ChallengerReplaced():
                    self.silent += 1
                    self._add_movements((event.fine,))
                case VotesRepeated():
                    self.repeated += len(event.duel.repeats)
                case ExecutorAccused():
                    self.accused += 1
                    self._add_movements(event.movements)
                case DuelSettled():
                    self.silent += event.verdict is DuelVerdict.UNANSWERED
                    self.verdicts[event.verdict] += 1
                    self._add_movements(event.movements)

    def _add_movements(self, movements: Iterable[Movement]) -> None:
        self.paid += sum(max(0, each.amount) for each in movements)
        self.taken += sum(max(0, -each.amount) for each in movements)


@dataclass(slots=True)
class DuelHistory:
    """One duel: the heights at which it was opened and settled, if it was, and the credit that it moved.

    If the executor was accused, ``first_verdict`` and ``first_seats`` are those of the first judges.

    ``opened_at`` is None if the chain begins after that. ``duel`` is its last state.
    """

    hold: bytes
    duel: Duel
    opened_at: int | None = None
    settled_at: int | None = None
    verdict: DuelVerdict | None = None
    first_verdict: DuelVerdict | None = None
    first_seats: tuple[JudgeSeat, ...] = ()
    movements: list[Movement] = field(default_factory=list)


def list_duels(source: ChainSource, on_progress: Callable[[int], None] = lambda height: None) -> list[DuelHistory]:
    """Every duel of a chain in the order of opening. Executes every block and checks no signature.

    Raises:
        StoreError: the source cannot be read.
        LedgerError: a block cannot be executed.
    """
    found: dict[bytes, DuelHistory] = {}
    for height, transition in replay(source, on_progress):
        state = transition.state
        for event in transition.duel_events:
            history = found.setdefault(event.hold, DuelHistory(event.hold, event.duel))
            history.duel = event.duel
            match event:
                case DuelOpened():
                    history.opened_at = height
                case ChallengerReplaced():
                    history.movements.append(event.fine)
                case VotesRepeated():
                    pass
                case ExecutorAccused():
                    history.first_verdict, history.first_seats = event.verdict, event.first_seats
                    history.movements += event.movements
                case DuelSettled():
                    history.settled_at, history.verdict = height, event.verdict
                    history.movements += event.movements
    for history in found.values():
        history.duel = state.duel(history.hold) or history.duel
    return list(found.values())
