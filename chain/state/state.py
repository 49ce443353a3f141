"""The state of the ledger: an immutable map from keys to records, committed to by its root.

:class:`State` is the map, :class:`StateOverlay` a set of changes on top of one. Overlays nest: an operation works on an
overlay of its own, which is merged if it succeeds and dropped if it fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from operator import itemgetter
from typing import Generic, TypeVar

from chain.codec import Record
from chain.exceptions import StoreError
from chain.merkle.mountain_range import MountainRange
from chain.merkle.sparse_tree import Leaf, SparseMerkleTree, TreeProof
from chain.state.beacon import NO_COMMITMENT, Beacon
from chain.state.check_records import ModelCheck
from chain.state.duel_records import DeadlineQueue, Duel, DuelDeadline, PaidCaptures
from chain.state.judge_records import JudgeRecord
from chain.state.keys import (
    ACCOUNT_PREFIX,
    BEACON_KEY,
    HISTORY_KEY,
    MAX_ENTRY_BYTES,
    PARTICIPATION_KEY,
    PERIODS_KEY,
    RECORD_KINDS,
    REGISTRATIONS_KEY,
    SETTLEMENTS_KEY,
    TOTALS_KEY,
    VALIDATOR_PREFIX,
    account_key,
    check_history_key,
    check_key,
    committee_key,
    deadline_queue_key,
    due_captures_key,
    duel_deadline_key,
    duel_key,
    hold_key,
    judge_record_key,
    paid_captures_key,
    pending_draws_key,
    rating_key,
    replay_window_key,
    table_key,
    validator_key,
)
from chain.state.lottery import ServingEntry, ServingPeriods, ServingTable
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

R = TypeVar("R", bound=Record)
V = TypeVar("V")


class StateReader:
    """Typed access to a map of records; shared by states and overlays."""

    def get(self, key: bytes) -> Record | None:
        """The record under ``key``, or None."""
        raise NotImplementedError

    def _get(self, key: bytes, kind: type[R]) -> R | None:
        record = self.get(key)
        assert record is None or isinstance(record, kind)
        return record

    def account(self, public_key: bytes) -> Account:
        """The account of a key, empty if it never was."""
        return self._get(account_key(public_key), Account) or Account()

    def replay_window(self, public_key: bytes) -> ReplayWindow:
        """The hold numbers that a payer has used."""
        return self._get(replay_window_key(public_key), ReplayWindow) or ReplayWindow()

    def hold(self, hold_id: bytes) -> OpenHold | None:
        """An open hold; None once it is resolved, or before it is made."""
        return self._get(hold_key(hold_id), OpenHold)

    def due_captures(self, number: int) -> DueCaptures | None:
        """The unsettled deliveries of one capture, by its number in the settlement queue."""
        return self._get(due_captures_key(number), DueCaptures)

    def paid_captures(self, height: int) -> PaidCaptures | None:
        """The captures that the block of ``height`` paid, until the block that draws when they are decided."""
        return self._get(paid_captures_key(height), PaidCaptures)

    def pending_draws(self, height: int, delay: int) -> PaidCaptures | None:
        """The captures on which the block of ``height`` decides, ``delay`` blocks after it was drawn to."""
        return self._get(pending_draws_key(height, delay), PaidCaptures)

    def duel(self, hold_id: bytes) -> Duel | None:
        """The open duel about the request of a hold; None before it is drawn and once it is settled."""
        return self._get(duel_key(hold_id), Duel)

    def rating(self, public_key: bytes) -> ExecutorRating:
        """How the answers of an account have done in duels."""
        return self._get(rating_key(public_key), ExecutorRating) or ExecutorRating()

    def model_check(self, hold_id: bytes) -> ModelCheck | None:
        """The open check of the answer to a hold; None before it is drawn and once it is settled."""
        return self._get(check_key(hold_id), ModelCheck)

    def check_history(self, public_key: bytes, identity: bytes) -> AccountHistory:
        """How the checks of an account have come out under an identity."""
        return self._get(check_history_key(public_key, identity), AccountHistory) or AccountHistory()

    def judge_record(self, public_key: bytes) -> JudgeRecord:
        """How the repeated votes of an account, and the votes that it repeated, came out."""
        return self._get(judge_record_key(public_key), JudgeRecord) or JudgeRecord()

    def duel_deadline(self, stage: int, number: int) -> DuelDeadline | None:
        """A deadline of a stage, by its number in the queue."""
        return self._get(duel_deadline_key(stage, number), DuelDeadline)

    def deadline_queue(self, stage: int) -> DeadlineQueue:
        """The deadlines of a stage that wait."""
        return self._get(deadline_queue_key(stage), DeadlineQueue) or DeadlineQueue()

    def serving_table(self, first_round: int) -> ServingTable | None:
        """Who serves what with which stake in the period that begins with a round."""
        return self._get(table_key(first_round), ServingTable)

    def committee(self, epoch: int) -> ValidatorSet | None:
        """Who votes in ``epoch`` with which weight; kept for the last, this and the next epoch."""
        return self._get(committee_key(epoch), ValidatorSet)

    def validator_record(self, public_key: bytes) -> ValidatorRecord | None:
        """The validator record of an account, None if it never enrolled."""
        return self._get(validator_key(public_key), ValidatorRecord)

    @property
    def beacon(self) -> Beacon:
        return self._get(BEACON_KEY, Beacon) or Beacon(0, NO_COMMITMENT, NO_COMMITMENT, NO_COMMITMENT)

    @property
    def participation(self) -> Participation:
        return self._get(PARTICIPATION_KEY, Participation) or Participation(0, (), ())

    @property
    def serving_periods(self) -> ServingPeriods:
        return self._get(PERIODS_KEY, ServingPeriods) or ServingPeriods(None, ())

    @property
    def registrations(self) -> Registrations:
        return self._get(REGISTRATIONS_KEY, Registrations) or Registrations(0)

    @property
    def settlement_queue(self) -> SettlementQueue:
        return self._get(SETTLEMENTS_KEY, SettlementQueue) or SettlementQueue()

    @property
    def totals(self) -> Totals:
        return self._get(TOTALS_KEY, Totals) or Totals(0, 0)

    @property
    def history(self) -> MountainRange:
        return self._get(HISTORY_KEY, MountainRange) or MountainRange(0, ())


class _KeyMap(Generic[V]):
    """An immutable map by public key, in shards, so that a changed one copies little and shares the rest."""

    __slots__ = ("_shards",)

    def __init__(self, shards: tuple[dict[bytes, V], ...] = ({},) * 256) -> None:
        self._shards = shards

    def values(self) -> Iterator[V]:
        """In no order."""
        return chain.from_iterable(shard.values() for shard in self._shards)

    def items(self) -> Iterator[tuple[bytes, V]]:
        """In the order of keys."""
        for shard in self._shards:
            yield from sorted(shard.items(), key=itemgetter(0))

    def update(self, changes: Iterable[tuple[bytes, V | None]]) -> _KeyMap[V]:
        """The map with each key set to its value, or removed where that is None."""
        changed: dict[int, dict[bytes, V]] = {}
        for key, value in changes:
            number = key[0]
            if value != self._shards[number].get(key):
                shard = changed.setdefault(number, dict(self._shards[number]))
                if value is None:
                    del shard[key]
                else:
                    shard[key] = value
        if not changed:
            return self
        shards = [*self._shards]
        for number, shard in changed.items():
            shards[number] = shard
        return _KeyMap(tuple(shards))


class State(StateReader):
    """The whole ledger after some block. Immutable.

    It knows which accounts serve and which are validators: the end of an epoch asks for them, and there may be a
    million accounts that are neither.
    """

    __slots__ = ("_serving", "_tree", "_validators")

    def __init__(self) -> None:
        self._tree = SparseMerkleTree()
        self._serving: _KeyMap[ServingEntry] = _KeyMap()
        self._validators: _KeyMap[ValidatorRecord] = _KeyMap()

    @classmethod
    def load(cls, entries: Mapping[bytes, bytes]) -> State:
        """The state of encoded entries, as kept on disk.

        Raises:
            StoreError: an unknown kind of entry.
            CodecError: an entry that is not canonical.
        """
        changes: dict[bytes, Record | None] = {}
        for key, raw in entries.items():
            kind = RECORD_KINDS.get(key[:1])
            if kind is None or (kind in (Account, ValidatorRecord) and len(key) != 33):
                raise StoreError(f"unknown state entry {key.hex()}")
            changes[key] = kind.decode(raw, MAX_ENTRY_BYTES)
        return cls().update(changes)

    @property
    def root(self) -> bytes:
        """Commitment to everything in the state."""
        return self._tree.root

    @property
    def tree(self) -> SparseMerkleTree:
        """The tree that the root commits to."""
        return self._tree

    def get(self, key: bytes) -> Record | None:
        return self._tree.get(key)

    def get_encoded(self, key: bytes) -> bytes | None:
        """The encoded record under ``key``, or None; the tree holds it already."""
        leaf = self._tree.find_leaf(key)
        return None if leaf is None else leaf.encoded

    def prove(self, key: bytes) -> TreeProof:
        """The proof of the entry under ``key``, or of its absence."""
        return self._tree.prove(key)

    def entries(self) -> Iterator[Leaf]:
        """Every entry, in the order of the tree."""
        return iter(self._tree)

    def accounts(self) -> Iterator[tuple[bytes, Account]]:
        """Every account and its public key: a walk over all of the state."""
        for leaf in self._tree:
            if isinstance(leaf.record, Account):
                yield leaf.key[1:], leaf.record

    def servers(self) -> Iterator[ServingEntry]:
        """Every account that serves some model, or judges, with its bond, in no order."""
        return self._serving.values()

    def validator_records(self) -> Iterator[tuple[bytes, ValidatorRecord]]:
        """Every validator record and its public key, by key."""
        return self._validators.items()

    def update(self, changes: Mapping[bytes, Record | None]) -> State:
        """The state with each key set to its record, or removed where that is None."""
        if not changes:
            return self
        after = State()
        after._tree = self._tree.update(changes)
        after._serving = self._serving.update(
            (key[1:], make_serving_entry(key[1:], record))
            for key, record in changes.items()
            if key[:1] == ACCOUNT_PREFIX
        )
        after._validators = self._validators.update(
            (key[1:], record if isinstance(record, ValidatorRecord) else None)
            for key, record in changes.items()
            if key[:1] == VALIDATOR_PREFIX
        )
        return after


class StateOverlay(StateReader):
    """Changes on top of its ``parent``: a state, or another overlay."""

    __slots__ = ("changes", "parent")

    def __init__(self, parent: StateReader) -> None:
        self.parent = parent
        self.changes: dict[bytes, Record | None] = {}

    def get(self, key: bytes) -> Record | None:
        try:
            return self.changes[key]
        except KeyError:
            return self.parent.get(key)

    def put(self, key: bytes, record: Record | None) -> None:
        """Set or (None) remove an entry."""
        self.changes[key] = record

    def put_account(self, public_key: bytes, account: Account) -> None:
        """Set an account; an empty one leaves no entry."""
        # Nearly every account has something available: so the comparison of all its fields is seldom needed.
        self.put(account_key(public_key), account if account.available or account != _EMPTY_ACCOUNT else None)

    def fill_treasury(self, amount: int) -> None:
        """Put credit that was taken elsewhere into the treasury, or (a negative amount) take some out."""
        totals = self.totals
        self.put(TOTALS_KEY, Totals(totals.treasury + amount, totals.supply, totals.reserved))

    def reserve(self, amount: int) -> None:
        """Promise a part of the treasury, or (a negative amount) give back such a promise."""
        totals = self.totals
        self.put(TOTALS_KEY, Totals(totals.treasury, totals.supply, totals.reserved + amount))

    def merge(self, other: StateOverlay) -> None:
        """Take over the changes of an overlay whose parent is this one."""
        self.changes.update(other.changes)


def make_serving_entry(public_key: bytes, account: Record | None) -> ServingEntry | None:
    """What a serving table may say of an account; None if it neither serves nor judges."""
    if isinstance(account, Account) and (account.models or account.judge):
        bonded, models, judge = account.bonded, account.models, account.judge
        return ServingEntry(public_key, bonded, models, judge, identities=account.identities)
    return None


_EMPTY_ACCOUNT = Account()


def compute_supply(state: State) -> int:
    """Sum of all credit: every account's, and the treasury. Equals ``totals.supply`` or the ledger is broken."""
    return sum(account.total for _, account in state.accounts()) + state.totals.treasury
