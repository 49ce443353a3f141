"""What the explorer answers about a chain on which everything happens, compared with the blocks themselves."""

from __future__ import annotations

import pytest

from chain.crypto import format_address
from chain.exceptions import NotFound, StoreError
from chain.explorer import accounts, blocks
from chain.explorer.accounts import AFTER_ALL, list_movements, list_operations, parse_position, show_account
from chain.explorer.blocks import list_blocks, search, show, show_block, show_head, show_operation
from chain.explorer.validators import list_validators, show_epoch
from chain.store.kv import MemoryStore
from chain.store.writer import ChainStore
from tests.support.chains.busy_chain import make_busy_chain
from tests.support.chains.chain_store import fill_store

LENGTH = 40
BUSY, FINALS = make_busy_chain(LENGTH)
CHAIN = fill_store(MemoryStore(), BUSY, FINALS)
CHAIN.index_accounts = True
CHAIN.extend_index()


def test_the_head_says_which_chain_and_how_far() -> None:
    head = show_head(CHAIN)
    assert (head["name"], head["height"], head["block_id"]) == ("test", LENGTH, BUSY.blocks[-1].id.hex())
    assert (head["first_block"], head["indexed_height"]) == (1, LENGTH)
    assert head["supply"] == BUSY.state.totals.supply and head["validators"] > 0


@pytest.mark.parametrize(("limit", "operations"), [(1, 99), (7, 99), (LENGTH, 99), (10**6, 9999), (LENGTH, 1)])
def test_pages_of_blocks_are_all_blocks_once(limit: int, operations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MAX_PAGE_OPERATIONS", operations)
    heights, before = [], None
    while True:
        page = list_blocks(CHAIN, before, limit)
        assert sum(block["operations"] for block in page["blocks"][:-1]) < operations
        heights += [block["height"] for block in page["blocks"]]
        if (before := page["next"]) is None:
            break
    assert heights == list(range(LENGTH, 0, -1))
    for row in list_blocks(CHAIN, 10, 3)["blocks"]:
        block = BUSY.blocks[row["height"] - 1]
        assert row["operations"] == len(block.body.operations)
        assert row["proposer"] == format_address(block.header.proposer)
        assert row["share"] is None or 2 / 3 < row["share"] <= 1
    assert list_blocks(CHAIN, 0) == list_blocks(CHAIN, 1) == {"blocks": [], "next": None}


def test_a_block_says_whose_votes_made_it_final() -> None:
    for height in range(1, LENGTH + 1):
        final = show_block(CHAIN, height)["final_by"]
        assert final["height"] >= height
        assert len(final["votes"]) == final["signers"]
        assert sum(vote["share"] for vote in final["votes"]) == pytest.approx(final["share"])
    assert show_block(CHAIN, 0)["operations"] == []


def test_an_operation_is_found_by_its_id_and_says_whether_it_failed() -> None:
    failed = 0
    for block in BUSY.blocks:
        for index, signed in enumerate(block.body.operations):
            answer = show_operation(CHAIN, signed.id.hex())
            assert (answer["height"], answer["index"]) == (block.height, index)
            assert answer == show(CHAIN, signed.id.hex())
            failed += answer["failure"] is not None
    assert failed > 3


def test_search_knows_heights_ids_and_addresses() -> None:
    block, user = BUSY.blocks[5], BUSY.users[0]
    operation, address = block.body.operations[0].id.hex(), format_address(user.public_key)
    for text, kind in [("6", "block"), (block.id.hex(), "block"), (operation, "operation"), (address, "account")]:
        assert search(CHAIN, f" {text}\n") == {"kind": kind, "id": text}
    for text in ("", "99", "00" * 32, "12D3KooW", "x", "9" * 100, "zz" * 32):
        assert search(CHAIN, text) == {"kind": None, "id": None}


@pytest.mark.parametrize("most", [1, 5, 999])
def test_the_operations_of_an_account_come_in_pages(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "MAX_PAGE_OPERATIONS", most)
    user = BUSY.users[1]
    found, before = [], parse_position(f"{LENGTH + 1}.0")
    while True:
        page = list_operations(CHAIN, user.public_key, before, 3)
        found += page["operations"]
        read = {each["height"]: len(BUSY.blocks[each["height"] - 1].body.operations) for each in page["operations"]}
        assert sum(list(read.values())[:-1]) < most
        if page["next"] is None:
            break
        before = parse_position(page["next"])
    assert [(each["height"], each["index"]) for each in found] == sorted(
        ((each["height"], each["index"]) for each in found), reverse=True
    )
    assert len(found) == sum(1 for _ in CHAIN.account_operations(user.public_key, AFTER_ALL))
    address = format_address(user.public_key)
    assert {each["kind"] for each in found} >= {"transfer", "hold", "capture"}
    assert any(each["signer"] != address for each in found) and any(each["signer"] == address for each in found)
    account = show_account(CHAIN, user.public_key)
    assert account["available"] == BUSY.account(user).available and account["height"] == LENGTH


@pytest.mark.parametrize("most", [1, 5, 999])
def test_the_movements_of_an_account_come_in_pages(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "MAX_PAGE_OPERATIONS", most)
    key, before = BUSY.users[0].public_key, AFTER_ALL
    found: list[tuple[int, int]] = []
    while True:
        page = list_movements(CHAIN, key, before, 7)
        found += [(each["height"], each["number"]) for each in page["entries"]]
        if page["next"] is None:
            break
        before = parse_position(page["next"])
    assert found == [place for place, _, _ in CHAIN.account_movements(key, AFTER_ALL)]


def test_without_an_index_the_operations_of_an_account_are_refused_with_what_to_do() -> None:
    plain = ChainStore(MemoryStore(), BUSY.genesis)
    with pytest.raises(StoreError, match="index_accounts: true"):
        list_operations(plain, BUSY.users[0].public_key)


def test_validators_and_epochs() -> None:
    answer = list_validators(CHAIN)
    assert sum(each["share"] for each in answer["validators"]) == pytest.approx(1)
    assert [each["stake"] for each in answer["validators"]] == sorted(
        (each.stake for each in BUSY.epoch.validators), reverse=True
    )
    assert answer["epoch"] == BUSY.epoch.number
    epoch = show_epoch(CHAIN, 2)
    assert (epoch["first_height"], epoch["last_height"], epoch["is_over"]) == (9, 12, True)
    assert epoch["last_block"]["block_id"] == BUSY.blocks[11].id.hex()
    assert len(epoch["validators"]) == len(BUSY.get_epoch(2).validators)
    with pytest.raises(NotFound):
        show_epoch(CHAIN, 10**6)


@pytest.mark.parametrize("text", ["", "5", "5.", ".5", "-1.0", "5.x", "².1", "9" * 19 + ".0"])
def test_a_position_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"HEIGHT\.INDEX|too large"):
        parse_position(text)
