"""Scores of executors: what this node remembers of those that it asked. Pure: times are seconds of one monotonic clock.

There is one score per executor and model: how often it delivered, how often it failed, how often it gave a client error
that another did not share, and how long its streams took to begin. Old outcomes lose weight, both with time and with
each new outcome, so an executor that was repaired is back within minutes. That is also why scores are kept in memory
alone. A score decides who is asked last; it never replaces the order of the executor lottery.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from statistics import median_low

HALF_LIFE_S = 120.0
"""Time after which an outcome has half of its weight."""
OUTCOME_DECAY = 7 / 8
"""Part of their weight that all earlier outcomes keep at each new one: together they weigh less than 8 new ones."""
FAILURE_WAIT_S = 10.0
"""A failure weighs one more for every ten seconds that a user waited for it. It is then remembered longer: an executor
that lets users wait and never answers is asked seldom."""
UNREACHABLE_WEIGHT = 0.25
"""Weight of a connection that could not be made. It has cost a user seconds only, and a private executor whose address
changes is soon back."""
UNREACHABLE_WAIT_S = 15.0
"""Time for which such an executor waits."""
MAX_FAULT_SHARE = 1 / 3
"""Above this share of faults an executor is faulty. It starts with one success: a single fault counts for a while."""
SLOW_FACTOR = 4.0
"""An executor is slow if its streams take this many times longer to begin than the median of all candidates."""
MIN_SLOW_S = 2.0
"""Nor is one slow whose streams begin sooner than this on average."""
QUICK_FACTOR = 2.0
"""An executor is quicker than another if its streams begin in this part of the time."""
MIN_QUICK_S = 0.5
"""Nor is one quicker than another whose streams begin sooner than this on average."""
MIN_TIMED_STREAMS = 2.0
"""Least weight of the streams by which an executor is called slow or quick."""
MAX_RETRY_AFTER_S = 60.0
"""Longest time to wait that is respected, or passed on to a user: executors may name any."""
MAX_SCORES = 4096
"""Scores that are kept; beyond it, the one that changed longest ago is forgotten."""


class Rank(IntEnum):
    """When a candidate is asked: all of a lower rank come first."""

    GOOD = 0
    """Newcomers as well."""
    SLOW = 1
    WAITING = 2
    """It has declined, and has said when it may be asked again; or it was out of reach a moment ago."""
    FAULTY = 3


@dataclass(slots=True)
class ExecutorScore:
    """The outcomes of one executor for one model, by their present weight."""

    updated_at: float
    delivered: float = 0.0
    failed: float = 0.0
    unshared_errors: float = 0.0
    """Client errors that another executor, or the node's own backend, did not share."""
    timed_streams: float = 0.0
    """Delivered streams whose time to the first chunk is known."""
    first_chunk_s: float = 0.0
    """Average of these times."""
    waits_until: float = 0.0

    @property
    def is_faulty(self) -> bool:
        faults = self.failed + self.unshared_errors
        return faults > MAX_FAULT_SHARE * (1.0 + self.delivered + faults)

    @property
    def known_first_chunk_s(self) -> float | None:
        """Average time to the first chunk, in seconds; None if too little is known."""
        return self.first_chunk_s if self.timed_streams >= MIN_TIMED_STREAMS else None

    def decay(self, now: float) -> None:
        """Take off the weight that the outcomes have lost since the last time."""
        self._scale(0.5 ** (max(0.0, now - self.updated_at) / HALF_LIFE_S))
        self.updated_at = now

    def age(self) -> None:
        """Take off the weight that the outcomes lose to a new one."""
        self._scale(OUTCOME_DECAY)

    def _scale(self, factor: float) -> None:
        self.delivered *= factor
        self.failed *= factor
        self.unshared_errors *= factor
        self.timed_streams *= factor


