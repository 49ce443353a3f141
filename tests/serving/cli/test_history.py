"""``wallet history``: what each kind of operation did to an account, pages of any size, and CSV that runs nothing."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from serving.cli.app import build_wwwserve_app
from serving.cli.running import history
from tests.support.commands import Outcome, run_cli
from tests.support.keys import make_key

ME, OTHER = make_key("me").address, make_key("other").address
CREDIT = 1_000_000


def make(kind: str, signer: str, number: int, failure: str | None = None, **fields: Any) -> dict[str, Any]:
    place = {"height": number, "index": 0, "timestamp": 1_767_323_045_600 + number, "failure": failure}
    return {"id": f"{number:064x}", "kind": kind, "signer": signer, "fee": 1_000, **place, **fields}


def deliver(hold: int, amount: int, receipt: str | None = "ab") -> dict[str, Any]:
    return {"delivery": {"hold": f"{hold:064x}", "amount": amount}, "receipt": receipt}


OPERATIONS = [
    make("transfer", ME, 12, recipient=ME, amount=CREDIT, memo=""),
    make("bond", ME, 11, amount=5 * CREDIT),
    make("transfer", ME, 10, "not so much is available", recipient=OTHER, amount=10**12, memo=""),
    make("transfer", OTHER, 9, recipient=ME, amount=7 * CREDIT, memo=b"=1+1".hex()),
    make("transfer", ME, 8, recipient=OTHER, amount=2 * CREDIT, memo=b"hi".hex()),
    make("capture", ME, 7, items=[deliver(3, 400), deliver(2, 500, None)]),
    make("capture", OTHER, 6, items=[deliver(4, 30), deliver(1, 20), deliver(5, 999)]),
    make("hold", ME, 4, payee=OTHER, amount=90, model="m"),
    make("hold", OTHER, 3, payee=ME, amount=500, model="m"),
]
ELSEWHERE = {f"{1:064x}": make("hold", ME, 1), f"{5:064x}": make("hold", OTHER, 5), f"{2:064x}": make("hold", OTHER, 2)}
"""Holds that are not among the operations asked for."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A node with these operations; what it was asked for."""
    paths: list[str] = []

    def answer(directory: Path | None, method: str, path: str) -> Any:
        paths.append(path)
        url = urlsplit(path)
        if url.path == "/wallet":
            return {"address": ME}
        if url.path.startswith("/chain/operations/"):
            return ELSEWHERE[url.path.rpartition("/")[2]]
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        start = int(query.get("before", "0"))
        end = start + int(query["limit"])
        return {"operations": OPERATIONS[start:end], "next": str(end) if end < len(OPERATIONS) else None}

    monkeypatch.setattr(history, "ask_node", answer)
    return paths


def run(*arguments: str) -> Outcome:
    return run_cli(build_wwwserve_app(), "wallet", "history", *arguments)


def test_each_kind_of_operation_moves_what_it_moves(asked: list[str]) -> None:
    content = json.loads(run("--json").stdout)
    amounts = [each["amount"] for each in content["operations"]]
    assert amounts == [0, 0, 0, 7 * CREDIT, -2 * CREDIT, 900, -50, 0, 0]
    assert [each["other"] for each in content["operations"]] == ["", "", OTHER, OTHER, OTHER, "", OTHER, OTHER, OTHER]
    assert (content["received"], content["paid"]) == (7 * CREDIT + 900, 2 * CREDIT + 50)
    assert content["fees"] == 6_000, "a failed operation costs its fee, those of others cost nothing"


def test_a_person_sees_credits_and_what_failed(asked: list[str]) -> None:
    text = run().stdout
    assert "+7.000000" in text and "-2.000000" in text and "failed: not so much is available" in text
    assert "2 answers, 1 without a receipt" in text and "5.000000 to the bond" in text
    assert text.splitlines()[-1] == "received 7.000900  paid 2.000050  fees 0.006000"


@pytest.mark.parametrize("page", [1, 2, 4, 200])
def test_pages_of_any_size_give_the_same(asked: list[str], monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    whole = run("--json", "-n", "0").stdout
    monkeypatch.setattr(history, "PAGE", page)
    assert run("--json", "-n", "0").stdout == whole
    limited = json.loads(run("--json", "-n", "5").stdout)["operations"]
    assert limited == json.loads(whole)["operations"][:5]


def test_csv_is_in_credits_and_no_cell_is_a_formula(asked: list[str]) -> None:
    head, *rows = csv.reader(io.StringIO(run("--csv").stdout))
    assert len(rows) == len(OPERATIONS) and len({len(row) for row in (head, *rows)}) == 1
    by_block = {row[1]: dict(zip(head, row, strict=True)) for row in rows}
    assert by_block["9"]["credits"] == "7.000000" and by_block["9"]["note"] == "'=1+1"
    assert by_block["6"]["credits"] == "-0.000050" and by_block["8"]["fee"] == "0.001000"
    assert by_block["8"]["time"] == "2026-01-02T03:04:05.608+00:00"
    assert run("--csv", "--json").code == 2


def test_an_account_without_operations_says_so(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "OPERATIONS", [])
    assert run().stdout == "no operation has to do with this account yet\n"
