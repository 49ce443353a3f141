"""The records of duels in the state: captures that wait for their draw, and duels that are not settled yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from chain.codec import Amount, Bounds, Hash, ModelName, Natural, PublicKey, Record
from chain.types.duels import MAX_CHALLENGERS, MAX_JUDGES, DeclaredJudge, DuelBallot

ANSWER, COMMIT, REPEAT, REVEAL = 1, 2, 3, 4
"""The stages of a duel: the challenger answers, the judges commit to their ballots, those who repeat a vote commit to
theirs, and all reveal them."""
STAGES = {
    ANSWER: "waits for an answer",
    COMMIT: "waits for commitments",
    REPEAT: "waits for repeated votes",
    REVEAL: "waits for ballots",
}
"""What a duel does in each of them, in order."""


@dataclass(frozen=True, slots=True)
class PaidCapture(Record):
    """A capture that was paid, and what a duel or a check about it needs to know.

    ``amount`` is in micro-credits. ``identity`` is what the payee declared of the model when it was paid.
    """

    hold: Hash
    payer: PublicKey
    payee: PublicKey
    model: ModelName
    amount: Amount
    request_digest: Hash
    response_digest: Hash
    transcript_digest: Hash | None
    identity: Hash | None


@dataclass(frozen=True, slots=True)
class PaidCaptures(Record):
    """Captures that wait for the same block: the one that draws their deciding blocks, or the deciding block itself."""

    captures: tuple[PaidCapture, ...]


@dataclass(frozen=True, slots=True)
class JudgeSeat(Record):
    """A judge of a duel, what it declared when it was drawn, and its ballot as far as that is known.

    The judge sees the executor's answer first unless ``is_reversed``. In a seat that ``repeats`` the vote of another
    judge, it sees what that one saw.
    """

    public_key: PublicKey
    judge: DeclaredJudge
    is_reversed: bool
    commitment: Hash | None = None
    ballot: DuelBallot | None = None
    repeats: PublicKey | None = None

    @property
    def voter(self) -> bytes:
        """The judge whose vote this seat casts or repeats: all draws for the vote follow from its key."""
        return self.repeats or self.public_key

    @property
    def commit_stage(self) -> int:
        """The stage in which it commits to its ballot."""
        return COMMIT if self.repeats is None else REPEAT


@dataclass(frozen=True, slots=True)
class Duel(Record):
    """A request that is answered a second time; judges compare the answers. Its key is the hold of the request.

    ``amount`` is the captured amount, in micro-credits: all amounts of the duel are shares of it. ``rate`` is the rate
    at which it was drawn, in thousandths. ``ends_at`` is the chain time at which its ``stage`` ends, in ms. Without a
    ``challenger`` it is a *solo check*. ``silent`` are the challengers that gave no answer. ``locked`` is the part of
    the executor's bond that stands behind it, ``reserved`` the part of the treasury. The executor ``is_accused`` once
    most of the judges have called its answer unusable: the seats are then those of a second panel, which confirms that
    or not. ``repeats`` are the seats of accounts that repeat votes.
    """

    payer: PublicKey
    executor: PublicKey
    model: ModelName
    amount: Amount
    rate: Annotated[int, Bounds(1, 1_000)]
    request_digest: Hash
    response_digest: Hash
    stage: Annotated[int, Bounds(ANSWER, REVEAL)]
    ends_at: Natural
    challenger: PublicKey | None
    answer_digest: Hash | None
    silent: Annotated[tuple[PublicKey, ...], Bounds(0, MAX_CHALLENGERS)]
    seats: Annotated[tuple[JudgeSeat, ...], Bounds(1, MAX_JUDGES)]
    locked: Amount
    reserved: Amount
    is_accused: bool = False
    repeats: Annotated[tuple[JudgeSeat, ...], Bounds(0, MAX_JUDGES)] = ()

    @property
    def all_seats(self) -> tuple[JudgeSeat, ...]:
        """The seats of judges, and of those who repeat a vote."""
        return (*self.seats, *self.repeats)

    @property
    def is_stage_complete(self) -> bool:
        """Whether everything that its stage waits for is there."""
        if self.stage == ANSWER:
            return self.answer_digest is not None
        if self.stage == COMMIT:
            return all(seat.commitment is not None for seat in self.seats)
        if self.stage == REPEAT:
            return all(seat.commitment is not None for seat in self.repeats)
        return all(seat.commitment is None or seat.ballot is not None for seat in self.all_seats)


@dataclass(frozen=True, slots=True)
class DuelDeadline(Record):
    """When a stage of a duel ends at the latest. It counts for nothing once the duel has left that stage."""

    hold: Hash
    ends_at: Natural


@dataclass(frozen=True, slots=True)
class DeadlineQueue(Record):
    """The numbers of the :class:`DuelDeadline` entries of a stage: from ``first`` to ``end`` − 1, in order of time.

    That is the order in which duels entered the stage, since it is equally long for all.
    """

    first: Natural = 0
    end: Natural = 0
