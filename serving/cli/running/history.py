"""``wwwserve wallet history``: all that changed the balance of the running node's account, and why. It adds up."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable, Mapping, Sequence
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
"""Entries that are asked for at a time."""
INDEX_PATIENCE_S = 3.0
"""How long to wait for an index that is behind the chain. It follows within a second, unless it is being built."""
INDEX_POLL_S = 0.2
FORMULAS = ("=", "+", "-", "@", "\t")
"""A text that begins so is a formula to a spreadsheet; others write memos."""
NOTES = {
    "missed leads": "led no block when it was its turn",
    "settlement": "answers without a receipt: nobody disputed them in time",
    "duels": "duels that came to an end",
    "checks": "checks of the model that came to an end",
}
"""What to say of what a block does by itself."""


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of the account. Amounts in micro-credits.

    ``change`` is by how much all credit of the account grew (negative: shrank), ``balance`` all credit after it. The
    next five are the parts of ``change``. ``fee`` is that of an own operation, and a part of ``change``. ``other`` is
    the account at the other side, ``note`` what else there is to say. An entry that is no operation has no ``id``.
    """

    timestamp: int
    height: int
    number: int
    cause: str
    change: int
    balance: int
    available: int
    held: int
    bonded: int
    unbonding: int
    deposit: int
    fee: int
    other: str
    note: str
    failure: str
    id: str


@dataclass(frozen=True, slots=True)
class Statement:
    """What was read of an account: its rows, the latest first, and the ``balance`` on the ledger at ``height``.

    The rows reach up to ``indexed_height``; ``is_whole`` if none before them was left out, after ``first_height``.
    """

    address: str
    height: int
    indexed_height: int
    first_height: int
    balance: int
    is_whole: bool
    rows: Sequence[Row]


def history(
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="How many entries, the latest; 0: all.")] = 50,
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV, for a spreadsheet or an accountant.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """All that changed the balance of this account, the latest first: it adds up to the balance on the ledger."""
    if as_csv and as_json:
        raise CommandError("choose one of --csv and --json", code=ExitCode.USAGE)
    own = str(ask_node(data_dir, "GET", "/wallet")["address"])
    account = fetch(data_dir, own, limit)
    sums = add_up(account)
    if as_csv:
        print_result(None, False, write_csv(account.rows).removesuffix("\n"))
        return
    content = {**asdict(account), "entries": [asdict(row) for row in account.rows], **sums}
    del content["rows"]
    if as_json:
        print_result(content, True)
        return
    if account.rows:
        print_table(("block", "time", "what", "change", "balance", "with", "note"), list(map(_format, account.rows)))
    print_result(None, False, *_describe(account, sums))


