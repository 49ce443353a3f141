"""Scores of executors: what this node remembers of those that it asked. Pure: times are seconds of one monotonic clock.

There is one score per executor and model: how often it delivered, how often it failed, and how often it gave a client
error that another did not share. Old outcomes lose weight, both with time and with each new outcome, so an executor
that was repaired is back within minutes. That is also why scores are kept in memory only. A score decides who is asked
last; it never replaces the order of the executor lottery.

An executor that stalls in the middle of an answer is paid for the prompt and for what it sent, without doing the rest.
So the amounts paid for stalled answers are remembered for hours, beside those paid for whole ones. Otherwise a payer
that asks seldom could be stalled every time.

Each executor also has a circuit breaker, as the backends of the node have. The breaker is quicker: two failures in a
row open it, whatever the score. When the time has come to try an executor again, only one request does.

Every server answers some requests with an error. A user with an API key who also runs an executor may send such
requests on purpose, so that all other executors are asked last. So if an executor says that it cannot answer, this
opens its breaker only after a second user, or a request without a key, got the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import IntEnum

from chain.collections import BoundedDict
from serving.scheduling.circuit_breaker import CircuitBreaker

HALF_LIFE_S = 120.0
"""Time after which an outcome has half of its weight."""
OUTCOME_DECAY = 7 / 8
"""Part of their weight that earlier outcomes keep at each new one. Together they weigh less than 8 new ones."""
FAILURE_WAIT_S = 10.0
"""The weight of a failure grows by one for every ten seconds that a user waited for it. So an executor that lets users
wait and never answers is remembered longer, and asked seldom."""
UNREACHABLE_WEIGHT = 0.25
"""Weight of a connection that could not be made. It has cost a user only seconds, and a private executor whose address
changes is soon back."""
UNREACHABLE_WAIT_S = 15.0
"""Time for which such an executor waits."""
FILTERED_WEIGHT = 0.25
"""Weight of an error of a content filter, which goes to the user without asking a second executor. With it, an executor
that filters nearly all is asked last."""
MAX_FAULT_SHARE = 1 / 3
"""Above this share of faults an executor is faulty. It starts with one success: a single fault counts for a while."""
STALL_MEMORY_S = 6 * 3600.0
"""Time for which an executor is asked last after it was paid for an answer that it did not finish."""
PAID_HALF_LIFE_S = 3 * 3600.0
"""Time after which a payment to an executor has half of its weight."""
MAX_STALLED_SHARE = 1 / 8
"""It is not asked last if at most this share of its payments was for such answers: honest executors stall now and
then."""
MAX_RETRY_AFTER_S = 60.0
"""Longest time to wait that is respected, or passed on to a user: executors may name any."""
MAX_SCORES = 4096
"""Scores that are kept; beyond it, the one that changed longest ago is forgotten."""


class Rank(IntEnum):
    """When a candidate is asked: all of a lower rank come first."""

    GOOD = 0
    """Newcomers as well."""
    WAITING = 1
    """It has declined, and has said when it may be asked again; or it was recently out of reach."""
    FAULTY = 2
    """Too many of its outcomes were faults."""
    BROKEN = 3
    """It has failed repeatedly, and it is not yet time to try it again, or one request is trying it now."""


@dataclass(slots=True)
class ExecutorScore:
    """The outcomes of one executor for one model, by their present weight."""

    updated_at: float
    delivered: float = 0.0
    failed: float = 0.0
    unshared_errors: float = 0.0
    """Client errors that another executor, or the node's own backend, did not share."""
    paid: float = 0.0
    """What whole answers have cost, in micro-credits."""
    stalled: float = 0.0
    """What answers have cost in which it fell silent."""
    stalled_at: float = -math.inf
    """When it last fell silent in one."""
    waits_until: float = 0.0
    refused_user: str = ""
    """The API key of the last request that it refused as unanswerable; empty: another outcome came since."""
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)

    @property
    def is_faulty(self) -> bool:
        faults = self.failed + self.unshared_errors
        return self.is_staller or faults > MAX_FAULT_SHARE * (1.0 + self.delivered + faults)

    @property
    def is_staller(self) -> bool:
        """Whether it is paid for answers that it does not end."""
        is_remembered = self.updated_at - self.stalled_at < STALL_MEMORY_S
        return is_remembered and self.stalled > MAX_STALLED_SHARE * (self.paid + self.stalled)

    def decay(self, now: float) -> None:
        """Reduce the weights of the outcomes by the time since the last call."""
        elapsed_s = max(0.0, now - self.updated_at)
        self._scale(0.5 ** (elapsed_s / HALF_LIFE_S))
        kept = 0.5 ** (elapsed_s / PAID_HALF_LIFE_S)
        self.paid *= kept
        self.stalled *= kept
        self.updated_at = now

    def age(self) -> None:
        """Take off the weight that the outcomes lose to a new one."""
        self._scale(OUTCOME_DECAY)

    def _scale(self, factor: float) -> None:
        self.delivered *= factor
        self.failed *= factor
        self.unshared_errors *= factor


