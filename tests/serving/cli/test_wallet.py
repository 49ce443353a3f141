"""Amounts on the command line."""

from __future__ import annotations

import pytest

from chain.parameters import CREDIT
from serving.cli.errors import CommandError
from serving.cli.running.wallet import parse_credits


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
