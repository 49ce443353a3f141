"""The state of the ledger: accounts, open holds, what is frozen per epoch, totals, and the history of blocks.

A :class:`State` is an immutable map from keys to records, committed to by its root. A :class:`StateOverlay` collects
changes on top of one; drafts nest, so that an operation that fails half way leaves no trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, TypeVar

from chain.codec import Amount, Bounds, Hash, ModelName, Natural, PublicKey, Record
from chain.exceptions import StoreError
from chain.merkle.tree import Leaf, MountainRange, SparseMerkleTree, TreeProof
from chain.state.beacon import NO_COMMITMENT, Beacon
from chain.state.lottery import ServingTable
from chain.types.operations import MAX_MODELS, Delivery
from chain.types.validators import LATE_VOTE_BLOCKS, MAX_COMMITTEE, ValidatorSet

REPLAY_WINDOW_SIZE = 256
"""How many recent hold sequence numbers of a payer stay usable."""

MAX_UNBONDINGS = 32
MAX_ENTRY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Unbonding(Record):
    """Credit on its way out of a bond, free at the start of ``release_epoch``."""

    amount: Amount
    release_epoch: Natural


@dataclass(frozen=True, slots=True)
class Account(Record):
    """One key's credits (micro-credits) and what it serves. An account that never was equals ``Account()``.

    ``grant`` is the part of the bond that was given to a newcomer and never leaves it.
    """

    nonce: Natural = 0
    available: Amount = 0
    held: Amount = 0
    bonded: Amount = 0
    unbonding: Annotated[tuple[Unbonding, ...], Bounds(0, MAX_UNBONDINGS)] = ()
    models: Annotated[tuple[ModelName, ...], Bounds(0, MAX_MODELS)] = ()
    grant: Amount = 0

    @property
    def total(self) -> int:
        """All credit of the account, whatever it is bound to."""
        return self.available + self.held + self.bonded + sum(part.amount for part in self.unbonding)

    @property
    def own_bond(self) -> int:
        """The bond beside the grant: what an account can lose that was its own."""
        return max(0, self.bonded - self.grant)

    def credit(self, amount: int) -> Account:
        """The account with ``amount`` more available (less, if it is negative)."""
        # Written out: every operation comes through here, and dataclasses.replace takes three times as long.
        available = self.available + amount
        return Account(self.nonce, available, self.held, self.bonded, self.unbonding, self.models, self.grant)


@dataclass(frozen=True, slots=True)
class ReplayWindow(Record):
    """Hold numbers a payer has used, as in the anti-replay window of IPsec (RFC 4303 §3.4.3).

    ``top`` is one more than the highest sequence number used; byte i of ``used`` belongs to sequence number
    ``top − 1 − i`` and has bit a set once attempt a was made.
    """

    top: Natural = 0
    used: Annotated[bytes, Bounds(0, REPLAY_WINDOW_SIZE)] = b""

    def is_usable(self, seq: int, attempt: int) -> bool:
        """Whether (seq, attempt) is neither used nor too far from ``top`` in either direction."""
        if seq >= self.top:
            return seq < self.top + REPLAY_WINDOW_SIZE
        index = self.top - 1 - seq
        if index >= REPLAY_WINDOW_SIZE:
            return False
        return index >= len(self.used) or not (self.used[index] >> attempt) & 1

    def use(self, seq: int, attempt: int) -> ReplayWindow:
        """The window after (seq, attempt) is used."""
        shift = max(0, seq + 1 - self.top)
        used = bytearray(min(shift, REPLAY_WINDOW_SIZE)) + self.used if shift else bytearray(self.used)
        top = self.top + shift
        index = top - 1 - seq
        used.extend(bytes(max(0, index + 1 - len(used))))
        used[index] |= 1 << attempt
        return ReplayWindow(top, bytes(used[:REPLAY_WINDOW_SIZE]).rstrip(b"\0"))


@dataclass(frozen=True, slots=True)
class OpenHold(Record):
    """Credit set aside for one request, until it is captured or released.

    ``unsettled_delivery`` is an unreceipted delivery, paid at chain time ``pays_at`` unless the payer disputes it.
    """

    payer: PublicKey
    payee: PublicKey
    amount: Amount
    model: ModelName
    request_digest: Hash
    deadline: Natural
    unsettled_delivery: Delivery | None = None
    pays_at: Natural = 0


@dataclass(frozen=True, slots=True)
class DueCaptures(Record):
    """Holds whose pending capture falls due within one second of chain time."""

    holds: tuple[Hash, ...]


@dataclass(frozen=True, slots=True)
class ValidatorRecord(Record):
    """An account's validator duty; its weight is its bond, as long as it is enrolled, not jailed, and has a tip.

    ``waiting_since`` is the height since which it asks for more weight than it has (0 if it does not), ``commitment``
    what its next reveal must lead to. ``next_commitment`` replaces that from ``next_epoch`` on. It is jailed if
    ``jailed_until`` is not 0, and may ask to return from that epoch on. Votes of epochs before ``clean_from`` were
    punished already.
    """

    is_enrolled: bool = False
    waiting_since: Natural = 0
    commitment: Hash = NO_COMMITMENT
    hash_chain: Natural = 0
    next_commitment: Hash = NO_COMMITMENT
    next_hash_chain: Natural = 0
    next_epoch: Natural = 0
    jailed_until: Natural = 0
    clean_from: Natural = 0


@dataclass(frozen=True, slots=True)
class RecentBlock(Record):
    """A block for which late votes still count: the view it was notarized in, and bit i if position i voted for it."""

    block_id: Hash
    view: Natural
    voters: Annotated[bytes, Bounds(MAX_COMMITTEE // 8, MAX_COMMITTEE // 8)]


@dataclass(frozen=True, slots=True)
class Participation(Record):
    """Who took part in an epoch, as its block bodies say: for ``blocks`` of its blocks, the votes by position."""

    blocks: Natural
    votes: Annotated[tuple[Natural, ...], Bounds(0, MAX_COMMITTEE)]
    recent: Annotated[tuple[RecentBlock, ...], Bounds(0, LATE_VOTE_BLOCKS)]


@dataclass(frozen=True, slots=True)
class Registrations(Record):
    """How many newcomers were registered in this epoch."""

    count: Natural


@dataclass(frozen=True, slots=True)
class Totals(Record):
    """The treasury, and the supply that all credit adds up to."""

    treasury: Amount
    supply: Amount


def account_key(public_key: bytes) -> bytes:
    return b"a" + public_key


def replay_window_key(public_key: bytes) -> bytes:
    return b"w" + public_key


def hold_key(hold_id: bytes) -> bytes:
    return b"h" + hold_id


def due_captures_key(second: int) -> bytes:
    return b"g" + second.to_bytes(8, "big")


def table_key(epoch: int) -> bytes:
    return b"t" + epoch.to_bytes(8, "big")


def committee_key(epoch: int) -> bytes:
    return b"c" + epoch.to_bytes(8, "big")


def validator_key(public_key: bytes) -> bytes:
    return b"v" + public_key


TOTALS_KEY = b"s"
HISTORY_KEY = b"m"
BEACON_KEY = b"b"
PARTICIPATION_KEY = b"p"
REGISTRATIONS_KEY = b"r"

_KINDS: dict[bytes, type[Record]] = {
    b"a": Account,
    b"w": ReplayWindow,
    b"h": OpenHold,
    b"g": DueCaptures,
    b"t": ServingTable,
    b"c": ValidatorSet,
    b"v": ValidatorRecord,
    TOTALS_KEY: Totals,
    HISTORY_KEY: MountainRange,
    BEACON_KEY: Beacon,
    PARTICIPATION_KEY: Participation,
    REGISTRATIONS_KEY: Registrations,
}

R = TypeVar("R", bound=Record)


class StateReader:
    """Typed access to a map of records; shared by states and drafts."""

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

    def due_captures(self, second: int) -> DueCaptures | None:
        """Holds that fall due in this second of chain time."""
        return self._get(due_captures_key(second), DueCaptures)

    def serving_table(self, epoch: int) -> ServingTable | None:
        """Who serves what with which stake, frozen for ``epoch``; kept for the last, this and the next epoch."""
        return self._get(table_key(epoch), ServingTable)

    def committee(self, epoch: int) -> ValidatorSet | None:
        """Who votes in ``epoch`` with which weight; kept as long as the serving table."""
        return self._get(committee_key(epoch), ValidatorSet)

    def validator_record(self, public_key: bytes) -> ValidatorRecord | None:
        """The validator duty of an account, None if it never had any."""
        return self._get(validator_key(public_key), ValidatorRecord)

    @property
    def beacon(self) -> Beacon:
        return self._get(BEACON_KEY, Beacon) or Beacon(0, NO_COMMITMENT, NO_COMMITMENT, NO_COMMITMENT)

    @property
    def participation(self) -> Participation:
        return self._get(PARTICIPATION_KEY, Participation) or Participation(0, (), ())

    @property
    def registrations(self) -> Registrations:
        return self._get(REGISTRATIONS_KEY, Registrations) or Registrations(0)

    @property
    def totals(self) -> Totals:
        return self._get(TOTALS_KEY, Totals) or Totals(0, 0)

    @property
    def history(self) -> MountainRange:
        return self._get(HISTORY_KEY, MountainRange) or MountainRange(0, ())


class _KeySet:
    """An immutable set of public keys, in shards, so that a changed one copies little and shares the rest."""

    __slots__ = ("_shards",)

    def __init__(self, shards: tuple[frozenset[bytes], ...] = (frozenset(),) * 256) -> None:
        self._shards = shards

    def __contains__(self, key: bytes) -> bool:
        return key in self._shards[key[0]]

    def __iter__(self) -> Iterator[bytes]:
        """In order."""
        for shard in self._shards:
            yield from sorted(shard)

    def update(self, added: Mapping[bytes, bool]) -> _KeySet:
        """The set with each key in it, or not."""
        changes: dict[int, dict[bytes, bool]] = {}
        for key, is_in in added.items():
            if is_in != (key in self):
                changes.setdefault(key[0], {})[key] = is_in
        if not changes:
            return self
        shards = list(self._shards)
        for number, moved in changes.items():
            shards[number] = frozenset({*(shards[number] - moved.keys()), *(key for key in moved if moved[key])})
        return _KeySet(tuple(shards))


class State(StateReader):
    """The whole ledger after some block. Immutable.

    It knows who serves and who has a duty: the end of an epoch asks for them, and there may be a million accounts that
    do neither.
    """

    __slots__ = ("_serving", "_tree", "_validators")

    def __init__(self) -> None:
        self._tree = SparseMerkleTree()
        self._serving = self._validators = _KeySet()

    @classmethod
    def load(cls, entries: Mapping[bytes, bytes]) -> State:
        """The state of encoded entries, as kept on disk.

        Raises:
            StoreError: an unknown kind of entry.
            CodecError: an entry that is not canonical.
        """
        changes: dict[bytes, Record | None] = {}
        for key, raw in entries.items():
            kind = _KINDS.get(key[:1])
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

    def servers(self) -> Iterator[tuple[bytes, Account]]:
        """Every account that serves some model and its public key, by key."""
        for key in self._serving:
            yield key, self.account(key)

    def validator_records(self) -> Iterator[tuple[bytes, ValidatorRecord]]:
        """Every validator duty and its public key, by key."""
        for key in self._validators:
            validator = self.validator_record(key)
            assert validator is not None
            yield key, validator

    def update(self, changes: Mapping[bytes, Record | None]) -> State:
        """The state with each key set to its record, or removed where that is None."""
        if not changes:
            return self
        after = State()
        after._tree = self._tree.update(changes)
        after._serving = self._serving.update(
            {
                key[1:]: isinstance(record, Account) and bool(record.models)
                for key, record in changes.items()
                if key[:1] == b"a"
            }
        )
        after._validators = self._validators.update(
            {key[1:]: record is not None for key, record in changes.items() if key[:1] == b"v"}
        )
        return after


class StateOverlay(StateReader):
    """Changes on top of a state, or of another draft."""

    __slots__ = ("_base", "changes")

    def __init__(self, base: StateReader) -> None:
        self._base = base
        self.changes: dict[bytes, Record | None] = {}

    def get(self, key: bytes) -> Record | None:
        try:
            return self.changes[key]
        except KeyError:
            return self._base.get(key)

    def put(self, key: bytes, record: Record | None) -> None:
        """Set or (None) remove an entry."""
        self.changes[key] = record

    def put_account(self, public_key: bytes, account: Account) -> None:
        """Set an account; an empty one leaves no entry."""
        # Nearly every account has something available: so the comparison of all its fields is seldom needed.
        self.put(account_key(public_key), account if account.available or account != _EMPTY else None)

    def fill_treasury(self, amount: int) -> None:
        """Put credit that was taken elsewhere into the treasury."""
        totals = self.totals
        self.put(TOTALS_KEY, Totals(totals.treasury + amount, totals.supply))

    def merge(self, other: StateOverlay) -> None:
        """Take over the changes of a draft made on top of this one."""
        self.changes.update(other.changes)


_EMPTY = Account()


def compute_supply(state: State) -> int:
    """Sum of all credit: every account's, and the treasury. Equals ``totals.supply`` or the ledger is broken."""
    return sum(account.total for _, account in state.accounts()) + state.totals.treasury
