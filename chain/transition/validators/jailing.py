"""Absence of validators: how their participation is counted over a span of epochs, and who is jailed for too little.

A *span* of a validator is a run of whole epochs in which it is a member of the committee. It ends with the first epoch
at whose end it has lasted ``participation_span_ms`` of chain time and counted enough blocks; the next one begins there.
So a restart of minutes costs nothing, however fast blocks are made. No validator is jailed if fewer than four with
weight would remain: with three, a single further fault would stop the chain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from chain.genesis import Genesis
from chain.state.records import Participation, ValidatorRecord
from chain.state.state import State, StateReader
from chain.transition.epochs import Epoch
from chain.transition.validators.registry import is_applicant
from chain.types.validators import ValidatorSet

MIN_PARTICIPATION_QUOTIENT = 2
"""A validator must vote in half of a span's counted blocks: quorums do not omit that many of its votes by chance."""
MIN_COUNTED_BLOCKS = 3
"""Least number of counted blocks in a span: with fewer, a single leader could leave out a validator's votes."""
MIN_WEIGHTED_VALIDATORS = 4
"""Validators with weight that jailing for absence always leaves. With four, one may fail; with fewer, none."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How many votes a member of the committee has cast in its present span: ``votes`` for ``blocks`` blocks.

    With fewer than ``needed`` votes it is jailed if its span ends now.
    """

    votes: int
    blocks: int

    @property
    def needed(self) -> int:
        return -(-self.blocks // MIN_PARTICIPATION_QUOTIENT)

    @property
    def share(self) -> float:
        """The part of the blocks that it voted for; 1 before any was counted."""
        return self.votes / self.blocks if self.blocks else 1.0


def get_standing(state: StateReader, public_key: bytes) -> Standing | None:
    """The standing of a member of the committee of the next block's epoch; None for any other account."""
    committee, record = state.committee(state.beacon.epoch), state.validator_record(public_key)
    if committee is None or record is None or public_key not in committee:
        return None
    participation, votes = state.participation, 0
    if participation.votes:  # of no epoch before its first block
        votes = participation.votes[committee.get_position(public_key)]
    return Standing(record.counted_votes + votes, record.counted_blocks + participation.blocks)


def count_epoch(records: dict[bytes, ValidatorRecord], participation: Participation, validators: ValidatorSet) -> None:
    """Add what was counted in an epoch to the spans of the members of its committee."""
    for validator, votes in zip(validators, participation.votes, strict=True):
        record = records[validator.public_key]
        records[validator.public_key] = replace(
            record,
            counted_blocks=record.counted_blocks + participation.blocks,
            counted_votes=record.counted_votes + votes,
        )


def jail_absent_validators(
    records: dict[bytes, ValidatorRecord], state: State, genesis: Genesis, epoch: Epoch, chain_time: int
) -> None:
    """Jail members of the committee whose span has ended with votes for less than half of its blocks.

    Those with the smallest share of votes come first, and no further one with weight once only
    :data:`MIN_WEIGHTED_VALIDATORS` of those are left.
    """
    absent = sorted(
        (Fraction(record.counted_votes, record.counted_blocks), key)
        for key in epoch.validators.positions
        if is_absent(record := records[key], genesis, chain_time)
    )
    weighted = {
        validator.public_key
        for validator in epoch.next_validators
        if is_applicant(records[validator.public_key], state.account(validator.public_key), genesis.parameters)
    }
    for _, key in absent:
        if records[key].jailed_until or (key in weighted and len(weighted) <= MIN_WEIGHTED_VALIDATORS):
            continue
        records[key] = replace(records[key], jailed_until=epoch.number + 1)
        weighted.discard(key)


def has_ended(record: ValidatorRecord, genesis: Genesis, chain_time: int) -> bool:
    """Whether the span of a validator ends with an epoch that ends at ``chain_time``."""
    length = chain_time - record.counted_since
    return record.counted_blocks >= MIN_COUNTED_BLOCKS and length >= genesis.parameters.participation_span_ms


def is_absent(record: ValidatorRecord, genesis: Genesis, chain_time: int) -> bool:
    """Whether a span has ended and shows a validator that was absent."""
    missed_most = record.counted_votes * MIN_PARTICIPATION_QUOTIENT < record.counted_blocks
    return missed_most and has_ended(record, genesis, chain_time)


def begin_spans(records: dict[bytes, ValidatorRecord], genesis: Genesis, epoch: Epoch, chain_time: int) -> None:
    """Begin the spans of the members of the next committee that have none, or whose span has ended."""
    for key, record in records.items():
        if key not in epoch.next_validators:
            records[key] = replace(record, counted_since=0, counted_blocks=0, counted_votes=0)
        elif key not in epoch.validators or has_ended(record, genesis, chain_time):
            records[key] = replace(record, counted_since=chain_time, counted_blocks=0, counted_votes=0)
