"""What happens after the last block of an epoch."""

from __future__ import annotations

from dataclasses import replace

from chain.genesis import Genesis
from chain.state.beacon import NO_COMMITMENT
from chain.state.keys import BEACON_KEY, PARTICIPATION_KEY, REGISTRATIONS_KEY, committee_key
from chain.state.records import Participation, ValidatorRecord
from chain.state.state import State, StateOverlay
from chain.transition.epochs import Epoch
from chain.transition.validators.jailing import begin_spans, count_epoch, jail_absent_validators
from chain.transition.validators.registry import CommitteeApplicant, compute_committee, is_applicant, put_record
from chain.types.validators import ValidatorSet


def process_epoch(overlay: StateOverlay, state: State, genesis: Genesis, epoch: Epoch, chain_time: int) -> None:
    """Everything that happens after the last block of ``epoch``; ``state`` and ``chain_time`` are those after that
    block."""
    records = dict(state.validator_records())
    activate_commitments(records, epoch.number + 1)
    count_epoch(records, overlay.participation, epoch.validators)
    jail_absent_validators(records, state, genesis, epoch, chain_time)
    begin_spans(records, genesis, epoch, chain_time)
    committee = select_committee(records, state, genesis, epoch)
    for key, record in records.items():
        if record != state.validator_record(key):
            put_record(overlay, key, record)
    rotate_committees(overlay, committee, epoch.number)
    overlay.put(BEACON_KEY, overlay.beacon.end_epoch())
    overlay.put(PARTICIPATION_KEY, Participation(0, (), ()))
    overlay.put(REGISTRATIONS_KEY, None)


def activate_commitments(records: dict[bytes, ValidatorRecord], epoch: int) -> None:
    """Put announced commitments in force that are due in ``epoch``."""
    for key, record in records.items():
        if record.next_epoch and record.next_epoch <= epoch:
            records[key] = replace(
                record,
                commitment=record.next_commitment,
                hash_chain=record.next_hash_chain,
                next_commitment=NO_COMMITMENT,
                next_hash_chain=0,
                next_epoch=0,
            )


def select_committee(
    records: dict[bytes, ValidatorRecord], state: State, genesis: Genesis, epoch: Epoch
) -> ValidatorSet:
    """The committee of the epoch after next. It also notes in ``records`` since when an applicant waits for more
    weight."""
    applicants = [
        CommitteeApplicant(key, account.own_bond, record.waiting_since)
        for key, record in records.items()
        if is_applicant(record, account := state.account(key), genesis.parameters)
    ]
    committee = compute_committee(epoch.next_validators, applicants, genesis.parameters.committee_size)
    for applicant in applicants:
        has_full_weight = committee.get_stake([applicant.public_key]) >= applicant.bonded
        since = 0 if has_full_weight else applicant.waiting_since or epoch.last_height
        records[applicant.public_key] = replace(records[applicant.public_key], waiting_since=since)
    return committee


def rotate_committees(overlay: StateOverlay, committee: ValidatorSet, number: int) -> None:
    """Add the committee of epoch ``number`` + 2 and remove that of epoch ``number`` − 1."""
    overlay.put(committee_key(number + 2), committee)
    if number:
        overlay.put(committee_key(number - 1), None)
