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
from chain.state.beacon import NO_TIP
from chain.state.state import (
    TURNOUT_KEY,
    Draft,
    Duty,
    RecentBlock,
    State,
    StateReader,
    Turnout,
    committee_key,
    duty_key,
)
from chain.transition.epochs import Epoch
from chain.types.blocks import Body, Header
from chain.types.operations import Enroll, Evidence, Recommit
from chain.types.validators import LATE_BLOCKS, MAX_COMMITTEE, ValidatorSet
from chain.types.votes import Certificate, Vote, VoteKind, is_slashable

FINDER_SHARE = 10
"""Whoever shows evidence gets one part in so many of what is slashed."""

GROWTH_LIMIT = 10
"""Weight added from one epoch to the next is at most one part in so many of the whole."""

MIN_TURNOUT = 2
"""A validator must take part in one of so many blocks of an epoch."""

MIN_BLOCKS = 3
"""Blocks of an epoch that must have been counted before anybody is jailed: one leader could leave out a few votes."""


# Operations.


def process_enroll(draft: Draft, genesis: Genesis, epoch: int, height: int, operation: Enroll, signer: bytes) -> None:
    """Put an account on duty, or take it back on duty with another onion."""
    duty = draft.duty(signer) or Duty()
    least = genesis.parameters.min_validator_bond
    if duty.is_enrolled:
        raise InvalidOperation("the account is enrolled already")
    if draft.account(signer).own_bond < least:  # a grant is no stake, or newcomers would get votes for nothing
        raise InvalidOperation(f"a validator bonds {least} micro-credits at least")
    duty = _announce(duty, epoch, operation)
    _put_duty(draft, signer, replace(duty, is_enrolled=True, waiting_since=height))


def process_retire(draft: Draft, signer: bytes) -> None:
    """Take an account off duty."""
    _put_duty(draft, signer, replace(_get_duty(draft, signer), is_enrolled=False))


def process_unjail(draft: Draft, epoch: int, height: int, signer: bytes) -> None:
    """Let an account return that was jailed."""
    duty = _get_duty(draft, signer)
    if not duty.jailed_until:
        raise InvalidOperation("the account is not jailed")
    if epoch < duty.jailed_until:
        raise InvalidOperation(f"the account is jailed until epoch {duty.jailed_until}, this is epoch {epoch}")
    _put_duty(draft, signer, replace(duty, jailed_until=0, waiting_since=height))


def process_recommit(draft: Draft, epoch: int, operation: Recommit, signer: bytes) -> None:
    """Announce the tip of another onion."""
    _put_duty(draft, signer, _announce(_get_duty(draft, signer), epoch, operation))


def note_bond(draft: Draft, height: int, signer: bytes) -> None:
    """An account has bonded more: if it is on duty, it waits from now on, whatever it waited for before."""
    duty = draft.duty(signer)
    if duty is not None and duty.is_enrolled:
        _put_duty(draft, signer, replace(duty, waiting_since=height))


def process_evidence(draft: Draft, genesis: Genesis, epoch: int, operation: Evidence, finder: bytes) -> None:
    """Slash everything that the signer of two conflicting votes has at stake, and jail it."""
    first, second = operation.first, operation.second
    if first.epoch > epoch:  # or the same votes would be good again after each punishment until then
        raise InvalidOperation(f"epoch {first.epoch} of the votes has not begun")
    if epoch > first.epoch + genesis.parameters.unbonding_epochs:
        raise InvalidOperation(f"votes of epoch {first.epoch} are too old to be punished in epoch {epoch}")
    duty = draft.duty(first.signer)
    if duty is None:
        raise InvalidOperation("their signer never was a validator")
    if first.epoch < duty.clean_from:
        raise InvalidOperation("the signer was punished for that epoch already")
    account = draft.account(first.signer)
    stake = account.bonded + sum(part.amount for part in account.unbonding)
    if not stake:
        raise InvalidOperation("the signer has nothing at stake")
    if not (first.is_valid(genesis.chain_id) and second.is_valid(genesis.chain_id)):  # last: the only costly step
        raise InvalidSignature("the votes are not signed by their signer")
    draft.put_account(first.signer, replace(account, bonded=0, unbonding=(), grant=0))
    reward = (stake - account.bonded + account.own_bond) // FINDER_SHARE  # a grant must not become free credit
    draft.put_account(finder, draft.account(finder).credit(reward))
    draft.fill_treasury(stake - reward)
    jailed_until = epoch + genesis.parameters.unbonding_epochs
    # Its frozen weight still counts in the next epoch, but there is nothing left to punish it with.
    _put_duty(draft, first.signer, replace(duty, jailed_until=jailed_until, clean_from=epoch + 2))


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


def process_votes(draft: Draft, epoch: Epoch, parent: Header, body: Body) -> None:
    """Count who took part, as the evidence in a block's body shows.

    The certificates are those of the right blocks (:func:`chain.transition.block.get_evidence_claims`).

    Raises:
        InvalidBlock: the parent's certificate names nobody, a late vote is of no recent block, or was counted before.
    """
    turnout, certificate = draft.turnout, body.parent_certificate
    if certificate is not None and certificate.epoch == epoch.number:
        # Checked with the signatures, but that may come later, or never where blocks are only executed again.
        is_first = not parent.height or parent.epoch != epoch.number
        if is_first or any(position >= len(epoch.validators) for position in certificate.signers):
            raise InvalidBlock("parent_certificate", "is not of the parent, or of others than this epoch's validators")
    recent = get_recent_blocks(draft, epoch, parent, certificate)
    counts, blocks = [0] * len(epoch.validators), 0
    if certificate is not None and recent:
        counts, blocks = list(turnout.votes), turnout.blocks + 1
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
    draft.put(TURNOUT_KEY, Turnout(blocks, tuple(counts), tuple(recent)))


