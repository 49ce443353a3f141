"""The index of the operations of each account: complete however it came about, and no part of the chain."""

from __future__ import annotations

import random

import pytest

from chain.audit.audit import audit_chain
from chain.audit.sources import StoreSource
from chain.store import writer
from chain.store.kv import MemoryStore
from chain.store.layout import ACCOUNT_OPERATION_PREFIX, HOLD_PARTIES_PREFIX
from chain.store.writer import ChainStore
from chain.types.operations import Capture, Evidence, Hold, Transfer
from tests.support.chain_builder import Chain
from tests.support.forgeries import Finals, get_transitions, make_busy_chain

INDEX = (ACCOUNT_OPERATION_PREFIX, HOLD_PARTIES_PREFIX)
BUSY, FINALS = make_busy_chain(48)
TRANSITIONS = get_transitions(BUSY)


def fill(blocks: ChainStore, upto: int = 48, finals: Finals = FINALS) -> ChainStore:
    for height in sorted(height for height in finals if blocks.height < height <= upto):
        blocks.append(TRANSITIONS[blocks.height : height], finals[height])
    return blocks


def get_index(store: MemoryStore) -> dict[bytes, bytes]:
    return {key: value for prefix in INDEX for key, value in store.items(prefix)}


def find_positions(chain: Chain, account: bytes) -> list[tuple[int, int]]:
    """Where an account has to do with an operation, found without an index: the latest first."""
    holds, found = {}, []
    for block in chain.blocks:
        for index, signed in enumerate(block.body.operations):
            operation, parties = signed.operation, {signed.signer}
            if isinstance(operation, Hold):
                holds[signed.id] = {signed.signer, operation.payee}
            named = [item.delivery.hold for item in operation.items] if isinstance(operation, Capture) else []
            for hold in [*named, signed.id, getattr(operation, "hold", b"")]:
                parties |= holds.get(hold, set())
            if isinstance(operation, Transfer):
                parties.add(operation.recipient)
            if isinstance(operation, Evidence):
                parties.add(operation.first.signer)
            if account in parties:
                found.append((block.height, index))
    return found[::-1]


@pytest.mark.parametrize("live_from", [0, 20, 48], ids=["live", "half", "afterwards"])
def test_the_index_names_every_operation_of_every_account_in_pages(live_from: int) -> None:
    blocks = ChainStore(MemoryStore(), BUSY.genesis)
    fill(blocks, live_from)
    blocks.index_accounts = True
    while blocks.extend_index():
        pass
    fill(blocks)
    assert blocks.is_index_complete and blocks.indexed_height == blocks.height == 48
    chance = random.Random(live_from)
    for account in BUSY.keys:
        before, found = (2**63, 0), []
        while page := blocks.account_operations(account, before, chance.randint(1, 5)):
            found += page
            before = page[-1]
        assert found == find_positions(BUSY, account) and found


def test_the_state_and_all_else_are_the_same_with_and_without_it() -> None:
    plain, indexed = MemoryStore(), MemoryStore()
    without = fill(ChainStore(plain, BUSY.genesis))
    assert without.indexed_height is None and not without.extend_index()
    assert fill(ChainStore(indexed, BUSY.genesis, index_accounts=True)).state.root == without.state.root
    rest = {key: value for key, value in indexed.items(b"") if key[:1] not in INDEX and key != b"maccounts"}
    assert rest == dict(plain.items(b""))
    assert audit_chain(StoreSource(indexed), threads=1).ok


def test_an_index_that_is_built_in_small_parts_is_that_of_a_node_that_had_it_from_the_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, later = MemoryStore(), MemoryStore()
    fill(ChainStore(first, BUSY.genesis, index_accounts=True))
    blocks = fill(ChainStore(later, BUSY.genesis))
    blocks.index_accounts = True
    monkeypatch.setattr(writer, "INDEX_BATCH_BYTES", 1)
    assert blocks.extend_index() and blocks.indexed_height == 1
    assert audit_chain(StoreSource(later), threads=1).ok  # of what is indexed so far
    reopened = ChainStore(later, BUSY.genesis, index_accounts=True)
    while reopened.extend_index():
        pass
    assert get_index(later) == get_index(first)


def test_pruning_leaves_nothing_of_the_index_of_pruned_blocks() -> None:
    store = MemoryStore()
    blocks = fill(ChainStore(store, BUSY.genesis, keep_epochs=1, index_accounts=True))
    while blocks.prunable:
        blocks.prune()
    heights = {int.from_bytes(key[-16:-8], "big") for key, _ in store.items(ACCOUNT_OPERATION_PREFIX)}
    assert blocks.base.height > 20 and min(heights) == blocks.base.height + 1
    here = {operation.id for block in BUSY.blocks[blocks.base.height :] for operation in block.body.operations}
    assert {key[1:] for key, _ in store.items(HOLD_PARTIES_PREFIX)} <= here
    report = audit_chain(StoreSource(store), threads=1)
    assert report.fault is None


def test_the_audit_finds_an_entry_that_is_missing_and_one_that_is_made_up() -> None:
    store = MemoryStore()
    fill(ChainStore(store, BUSY.genesis, index_accounts=True))
    entries = get_index(store)
    key = max(key for key in entries if key[:1] == ACCOUNT_OPERATION_PREFIX)
    store.write({key: None})
    fault = audit_chain(StoreSource(store), threads=1).fault
    assert fault is not None and "index of the operations of accounts" in fault.reason
    store.write({key: entries[key], key[:-1] + b"\xff": b""})
    fault = audit_chain(StoreSource(store), threads=1).fault
    assert fault is not None and "entries under 'a'" in fault.reason


def test_a_view_does_not_change_while_blocks_are_added() -> None:
    blocks = fill(ChainStore(MemoryStore(), BUSY.genesis, index_accounts=True), 24)
    with blocks.view() as view:
        fill(blocks)
        assert (view.height, view.header, view.state.root) == (24, BUSY.blocks[23].header, BUSY.states[24].root)
        assert view.block(25) is None and blocks.block(25) is not None
        assert view.indexed_height == 24
