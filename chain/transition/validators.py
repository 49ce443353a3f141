"""Validator duty: who may vote with which weight, who takes part, and what happens to those who do not, or who cheat.

Serving needs a bond and nothing else; voting is opt-in (``enroll``). A validator's weight is its bond, frozen for each
epoch after the last block of the epoch but one before it. Weight grows slowly and shrinks at once, so that no committee
differs by much from the one that its members were checked by.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from chain.exceptions import InvalidBlock, InvalidOperation, InvalidSignature
from chain.genesis import Genesis, Parameters
from chain.state.beacon import NO_COMMITMENT
from chain.state.state import (
    PARTICIPATION_KEY,
    Participation,
    RecentBlock,
    State,
    StateOverlay,
    StateReader,
    ValidatorRecord,
    committee_key,
    validator_key,
)
from chain.transition.epochs import Epoch
from chain.types.blocks import Body, Header
from chain.types.operations import Enroll, Evidence, Recommit
from chain.types.validators import LATE_VOTE_BLOCKS, MAX_COMMITTEE, ValidatorSet
from chain.types.votes import Certificate, Vote, VoteKind, is_slashable

FINDER_REWARD_QUOTIENT = 10
"""The finder of evidence earns a tenth of what is slashed: it pays for looking, and nobody gains by slashing itself."""

COMMITTEE_GROWTH_QUOTIENT = 10
"""At most a tenth of the total stake joins from one epoch to the next, so that a quorum of one committee has more than
half of the next."""

MIN_PARTICIPATION_QUOTIENT = 2
"""A validator must vote in half of an epoch's counted blocks: more than a quorum can leave out by chance."""

MIN_COUNTED_BLOCKS = 3
"""Counted blocks of an epoch below which no validator is jailed: a single leader could leave out votes in fewer."""


# Operations.


def process_enroll(
    overlay: StateOverlay, genesis: Genesis, epoch: int, height: int, operation: Enroll, signer: bytes
) -> None:
    """Put an account on duty, or take it back on duty with another onion."""
    record = overlay.validator_record(signer) or ValidatorRecord()
    least = genesis.parameters.min_validator_bond
    if record.is_enrolled:
        raise InvalidOperation("the account is enrolled already")
    if overlay.account(signer).own_bond < least:  # a grant is no stake, or newcomers would get votes for nothing
        raise InvalidOperation(f"a validator bonds {least} micro-credits at least")
    record = _announce(record, epoch, operation)
    _put_record(overlay, signer, replace(record, is_enrolled=True, waiting_since=height))


def process_retire(overlay: StateOverlay, signer: bytes) -> None:
    """Take an account off duty."""
    _put_record(overlay, signer, replace(_get_record(overlay, signer), is_enrolled=False))


def process_unjail(overlay: StateOverlay, epoch: int, height: int, signer: bytes) -> None:
    """Let an account return that was jailed."""
    record = _get_record(overlay, signer)
    if not record.jailed_until:
        raise InvalidOperation("the account is not jailed")
    if epoch < record.jailed_until:
        raise InvalidOperation(f"the account is jailed until epoch {record.jailed_until}, this is epoch {epoch}")
    _put_record(overlay, signer, replace(record, jailed_until=0, waiting_since=height))


def process_recommit(overlay: StateOverlay, epoch: int, operation: Recommit, signer: bytes) -> None:
    """Announce the tip of another onion."""
    _put_record(overlay, signer, _announce(_get_record(overlay, signer), epoch, operation))


def note_larger_bond(overlay: StateOverlay, height: int, signer: bytes) -> None:
    """An account has bonded more: if it is on duty, it waits from now on, whatever it waited for before."""
    record = overlay.validator_record(signer)
    if record is not None and record.is_enrolled:
        _put_record(overlay, signer, replace(record, waiting_since=height))


def process_evidence(overlay: StateOverlay, genesis: Genesis, epoch: int, operation: Evidence, finder: bytes) -> None:
    """Slash everything that the signer of two conflicting votes has at stake, and jail it."""
    first, second = operation.first, operation.second
    if first.epoch > epoch:  # or the same votes would be good again after each punishment until then
        raise InvalidOperation(f"epoch {first.epoch} of the votes has not begun")
    if epoch > first.epoch + genesis.parameters.unbonding_epochs:
        raise InvalidOperation(f"votes of epoch {first.epoch} are too old to be punished in epoch {epoch}")
    record = overlay.validator_record(first.signer)
    if record is None:
        raise InvalidOperation("their signer never was a validator")
    if first.epoch < record.clean_from:
        raise InvalidOperation("the signer was punished for that epoch already")
    account = overlay.account(first.signer)
    stake = account.bonded + sum(part.amount for part in account.unbonding)
    if not stake:
        raise InvalidOperation("the signer has nothing at stake")
    if not (first.is_valid(genesis.chain_id) and second.is_valid(genesis.chain_id)):  # last: the only costly step
        raise InvalidSignature("the votes are not signed by their signer")
    overlay.put_account(first.signer, replace(account, bonded=0, unbonding=(), grant=0))
    own_stake = stake - account.bonded + account.own_bond  # a grant must not become free credit
    reward = own_stake // FINDER_REWARD_QUOTIENT
    overlay.put_account(finder, overlay.account(finder).credit(reward))
    overlay.fill_treasury(stake - reward)
    jailed_until = epoch + genesis.parameters.unbonding_epochs
    # Its frozen weight still counts in the next epoch, but there is nothing left to punish it with.
    _put_record(overlay, first.signer, replace(record, jailed_until=jailed_until, clean_from=epoch + 2))


