"""The records of checks of the model that are not settled yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from chain.codec import Amount, Bounds, Hash, ModelName, Natural, PublicKey, Record
from chain.types.checks import MAX_CHECKERS, CheckReport

CHECK_COMMIT, CHECK_REVEAL = 11, 12
"""The stages of a check: the checkers commit to their reports, and reveal them. Stages of duels have other numbers."""
CHECK_STAGES = {CHECK_COMMIT: "waits for commitments", CHECK_REVEAL: "waits for reports"}
"""What a check does in each of them, in order."""


@dataclass(frozen=True, slots=True)
class CheckerSeat(Record):
    """A checker, and its report as far as that is known."""

    public_key: PublicKey
    commitment: Hash | None = None
    report: CheckReport | None = None


@dataclass(frozen=True, slots=True)
class ModelCheck(Record):
    """An answer whose transcript others score. Its key is the hold of the request.

    ``identity`` is the digest that the executor declared when it was paid ``amount``, in micro-credits; all amounts of
    the check are shares of it. ``seed`` draws the positions that all checkers score. ``ends_at`` is the chain time at
    which its ``stage`` ends, in ms. ``locked`` is the part of the executor's bond that stands behind it, ``reserved``
    the part of the treasury.
    """

    payer: PublicKey
    executor: PublicKey
    model: ModelName
    identity: Hash
    amount: Amount
    request_digest: Hash
    response_digest: Hash
    transcript_digest: Hash | None
    seed: Hash
    stage: Annotated[int, Bounds(CHECK_COMMIT, CHECK_REVEAL)]
    ends_at: Natural
    seats: Annotated[tuple[CheckerSeat, ...], Bounds(1, MAX_CHECKERS)]
    locked: Amount
    reserved: Amount

    @property
    def is_stage_complete(self) -> bool:
        """Whether everything that its stage waits for is there."""
        if self.stage == CHECK_COMMIT:
            return all(seat.commitment is not None for seat in self.seats)
        return all(seat.commitment is None or seat.report is not None for seat in self.seats)