class ExecutorScores:
    """The scores of all executors that this node has asked."""

    def __init__(self, max_scores: int = MAX_SCORES) -> None:
        self._scores: BoundedDict[tuple[bytes, str], ExecutorScore] = BoundedDict(max_scores)

    def __len__(self) -> int:
        """Scores that are kept."""
        return len(self._scores)

    def note_asked(self, executor: bytes, model: str, now: float) -> None:
        """A request is sent to it. After a recent failure no other is sent until it has ended, or for some seconds."""
        score = self._scores.get((executor, model))
        if score is not None:
            score.breaker.begin(now)

    def note_delivered(self, executor: bytes, model: str, now: float, paid: int = 0) -> None:
        """A whole answer came, for so many micro-credits."""
        score = self._begin_outcome(executor, model, now)
        score.delivered += 1.0
        score.paid += paid
        score.waits_until = 0.0
        score.refused_user = ""
        score.breaker.note_answer()

    def note_failed(
        self,
        executor: bytes,
        model: str,
        now: float,
        waited_s: float = 0.0,
        *,
        is_queued: bool = False,
        user: str = "",
    ) -> None:
        """It broke off, fell silent, or lied about its delivery.

        ``waited_s``: how long a user waited for an answer that did not begin. ``is_queued``: the request was in its
        queue all that time. Then the executor is overloaded, which is a fault, but not broken. ``user``: the API key of
        the request, if the executor itself said that it cannot answer.
        """
        score = self._begin_outcome(executor, model, now)
        score.failed += 1.0 + waited_s / FAILURE_WAIT_S
        is_again = bool(user) and user == score.refused_user
        score.refused_user = user
        if not is_queued and not is_again:
            score.breaker.note_failure(now)

    def note_stalled(self, executor: bytes, model: str, now: float, paid: int) -> None:
        """It fell silent in the middle of an answer, for which it may still capture ``paid`` micro-credits."""
        self.note_failed(executor, model, now)
        score = self._touch(executor, model, now)
        score.stalled += paid
        score.stalled_at = now

    def note_unreachable(self, executor: bytes, model: str, now: float) -> None:
        """No connection to it could be made."""
        score = self._begin_outcome(executor, model, now)
        score.failed += UNREACHABLE_WEIGHT
        score.waits_until = now + UNREACHABLE_WAIT_S

    def note_unshared_error(self, executor: bytes, model: str, now: float) -> None:
        """It gave a client error for a request that another executor answered."""
        self._begin_outcome(executor, model, now).unshared_errors += 1.0

    def note_filtered(self, executor: bytes, model: str, now: float) -> None:
        """It said that its content filter withholds the answer."""
        self._begin_outcome(executor, model, now).unshared_errors += FILTERED_WEIGHT

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

    def rank(self, executor: bytes, model: str, now: float) -> Rank:
        """The rank of a candidate for a request."""
        score = self.find(executor, model, now)
        if score is None:
            return Rank.GOOD
        if score.breaker.is_open(now):
            return Rank.BROKEN
        if score.is_faulty:
            return Rank.FAULTY
        return Rank.WAITING if score.waits_until > now else Rank.GOOD

    def _begin_outcome(self, executor: bytes, model: str, now: float) -> ExecutorScore:
        score = self._touch(executor, model, now)
        score.age()
        return score

    def _touch(self, executor: bytes, model: str, now: float) -> ExecutorScore:
        score = self._scores.get((executor, model)) or ExecutorScore(now)
        self._scores[executor, model] = score
        score.decay(now)
        return score
