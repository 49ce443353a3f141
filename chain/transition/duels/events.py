"""Events of duels in a block. No rule depends on them: they inform nodes, audits and people."""

from __future__ import annotations

from dataclasses import dataclass

from chain.state.duel_records import Duel, JudgeSeat
from chain.transition.duels.money import Movement
from chain.transition.duels.verdict import DuelVerdict


@dataclass(frozen=True, slots=True)
class DuelOpened:
    """A duel was drawn; ``duel`` says between whom."""

    hold: bytes
    duel: Duel


@dataclass(frozen=True, slots=True)
class ChallengerReplaced:
    """A challenger gave no answer. ``duel`` is the duel with another challenger, or without one, as a solo check."""

    hold: bytes
    duel: Duel
    fine: Movement


@dataclass(frozen=True, slots=True)
class VotesRepeated:
    """Some votes are repeated; ``duel`` says by whom."""

    hold: bytes
    duel: Duel


@dataclass(frozen=True, slots=True)
class DuelSettled:
    """A duel has ended. ``duel`` is its last state, ``movements`` what each account got or paid."""

    hold: bytes
    duel: Duel
    verdict: DuelVerdict
    movements: tuple[Movement, ...]


@dataclass(frozen=True, slots=True)
class ExecutorAccused:
    """Most judges called the executor's answer unusable. ``duel`` is the duel with a second panel of judges.

    ``verdict``, ``movements`` and ``first_seats`` are those of the first judges.
    """

    hold: bytes
    duel: Duel
    verdict: DuelVerdict
    movements: tuple[Movement, ...]
    first_seats: tuple[JudgeSeat, ...]


DuelEvent = DuelOpened | ChallengerReplaced | VotesRepeated | ExecutorAccused | DuelSettled
