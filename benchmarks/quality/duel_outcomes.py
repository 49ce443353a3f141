"""What the duels of a chain say of classes of nodes: win rates, credit, verdicts, and repeated votes. Pure.

A class is named by what its nodes have in common, and classes are given from the best to the worst.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from chain.audit.duels import DuelHistory
from chain.transition.duels.verdict import DuelVerdict
from chain.types.duels import ABSTAIN
from serving.quality.judging.measurement import Proportion

POINTS = {
    DuelVerdict.EXECUTOR_WON: 1.0,
    DuelVerdict.EXECUTOR_LOST: 0.0,
    DuelVerdict.TIE: 0.5,
    DuelVerdict.IDENTICAL: 0.5,
}
"""Points of the executor by verdict; the challenger has the rest of 1. Other verdicts compare nothing."""


@dataclass(frozen=True, slots=True)
class DuelOutcome:
    """A settled duel by the classes of its parties.

    ``executor_moved`` and ``challenger_moved`` are the credit that it moved to them, as shares of the price.
    """

    executor: str
    challenger: str
    verdict: DuelVerdict
    executor_moved: float
    challenger_moved: float


def read_outcomes(histories: Iterable[DuelHistory], classes: Mapping[bytes, str]) -> list[DuelOutcome]:
    """The duels with a verdict and a challenger, by the classes of accounts."""
    outcomes = []
    for history in histories:
        duel = history.duel
        if history.verdict is None or duel.challenger is None:
            continue
        moved: Counter[bytes] = Counter()
        for movement in history.movements:
            moved[movement.public_key] += movement.amount
        outcomes.append(
            DuelOutcome(
                classes[duel.executor],
                classes[duel.challenger],
                history.verdict,
                moved[duel.executor] / duel.amount,
                moved[duel.challenger] / duel.amount,
            )
        )
    return outcomes


def count_wins(outcomes: Iterable[DuelOutcome], name: str, against: str | None = None) -> Proportion:
    """How often a class won against another one (default: against any other). A tie counts as half a win."""
    wins, duels = 0.0, 0
    for outcome in outcomes:
        points = POINTS.get(outcome.verdict)
        parties = (outcome.executor, outcome.challenger)
        if points is None or name not in parties or outcome.executor == outcome.challenger:
            continue
        if against is None or against in parties:
            wins += points if outcome.executor == name else 1 - points
            duels += 1
    return Proportion(wins, duels)


def compute_mean_moved(outcomes: Sequence[DuelOutcome], name: str) -> float:
    """The credit that a duel moved to a class on average, as a share of the price.

    It is the mean of that as executor and that as challenger, so that the class which was drawn as a challenger more
    often has no advantage by it.
    """
    as_executor = [outcome.executor_moved for outcome in outcomes if outcome.executor == name]
    as_challenger = [outcome.challenger_moved for outcome in outcomes if outcome.challenger == name]
    means = [sum(moved) / len(moved) for moved in (as_executor, as_challenger) if moved]
    return sum(means) / len(means) if means else 0.0


def compute_all_moved(outcomes: Sequence[DuelOutcome], name: str) -> float:
    """The credit that all duels together moved to a class as executor or challenger, in prices of an answer."""
    as_executor = sum(outcome.executor_moved for outcome in outcomes if outcome.executor == name)
    return as_executor + sum(outcome.challenger_moved for outcome in outcomes if outcome.challenger == name)


def count_inversions(values: Sequence[float]) -> int:
    """How many pairs of ``values`` are not in falling order."""
    return sum(first <= second for first, second in combinations(values, 2))


def count_mismatches(histories: Iterable[DuelHistory]) -> Proportion:
    """How many repeated votes came out otherwise, by the rule of the ledger (docs/protocol.md, 7.7)."""
    differing, compared = 0, 0
    for history in histories:
        ballots = {seat.public_key: seat.ballot for seat in history.duel.seats}
        for repeat in history.duel.repeats:
            first, again = ballots.get(repeat.voter), repeat.ballot
            if first is None or again is None:
                continue
            if ABSTAIN in (first.better, again.better) or first.missing or again.missing:
                continue
            differing += first != again
            compared += 1
    return Proportion(differing, compared)


def count_abstentions(histories: Iterable[DuelHistory]) -> Proportion:
    """How many of the ballots that were revealed say nothing."""
    ballots = [seat.ballot for history in histories for seat in history.duel.all_seats if seat.ballot is not None]
    return Proportion(sum(ballot.better == ABSTAIN for ballot in ballots), len(ballots))
