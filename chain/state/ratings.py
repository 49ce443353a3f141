"""How the answers of an executor have done in duels, and what follows for how often it is drawn.

The last :data:`RATED_DUELS` count, of one payer at most :data:`MAX_OF_ONE_PAYER`: or a payer could lift its own
executor, or sink another, by requests that only it knows how to answer. As long as there are fewer, the missing ones
count as ties, so that an account begins as an average one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from chain.codec import MAX_INT, Bounds, Natural, Record

RATED_DUELS = 200
"""Duels that a rating remembers."""
MAX_OF_ONE_PAYER = 20
"""How many of them may be about requests of one payer."""
VOID_SPAN = 20
"""Among how many of the last duels the void ones are counted."""
MAX_VOIDS = 3
"""Void duels among those that count as a fraud."""
MIN_POINTS = 40
"""Least points of a rating, a tenth of all: a node that has lost everything is still drawn now and then."""
FULL_EXPOSURE = 1_000_000
"""Exposure of an executor that is as good as the average, or better."""

LOST, TIED, WON, VOID = 0, 1, 2, 3
"""How a duel ended for its executor. The first three are points of its rating; a void duel brings none."""

_PAYER_BYTES = 8
_ENTRY_BYTES = _PAYER_BYTES + 1


@dataclass(frozen=True, slots=True)
class ExecutorRating(Record):
    """The duels of an account as executor.

    ``duels`` counts them since its first, or since a substitution, without frauds. ``results`` has, for each that is
    remembered, the oldest first, the first 8 bytes of its payer and its result. ``probation`` is the total amount of
    duels that must still follow after frauds, in micro-credits.
    """

    duels: Natural = 0
    results: Annotated[bytes, Bounds(0, RATED_DUELS * _ENTRY_BYTES)] = b""
    probation: Natural = 0

    def add(self, payer: bytes, result: int | None, amount: int) -> ExecutorRating:
        """The rating after another duel, about an answer of ``amount``; without a ``result`` it is not remembered."""
        probation = max(0, self.probation - amount)
        if result is None:
            return ExecutorRating(self.duels + 1, self.results, probation)
        entries = self._split()
        name = payer[:_PAYER_BYTES]
        same = [number for number, entry in enumerate(entries) if entry[:_PAYER_BYTES] == name]
        if len(same) >= MAX_OF_ONE_PAYER:
            del entries[same[0]]
        entries = [*entries, name + bytes([result])][-RATED_DUELS:]
        return ExecutorRating(self.duels + 1, b"".join(entries), probation)

    def note_fraud(self, probation: int) -> ExecutorRating:
        """The rating after a fraud, whose duel does not count: it is on ``probation`` for so much more, and void duels
        have been punished.
        """
        entries = [entry[:-1] + bytes([LOST]) if entry[-1] == VOID else entry for entry in self._split()]
        return ExecutorRating(max(0, self.duels - 1), b"".join(entries), min(MAX_INT, self.probation + probation))

    def begin_anew(self) -> ExecutorRating:
        """The rating after a substitution: it is on probation as in the beginning."""
        return replace(self.note_fraud(0), duels=0)

    def is_on_probation(self, duels: int, amount: int) -> bool:
        """Whether an answer of ``amount`` is on probation: in the first ``duels``, or if ``probation`` is at least
        ``amount``."""
        return self.duels < duels or self.probation >= amount

    @property
    def voids(self) -> int:
        """How many of the last duels were void."""
        return sum(entry[-1] == VOID for entry in self._split()[-VOID_SPAN:])

    @property
    def compared(self) -> int:
        """How many of the duels that are remembered compared two answers: all but the void ones."""
        return sum(entry[-1] != VOID for entry in self._split())

    @property
    def won_points(self) -> int:
        """Two for each duel that was won, one for each tie; twice the win rate times :attr:`compared`."""
        return sum(entry[-1] for entry in self._split() if entry[-1] != VOID)

    @property
    def points(self) -> int:
        """From :data:`MIN_POINTS` to two for each duel that is remembered; twice the win rate times their number."""
        return max(MIN_POINTS, self.won_points + RATED_DUELS - len(self._split()))

    def compute_exposure(self, exponent: int) -> int:
        """By which share of its stake an executor is drawn, in millionths: min(1, odds of winning) ** ``exponent``."""
        points, others = self.points, 2 * RATED_DUELS - self.points
        if points >= others:
            return FULL_EXPOSURE
        return int(FULL_EXPOSURE * points**exponent // others**exponent)

    def _split(self) -> list[bytes]:
        return [self.results[start : start + _ENTRY_BYTES] for start in range(0, len(self.results), _ENTRY_BYTES)]
