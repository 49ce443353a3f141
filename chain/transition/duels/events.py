"""What a block did about duels. No rule depends on it: nodes, audits and people learn of duels by it."""

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
    """A challenger gave no answer. ``duel`` is what follows: another challenger, or none, for a solo check."""

    hold: bytes
    duel: Duel
    fine: Movement


@dataclass(frozen=True, slots=True)
class VotesRepeated:
    """Some votes are run again; ``duel`` says by whom."""

    hold: bytes
    duel: Duel


@dataclass(frozen=True, slots=True)
class DuelSettled:
    """A duel came to its end. ``duel`` is as it was then, ``movements`` what each account got or paid by that."""

    hold: bytes
    duel: Duel
    verdict: DuelVerdict
    movements: tuple[Movement, ...]


@dataclass(frozen=True, slots=True)
class ExecutorAccused:
    """Most judges called the executor's answer unusable. ``duel`` is what follows: other judges look at it too.

    ``verdict``, ``movements`` and ``first_seats`` are those of the first judges.
    """

    hold: bytes
    duel: Duel
    verdict: DuelVerdict
    movements: tuple[Movement, ...]
    first_seats: tuple[JudgeSeat, ...]


DuelEvent = DuelOpened | ChallengerReplaced | VotesRepeated | ExecutorAccused | DuelSettled
