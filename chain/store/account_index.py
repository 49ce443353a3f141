"""An index of the operations of each account, which can be built again from the blocks: no part of the chain (pure).

An operation belongs to the account that signed it, to the accounts that it names, and to the payer and the payee of the
hold that it is about. For each account and operation there is one entry, in the order of the chain. That of the signer
lists the other accounts, so that the entries of a block are found again when it is pruned. For each hold there is an
entry with its payer and its payee, because later operations name only the hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from chain.store.kv import Changes
from chain.store.layout import ACCOUNT_OPERATION_PREFIX, HOLD_PARTIES_PREFIX, encode_number
from chain.types.blocks import Block
from chain.types.operations import Capture, Evidence, Hold, SignedOperation, Transfer

KEY_BYTES = 32
"""Length of a public key."""

Get = Callable[[bytes], bytes | None]
"""Reads an entry of the database."""
_NOTHING: Changes = {}


def make_entries(block: Block, get: Get, pending: Changes = _NOTHING) -> dict[bytes, bytes | None]:
    """The entries of a block. Those of the blocks before it are read with ``get``, or ``pending``."""
    entries: dict[bytes, bytes | None] = {}

    def find_hold(hold: bytes) -> Iterator[bytes]:
        key = HOLD_PARTIES_PREFIX + hold
        return _split(entries.get(key) or pending.get(key) or get(key) or b"")

    for index, signed in enumerate(block.body.operations):
        if isinstance(signed.operation, Hold):
            entries[HOLD_PARTIES_PREFIX + signed.id] = signed.signer + signed.operation.payee
        others = sorted({*_find_parties(signed, find_hold)} - {signed.signer})
        entries[make_key(signed.signer, block.height, index)] = b"".join(others)
        entries.update({make_key(other, block.height, index): b"" for other in others})
    return entries


def find_keys(block: Block, get: Get) -> list[bytes]:
    """The keys that the entries of a block have, if it is indexed."""
    keys = []
    for index, signed in enumerate(block.body.operations):
        key = make_key(signed.signer, block.height, index)
        others = _split(get(key) or b"")
        keys += [key, *(make_key(other, block.height, index) for other in others)]
        if isinstance(signed.operation, Hold):
            keys.append(HOLD_PARTIES_PREFIX + signed.id)
    return keys


def make_key(account: bytes, height: int, index: int) -> bytes:
    """The key of the entry of an account for number ``index`` of the operations of the block at ``height``."""
    return ACCOUNT_OPERATION_PREFIX + account + encode_number(height) + encode_number(index)


def parse_position(key: bytes) -> tuple[int, int]:
    """Height and index in the key of an account's entry."""
    return int.from_bytes(key[-16:-8], "big"), int.from_bytes(key[-8:], "big")


def _find_parties(signed: SignedOperation, find_hold: Callable[[bytes], Iterator[bytes]]) -> Iterator[bytes]:
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
                yield from find_hold(item.delivery.hold)
        case _:
            hold = getattr(operation, "hold", None)  # of those about a hold, its id
            if hold is not None:
                yield from find_hold(hold)


def _split(keys: bytes) -> Iterator[bytes]:
    return (keys[start : start + KEY_BYTES] for start in range(0, len(keys), KEY_BYTES))