def check_evidence(operation: Evidence) -> None:
    """Check what needs no state.

    Raises:
        InvalidOperation: the votes do not contradict each other, or stand in the wrong order.
    """
    if not is_slashable(operation.first, operation.second):
        raise InvalidOperation("the votes do not contradict each other")
    if operation.first.encode() >= operation.second.encode():
        raise InvalidOperation("the vote with the smaller encoding comes first")


# Blocks.


def process_votes(overlay: StateOverlay, epoch: Epoch, parent: Header, body: Body) -> None:
    """Count who took part, as the evidence in a block's body shows.

    The certificates are those of the right blocks (:func:`chain.transition.block.get_justification_checks`).

    Raises:
        InvalidBlock: the parent's certificate names nobody, a late vote is of no recent block, or was counted before.
    """
    participation, certificate = overlay.participation, body.parent_certificate
    if certificate is not None and certificate.epoch == epoch.number:
        # Checked with the signatures, but that may come later, or never where blocks are only executed again.
        is_first = not parent.height or parent.epoch != epoch.number
        if is_first or any(position >= len(epoch.validators) for position in certificate.signers):
            raise InvalidBlock("parent_certificate", "is not of the parent, or of others than this epoch's validators")
    recent = get_recent_blocks(overlay, epoch, parent, certificate)
    counts, blocks = [0] * len(epoch.validators), 0
    if certificate is not None and recent:
        counts, blocks = list(participation.votes), participation.blocks + 1
        for position in certificate.signers:
            counts[position] += 1
    late = {block.block_id: (number, block) for number, block in enumerate(recent)}
    for vote in body.late_votes:
        number, block = late.get(vote.block_id, (0, None))
        if block is None or not is_late_vote(epoch, block, vote):
            raise InvalidBlock("late_votes", "one is not a vote to notarize a recent block, or was counted before")
        position = epoch.validators.get_position(vote.signer)
        voters = (int.from_bytes(block.voters, "big") | 1 << position).to_bytes(len(block.voters), "big")
        counts[position] += 1
        recent[number] = replace(block, voters=voters)
        late[vote.block_id] = (number, recent[number])
    overlay.put(PARTICIPATION_KEY, Participation(blocks, tuple(counts), tuple(recent)))


def get_recent_blocks(
    state: StateReader, epoch: Epoch, parent: Header, certificate: Certificate | None
) -> list[RecentBlock]:
    """The blocks for which a child of ``parent`` may carry late votes, oldest first: none across an epoch boundary."""
    if certificate is None or certificate.epoch != epoch.number:
        return []
    newest = RecentBlock(parent.id, certificate.view, _pack(certificate.signers))
    return [*state.participation.recent, newest][-LATE_VOTE_BLOCKS:]


def is_late_vote(epoch: Epoch, block: RecentBlock, vote: Vote) -> bool:
    """Whether ``vote`` is for ``block``, of a validator whose vote for it was not counted before."""
    position = epoch.validators.positions.get(vote.signer)
    if position is None or int.from_bytes(block.voters, "big") >> position & 1:
        return False
    said = (vote.kind, vote.epoch, vote.view, vote.block_id)
    return said == (VoteKind.NOTARIZE, epoch.number, block.view, block.block_id)


def charge_missed_leads(overlay: StateOverlay, parameters: Parameters, epoch: Epoch, body: Body) -> None:
    """The leaders of the views that were given up pay for them.

    Out of what they have available, the rest out of the bond, then out of what is leaving it: a leader that unbonds
    keeps its frozen weight for up to two epochs, and must not lead them for nothing.
    """
    for certificate in body.nullifications:
        leader = epoch.compute_leader(certificate.view)
        account = overlay.account(leader)
        available = min(parameters.missed_lead_fee, account.available)
        bonded = min(parameters.missed_lead_fee - available, account.bonded)
        owed = parameters.missed_lead_fee - available - bonded
        parts = []
        for part in account.unbonding:  # what leaves first pays first
            taken = min(owed, part.amount)
            owed -= taken
            if part.amount > taken:  # an entry of nothing could never be withdrawn
                parts.append(replace(part, amount=part.amount - taken))
        overlay.put_account(
            leader,
            replace(
                account,
                available=account.available - available,
                bonded=account.bonded - bonded,
                unbonding=tuple(parts),
            ),
        )
        overlay.fill_treasury(parameters.missed_lead_fee - owed)


