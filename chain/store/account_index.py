"""What happened to each account, block by block: an index that can be built again from the blocks (pure).

An operation belongs to the account that signed it, to the accounts that it names, and to the payer and the payee of the
hold, duel or check that it is about, if that is open. For each account and block there is one entry: the balance after
the block, and a movement (:mod:`chain.transition.movements`) for each operation that belongs to the account and for
each other step that changed its balance. For each block one entry lists its accounts, so that they are found again when
it is pruned. No entry is part of the chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from chain.codec import pack, unpack
from chain.exceptions import CodecError, StoreDamaged
from chain.state.state import StateReader
from chain.store.layout import ACCOUNT_ENTRY_PREFIX, BLOCK_ACCOUNTS_PREFIX, encode_number
from chain.transition.block import Transition
from chain.transition.movements import Balance, Movement, Stage, compute_movements
from chain.types.blocks import MAX_BLOCK_BYTES, Block
from chain.types.operations import Capture, Evidence, Hold, SignedOperation, Transfer

KEY_BYTES = 32
"""Length of a public key."""
MAX_ENTRY_BYTES = 2 * MAX_BLOCK_BYTES
"""Largest entry that is read: a movement takes less than the operation or the deadline that it comes from."""


@dataclass(frozen=True, slots=True)
class AccountEntry:
    """What the block at ``height`` had to do with an account: ``balance`` after it, and the movements, in order."""

    height: int
    balance: Balance
    movements: tuple[Movement, ...]


def make_entries(block: Block, before: StateReader, transition: Transition) -> dict[bytes, bytes]:
    """The entries of a block, which leads from the state ``before`` it through ``transition``."""
    movements = compute_movements(before, transition.steps)
    parties = _find_parties(block, before)
    entries: dict[bytes, bytes] = {}
    for account in sorted({*movements, *parties}):
        moved = [[_encode_cause(each.cause), *each.change] for each in movements.get(account, ())]
        known = {row[0] for row in moved}
        moved += [[index, *Balance()] for index in parties.get(account, ()) if index not in known]
        moved.sort(key=_get_place)
        balance = Balance.of(transition.state.account(account))
        entries[make_key(account, block.height)] = pack([list(balance), moved])
    if entries:
        entries[BLOCK_ACCOUNTS_PREFIX + encode_number(block.height)] = b"".join(key[1:-8] for key in entries)
    return entries


def find_keys(height: int, get: Callable[[bytes], bytes | None]) -> list[bytes]:
    """The keys that the entries of a block have, if it is indexed."""
    key = BLOCK_ACCOUNTS_PREFIX + encode_number(height)
    accounts = get(key)
    if accounts is None:
        return []
    places = range(0, len(accounts), KEY_BYTES)
    return [key, *(make_key(accounts[place : place + KEY_BYTES], height) for place in places)]


def make_key(account: bytes, height: int) -> bytes:
    """The key of the entry of an account for the block at ``height``."""
    return ACCOUNT_ENTRY_PREFIX + account + encode_number(height)


def parse_entry(key: bytes, raw: bytes | None) -> AccountEntry:
    """The entry of an account.

    Raises:
        StoreDamaged: it is missing or malformed.
    """
    height = int.from_bytes(key[-8:], "big")
    try:
        balance, moved = unpack(raw or b"", MAX_ENTRY_BYTES)
        movements = tuple(Movement(_decode_cause(cause), _read_balance(change)) for cause, *change in moved)
        return AccountEntry(height, _read_balance(balance), movements)
    except (CodecError, IndexError, TypeError, ValueError) as error:
        raise StoreDamaged(f"the entry of an account in block {height} is damaged: {error}") from error


_STAGES = tuple(Stage)


def _encode_cause(cause: int | Stage) -> int:
    """A number from 0 on for an operation, below it for a stage."""
    return -1 - _STAGES.index(cause) if isinstance(cause, Stage) else cause


def _decode_cause(number: int) -> int | Stage:
    return number if number >= 0 else _STAGES[-1 - number]


def _read_balance(amounts: list[int]) -> Balance:
    if len(amounts) != len(Balance()) or any(type(amount) is not int for amount in amounts):
        raise ValueError("not a balance")
    return Balance(*amounts)


_BEFORE_OPERATIONS = {_encode_cause(Stage.MISSED_LEADS), _encode_cause(Stage.DRAWS)}


def _get_place(row: list[int]) -> tuple[int, int]:
    """The place of a step among those of a block."""
    number = row[0]
    return (0 if number in _BEFORE_OPERATIONS else 1 if number >= 0 else 2), abs(number)


def _find_parties(block: Block, before: StateReader) -> dict[bytes, list[int]]:
    """The numbers of the operations that belong to each account."""
    made: dict[bytes, tuple[bytes, bytes]] = {}
    """The parties of the holds that this block made."""

    def find_parties(hold_id: bytes) -> tuple[bytes, ...]:
        hold = before.hold(hold_id)
        if hold is not None:
            return (hold.payer, hold.payee)
        about = before.duel(hold_id) or before.model_check(hold_id)
        return made.get(hold_id, ()) if about is None else (about.payer, about.executor)

    found: dict[bytes, list[int]] = {}
    for index, signed in enumerate(block.body.operations):
        if isinstance(signed.operation, Hold):
            made[signed.id] = (signed.signer, signed.operation.payee)
        for account in {signed.signer, *_list_named(signed, find_parties)}:
            found.setdefault(account, []).append(index)
    return found


def _list_named(signed: SignedOperation, find_parties: Callable[[bytes], tuple[bytes, ...]]) -> Iterator[bytes]:
    operation = signed.operation
    match operation:
        case Transfer():
            yield operation.recipient
        case Hold():
            yield operation.payee
        case Evidence():
            yield operation.first.signer
        case Capture():
            for item in operation.items:
                yield from find_parties(item.delivery.hold)
        case _:
            hold = getattr(operation, "hold", None)  # of those about a hold, its id
            if hold is not None:
                yield from find_parties(hold)
