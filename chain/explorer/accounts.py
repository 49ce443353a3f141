"""Accounts of a stored chain, as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from chain.crypto import format_address
from chain.exceptions import StoreError
from chain.explorer.blocks import MAX_PAGE, MAX_PAGE_OPERATIONS, describe_operation, get_block, read_failures
from chain.json_form import to_plain
from chain.store.reader import ChainReader, Place
from chain.store.writer import ChainStore
from chain.transition.movements import Balance, Stage
from chain.types.blocks import Block

T = TypeVar("T")

AFTER_ALL: Place = (2**63, 0)
"""The place after all others."""


def show_account(chain: ChainStore, public_key: bytes) -> dict[str, Any]:
    """The account as of the last final block; one that never was has nothing."""
    held = chain.state.account(public_key)
    return {"address": format_address(public_key), "height": chain.height, **to_plain(held)}


def list_operations(
    chain: ChainReader, public_key: bytes, before: Place = AFTER_ALL, limit: int = 50
) -> dict[str, Any]:
    """A page of the operations that an account has to do with, the latest first, of those before a position.

    ``next`` is where the next page goes on (``HEIGHT.INDEX``), None on the last one. Operations after
    ``indexed_height`` are not among them yet.

    Raises:
        StoreError: this store has no index of accounts.
    """
    indexed_height = _get_indexed_height(chain)
    limit = min(limit, MAX_PAGE)
    found = list(islice(chain.account_operations(public_key, before), limit + 1))
    blocks = _Blocks(chain)
    listed = [blocks.describe_operation(*place) for place in blocks.take(found[:limit])]
    return {
        "address": format_address(public_key),
        "indexed_height": indexed_height,
        "operations": listed,
        "next": "{}.{}".format(*found[len(listed) - 1]) if len(found) > len(listed) else None,
    }


def list_movements(chain: ChainStore, public_key: bytes, before: Place = AFTER_ALL, limit: int = 50) -> dict[str, Any]:
    """A page of all that changed the balance of an account, or had to do with it, the latest first, before a place.

    ``cause`` is the kind of the operation, which is then there too, or what else a block does to an account
    (:class:`~chain.transition.movements.Stage`). ``change`` is by how much each part of the balance changed, and
    ``balance`` all credit of the account after it: that of the entry before, and the sum of ``change``. The account's
    own ``balance`` is that of the ledger at ``height``, whatever the index says; the entries reach to
    ``indexed_height``, and begin after block ``first_height``. ``next`` is where the next page goes on.

    Raises:
        StoreError: this store has no index of accounts.
    """
    indexed_height = _get_indexed_height(chain)
    limit = min(limit, MAX_PAGE)
    found = list(islice(chain.account_movements(public_key, before), limit + 1))
    blocks = _Blocks(chain)
    entries = []
    for (height, number), movement, balance in blocks.take(found[:limit]):
        is_stage = isinstance(movement.cause, Stage)
        operation = None if is_stage else blocks.describe_operation(height, int(movement.cause))
        entries.append(
            {
                "height": height,
                "number": number,
                "timestamp": blocks.get(height).header.timestamp,
                "cause": str(movement.cause) if operation is None else operation["kind"],
                "change": movement.change._asdict(),
                "balance": balance.total,
                "operation": operation,
            }
        )
    return {
        "address": format_address(public_key),
        "height": chain.height,
        "indexed_height": indexed_height,
        "first_height": chain.base.height,
        "balance": Balance.of(chain.state.account(public_key)).total,
        "entries": entries,
        "next": "{}.{}".format(*found[len(entries) - 1][0]) if len(found) > len(entries) else None,
    }


def _get_indexed_height(chain: ChainReader) -> int:
    if chain.indexed_height is None:
        raise StoreError(
            "the operations of accounts are not indexed here: set 'index_accounts: true' in config.yaml and start the "
            "node again"
        )
    return chain.indexed_height


class _Blocks:
    """The blocks of one answer; entries that follow each other are often of the same."""

    def __init__(self, chain: ChainReader) -> None:
        self._chain = chain
        self._last: Block | None = None
        self._failures: list[str | None] = []
        """Those of its operations."""
        self._operations = 0
        """In all blocks that were read."""

    def take(self, entries: Iterable[T]) -> Iterator[T]:
        """The entries, until those that were described took as many operations to read as a page may."""
        for entry in entries:
            yield entry
            if self._operations >= MAX_PAGE_OPERATIONS:
                break

    def get(self, height: int) -> Block:
        if self._last is None or self._last.height != height:
            self._last = get_block(self._chain, height)
            self._failures = read_failures(self._chain, self._last)
            self._operations += len(self._last.body.operations)
        return self._last

    def describe_operation(self, height: int, index: int) -> dict[str, Any]:
        block = self.get(height)
        return {**describe_operation(self._chain, block, index, self._failures), "timestamp": block.header.timestamp}


def parse_position(text: str) -> Place:
    """The position that ``HEIGHT.INDEX`` names.

    Raises:
        ValueError: it is none.
    """
    height, dot, index = text.partition(".")
    if not (dot and height.isascii() and height.isdigit() and index.isascii() and index.isdigit()):
        raise ValueError(f"expected HEIGHT.INDEX, got {text[:32]!r}")
    if len(height) > 18 or len(index) > 18:
        raise ValueError(f"{text[:32]!r} is too large")
    return int(height), int(index)