def get_recent_blocks(
    state: StateReader, epoch: Epoch, parent: Header, certificate: Certificate | None
) -> list[RecentBlock]:
    """The blocks for which a child of ``parent`` may carry late votes, oldest first: none across an epoch boundary."""
    if certificate is None or certificate.epoch != epoch.number:
        return []
    newest = RecentBlock(parent.id, certificate.view, _pack(certificate.signers))
    return [*state.turnout.recent, newest][-LATE_BLOCKS:]


def is_late_vote(epoch: Epoch, block: RecentBlock, vote: Vote) -> bool:
    """Whether ``vote`` is for ``block``, of a validator whose vote for it was not counted before."""
    position = epoch.validators.positions.get(vote.signer)
    if position is None or int.from_bytes(block.voters, "big") >> position & 1:
        return False
    said = (vote.kind, vote.epoch, vote.view, vote.block_id)
    return said == (VoteKind.NOTARIZE, epoch.number, block.view, block.block_id)


def charge_missed_leads(draft: Draft, parameters: Parameters, epoch: Epoch, body: Body) -> None:
    """The leaders of the views that were given up pay for them.

    Out of what they have available, the rest out of the bond, then out of what is leaving it: a leader that unbonds
    keeps its frozen weight for up to two epochs, and must not lead them for nothing.
    """
    for certificate in body.nullifications:
        leader = epoch.compute_leader(certificate.view)
        account = draft.account(leader)
        available = min(parameters.missed_lead_fee, account.available)
        bonded = min(parameters.missed_lead_fee - available, account.bonded)
        owed = parameters.missed_lead_fee - available - bonded
        parts = []
        for part in account.unbonding:  # what leaves first pays first
            taken = min(owed, part.amount)
            owed -= taken
            if part.amount > taken:  # an entry of nothing could never be withdrawn
                parts.append(replace(part, amount=part.amount - taken))
        draft.put_account(
            leader,
            replace(
                account,
                available=account.available - available,
                bonded=account.bonded - bonded,
                unbonding=tuple(parts),
            ),
        )
        draft.fill_treasury(parameters.missed_lead_fee - owed)


def end_epoch(draft: Draft, state: State, genesis: Genesis, epoch: Epoch) -> None:
    """After the last block of an epoch: jail who was absent, put announced tips in force, freeze a committee.

    ``state`` is that after the block, with everything in ``draft`` applied.
    """
    turnout, following = draft.turnout, epoch.number + 1
    absent = {
        validator.public_key
        for validator, votes in zip(epoch.validators, turnout.votes, strict=True)
        if votes * MIN_TURNOUT < turnout.blocks >= MIN_BLOCKS
    }
    duties: dict[bytes, Duty] = {}
    for key, duty in state.duties():
        if duty.next_epoch and duty.next_epoch <= following:
            duty = replace(duty, tip=duty.next_tip, onion=duty.next_onion, next_tip=NO_TIP, next_onion=0, next_epoch=0)
        if key in absent and not duty.jailed_until:
            duty = replace(duty, jailed_until=following)
        duties[key] = duty
    candidates = [
        Candidate(key, state.account(key).own_bond, duty.waiting_since)
        for key, duty in duties.items()
        if duty.is_enrolled and not duty.jailed_until and (duty.tip != NO_TIP or duty.next_tip != NO_TIP)
    ]
    candidates = [candidate for candidate in candidates if candidate.bonded >= genesis.parameters.min_validator_bond]
    committee = compute_committee(epoch.next_validators, candidates, genesis.parameters.committee_size)
    for candidate in candidates:
        is_served = committee.get_stake([candidate.public_key]) >= candidate.bonded
        since = 0 if is_served else candidate.waiting_since or epoch.last_height
        duties[candidate.public_key] = replace(duties[candidate.public_key], waiting_since=since)
    for key, duty in duties.items():
        if duty != state.duty(key):
            _put_duty(draft, key, duty)
    draft.put(committee_key(epoch.number + 2), committee)
    if epoch.number:
        draft.put(committee_key(epoch.number - 1), None)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An account that asks to vote with the weight of its bond, and the height since which it asks for more."""

    public_key: bytes
    bonded: int
    waiting_since: int


def compute_committee(before: ValidatorSet, candidates: Iterable[Candidate], size: int) -> ValidatorSet:
    """The committee that follows ``before``.

    Weight that is taken away counts in full. What is added is a tenth of the whole at most: who waited longest comes
    first and may get a part. A newcomer takes the seat of the smallest member only if it has more, so that the weight
    that it displaces is limited too. If nobody is left the old committee stays, since a chain without one is dead.
    """
    room = before.total_stake // GROWTH_LIMIT
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


def _announce(duty: Duty, epoch: int, operation: Enroll | Recommit) -> Duty:
    """The tip must be fixed before anybody knows what the draws that it decides will come from."""
    if operation.tip == NO_TIP:
        raise InvalidOperation("the tip is that of no onion")
    if duty.next_epoch:
        raise InvalidOperation(f"another tip was announced already, for epoch {duty.next_epoch}")
    return replace(duty, next_tip=operation.tip, next_onion=operation.onion, next_epoch=epoch + 2)


def _get_duty(draft: Draft, signer: bytes) -> Duty:
    duty = draft.duty(signer)
    if duty is None or not duty.is_enrolled:
        raise InvalidOperation("the account is not enrolled")
    return duty


def _put_duty(draft: Draft, public_key: bytes, duty: Duty) -> None:
    draft.put(duty_key(public_key), duty)
