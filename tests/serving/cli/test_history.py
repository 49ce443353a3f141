"""``wallet history``: it adds up to the balance on the ledger, in pages of any size, and its CSV runs nothing."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from chain.crypto import format_address
from chain.explorer.accounts import AFTER_ALL, list_movements, parse_position
from chain.store.kv import MemoryStore
from chain.store.writer import ChainStore
from chain.transition.movements import Balance
from chain.types.operations import Transfer
from serving.cli.app import build_wwwserve_app
from serving.cli.running import history
from tests.support.chains.busy_chain import make_busy_chain
from tests.support.chains.chain_store import fill_store
from tests.support.commands import Outcome, run_cli

BUSY, FINALS = make_busy_chain(40)
USER, OTHER = BUSY.users
FORMULA = BUSY.append([BUSY.sign(OTHER, Transfer(BUSY.account(OTHER).nonce, USER.public_key, 7, b"=1+1"))])
CHAIN = fill_store(MemoryStore(), BUSY, FINALS | {BUSY.head.height: BUSY.finality(FORMULA)})


class Node:
    """A node with a chain, that is asked for its wallet's history."""

    def __init__(self, chain: ChainStore) -> None:
        self.chain = chain
        self.own = USER.public_key
        self.paths: list[str] = []

    def ask(self, directory: Path | None, method: str, path: str) -> Any:
        self.paths.append(path)
        url = urlsplit(path)
        if url.path == "/wallet":
            return {"address": format_address(self.own)}
        assert url.path == f"/chain/accounts/{format_address(self.own)}/movements"
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        before = parse_position(query["before"]) if "before" in query else AFTER_ALL
        return json.loads(json.dumps(list_movements(self.chain, self.own, before, int(query["limit"]))))


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    CHAIN.index_accounts = True
    while CHAIN.extend_index():
        pass
    node = Node(CHAIN)
    monkeypatch.setattr(history, "ask_node", node.ask)
    monkeypatch.setattr(history, "INDEX_PATIENCE_S", 0)
    return node


def run(*arguments: str) -> Outcome:
    return run_cli(build_wwwserve_app(), "wallet", "history", *arguments)


def test_the_entries_of_every_account_add_up_to_its_balance(node: Node) -> None:
    causes: Counter[str] = Counter()
    for account in BUSY.keys:
        node.own = account
        content = json.loads(run("--json", "-n", "0").stdout)
        rows = content["entries"]
        opening, closing = (Balance.of(state.account(account)) for state in (BUSY.states[0], BUSY.state))
        assert (content["opening"], content["closing"]) == (opening.total, closing.total)
        assert content["opening"] + sum(row["change"] for row in rows) == content["closing"] == content["balance"]
        for part in Balance._fields:
            assert getattr(opening, part) + sum(row[part] for row in rows) == getattr(closing, part)
        causes.update(row["cause"] for row in rows)
    assert causes["settlement"] and causes["missed leads"] and causes["capture"] and causes["transfer"]


def test_a_person_sees_credits_that_add_up_and_what_failed(node: Node) -> None:
    text = run("-n", "0").stdout
    assert " set aside for " in text and "failed: " in text
    *_, last = text.splitlines()
    words = last.replace(",", "").split()
    places = (0, *(words.index(sign) + 1 for sign in "+-="))
    opening, received, paid, closing = (Decimal(words[place]) for place in places)
    assert opening + received - paid == closing
    assert last.startswith(words[0]) and "after block 0 +" in last
    assert last.endswith(f"the balance on the ledger at block {BUSY.head.height}")
    assert "before these entries" in run("-n", "2").stdout


@pytest.mark.parametrize("page", [1, 3, 200])
def test_pages_of_any_size_give_the_same(node: Node, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    whole = json.loads(run("--json", "-n", "0").stdout)
    monkeypatch.setattr(history, "PAGE", page)
    assert json.loads(run("--json", "-n", "0").stdout) == whole
    limited = json.loads(run("--json", "-n", "5").stdout)
    assert limited["entries"] == whole["entries"][:5] and not limited["is_whole"]
    assert limited["opening"] + limited["received"] - limited["paid"] == whole["closing"]


def test_csv_is_in_credits_and_no_cell_is_a_formula(node: Node) -> None:
    head, *rows = csv.reader(io.StringIO(run("--csv", "-n", "0").stdout))
    assert len({len(row) for row in (head, *rows)}) == 1
    first = dict(zip(head, rows[0], strict=True))
    assert (first["what"], first["note"], first["change"]) == ("transfer", "'=1+1", "0.000007")
    opening = Decimal(Balance.of(BUSY.states[0].account(USER.public_key)).total).scaleb(-6)
    changes = [Decimal(dict(zip(head, row, strict=True))["change"]) for row in rows]
    assert opening + sum(changes) == Decimal(first["balance"])
    assert run("--csv", "--json").code == 2


def test_an_account_that_never_was_has_nothing(node: Node) -> None:
    node.own = b"\x58" + bytes(30) + b"\x66"
    sums = "0.000000 after block 0 + 0.000000 received - 0.000000 paid = 0.000000"
    assert run().stdout == f"{sums}, the balance on the ledger at block 41\n"


def test_entries_that_do_not_add_up_are_a_fault(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def lie(directory: Path | None, method: str, path: str) -> Any:
        answer = node.ask(directory, method, path)
        if "entries" in answer and answer["next"] is None:
            answer["entries"][-2]["change"]["available"] += 1
        return answer

    monkeypatch.setattr(history, "ask_node", lie)
    outcome = run("-n", "0")
    assert outcome.code == 5 and "do not add up" in outcome.stderr and "chain verify" in outcome.stderr


def test_an_index_that_is_behind_says_how_far_it_reaches(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.chain = fill_store(MemoryStore(), BUSY, FINALS)
    assert "index_accounts: true" in run().stderr
    node.chain.index_accounts = True
    monkeypatch.setattr("chain.store.index_builder.BATCH_BYTES", 9_000)
    node.chain.extend_index()
    outcome = run("-n", "0")
    assert outcome.code == 0 and "of 40: the index is still being built" in outcome.stdout
