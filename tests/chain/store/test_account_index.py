"""The index of accounts: complete however it came about, it adds up, and it is no part of the chain."""

from __future__ import annotations

import random
from itertools import islice
from typing import ClassVar

import pytest

from chain.audit.audit import audit_chain
from chain.audit.sources import StoreSource
from chain.codec import pack
from chain.exceptions import StoreDamaged
from chain.explorer.accounts import AFTER_ALL, list_movements
from chain.store import index_builder
from chain.store.index_builder import IndexBuilder
from chain.store.kv import Changes, MemoryStore
from chain.store.layout import ACCOUNT_ENTRY_PREFIX, BLOCK_ACCOUNTS_PREFIX, INDEXED_KEY, OLD_INDEXED_KEY
from chain.store.reader import ChainReader
from chain.store.writer import ChainStore
from chain.transition.movements import Balance, Stage
from chain.types.operations import Capture, Evidence, Hold, Transfer
from tests.support.chain_builder import Chain
from tests.support.chains.busy_chain import make_busy_chain
from tests.support.chains.chain_store import Finals, get_transitions

INDEX = (ACCOUNT_ENTRY_PREFIX, BLOCK_ACCOUNTS_PREFIX)
BUSY, FINALS = make_busy_chain(48)
TRANSITIONS = get_transitions(BUSY)


def fill(blocks: ChainStore, upto: int = 48, finals: Finals = FINALS) -> ChainStore:
    for height in sorted(height for height in finals if blocks.height < height <= upto):
        blocks.append(TRANSITIONS[blocks.height : height], finals[height])
    return blocks


def index(blocks: ChainStore) -> ChainStore:
    while blocks.extend_index():
        pass
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
    blocks = fill(ChainStore(MemoryStore(), BUSY.genesis), live_from)
    blocks.index_accounts = True
    for height in range(live_from + 1, 49):
        fill(blocks, height)
        blocks.extend_index()
    index(blocks)
    assert blocks.is_index_complete and blocks.indexed_height == blocks.height == 48
    chance = random.Random(live_from)
    for account in BUSY.keys:
        before, found = (2**63, 0), []
        while page := list(islice(blocks.account_operations(account, before), chance.randint(1, 5))):
            found += page
            before = page[-1]
        assert found == find_positions(BUSY, account) and found


def test_what_moved_an_account_adds_up_to_its_balance_from_any_place_on() -> None:
    blocks = index(fill(ChainStore(MemoryStore(), BUSY.genesis, index_accounts=True)))
    causes = set()
    for account in BUSY.keys:
        opening = Balance.of(BUSY.states[0].account(account))
        moved = list(blocks.account_movements(account, AFTER_ALL))
        for (height, number), movement, balance in reversed(moved):
            assert balance.minus(movement.change) == opening
            opening = balance
            causes.add(movement.cause if isinstance(movement.cause, Stage) else "operation")
            assert next(blocks.account_movements(account, (height, number + 1)))[2] == balance
        assert opening == Balance.of(BUSY.state.account(account))
    assert causes == {"operation", Stage.MISSED_LEADS, Stage.SETTLEMENT}


def test_an_index_is_told_of_before_anything_is_indexed() -> None:
    store = MemoryStore()
    fill(ChainStore(store, BUSY.genesis), 6)
    blocks = ChainStore(store, BUSY.genesis, index_accounts=True)
    assert blocks.indexed_height == ChainReader(store).indexed_height == 0
    assert list_movements(blocks, next(iter(BUSY.keys)))["indexed_height"] == 0


def test_the_state_and_all_else_are_the_same_with_and_without_it() -> None:
    plain, indexed = MemoryStore(), MemoryStore()
    without = fill(ChainStore(plain, BUSY.genesis))
    assert without.indexed_height is None and not without.extend_index()
    assert index(fill(ChainStore(indexed, BUSY.genesis, index_accounts=True))).state.root == without.state.root
    rest = {key: value for key, value in indexed.items(b"") if key[:1] not in INDEX and key != INDEXED_KEY}
    assert rest == dict(plain.items(b""))
    assert audit_chain(StoreSource(indexed), threads=1).ok


def test_an_append_writes_nothing_for_it_and_no_disk_is_waited_for() -> None:
    class Watched(MemoryStore):
        synced: ClassVar[list[set[bytes]]] = []

        def write(self, changes: Changes, is_synced: bool = True) -> None:
            if is_synced:
                self.synced.append({key[:1] for key in changes})
            super().write(changes)

    store = Watched()
    index(fill(ChainStore(store, BUSY.genesis, index_accounts=True)))
    assert get_index(store) and not any(kinds & set(INDEX) for kinds in store.synced)


