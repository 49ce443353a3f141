"""The final chain on disk, to read: blocks, certificates, indexes, and the state after the last block.

Its entries are those of :mod:`chain.store.layout`. All that one finality certificate adds is one batch, so that a
crash leaves the chain before or after it, never between.

The *base* is the block that the store begins after: genesis in an archive, else the last block of an epoch. A store
that was pruned, or began from a snapshot, has no blocks up to its base; what an auditor or a light client needs of
them stays: the base's header, the end of every epoch that it ever had, and, through the undo entries, the state at the
base. An archive keeps undo entries of two epochs, enough to serve the state at the last epoch end to others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, TypeVar

from chain.codec import Bounds, Record, unpack
from chain.exceptions import CodecError, StoreDamaged, StoreError
from chain.genesis import MAX_GENESIS_BYTES, Genesis
from chain.light.client import MAX_EPOCH_RESTARTS, LightClientUpdate
from chain.state.state import State
from chain.store import account_index
from chain.store.account_index import AccountEntry
from chain.store.kv import Store
from chain.store.layout import (
    BASE_KEY,
    BLOCK_PREFIX,
    CERTIFICATE_PREFIX,
    EPOCH_END_PREFIX,
    FAILURES_PREFIX,
    FORMAT,
    FORMAT_KEY,
    GENESIS_KEY,
    HEIGHT_KEY,
    HEIGHT_PREFIX,
    INDEXED_KEY,
    JOURNAL_KEY,
    OLD_INDEX_PREFIXES,
    OLD_INDEXED_KEY,
    OPERATION_PREFIX,
    OTHER_SLOT,
    PRUNE_KEY,
    RESTARTS_PREFIX,
    SLOT_KEY,
    UNDO_KEY,
    UNDO_PREFIX,
    VALIDATORS_PREFIX,
    encode_number,
)
from chain.transition.epochs import get_epoch
from chain.transition.movements import Balance, Movement, Stage
from chain.types.blocks import MAX_BLOCK_BYTES, Block, Header
from chain.types.validators import ValidatorSet
from chain.types.votes import Certificate

MAX_FAILURES_BYTES = 2 * MAX_BLOCK_BYTES
"""Largest entry of reasons that is read. The reason why an operation failed is shorter than the operation."""
MAX_UNDO_BYTES = 256 << 20
"""Largest undo entry of one block that is read."""

ENTRIES_AT_A_TIME = 64
"""Keys of the index of accounts that are looked for at a time."""

R = TypeVar("R", bound=Record)
Place = tuple[int, int]
"""A height, and a number within what the block has."""


@dataclass(frozen=True, slots=True)
class FinalHeader(Record):
    header: Header
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class FinalRestart(Record):
    """A restart block's header, its own finality, and the validators that it leaves, where this store was there."""

    header: Header
    certificate: Certificate | None = None
    validators: ValidatorSet | None = None


@dataclass(frozen=True, slots=True)
class Restarts(Record):
    blocks: Annotated[tuple[FinalRestart, ...], Bounds(0, MAX_EPOCH_RESTARTS)]


