"""What the ballots of a duel say. Pure.

A verdict needs more than half of the ballots that were revealed and do not abstain. An unrevealed ballot does not
count, so a judge who waits to see the others has no casting vote to sell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from chain.state.duel_records import Duel, JudgeSeat
from chain.types.duels import ABSTAIN, DRAW, IDENTICAL, A, B, DuelBallot

CONFIRMATIONS = 4
"""Judges of a second panel that must agree with the first."""


class DuelVerdict(Enum):
    """How a duel ended."""

    EXECUTOR_WON = "executor won"
    EXECUTOR_LOST = "executor lost"
    TIE = "tie"
    IDENTICAL = "identical answers"
    """The challenger has handed in the executor's very text."""
    USABLE = "usable"
    """Of a solo check."""
    UNUSABLE = "unusable"
    """Of a solo check."""
    EXECUTOR_MISSING = "executor's answer not obtained"
    CHALLENGER_MISSING = "challenger's answer not obtained"
    UNANSWERED = "no challenger answered"
    FRAUD = "fraud"
    """A second panel confirms that the executor's answer is unusable."""
    NOT_CONFIRMED = "not confirmed"


@dataclass(frozen=True, slots=True)
class Opinion:
    """A revealed ballot with its answers by their authors. ``better`` is None for a draw."""

    judge: bytes
    better: DuelVerdict | None
    executor_unusable: bool
    challenger_unusable: bool
    executor_missing: bool
    challenger_missing: bool

    @property
    def has_both(self) -> bool:
        """Whether the judge could compare at all."""
        return not self.executor_missing and not self.challenger_missing


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict, the judges that ``agreed`` on it (none in a tie), and all that ``voted`` without abstaining.

    An answer is unusable if most judges say that it is of no use and that the other one is of use. So a question that
    no one can answer well costs neither party anything. In a solo check there is no other answer.
    """

    verdict: DuelVerdict
    agreed: tuple[bytes, ...]
    voted: tuple[bytes, ...]
    is_answer_unusable: bool = False
    is_challenge_unusable: bool = False


def decide(duel: Duel) -> Finding:
    """The verdict of a duel in which no more ballots will be revealed."""
    is_solo = duel.challenger is None
    opinions = [
        _read(seat, seat.ballot, is_solo)
        for seat in duel.seats
        if seat.ballot is not None and seat.ballot.better != ABSTAIN
    ]
    voted = tuple(opinion.judge for opinion in opinions)

    def find(test: Callable[[Opinion], bool]) -> tuple[bytes, ...]:
        """The judges of whom something is true, if they are more than half."""
        judges = tuple(opinion.judge for opinion in opinions if test(opinion))
        return judges if 2 * len(judges) > len(opinions) else ()

    is_answer_unusable = bool(find(_accuses))
    is_challenge_unusable = bool(find(lambda each: each.challenger_unusable and not each.executor_unusable))

    def first(cases: Iterable[tuple[DuelVerdict, Callable[[Opinion], bool]]]) -> Finding:
        for verdict, test in cases:
            if agreed := find(test):
                return Finding(verdict, agreed, voted, is_answer_unusable, is_challenge_unusable)
        return Finding(DuelVerdict.TIE, (), voted, is_answer_unusable, is_challenge_unusable)

    if duel.is_accused:
        agreed = tuple(opinion.judge for opinion in opinions if _accuses(opinion))
        is_fraud = len(agreed) >= CONFIRMATIONS
        return Finding(DuelVerdict.FRAUD if is_fraud else DuelVerdict.NOT_CONFIRMED, agreed, voted)
    if is_solo:
        return first(
            (
                (DuelVerdict.EXECUTOR_MISSING, lambda each: each.executor_missing),
                (DuelVerdict.UNUSABLE, lambda each: each.executor_unusable and not each.executor_missing),
                (DuelVerdict.USABLE, lambda each: not each.executor_unusable and not each.executor_missing),
            )
        )
    return first(
        (
            (DuelVerdict.EXECUTOR_MISSING, lambda each: each.executor_missing),
            (DuelVerdict.CHALLENGER_MISSING, lambda each: each.challenger_missing),
            (DuelVerdict.EXECUTOR_WON, lambda each: each.has_both and each.better is DuelVerdict.EXECUTOR_WON),
            (DuelVerdict.EXECUTOR_LOST, lambda each: each.has_both and each.better is DuelVerdict.EXECUTOR_LOST),
            (DuelVerdict.IDENTICAL, lambda each: each.has_both and each.better is DuelVerdict.IDENTICAL),
        )
    )


def _accuses(opinion: Opinion) -> bool:
    """Whether a judge says that the executor's answer is of no use and the challenger's is of use."""
    return opinion.executor_unusable and not opinion.executor_missing and not opinion.challenger_unusable


def _read(seat: JudgeSeat, ballot: DuelBallot, is_solo: bool) -> Opinion:
    """The opinion in a ballot, whose answers are in the order drawn for its judge.

    In a solo check there is one answer.
    """
    executor, challenger = (B, A) if seat.is_reversed else (A, 0 if is_solo else B)
    better = {
        executor: DuelVerdict.EXECUTOR_WON,
        challenger: DuelVerdict.EXECUTOR_LOST,
        IDENTICAL: DuelVerdict.IDENTICAL,
        DRAW: None,
    }
    return Opinion(
        judge=seat.public_key,
        better=better.get(ballot.better),
        executor_unusable=bool(ballot.unusable & executor),
        challenger_unusable=bool(ballot.unusable & challenger),
        executor_missing=bool(ballot.missing & executor),
        challenger_missing=bool(ballot.missing & challenger),
    )