@pytest.mark.parametrize("room", [0, 20_000, index_builder.MAX_RECENT_BYTES])
@pytest.mark.parametrize("keep_epochs", [0, 2])
def test_an_index_that_is_built_in_small_parts_is_that_of_a_node_that_had_it_from_the_beginning(
    monkeypatch: pytest.MonkeyPatch, room: int, keep_epochs: int
) -> None:
    first, later = MemoryStore(), MemoryStore()
    index(fill(ChainStore(first, BUSY.genesis, keep_epochs, index_accounts=True)))
    monkeypatch.setattr(index_builder, "BATCH_BYTES", 1)
    monkeypatch.setattr(index_builder, "MAX_RECENT_BYTES", room)
    blocks = fill(ChainStore(later, BUSY.genesis, keep_epochs, index_accounts=True), 30)
    assert blocks.extend_index() and blocks.indexed_height == blocks.base.height + 1
    assert audit_chain(StoreSource(later), threads=1).ok  # of what is indexed so far
    index(fill(blocks, 36))
    index(fill(ChainStore(later, BUSY.genesis, keep_epochs, index_accounts=True)))
    for blocks in (ChainStore(store, BUSY.genesis, keep_epochs) for store in (first, later)):
        while blocks.prunable:
            blocks.prune()
    assert get_index(later) == get_index(first)


def test_the_undo_entries_of_an_archive_need_not_reach_back_to_the_index() -> None:
    store = MemoryStore()
    index(fill(ChainStore(store, BUSY.genesis, index_accounts=True), 6))
    reopened = fill(ChainStore(store, BUSY.genesis))  # for a while without an index
    assert reopened.undo_floor > 6 == reopened.indexed_height
    index(ChainStore(store, BUSY.genesis, index_accounts=True))
    assert audit_chain(StoreSource(store), threads=1).ok


def test_the_index_of_an_earlier_version_goes_away() -> None:
    store = MemoryStore()
    blocks = fill(ChainStore(store, BUSY.genesis))
    store.write({OLD_INDEXED_KEY: bytes(8), b"a" + bytes(48): b"", b"h" + bytes(32): bytes(64)})
    assert blocks.indexed_height is None and audit_chain(StoreSource(store), threads=1).ok
    blocks.index_accounts = True
    assert index(blocks).is_index_complete
    assert not any(True for prefix in (b"a", b"h") for _ in store.items(prefix))
    assert audit_chain(StoreSource(store), threads=1).ok


def test_blocks_that_are_pruned_while_they_are_indexed_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = fill(ChainStore(MemoryStore(), BUSY.genesis, keep_epochs=1, index_accounts=True), 12)
    extend = IndexBuilder.extend

    def overtake(builder: IndexBuilder, view: ChainStore) -> object:
        found = extend(builder, view)
        fill(blocks)
        while blocks.prunable:
            blocks.prune()
        return found

    monkeypatch.setattr(IndexBuilder, "extend", overtake)
    assert blocks.extend_index() and blocks.base.height > 20
    assert not get_index(blocks._store)  # type: ignore[arg-type]
    monkeypatch.undo()
    assert index(blocks).is_index_complete and audit_chain(StoreSource(blocks._store), threads=1).ok


def test_pruning_leaves_nothing_of_the_index_of_pruned_blocks() -> None:
    store = MemoryStore()
    blocks = ChainStore(store, BUSY.genesis, keep_epochs=1, index_accounts=True)
    for height in range(1, 49):
        index(fill(blocks, height))
    while blocks.prunable:
        blocks.prune()
    for prefix in INDEX:
        heights = {int.from_bytes(key[-8:], "big") for key, _ in store.items(prefix)}
        assert blocks.base.height > 20 and min(heights) == blocks.base.height + 1
    report = audit_chain(StoreSource(store), threads=1)
    assert report.fault is None


def test_the_audit_finds_an_entry_that_is_missing_one_that_is_made_up_and_one_that_lies() -> None:
    store = MemoryStore()
    index(fill(ChainStore(store, BUSY.genesis, index_accounts=True)))
    entries = get_index(store)
    key = max(key for key in entries if key[:1] == ACCOUNT_ENTRY_PREFIX)
    for lie in (None, entries[key][:-1] + bytes([entries[key][-1] ^ 1])):
        store.write({key: lie})
        fault = audit_chain(StoreSource(store), threads=1).fault
        assert fault is not None and "the index of accounts" in fault.reason
    store.write({key: entries[key], key[:-1] + b"\xff": b""})
    fault = audit_chain(StoreSource(store), threads=1).fault
    assert fault is not None and "entries under 'i'" in fault.reason


def test_a_damaged_entry_is_named() -> None:
    store = MemoryStore()
    blocks = index(fill(ChainStore(store, BUSY.genesis, index_accounts=True)))
    key = max(key for key in get_index(store) if key[:1] == ACCOUNT_ENTRY_PREFIX)
    for raw in (b"", b"\x92\x91\x00\x90", pack([[0] * 5, [[0, 1]]])[:-1], pack([[0] * 6, []])):
        store.write({key: raw})
        with pytest.raises(StoreDamaged, match="entry of an account"):
            list(blocks.account_movements(key[1:-8], AFTER_ALL))


def test_a_view_does_not_change_while_blocks_are_added() -> None:
    blocks = index(fill(ChainStore(MemoryStore(), BUSY.genesis, index_accounts=True), 24))
    with blocks.view() as view:
        index(fill(blocks))
        assert (view.height, view.header, view.state.root) == (24, BUSY.blocks[23].header, BUSY.states[24].root)
        assert view.block(25) is None and blocks.block(25) is not None
        assert view.indexed_height == 24
