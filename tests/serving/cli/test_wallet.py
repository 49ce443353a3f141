"""Amounts on the command line."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from chain.parameters.parameters import CREDIT
from serving.cli.app import build_wwwserve_app
from serving.cli.errors import CommandError
from serving.cli.running import wallet
from serving.cli.running.wallet import parse_credits
from tests.support.commands import Outcome, run_cli
from tests.support.keys import make_key

OTHER = make_key("other").address


@pytest.mark.parametrize(
    ("text", "amount"),
    [("12", 12 * CREDIT), ("0.5", CREDIT // 2), (".5", CREDIT // 2), ("3.", 3 * CREDIT), ("0.000001", 1)],
)
def test_amounts_in_credits(text: str, amount: int) -> None:
    assert parse_credits(text) == amount


@pytest.mark.parametrize(
    "text", ["", ".", "x", "-1", "+1", "1e3", "1,000", "1.2.3", "0.0000001", "0", "0.000000", "\u0663", "1" * 20]
)
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(CommandError, match="credits"):
        parse_credits(text)


FORESEEN = {"fee": 2_000, "available_after": 7 * CREDIT, "bonded_after": 5 * CREDIT}
EPOCHS = {"votes_from_epoch": 9, "free_from_epoch": 12}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("transfer", OTHER, "2"), f"to         {OTHER}"),
        (("bond", "5"), "counts for votes from epoch 9 on"),
        (("unbond", "5"), "free from epoch 12 on"),
        (("withdraw",), "finished unbonding"),
        (("enroll",), "votes from epoch 9 on"),
        (("retire",), "must keep running"),
        (("unjail",), "votes again from epoch 9"),
        (("serve", "b", "a"), "models     a, b"),
    ],
)
def test_what_an_order_costs_and_does_is_shown_before_it_is_signed(
    monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], said: str
) -> None:
    sent: list[dict[str, Any]] = []

    def answer(directory: object, method: str, path: str, order: dict[str, Any], timeout: float = 0) -> dict[str, Any]:
        assert path == f"/wallet/{command[0]}"
        sent.append(order)
        return {**FORESEEN, **EPOCHS} if order.get("dry_run") else {"operation": "ab", "height": 3, "fee": 2_000}

    def run(*more: str, reply: str = "") -> Outcome:
        sent.clear()
        stdin = io.StringIO(reply)
        monkeypatch.setattr(stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(sys, "stdin", stdin)
        return run_cli(build_wwwserve_app(), "wallet", *command, *more)

    monkeypatch.setattr(wallet, "ask_node", answer)
    refused = run(reply="n\n")
    assert refused.code == 1 and [order.get("dry_run") for order in sent] == [True], "nothing is signed"
    assert said in refused.stdout and "0.002000 credits" in refused.stdout and "5.000000 credits" in refused.stdout
    assert run(reply="y\n").code == 0 and [order.get("dry_run") for order in sent] == [True, None]
    for unasked in ("--yes", "--json"):
        assert run(unasked).code == 0 and [order.get("dry_run") for order in sent] == [None]
