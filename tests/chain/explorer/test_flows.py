"""Who pays whom, compared with the holds in the blocks themselves."""

from __future__ import annotations

from collections import Counter

import pytest

from chain.crypto import format_address
from chain.explorer import flows
from chain.explorer.flows import FLOWS_MS, list_flows
from chain.store.kv import MemoryStore
from chain.types.operations import Hold
from tests.support.chain_builder import Chain
from tests.support.chains.chain_store import fill_store

LENGTH = 24


def make_chain() -> Chain:
    """A chain of two users, with up to two holds in a block, and other operations."""
    chain = Chain(4)
    first, second = chain.users
    for number in range(LENGTH):
        operations = [chain.hold(first, number, amount=5_000 + number), chain.transfer(first, second, 1)]
        if number % 3 == 1:
            operations.append(chain.hold(second, number))
        chain.append(operations if number % 4 else [], elapsed=5_000)
    return chain


BUILT = make_chain()
FINALS = {LENGTH: BUILT.finality(BUILT.blocks[-1])}
CHAIN = fill_store(MemoryStore(), BUILT, FINALS)


def count_holds(since: int) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
    """Number and amount of the holds of each pair, as the blocks have them."""
    counts: Counter[tuple[str, str]] = Counter()
    amounts: Counter[tuple[str, str]] = Counter()
    for block in BUILT.blocks:
        for signed in block.body.operations:
            if block.header.timestamp >= since and isinstance(signed.operation, Hold):
                pair = format_address(signed.signer), format_address(signed.operation.payee)
                counts[pair] += 1
                amounts[pair] += signed.operation.amount
    return counts, amounts


def add_pages(since: int | None) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]], list[int]]:
    """The same as all pages have them, and the heights that these count."""
    counts: Counter[tuple[str, str]] = Counter()
    amounts: Counter[tuple[str, str]] = Counter()
    heights: list[int] = []
    before = None
    while True:
        page = list_flows(CHAIN, since, before)
        for flow in page["flows"]:
            counts[flow["payer"], flow["payee"]] += flow["holds"]
            amounts[flow["payer"], flow["payee"]] += flow["amount"]
        assert [flow["amount"] for flow in page["flows"]] == sorted((f["amount"] for f in page["flows"]), reverse=True)
        heights += range(page["last_height"], page["first_height"] - 1, -1)
        if (before := page["next"]) is None:
            return counts, amounts, heights


@pytest.mark.parametrize(("blocks", "operations"), [(1, 100), (5, 100), (100, 1), (100, 4), (100, 100)])
@pytest.mark.parametrize("reaches_back", [0, 12, LENGTH, 10**6])
def test_the_pages_add_up_to_the_holds_of_the_blocks(
    blocks: int, operations: int, reaches_back: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows, "MAX_PAGE_BLOCKS", blocks)
    monkeypatch.setattr(flows, "MAX_PAGE_OPERATIONS", operations)
    since = max(0, BUILT.head.timestamp - 5_000 * reaches_back)
    counts, amounts, heights = add_pages(since)
    assert (counts, amounts) == count_holds(since)
    assert heights == [block.height for block in reversed(BUILT.blocks) if block.header.timestamp >= since]


def test_by_default_it_is_the_last_minute_of_the_chain() -> None:
    since = BUILT.head.timestamp - FLOWS_MS
    page = list_flows(CHAIN)
    assert (page["since"], page["last_height"], page["next"]) == (since, LENGTH, None)
    assert add_pages(None)[:2] == count_holds(since) != count_holds(0)


def test_it_ends_where_the_blocks_that_are_kept_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    for before in (0, 1):
        page = list_flows(CHAIN, 0, before)
        assert (page["flows"], page["next"]) == ([], None)
        assert page["last_height"] < page["first_height"]
    monkeypatch.setattr(CHAIN, "base", BUILT.blocks[9].header)
    page = list_flows(CHAIN, 0)
    assert (page["first_height"], page["next"]) == (11, None)
