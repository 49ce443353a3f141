"""Duels as records: what an account that judges declares, its ballot, and the operations of those whom a duel draws.

A duel is named by the hold of the request that it is about. Its operations cost no fee: each account that is drawn may
send one for each role that it has, and the ledger refuses all others (:mod:`chain.transition.duels`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from chain import crypto
from chain.codec import Bounds, Hash, ModelName, Record

MAX_JUDGES = 9
"""Judges of one duel."""
SECOND_PANEL = 5
"""Fresh judges that look at an answer which most of the first ones called unusable."""
MAX_CHALLENGERS = 3
"""Challengers that a duel draws, one after another, before it is given up."""
BALLOT_SALT_BYTES = 16
"""Length of the salt that keeps a committed ballot from being guessed."""

DRAW = 0
"""Neither of two answers is better."""
A, B = 1, 2
"""The first and the second of two answers, as their judge sees them. Sets of answers are sums of these."""
IDENTICAL = 3
"""Both answers are one and the same text."""
ABSTAIN = 4
"""The judge has no opinion: its model gave no ballot that can be read."""


@dataclass(frozen=True, slots=True)
class DeclaredJudge(Record):
    """With which model an account judges, and with which judging prompt.

    ``is_weak``: its verdicts often depend on the order of the answers, so that it compares them in both orders.
    ``identity`` is the digest of the model's identity, where it has one. A vote is repeated by an account with an equal
    declaration.
    """

    model: ModelName
    prompt_digest: Hash
    is_weak: bool
    identity: Hash | None = None


@dataclass(frozen=True, slots=True)
class DuelBallot(Record):
    """What a judge says of two answers.

    ``better`` is :data:`DRAW`, :data:`A`, :data:`B`, :data:`IDENTICAL` or :data:`ABSTAIN`. ``unusable`` and ``missing``
    are sets of answers: those that are of no use to the one who asked, and those that the judge could not obtain.
    """

    better: Annotated[int, Bounds(0, 4)]
    unusable: Annotated[int, Bounds(0, 3)] = 0
    missing: Annotated[int, Bounds(0, 3)] = 0


@dataclass(frozen=True, slots=True)
class DuelAnswer(Record):
    """The challenger has answered the request of a hold too: the salted digest of its answer."""

    TAG = 16
    hold: Hash
    answer_digest: Hash


@dataclass(frozen=True, slots=True)
class DuelCommit(Record):
    """A judge commits to its ballot (:func:`compute_ballot_commitment`) before any other is known."""

    TAG = 17
    hold: Hash
    commitment: Hash


@dataclass(frozen=True, slots=True)
class DuelReveal(Record):
    """A judge shows the ballot that it has committed to."""

    TAG = 18
    hold: Hash
    ballot: DuelBallot
    salt: Annotated[bytes, Bounds(BALLOT_SALT_BYTES, BALLOT_SALT_BYTES)]


DuelOperation = DuelAnswer | DuelCommit | DuelReveal


def compute_ballot_commitment(hold: bytes, judge: bytes, salt: bytes, ballot: DuelBallot) -> bytes:
    """What a judge commits to. It names the judge, so that a copied commitment can never be opened."""
    return crypto.hash_bytes("ballot", hold, judge, salt, ballot.encode())