class ChainReader:
    """The part of a chain in a store, as it is stored: nothing is checked beyond its form.

    ``height`` is that of the last final block, 0 on a new chain; ``base`` the header that the blocks begin after.

    Raises:
        StoreError: there is no chain, or in another format; from every method, when what it reads is damaged.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.genesis = load_stored_genesis(store)
        self.height = self._read_number(HEIGHT_KEY)
        self.base = self._read_base()
        self._slot = self._get(SLOT_KEY) or b""
        if self._slot not in OTHER_SLOT:
            raise StoreDamaged("entry mstate is missing or damaged")

    @property
    def journal_mark(self) -> tuple[int, bytes] | None:
        """Length and head hash of the vote journal at the last final batch, or None before the first."""
        raw = self._get(JOURNAL_KEY)
        if raw is None:
            return None
        return int.from_bytes(raw[:8], "big"), raw[8:]

    @property
    def undo_floor(self) -> int:
        """The lowest height whose state :meth:`rewind` can restore."""
        return self._read_number(UNDO_KEY)

    @property
    def prunable(self) -> range:
        """Heights of the blocks below the base that are still here; some of them may never have been."""
        raw = self._get(PRUNE_KEY) or b""
        if len(raw) not in (0, 16):
            raise StoreDamaged("entry mprune is damaged")
        return range(int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:], "big") + 1) if raw else range(0)

    def block(self, height: int) -> Block | None:
        """The final block at ``height``; None above the last, up to the base, and for genesis (only a header)."""
        return self._read(BLOCK_PREFIX + encode_number(height), Block, f"block {height} is")

    def raw_block(self, height: int) -> bytes | None:
        """The encoded block at ``height``, unchecked."""
        return self._get(BLOCK_PREFIX + encode_number(height))

    def find_header(self, height: int) -> Header | None:
        """The header of the final block at ``height``, where known: above the base, an epoch's last, a restart."""
        if height == self.base.height:
            return self.base
        if height > self.base.height:
            block = self.block(height)
            return None if block is None else block.header
        end = self._last_header(get_epoch(self.genesis.parameters, height))
        if end is not None and end.header.height == height:
            return end.header
        restart = self.find_restart(height)
        return None if restart is None else restart.header

    def certificate(self, height: int) -> Certificate | None:
        """The finality certificate of the very block at ``height``; None where only a descendant's was seen."""
        return _decode(self.raw_certificate(height), Certificate, f"the certificate of block {height} is")

    def raw_certificate(self, height: int) -> bytes | None:
        """The encoded certificate at ``height``, unchecked."""
        raw = self._get(CERTIFICATE_PREFIX + encode_number(height))
        if raw is None and height and height % self.genesis.parameters.epoch_heights == 0:
            end = self._last_header(get_epoch(self.genesis.parameters, height))
            return None if end is None else end.certificate.encode()
        if raw is None and height <= self.base.height:
            restart = self.find_restart(height)
            return None if restart is None or restart.certificate is None else restart.certificate.encode()
        return raw

    def nearest_certificate(self, height: int) -> tuple[int, Certificate] | None:
        """The certificate that made ``height`` final, and its own height; None above the last final block."""
        for number in range(max(1, height), self.height + 1):
            certificate = self.certificate(number)
            if certificate is not None:
                return number, certificate
        return None

    def failures(self, height: int) -> list[str | None]:
        """Why each operation of the block at ``height`` failed (None where it did not); empty if none did.

        Raises:
            StoreDamaged: they are malformed, or take more than :data:`MAX_FAILURES_BYTES`.
        """
        raw = self._get(FAILURES_PREFIX + encode_number(height))
        try:
            failures: object = [] if raw is None else unpack(raw, MAX_FAILURES_BYTES)
        except CodecError as error:
            raise StoreDamaged(f"the failures of block {height} are damaged: {error}") from error
        if not isinstance(failures, list) or not all(failure is None or type(failure) is str for failure in failures):
            raise StoreDamaged(f"the failures of block {height} are damaged")
        return failures

    def height_of_block(self, block_id: bytes) -> int | None:
        """Height of a final block, or None if it is not one (or is below the base)."""
        if block_id == self.base.id and self.base.height:
            return self.base.height
        raw = self._get(HEIGHT_PREFIX + block_id)
        return None if raw is None else int.from_bytes(raw, "big")

    def block_ids(self) -> list[bytes]:
        """Ids of the blocks by height, genesis first, up to the first that is not here."""
        ids = {int.from_bytes(raw, "big"): key[1:] for key, raw in self._store.items(HEIGHT_PREFIX)}
        found = [self.genesis.header.id]
        while len(found) in ids:
            found.append(ids[len(found)])
        return found

    def find_operation(self, operation_id: bytes) -> tuple[int, int] | None:
        """Height and index of a final operation, or None."""
        raw = self._get(OPERATION_PREFIX + operation_id)
        return None if raw is None else (int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:], "big"))

    @property
    def indexed_height(self) -> int | None:
        """Height up to which accounts are indexed; None if there is no index."""
        return self._read_number(INDEXED_KEY) if self._get(INDEXED_KEY) is not None else None

    @property
    def index_end(self) -> int:
        """Height up to which there is nothing left to index."""
        return max(self.indexed_height or 0, self.base.height)

    def find_old_index(self, limit: int) -> list[bytes]:
        """Up to ``limit`` keys of an index of accounts that an earlier version of this program left."""
        if self._get(OLD_INDEXED_KEY) is None:
            return []
        old = (key for prefix in OLD_INDEX_PREFIXES for key, _ in self._store.items(prefix))
        return list(islice(old, limit)) or [OLD_INDEXED_KEY]

    def account_entries(self, public_key: bytes, upto: int) -> Iterator[AccountEntry]:
        """What indexed blocks had to do with an account, the latest first, from height ``upto`` on down."""
        start, stop = account_index.make_key(public_key, 0), account_index.make_key(public_key, upto + 1)
        while keys := self._store.last_keys(start, stop, ENTRIES_AT_A_TIME):
            yield from (account_index.parse_entry(key, self._get(key)) for key in keys)
            stop = keys[-1]

    def account_movements(self, public_key: bytes, before: Place) -> Iterator[tuple[Place, Movement, Balance]]:
        """The indexed movements of an account before a place, the latest first.

        Each with its place (the height, and its number in the entry of the block) and the balance after it.
        """
        for entry in self.account_entries(public_key, before[0]):
            balance = entry.balance
            for number, movement in reversed(list(enumerate(entry.movements))):
                if (entry.height, number) < before:
                    yield (entry.height, number), movement, balance
                balance = balance.minus(movement.change)

    def account_operations(self, public_key: bytes, before: Place) -> Iterator[Place]:
        """Height and index of the indexed operations that an account has to do with, the latest first, of those before
        the position ``before``."""
        for entry in self.account_entries(public_key, before[0]):
            causes = [each.cause for each in entry.movements if not isinstance(each.cause, Stage)]
            yield from ((entry.height, index) for index in reversed(causes) if (entry.height, index) < before)

    def validators(self, epoch: int) -> ValidatorSet | None:
        """The validators at the end of an epoch, if this store already existed when they were chosen."""
        return self._read(
            VALIDATORS_PREFIX + encode_number(epoch), ValidatorSet, f"the validators of epoch {epoch} are"
        )

    def light_client_update(self, epoch: int) -> LightClientUpdate | None:
        """The end of an epoch; None if it is not over, or was over before a snapshot that this store began from."""
        end, validators = self._last_header(epoch), self.validators(epoch)
        if end is None:
            return None
        if validators is None:
            raise StoreDamaged(f"the validators of epoch {epoch} are missing")
        restarts = tuple(restart.header for restart in self.restarts(epoch))
        return LightClientUpdate(end.header, end.certificate, validators, restarts)

    def restarts(self, epoch: int) -> tuple[FinalRestart, ...]:
        """The restart blocks in an epoch, which stay known when the blocks are gone."""
        found = self._read(RESTARTS_PREFIX + encode_number(epoch), Restarts, f"the restarts of epoch {epoch} are")
        return () if found is None else found.blocks

    def find_restart(self, height: int) -> FinalRestart | None:
        """The restart block at ``height``, if it is one."""
        found = self.restarts(get_epoch(self.genesis.parameters, height))
        return next((restart for restart in found if restart.header.height == height), None)

    def _last_header(self, epoch: int) -> FinalHeader | None:
        return self._read(EPOCH_END_PREFIX + encode_number(epoch), FinalHeader, f"the end of epoch {epoch} is")

    def stored_state(self) -> dict[bytes, bytes]:
        """The encoded entries of the state after the last final block."""
        return {key[1:]: value for key, value in self._store.items(self._slot)}

    def load_state(self) -> State:
        """The state after the last final block; its root is for the caller to check."""
        try:
            return State.load(self.stored_state())
        except CodecError as error:
            raise StoreDamaged(f"a state entry is damaged: {error}") from error

    def rewind(self, state: State, start: int, height: int) -> State:
        """The state after block ``height``, given that after a later block ``start``. It shares what did not change.

        The root is for the caller to check.

        Raises:
            StoreError: undo entries are damaged, or do not reach so far back.
        """
        before: dict[bytes, bytes | None] = {}
        for number in range(start, height, -1):
            before.update(self._undo(number))
        try:
            entries = State.load({key: value for key, value in before.items() if value is not None})
        except CodecError as error:
            raise StoreDamaged(f"an undo entry is damaged: {error}") from error
        return state.update({key: entries.get(key) for key in before})

    def _undo(self, height: int) -> Iterator[tuple[bytes, bytes | None]]:
        raw = self._get(UNDO_PREFIX + encode_number(height))
        if raw is None:
            raise StoreDamaged(f"the undo entry of block {height} is missing")
        try:
            for key, value in unpack(raw, MAX_UNDO_BYTES):
                if type(key) is not bytes or not (value is None or type(value) is bytes):
                    raise ValueError("of the wrong type")
                yield key, value
        except (CodecError, TypeError, ValueError) as error:
            raise StoreDamaged(f"the undo entry of block {height} is damaged: {error}") from error

    def find_keys(self, height: int) -> list[bytes]:
        """The keys of all entries of the block at ``height``, except those of the end of its epoch."""
        number = encode_number(height)
        keys = [kind + number for kind in (BLOCK_PREFIX, CERTIFICATE_PREFIX, FAILURES_PREFIX, UNDO_PREFIX)]
        block = self.block(height)
        if block is not None:
            keys.append(HEIGHT_PREFIX + block.id)
            keys += [OPERATION_PREFIX + operation.id for operation in block.body.operations]
            keys += account_index.find_keys(height, self._get)
        return [key for key in keys if self._get(key) is not None]

    @property
    def first_update_epoch(self) -> int:
        """The first epoch whose end is on record; 0 if none is."""
        key = next((key for key, _ in self._store.items(EPOCH_END_PREFIX)), b"")
        return int.from_bytes(key[1:], "big")

    def count_entries(self) -> Counter[bytes]:
        """How many entries there are of each kind (first byte of the key)."""
        return Counter(key[:1] for key, _ in self._store.items(b""))

    def close(self) -> None:
        """Release the store."""
        self._store.close()

    def _read_number(self, key: bytes) -> int:
        raw = self._get(key)
        if raw is None or len(raw) != 8:
            raise StoreDamaged(f"entry {key.decode()} is missing or damaged")
        return int.from_bytes(raw, "big")

    def _read_base(self) -> Header:
        return self._read(BASE_KEY, Header, "the header of the base is") or self.genesis.header

    def _get(self, key: bytes) -> bytes | None:
        return self._store.get(key)

    def _read(self, key: bytes, kind: type[R], what: str) -> R | None:
        """The record under ``key``, or None. ``what`` is its name and verb, for the message if it is damaged."""
        return _decode(self._get(key), kind, what)


def _decode(raw: bytes | None, kind: type[R], what: str) -> R | None:
    try:
        return None if raw is None else kind.decode(raw)
    except CodecError as error:
        raise StoreDamaged(f"{what} damaged: {error}") from error


def load_stored_genesis(store: Store) -> Genesis:
    """The genesis that a store was made with.

    Raises:
        StoreError: there is none, it is damaged, or the store has another format.
    """
    raw = store.get(GENESIS_KEY)
    if raw is None:
        raise StoreError("the database holds no chain")
    if store.get(FORMAT_KEY) != FORMAT:
        raise StoreError("the database was written by another version of this program")
    try:
        return Genesis.decode(raw, MAX_GENESIS_BYTES)
    except CodecError as error:
        raise StoreDamaged(f"the stored genesis is damaged: {error}") from error