def end_epoch(overlay: StateOverlay, state: State, genesis: Genesis, epoch: Epoch) -> None:
    """After the last block of an epoch: jail who was absent, put announced tips in force, freeze a committee.

    ``state`` is that after the block, with everything in ``overlay`` applied.
    """
    participation, following = overlay.participation, epoch.number + 1
    absent = {
        validator.public_key
        for validator, votes in zip(epoch.validators, participation.votes, strict=True)
        if votes * MIN_PARTICIPATION_QUOTIENT < participation.blocks >= MIN_COUNTED_BLOCKS
    }
    duties: dict[bytes, ValidatorRecord] = {}
    for key, record in state.validator_records():
        if record.next_epoch and record.next_epoch <= following:
            record = replace(
                record,
                commitment=record.next_commitment,
                hash_chain=record.next_hash_chain,
                next_commitment=NO_COMMITMENT,
                next_hash_chain=0,
                next_epoch=0,
            )
        if key in absent and not record.jailed_until:
            record = replace(record, jailed_until=following)
        duties[key] = record
    candidates = [
        CommitteeApplicant(key, state.account(key).own_bond, record.waiting_since)
        for key, record in duties.items()
        if record.is_enrolled
        and not record.jailed_until
        and (record.commitment != NO_COMMITMENT or record.next_commitment != NO_COMMITMENT)
    ]
    candidates = [candidate for candidate in candidates if candidate.bonded >= genesis.parameters.min_validator_bond]
    committee = compute_committee(epoch.next_validators, candidates, genesis.parameters.committee_size)
    for candidate in candidates:
        is_served = committee.get_stake([candidate.public_key]) >= candidate.bonded
        since = 0 if is_served else candidate.waiting_since or epoch.last_height
        duties[candidate.public_key] = replace(duties[candidate.public_key], waiting_since=since)
    for key, record in duties.items():
        if record != state.validator_record(key):
            _put_record(overlay, key, record)
    overlay.put(committee_key(epoch.number + 2), committee)
    if epoch.number:
        overlay.put(committee_key(epoch.number - 1), None)


@dataclass(frozen=True, slots=True)
class CommitteeApplicant:
    """An account that asks to vote with the weight of its bond, and the height since which it asks for more."""

    public_key: bytes
    bonded: int
    waiting_since: int


def compute_committee(before: ValidatorSet, candidates: Iterable[CommitteeApplicant], size: int) -> ValidatorSet:
    """The committee that follows ``before``.

    Weight that is taken away counts in full. What is added is a tenth of the whole at most: who waited longest comes
    first and may get a part. A newcomer takes the seat of the smallest member only if it has more, so that the weight
    that it displaces is limited too. If nobody is left the old committee stays, since a chain without one is dead.
    """
    room = before.total_stake // COMMITTEE_GROWTH_QUOTIENT
    waiting = sorted(candidates, key=lambda candidate: (candidate.waiting_since or 2**63, candidate.public_key))
    weights = {
        candidate.public_key: min(candidate.bonded, before.get_stake([candidate.public_key]))
        for candidate in waiting
        if candidate.public_key in before
    }
    for candidate in waiting:
        key = candidate.public_key
        weight = min(candidate.bonded, weights.get(key, 0) + room)
        if key not in weights and weight and len(weights) >= size:
            smallest = min(weights, key=lambda other: (weights[other], other))
            if weights[smallest] >= weight:
                continue
            del weights[smallest]
        room -= weight - weights.get(key, 0)
        weights[key] = weight
    seats = [(key, weight) for key, weight in weights.items() if weight]
    return ValidatorSet.of(seats) if seats else before


def _pack(positions: Iterable[int]) -> bytes:
    return sum(1 << position for position in positions).to_bytes(MAX_COMMITTEE // 8, "big")


def _announce(record: ValidatorRecord, epoch: int, operation: Enroll | Recommit) -> ValidatorRecord:
    """The tip must be fixed before anybody knows what the draws that it decides will come from."""
    if operation.commitment == NO_COMMITMENT:
        raise InvalidOperation("the tip is that of no onion")
    if record.next_epoch:
        raise InvalidOperation(f"another tip was announced already, for epoch {record.next_epoch}")
    return replace(
        record, next_commitment=operation.commitment, next_hash_chain=operation.hash_chain, next_epoch=epoch + 2
    )


def _get_record(overlay: StateOverlay, signer: bytes) -> ValidatorRecord:
    record = overlay.validator_record(signer)
    if record is None or not record.is_enrolled:
        raise InvalidOperation("the account is not enrolled")
    return record


def _put_record(overlay: StateOverlay, public_key: bytes, record: ValidatorRecord) -> None:
    overlay.put(validator_key(public_key), record)
