"""The keys of the state: one letter for the kind of record, and what the record belongs to."""

from __future__ import annotations

from chain.codec import Record
from chain.merkle.mountain_range import MountainRange
from chain.state.beacon import Beacon
from chain.state.check_records import ModelCheck
from chain.state.duel_records import DeadlineQueue, Duel, DuelDeadline, PaidCaptures
from chain.state.judge_records import JudgeRecord
from chain.state.lottery import ServingPeriods, ServingTable
from chain.state.ratings import ExecutorRating
from chain.state.records import (
    Account,
    DueCaptures,
    OpenHold,
    Participation,
    Registrations,
    ReplayWindow,
    SettlementQueue,
    Totals,
    ValidatorRecord,
)
from chain.state.sequential_test import AccountHistory
from chain.types.validators import ValidatorSet

MAX_ENTRY_BYTES = 64 << 20
"""Largest encoding of an entry, in bytes: that of a serving table."""

ACCOUNT_PREFIX = b"a"
"""First letter of the key of an account."""
COMMITTEE_PREFIX = b"c"
"""First letter of the key of a committee."""
CHECK_PREFIX = b"i"
"""First letter of the key of a check of the model."""
DUEL_PREFIX = b"u"
"""First letter of the key of a duel."""
VALIDATOR_PREFIX = b"v"
"""First letter of the key of a validator record."""


def account_key(public_key: bytes) -> bytes:
    return ACCOUNT_PREFIX + public_key


def replay_window_key(public_key: bytes) -> bytes:
    return b"w" + public_key


def hold_key(hold_id: bytes) -> bytes:
    return b"h" + hold_id


def due_captures_key(number: int) -> bytes:
    return b"g" + number.to_bytes(8, "big")


def paid_captures_key(height: int) -> bytes:
    """Of the captures that the block of ``height`` paid."""
    return b"k" + height.to_bytes(8, "big")


def pending_draws_key(height: int, delay: int) -> bytes:
    """Key of the captures on which the block of ``height`` decides, whose delay was drawn ``delay`` blocks before."""
    return b"n" + height.to_bytes(8, "big") + bytes([delay])


def duel_key(hold_id: bytes) -> bytes:
    return DUEL_PREFIX + hold_id


def check_key(hold_id: bytes) -> bytes:
    return CHECK_PREFIX + hold_id


def check_history_key(public_key: bytes, identity: bytes) -> bytes:
    """Of the checks of an account under an identity."""
    return b"f" + public_key + identity


def rating_key(public_key: bytes) -> bytes:
    return b"e" + public_key


def judge_record_key(public_key: bytes) -> bytes:
    return b"j" + public_key


def duel_deadline_key(stage: int, number: int) -> bytes:
    return b"x" + bytes([stage]) + number.to_bytes(8, "big")


def deadline_queue_key(stage: int) -> bytes:
    return b"y" + bytes([stage])


def table_key(round_number: int) -> bytes:
    return b"t" + round_number.to_bytes(8, "big")


def committee_key(epoch: int) -> bytes:
    return COMMITTEE_PREFIX + epoch.to_bytes(8, "big")


def validator_key(public_key: bytes) -> bytes:
    return VALIDATOR_PREFIX + public_key


TOTALS_KEY = b"s"
"""Key of the :class:`Totals`: sums over all accounts."""
HISTORY_KEY = b"m"
"""Key of the mountain range over all headers."""
BEACON_KEY = b"b"
"""Key of the :class:`Beacon`."""
PARTICIPATION_KEY = b"p"
"""Key of the :class:`Participation` of the epoch."""
REGISTRATIONS_KEY = b"r"
"""Key of the :class:`Registrations` of the epoch."""
PERIODS_KEY = b"d"
"""Key of the :class:`ServingPeriods`."""
SETTLEMENTS_KEY = b"q"
"""Key of the :class:`SettlementQueue`."""
RECORD_KINDS: dict[bytes, type[Record]] = {
    ACCOUNT_PREFIX: Account,
    b"w": ReplayWindow,
    b"h": OpenHold,
    b"g": DueCaptures,
    b"k": PaidCaptures,
    b"n": PaidCaptures,
    DUEL_PREFIX: Duel,
    b"e": ExecutorRating,
    CHECK_PREFIX: ModelCheck,
    b"f": AccountHistory,
    b"j": JudgeRecord,
    b"x": DuelDeadline,
    b"y": DeadlineQueue,
    b"t": ServingTable,
    COMMITTEE_PREFIX: ValidatorSet,
    VALIDATOR_PREFIX: ValidatorRecord,
    TOTALS_KEY: Totals,
    HISTORY_KEY: MountainRange,
    BEACON_KEY: Beacon,
    PARTICIPATION_KEY: Participation,
    REGISTRATIONS_KEY: Registrations,
    PERIODS_KEY: ServingPeriods,
    SETTLEMENTS_KEY: SettlementQueue,
}
"""The record under a key, by the first letter of the key."""
