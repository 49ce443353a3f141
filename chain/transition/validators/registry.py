"""The validator registry: who may vote, and how a committee follows from the one before.

Serving needs a bond and nothing else; voting is opt-in (``enroll``). A validator's weight is its bond, frozen two
epochs ahead. Weight grows by at most a tenth per epoch and shrinks at once, so that a quorum of one committee has more
than half of the next.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from chain.exceptions import InvalidOperation
from chain.parameters.parameters import Parameters
from chain.state.beacon import NO_COMMITMENT
from chain.state.keys import validator_key
from chain.state.records import Account, ValidatorRecord
from chain.state.state import StateOverlay
from chain.transition.context import BlockContext
from chain.transition.fees import charge_entry_fee
from chain.types.operations import Enroll, Recommit, Retire, Unjail
from chain.types.validators import ValidatorSet

COMMITTEE_GROWTH_QUOTIENT = 10
"""At most a tenth of the total stake joins from one epoch to the next, so that a quorum of one committee has more than
half of the next."""


def process_enroll(overlay: StateOverlay, context: BlockContext, operation: Enroll, signer: bytes) -> None:
    """Enroll an account as a validator, or enroll it again with another hash chain."""
    record = overlay.validator_record(signer)
    if record is None:
        charge_entry_fee(overlay, context, signer, count=2)
        record = ValidatorRecord()
    least = context.genesis.parameters.min_validator_bond
    if record.is_enrolled:
        raise InvalidOperation("the account is enrolled already")
    if overlay.account(signer).own_bond < least:  # a grant is no stake, or newcomers would get votes for nothing
        raise InvalidOperation(f"a validator bonds {least} micro-credits at least")
    record = _announce(record, context.epoch, operation)
    put_record(overlay, signer, replace(record, is_enrolled=True, waiting_since=context.height))


def process_retire(overlay: StateOverlay, context: BlockContext, operation: Retire, signer: bytes) -> None:
    """Withdraw an account from voting."""
    put_record(overlay, signer, replace(get_enrolled(overlay, signer), is_enrolled=False))


def process_unjail(overlay: StateOverlay, context: BlockContext, operation: Unjail, signer: bytes) -> None:
    """Let an account return that was jailed."""
    epoch = context.epoch
    record = get_enrolled(overlay, signer)
    if not record.jailed_until:
        raise InvalidOperation("the account is not jailed")
    if epoch < record.jailed_until:
        raise InvalidOperation(f"the account is jailed until epoch {record.jailed_until}, this is epoch {epoch}")
    put_record(overlay, signer, replace(record, jailed_until=0, waiting_since=context.height))


def process_recommit(overlay: StateOverlay, context: BlockContext, operation: Recommit, signer: bytes) -> None:
    """Announce the commitment to another hash chain."""
    put_record(overlay, signer, _announce(get_enrolled(overlay, signer), context.epoch, operation))


def note_larger_bond(overlay: StateOverlay, height: int, signer: bytes) -> None:
    """An account has bonded more: if it is enrolled, its waiting time begins anew."""
    record = overlay.validator_record(signer)
    if record is not None and record.is_enrolled:
        put_record(overlay, signer, replace(record, waiting_since=height))


def is_applicant(record: ValidatorRecord, account: Account, parameters: Parameters) -> bool:
    """Whether a validator may have a seat in the committee that is chosen next."""
    has_commitment = record.commitment != NO_COMMITMENT or record.next_commitment != NO_COMMITMENT
    is_ready = record.is_enrolled and not record.jailed_until and has_commitment
    return is_ready and account.own_bond >= parameters.min_validator_bond


@dataclass(frozen=True, slots=True)
class CommitteeApplicant:
    """An account that asks to vote with the weight of its bond, and the height since which it has asked for more
    weight."""

    public_key: bytes
    bonded: int
    waiting_since: int


def compute_committee(before: ValidatorSet, applicants: Iterable[CommitteeApplicant], size: int) -> ValidatorSet:
    """The committee that follows ``before``.

    Removed weight counts in full. Added weight is at most a tenth of the total: applicants that have waited longest
    come first, and the last of them may get a part. A newcomer takes the seat of the smallest member only if it has
    more weight, so that the displaced weight is limited too. If no applicant is left, the old committee stays: a chain
    without one is dead.
    """
    room = before.total_stake // COMMITTEE_GROWTH_QUOTIENT
    waiting = sorted(applicants, key=lambda applicant: (applicant.waiting_since or 2**63, applicant.public_key))
    weights = {
        applicant.public_key: min(applicant.bonded, before.get_stake([applicant.public_key]))
        for applicant in waiting
        if applicant.public_key in before
    }
    for applicant in waiting:
        key = applicant.public_key
        weight = min(applicant.bonded, weights.get(key, 0) + room)
        if key not in weights and weight and len(weights) >= size:
            smallest = min(weights, key=lambda other: (weights[other], other))
            if weights[smallest] >= weight:
                continue
            del weights[smallest]
        room -= weight - weights.get(key, 0)
        weights[key] = weight
    seats = [(key, weight) for key, weight in weights.items() if weight]
    return ValidatorSet.of(seats) if seats else before


def _announce(record: ValidatorRecord, epoch: int, operation: Enroll | Recommit) -> ValidatorRecord:
    """Announce a commitment two epochs ahead: it must be fixed before the beacon of the draws that it influences is
    known."""
    if operation.commitment == NO_COMMITMENT:
        raise InvalidOperation("the commitment is that of no hash chain")
    if record.next_epoch:
        raise InvalidOperation(f"another commitment was announced already, for epoch {record.next_epoch}")
    return replace(
        record, next_commitment=operation.commitment, next_hash_chain=operation.hash_chain, next_epoch=epoch + 2
    )


def get_enrolled(overlay: StateOverlay, signer: bytes) -> ValidatorRecord:
    record = overlay.validator_record(signer)
    if record is None or not record.is_enrolled:
        raise InvalidOperation("the account is not enrolled")
    return record


def put_record(overlay: StateOverlay, public_key: bytes, record: ValidatorRecord) -> None:
    overlay.put(validator_key(public_key), record)
