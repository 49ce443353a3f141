"""Which of the candidates of a draw are asked, in which order. Pure, but for the chance that is given.

The *choice* is the first few candidates of the draw that are present, able and of the best rank. One of them is asked
first:

1. the one that has answered the conversation so far, while it is not much slower than the best;
2. in a small part of choices, another one, so that executors that were slow are measured again;
3. otherwise the one with the least predicted time. Among those that are nearly equal the draw decides, and an executor
   of which nothing is known counts as equal to the best, so that newcomers are measured.

The rest of the choice follows by predicted time, then all other candidates by rank, in the order of the draw.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum

import msgspec

from p2p.peers.announcement import PeerLoad
from serving.prediction.predictor import Prediction

AFFINITY_FACTOR = 1.5
"""A conversation stays with its node up to so many times the best predicted time."""
EXPLORED_FACTOR = 2.0
"""Nodes are explored up to so many times the best predicted time: users pay for it with their time."""
EQUAL_FACTOR, EQUAL_S = 1.1, 0.25
"""Predicted times count as equal up to this factor plus so many seconds. No prediction is more precise, and otherwise
the one that is a little ahead by chance would be asked for ever."""


class Reason(Enum):
    """Why a request was answered where it was."""

    PREDICTED = "least predicted time"
    EXPLORED = "exploration"
    CONVERSATION = "conversation"
    NEXT = "others did not take it"
    HEDGED = "another was late"
    CONTINUED = "went on with an answer that was cut"
    UNPAID = "blocks are overdue, so that others cannot be paid soon"
    POLICY = "policy"
    """The owner's, which served it here."""


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """One executor that may be asked. ``number`` is its position in the draw; a lower ``rank`` goes first."""

    number: int
    executor: bytes
    rank: int
    prediction: Prediction


def order_candidates(
    candidates: Sequence[Candidate],
    choices: int,
    kept_by: bytes | None = None,
    exploration: float = 0.0,
    chance: random.Random | None = None,
) -> list[tuple[Candidate, Reason]]:
    """The candidates (in the order of the draw) in the order in which to ask them.

    The *choice* is the first ``choices`` of them that have the best rank. Of these, the first in the draw that is
    nearly equal to the best, or of which nothing is known, is asked first. ``kept_by`` is the node that has answered
    the conversation. With the probability ``exploration``, ``chance`` draws the first from those of the choice that are
    not predicted to take far longer than the best.
    """
    ranked = sorted(candidates, key=lambda each: each.rank)
    if not ranked:
        return []
    chosen = [each for each in ranked[: max(1, choices)] if each.rank == ranked[0].rank]
    rest = ranked[len(chosen) :]
    best = min(each.prediction.score for each in chosen)
    good_s = EQUAL_FACTOR * best + EQUAL_S
    first = next(each for each in chosen if each.prediction.is_new or each.prediction.score <= good_s)
    chosen.sort(key=lambda each: each.prediction.score)
    reason = Reason.PREDICTED
    kept = next((each for each in ranked if each.executor == kept_by and each.rank == first.rank), None)
    if kept is not None and is_kept(kept.prediction.score, best):
        first, reason = kept, Reason.CONVERSATION
    elif chance is not None and len(chosen) > 1 and chance.random() < exploration:
        explored = [each for each in chosen if each.prediction.score <= EXPLORED_FACTOR * best + EQUAL_S]
        first, reason = explored[chance.randrange(len(explored))], Reason.EXPLORED
    others = [each for each in (*chosen, *rest) if each is not first]
    return [(first, reason), *((each, Reason.NEXT) for each in others)]


def is_kept(score: float, best: float) -> bool:
    """Whether a conversation stays with a node of this predicted time, in seconds."""
    return score <= AFFINITY_FACTOR * best


class RequestsSent:
    """Requests under way whose executors have not announced their load since. Without this count, all would go to one
    executor."""

    def __init__(self) -> None:
        self._sent: dict[tuple[bytes, str], list[PeerLoad]] = {}
        """What each executor had announced when a request was sent to it."""

    @contextmanager
    def sending(self, executor: bytes, model: str, load: PeerLoad) -> Iterator[None]:
        """Count one request within the context."""
        sent = self._sent.setdefault((executor, model), [])
        sent.append(load)
        try:
            yield
        finally:
            # By identity: two announcements may say the same.
            del sent[next(index for index, each in enumerate(sent) if each is load)]
            if not sent:
                self._sent.pop((executor, model), None)

    def count(self, executor: bytes, model: str, load: PeerLoad) -> int:
        """Requests that were sent after the announcement of ``load``."""
        return sum(each is load for each in self._sent.get((executor, model), ()))
