"""``wwwserve wallet history``: what the operations on the ledger did to the account of the running node."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from chain.amounts import format_credits, format_decimal
from chain.cli.contract import CommandError, ExitCode, print_result
from chain.cli.options import AsJson, DataDir
from chain.cli.text import format_count, print_table, shorten_address
from serving.cli.running.admin_client import ask_node

PAGE = 200
"""Operations that are asked for at a time."""
FORMULAS = ("=", "+", "-", "@", "\t")
"""A text that begins so is a formula to a spreadsheet; others write memos."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one operation did. Amounts in micro-credits: ``amount`` came in or (negative) went out, besides the ``fee``.

    ``other`` is the account at the other side, and ``note`` what else there is to say.
    """

    timestamp: int
    height: int
    index: int
    kind: str
    amount: int
    fee: int
    other: str
    note: str
    failure: str
    id: str


def history(
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="How many operations, the latest; 0: all.")] = 50,
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV, for a spreadsheet or an accountant.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """What the operations on the ledger did to this account, the latest first.

    Levies on income, the cost of a new entry on the ledger (entry_fee), and what an epoch's end gives or takes are not
    listed.
    """
    if as_csv and as_json:
        raise CommandError("choose one of --csv and --json", code=ExitCode.USAGE)
    own = str(ask_node(data_dir, "GET", "/wallet")["address"])
    operations = fetch(data_dir, own, limit)
    rows = make_rows(operations, own, find_own_holds(data_dir, operations, own))
    if as_csv:
        print_result(None, False, write_csv(rows).removesuffix("\n"))
        return
    content = {"address": own, "operations": [asdict(row) for row in rows], **add_up(rows)}
    if as_json or not rows:
        print_result(content, as_json, "no operation has to do with this account yet")
        return
    print_table(
        ("block", "time", "operation", "credits", "fee", "with", "note"),
        [
            (
                f"{row.height}.{row.index}",
                datetime.fromtimestamp(row.timestamp / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
                row.kind,
                f"{'+' if row.amount > 0 else ''}{format_credits(row.amount)}" if row.amount else "",
                format_credits(row.fee) if row.fee else "",
                shorten_address(row.other) if row.other else "",
                f"failed: {row.failure}" if row.failure else row.note,
            )
            for row in rows
        ],
    )
    sums = add_up(rows)
    print_result(None, False, "  ".join(f"{name} {format_credits(value)}" for name, value in sums.items()))


def fetch(data_dir: Path | None, own: str, limit: int) -> list[dict[str, Any]]:
    """The last operations of an account, the latest first; all of them if ``limit`` is 0.

    Raises:
        CommandError: the node keeps no index of accounts.
    """
    found: list[dict[str, Any]] = []
    before = ""
    while True:
        size = min(PAGE, limit - len(found)) if limit else PAGE
        page = ask_node(data_dir, "GET", f"/chain/accounts/{own}/operations?limit={size}{before}")
        found += page["operations"]
        if page["next"] is None or (limit and len(found) >= limit):
            return found
        before = f"&before={page['next']}"


def find_own_holds(data_dir: Path | None, operations: Iterable[Mapping[str, Any]], own: str) -> frozenset[str]:
    """The holds that captures of others are about and that this account made, of which some may not be among them."""
    operations = list(operations)
    known = {each["id"]: each["signer"] == own for each in operations if each["kind"] == "hold"}
    for each in operations:
        if each["kind"] == "capture" and each["signer"] != own:
            for hold in get_holds(each):
                if hold not in known:
                    known[hold] = ask_node(data_dir, "GET", f"/chain/operations/{hold}")["signer"] == own
    return frozenset(hold for hold, is_own in known.items() if is_own)


def get_holds(capture: Mapping[str, Any]) -> list[str]:
    """The holds that a capture is about."""
    return [item["delivery"]["hold"] for item in capture["items"]]


def make_rows(operations: Iterable[Mapping[str, Any]], own: str, own_holds: frozenset[str]) -> list[Row]:
    """What each operation did to the account ``own``, which made ``own_holds``."""
    return [_make_row(each, own, own_holds) for each in operations]


def _make_row(operation: Mapping[str, Any], own: str, own_holds: frozenset[str]) -> Row:
    is_signer = operation["signer"] == own
    amount, other, note = _read(operation, own, own_holds)
    return Row(
        timestamp=operation["timestamp"],
        height=operation["height"],
        index=operation["index"],
        kind=operation["kind"],
        amount=0 if operation["failure"] else amount,
        fee=operation["fee"] if is_signer else 0,
        other=other if other != own else "",
        note=note,
        failure=operation["failure"] or "",
        id=operation["id"],
    )


def _read(operation: Mapping[str, Any], own: str, own_holds: frozenset[str]) -> tuple[int, str, str]:
    """Amount, other account and note of an operation that does not fail."""
    signer, is_signer = operation["signer"], operation["signer"] == own
    match operation["kind"]:
        case "transfer":
            memo = bytes.fromhex(operation["memo"]).decode(errors="replace")
            if operation["recipient"] == signer:
                return 0, "", memo
            return (
                (-operation["amount"], operation["recipient"], memo)
                if is_signer
                else (operation["amount"], signer, memo)
            )
        case "capture":
            items = [item for item in operation["items"] if is_signer or item["delivery"]["hold"] in own_holds]
            total = sum(item["delivery"]["amount"] for item in items)
            note = format_count(len(items), "answer")
            unreceipted = sum(item["receipt"] is None for item in items)
            note += f", {unreceipted} without a receipt: paid later, unless disputed" if unreceipted else ""
            return (total, "", note) if is_signer else (-total, signer, note)
        case "hold":
            text = f"{format_credits(operation['amount'])} set aside for {operation['model']}"
            return 0, operation["payee"] if is_signer else signer, text
        case "bond":
            return 0, "", f"{format_credits(operation['amount'])} to the bond"
        case "unbond":
            return 0, "", f"{format_credits(operation['amount'])} out of the bond"
    return 0, "" if is_signer else signer, ""


def add_up(rows: Iterable[Row]) -> dict[str, int]:
    """What came in, went out, and was paid as fees, in micro-credits."""
    rows = list(rows)
    return {
        "received": sum(row.amount for row in rows if row.amount > 0),
        "paid": -sum(row.amount for row in rows if row.amount < 0),
        "fees": sum(row.fee for row in rows),
    }


def write_csv(rows: Iterable[Row]) -> str:
    """The rows as CSV, amounts in credits, times in UTC. No cell is a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("time", "block", "index", "operation", "credits", "fee", "with", "note", "failure", "id"))
    for row in rows:
        at = datetime.fromtimestamp(row.timestamp / 1000, UTC).isoformat(timespec="milliseconds")
        texts = (_defuse(each) for each in (row.other, row.note, row.failure, row.id))
        writer.writerow(
            (at, row.height, row.index, row.kind, format_decimal(row.amount), format_decimal(row.fee), *texts)
        )
    return text.getvalue()


def _defuse(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULAS) else text