class ExecutorScores:
    """The scores of all executors that this node has asked."""

    def __init__(self, max_scores: int = MAX_SCORES) -> None:
        self._max_scores = max_scores
        self._scores: OrderedDict[tuple[bytes, str], ExecutorScore] = OrderedDict()

    def __len__(self) -> int:
        """Scores that are kept."""
        return len(self._scores)

    def note_delivered(self, executor: bytes, model: str, now: float, first_chunk_s: float | None = None) -> None:
        """A whole answer came. ``first_chunk_s``: how long a stream took to begin."""
        score = self._begin_outcome(executor, model, now)
        score.delivered += 1.0
        score.waits_until = 0.0
        if first_chunk_s is not None:
            score.timed_streams += 1.0
            score.first_chunk_s += (first_chunk_s - score.first_chunk_s) / score.timed_streams

    def note_failed(self, executor: bytes, model: str, now: float, waited_s: float = 0.0) -> None:
        """It broke off, fell silent, or lied about its delivery.

        ``waited_s``: how long a user waited for an answer that did not begin.
        """
        self._begin_outcome(executor, model, now).failed += 1.0 + waited_s / FAILURE_WAIT_S

    def note_unreachable(self, executor: bytes, model: str, now: float) -> None:
        """No connection to it could be made."""
        score = self._begin_outcome(executor, model, now)
        score.failed += UNREACHABLE_WEIGHT
        score.waits_until = now + UNREACHABLE_WAIT_S

    def note_unshared_error(self, executor: bytes, model: str, now: float) -> None:
        """It gave a client error for a request that another answered."""
        self._begin_outcome(executor, model, now).unshared_errors += 1.0

    def note_declined(self, executor: bytes, model: str, now: float, retry_after_s: float) -> None:
        """It declined, and may be asked again after ``retry_after_s``. That is no fault."""
        score = self._touch(executor, model, now)
        score.waits_until = now + min(retry_after_s, MAX_RETRY_AFTER_S)

    def find(self, executor: bytes, model: str, now: float) -> ExecutorScore | None:
        """A copy of one score as it stands now; None if nothing is known."""
        score = self._scores.get((executor, model))
        if score is None:
            return None
        score = replace(score)
        score.decay(now)
        return score

    def rank(self, executors: Sequence[bytes], model: str, now: float) -> dict[bytes, Rank]:
        """The rank of each of the candidates for one request."""
        scores = {executor: self.find(executor, model, now) for executor in executors}
        times = [score.known_first_chunk_s for score in scores.values() if score is not None]
        known = [time for time in times if time is not None]
        limit = max(MIN_SLOW_S, SLOW_FACTOR * median_low(known)) if known else MIN_SLOW_S
        return {executor: _get_rank(score, now, limit) for executor, score in scores.items()}

    def is_quicker(self, one: bytes, other: bytes, model: str, now: float) -> bool:
        """Whether the streams of ``one`` are known to begin much sooner than those of ``other``."""
        scores = self.find(one, model, now), self.find(other, model, now)
        times = [score.known_first_chunk_s if score is not None else None for score in scores]
        if times[0] is None or times[1] is None:
            return False
        return times[1] > MIN_QUICK_S and times[0] * QUICK_FACTOR < times[1]

    def _begin_outcome(self, executor: bytes, model: str, now: float) -> ExecutorScore:
        score = self._touch(executor, model, now)
        score.age()
        return score

    def _touch(self, executor: bytes, model: str, now: float) -> ExecutorScore:
        score = self._scores.setdefault((executor, model), ExecutorScore(now))
        self._scores.move_to_end((executor, model))
        while len(self._scores) > self._max_scores:
            self._scores.popitem(last=False)
        score.decay(now)
        return score


def _get_rank(score: ExecutorScore | None, now: float, limit_s: float) -> Rank:
    if score is None:
        return Rank.GOOD
    if score.is_faulty:
        return Rank.FAULTY
    if score.waits_until > now:
        return Rank.WAITING
    time = score.known_first_chunk_s
    return Rank.SLOW if time is not None and time > limit_s else Rank.GOOD