def _format(row: Row) -> tuple[str, ...]:
    return (
        f"{row.height}.{row.number}",
        datetime.fromtimestamp(row.timestamp / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        row.cause,
        f"{'+' if row.change > 0 else ''}{format_credits(row.change)}" if row.change else "",
        format_credits(row.balance),
        shorten_address(row.other) if row.other else "",
        f"failed: {row.failure}" if row.failure else row.note,
    )


def _describe(account: Statement, sums: Mapping[str, int]) -> tuple[str, ...]:
    """What the entries add up to, and how far they reach."""
    opening, received, paid, closing = (
        format_credits(sums[name]) for name in ("opening", "received", "paid", "closing")
    )
    begin = f"after block {account.first_height:,}" if account.is_whole else "before these entries"
    text = f"{opening} {begin} + {received} received - {paid} paid = {closing}"
    if account.indexed_height == account.height:
        return (f"{text}, the balance on the ledger at block {account.height:,}",)
    reach = f"{account.indexed_height:,} of {account.height:,}"
    return (text, f"entries reach block {reach}: the index is still being built")


def fetch(data_dir: Path | None, own: str, limit: int) -> Statement:
    """The last entries of an account; all of them if ``limit`` is 0.

    Raises:
        CommandError: the node keeps no index of accounts.
    """
    end = time.monotonic() + INDEX_PATIENCE_S
    size = min(PAGE, limit) if limit else PAGE
    path = f"/chain/accounts/{own}/movements?limit="
    first = page = ask_node(data_dir, "GET", f"{path}{size}")
    while first["indexed_height"] < first["height"] and time.monotonic() < end:
        time.sleep(INDEX_POLL_S)
        first = page = ask_node(data_dir, "GET", f"{path}{size}")
    rows = [make_row(each, own) for each in page["entries"]]
    while page["next"] is not None and not (limit and len(rows) >= limit):
        size = min(PAGE, limit - len(rows)) if limit else PAGE
        page = ask_node(data_dir, "GET", f"{path}{size}&before={page['next']}")
        rows += [make_row(each, own) for each in page["entries"]]
    known = {name: first[name] for name in ("height", "indexed_height", "first_height", "balance")}
    return Statement(own, **known, is_whole=page["next"] is None, rows=rows)


def make_row(entry: Mapping[str, Any], own: str) -> Row:
    """An entry of the account ``own``, for people."""
    change, operation = entry["change"], entry["operation"]
    other, note = ("", NOTES.get(entry["cause"], "")) if operation is None else _read(operation, own)
    return Row(
        timestamp=entry["timestamp"],
        height=entry["height"],
        number=entry["number"],
        cause=entry["cause"],
        change=sum(change.values()),
        balance=entry["balance"],
        **change,
        fee=operation["fee"] if operation is not None and operation["signer"] == own else 0,
        other=other if other != own else "",
        note=note,
        failure="" if operation is None else operation["failure"] or "",
        id="" if operation is None else operation["id"],
    )


def _read(operation: Mapping[str, Any], own: str) -> tuple[str, str]:
    """The account at the other side of an operation, and a note."""
    signer, is_signer = operation["signer"], operation["signer"] == own
    match operation["kind"]:
        case "transfer":
            return operation["recipient"] if is_signer else signer, bytes.fromhex(operation["memo"]).decode(
                errors="replace"
            )
        case "capture" if is_signer:
            items = operation["items"]
            unreceipted = sum(item["receipt"] is None for item in items)
            late = f", {unreceipted} without a receipt: paid later, unless disputed" if unreceipted else ""
            return "", f"{format_count(len(items), 'answer')}{late}"
        case "hold":
            text = f"{format_credits(operation['amount'])} set aside for {operation['model']}"
            return operation["payee"] if is_signer else signer, text
        case "bond":
            return "", f"{format_credits(operation['amount'])} to the bond"
        case "unbond":
            return "", f"{format_credits(operation['amount'])} out of the bond"
    return "" if is_signer else signer, ""


def add_up(account: Statement) -> dict[str, int]:
    """``opening`` + ``received`` − ``paid`` = ``closing``, and the own ``fees`` among ``paid``, in micro-credits.

    Raises:
        CommandError: the entries do not lead from one balance to the next, or not to that on the ledger.
    """
    rows, is_behind = account.rows, account.indexed_height < account.height
    closing = rows[0].balance if rows and is_behind else account.balance
    expected = closing
    for row in rows:
        if row.balance != expected:
            raise CommandError(
                f"the entries of the account do not add up: {format_credits(row.balance)} after entry "
                f"{row.height}.{row.number}, {format_credits(expected)} expected",
                code=ExitCode.FAULT,
                hint="wwwserve chain verify checks the index of accounts against the ledger",
            )
        expected -= row.change
    return {
        "opening": expected,
        "received": sum(row.change for row in rows if row.change > 0),
        "paid": -sum(row.change for row in rows if row.change < 0),
        "closing": closing,
        "fees": sum(row.fee for row in rows),
    }


def write_csv(rows: Iterable[Row]) -> str:
    """The rows as CSV, amounts in credits, times in UTC. No cell is a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    amounts = ("change", "balance", "available", "held", "bonded", "unbonding", "deposit", "fee")
    texts = ("other", "note", "failure", "id")
    writer.writerow(("time", "block", "number", "what", *amounts, "with", "note", "failure", "id"))
    for row in rows:
        at = datetime.fromtimestamp(row.timestamp / 1000, UTC).isoformat(timespec="milliseconds")
        writer.writerow(
            (
                at,
                row.height,
                row.number,
                row.cause,
                *(format_decimal(getattr(row, name)) for name in amounts),
                *(_defuse(getattr(row, name)) for name in texts),
            )
        )
    return text.getvalue()


def _defuse(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULAS) else text
