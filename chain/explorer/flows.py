"""Who pays whom on a stored chain: the holds of its blocks, added up by payer and payee, as JSON.

A hold is what a payer sets aside for one request to one executor; what is captured of it comes later, if at all. Holds
do not fail in a block. An owner may make holds between two of its own accounts. They cost fees, and count here like all
others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from chain.crypto import format_address
from chain.explorer.blocks import MAX_PAGE_OPERATIONS, get_block
from chain.store.reader import ChainReader
from chain.types.blocks import Block
from chain.types.operations import Hold

FLOWS_MS = 60_000
"""How far flows reach back unless it is said, in ms."""
MAX_PAGE_BLOCKS = 256
"""Most blocks of one page."""


class FinalHold(NamedTuple):
    """A hold in a final block: the block's timestamp in ms, who pays, who is paid, and micro-credits."""

    timestamp: int
    payer: bytes
    payee: bytes
    amount: int


def list_holds(block: Block) -> list[FinalHold]:
    """The holds that a block made."""
    made = ((signed.signer, signed.operation) for signed in block.body.operations)
    return [
        FinalHold(block.header.timestamp, payer, hold.payee, hold.amount)
        for payer, hold in made
        if isinstance(hold, Hold)
    ]


def add_up(holds: Iterable[FinalHold]) -> list[dict[str, Any]]:
    """For each pair of payer and payee, the number of holds and their amount together; the largest amount first."""
    sums: dict[tuple[bytes, bytes], tuple[int, int]] = {}
    for hold in holds:
        count, amount = sums.get((hold.payer, hold.payee), (0, 0))
        sums[hold.payer, hold.payee] = count + 1, amount + hold.amount
    return [
        {"payer": format_address(payer), "payee": format_address(payee), "holds": count, "amount": amount}
        for (payer, payee), (count, amount) in sorted(sums.items(), key=lambda pair: (-pair[1][1], pair[0]))
    ]


def list_flows(chain: ChainReader, since: int | None = None, before: int | None = None) -> dict[str, Any]:
    """A page of who pays whom in the blocks with a timestamp of ``since`` (ms) or later.

    By default these are the blocks of the :data:`FLOWS_MS` up to the last one. A page begins below the height
    ``before`` and goes down. It counts the blocks from ``first_height`` to ``last_height``, which is below the former
    if there are none. ``next`` is the ``before`` of the next page, None on the last one. If all pages are asked for
    with one ``since``, what they say of a pair adds up.

    Raises:
        StoreError: a block is missing.
    """
    top = chain.height if before is None else min(before - 1, chain.height)
    if since is None:
        last = chain.find_header(chain.height)
        since = 0 if last is None else max(0, last.timestamp - FLOWS_MS)
    holds: list[FinalHold] = []
    first, operations, is_older = top + 1, 0, False
    while first - 1 > chain.base.height and top - first + 1 < MAX_PAGE_BLOCKS and operations < MAX_PAGE_OPERATIONS:
        block = get_block(chain, first - 1)
        if is_older := block.header.timestamp < since:  # and so are all before it
            break
        holds += list_holds(block)
        operations += len(block.body.operations)
        first = block.height
    return {
        "since": since,
        "first_height": first,
        "last_height": top,
        "flows": add_up(holds),
        "next": None if is_older or first - 1 <= chain.base.height else first,
    }
