"""Accounts of a stored chain, as JSON."""

from __future__ import annotations

from typing import Any

from chain.crypto import format_address
from chain.exceptions import StoreError
from chain.explorer.blocks import MAX_PAGE, describe_operation, get_block
from chain.json_form import to_plain
from chain.store.reader import ChainReader
from chain.store.writer import ChainStore

Position = tuple[int, int]
"""Height and index of an operation."""
AFTER_ALL: Position = (2**63, 0)
"""The position after every operation."""


def show_account(chain: ChainStore, public_key: bytes) -> dict[str, Any]:
    """The account as of the last final block; one that never was has nothing."""
    held = chain.state.account(public_key)
    return {"address": format_address(public_key), "height": chain.height, **to_plain(held)}


def list_operations(
    chain: ChainReader, public_key: bytes, before: Position = AFTER_ALL, limit: int = 50
) -> dict[str, Any]:
    """A page of the operations that an account has to do with, the latest first, of those before a position.

    ``next`` is where the next page goes on (``HEIGHT.INDEX``), None on the last one. Operations after
    ``indexed_height`` are not among them yet.

    Raises:
        StoreError: this store has no index of accounts.
    """
    if chain.indexed_height is None:
        raise StoreError(
            "the operations of accounts are not indexed here: set 'index_accounts: true' in config.yaml and start the "
            "node again"
        )
    limit = min(limit, MAX_PAGE)
    found = chain.account_operations(public_key, before, limit + 1)
    operations = []
    for height, index in found[:limit]:
        block = get_block(chain, height)
        operations.append({**describe_operation(chain, block, index), "timestamp": block.header.timestamp})
    return {
        "address": format_address(public_key),
        "indexed_height": chain.indexed_height,
        "operations": operations,
        "next": "{}.{}".format(*found[limit - 1]) if len(found) > limit else None,
    }


def parse_position(text: str) -> Position:
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
