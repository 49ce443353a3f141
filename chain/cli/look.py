"""The ``chain`` commands that show what is on a ledger, by :mod:`chain.explorer`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from chain.amounts import format_credits
from chain.audit.checks import list_checks
from chain.audit.duels import list_duels
from chain.audit.sources import StoreSource
from chain.cli.checks import check_to_plain, describe_check
from chain.cli.contract import print_result
from chain.cli.duels import describe_duel, duel_to_plain
from chain.cli.format import account_to_rows
from chain.cli.options import AccountAddress, AsJson, DataDir
from chain.cli.places import open_chain_store, open_store, show_progress
from chain.cli.text import (
    format_percent,
    format_rows,
    format_table,
    format_time,
    print_line,
    print_lines,
)
from chain.crypto import format_address, parse_address
from chain.exceptions import ProofError, StoreDamaged, StoreError
from chain.explorer import blocks
from chain.explorer.accounts import AFTER_ALL, list_operations, parse_position, show_account
from chain.explorer.blocks import MAX_PAGE
from chain.explorer.plain import header_to_plain
from chain.explorer.validators import list_validators
from chain.light.client import Checkpoint
from chain.store.reader import ChainReader

Limit = Annotated[int, typer.Option(min=1, max=MAX_PAGE, help="Entries to list.")]


def show(
    what: Annotated[str, typer.Argument(help="Height, block id, operation id, or 'head'.")] = "head",
    data_dir: DataDir = None,
    duels: Annotated[
        bool, typer.Option("--duels", help="Show every duel: parties, digests, votes, verdict, credits moved.")
    ] = False,
    checks: Annotated[
        bool, typer.Option("--checks", help="Show every check of the model: parties, reports, finding, credits.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a block, an operation, or all duels or checks of the model."""
    with open_store(data_dir) as store:
        source = StoreSource(store)
        if checks:
            listed = show_progress("Replaying", source.height, lambda tick: list_checks(source, tick), as_json)
            text = "\n\n".join(map(describe_check, listed)) or "no checks"
            print_lines(json.dumps([check_to_plain(each) for each in listed]) if as_json else text)
            return
        if duels:
            found = show_progress("Replaying", source.height, lambda tick: list_duels(source, tick), as_json)
            text = "\n\n".join(map(describe_duel, found)) or "no duels"
            print_lines(json.dumps([duel_to_plain(each) for each in found]) if as_json else text)
            return
        content = blocks.show(ChainReader(store), what)
    print_lines(json.dumps(content, indent=None if as_json else 2, ensure_ascii=False))


def show_blocks(
    before: Annotated[int | None, typer.Option(min=1, help="List those below this height.")] = None,
    limit: Limit = 20,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List blocks, the latest first."""
    with open_store(data_dir) as store:
        page = blocks.list_blocks(ChainReader(store), before, limit)
    rows = [
        (
            f"{block['height']:,}",
            format_time(block["timestamp"]),
            str(block["operations"]) + (f" ({block['failed']} failed)" if block["failed"] else ""),
            "-" if block["share"] is None else format_percent(block["share"]),
            block["proposer"],
        )
        for block in page["blocks"]
    ]
    lines = format_table(("height", "time", "operations", "signed by stake", "proposer"), rows)
    print_result(page, as_json, *lines, *_say_next(page["next"]))


def account(address: AccountAddress, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show an account's credits as of the last final block."""
    key = parse_address(address)
    with open_chain_store(data_dir) as chain:
        content, held = show_account(chain, key), chain.state.account(key)
    rows = {"address": format_address(key), "height": f"{content['height']:,}", **account_to_rows(held)}
    print_result(content, as_json, format_rows(rows))


def history(
    address: AccountAddress,
    before: Annotated[
        str | None, typer.Option(metavar="HEIGHT.INDEX", help="List those before this operation.")
    ] = None,
    limit: Limit = 20,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the operations that an account has to do with, the latest first."""
    key = parse_address(address)
    try:
        position = AFTER_ALL if before is None else parse_position(before)
    except ValueError as error:
        raise ProofError(f"--before: {error}") from None
    with open_store(data_dir) as store:
        page = list_operations(ChainReader(store), key, position, limit)
    own = format_address(key)
    rows = [
        (
            f"{each['height']}.{each['index']}",
            format_time(each["timestamp"]),
            each["kind"],
            _describe_amount(each),
            "by it" if each["signer"] == own else f"by {each['signer']}",
            each["failure"] or "",
        )
        for each in page["operations"]
    ]
    lines = format_table(("place", "time", "operation", "credits", "signed", "failed because"), rows)
    print_result(page, as_json, *lines, *_say_next(page["next"]))


def _describe_amount(operation: dict[str, Any]) -> str:
    if "items" in operation:
        return format_credits(sum(item["delivery"]["amount"] for item in operation["items"]))
    return format_credits(operation["amount"]) if "amount" in operation else ""


def validators(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Who votes, with how much stake, and how many votes were seen."""
    with open_chain_store(data_dir) as chain:
        content = list_validators(chain)
    counted = content["counted_blocks"]
    rows = [
        (
            each["address"],
            format_credits(each["stake"]),
            format_percent(each["share"]),
            f"{each['votes']} of {counted}" if counted else "-",
        )
        for each in content["validators"]
    ]
    lines = format_table(("validator", "credits at stake", "share", "votes in this epoch"), rows)
    jailed = [f"{each['address']} is jailed until epoch {each['until_epoch']:,}" for each in content["jailed"]]
    print_result(content, as_json, *lines, *jailed)


def checkpoint(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Print the last final block as a checkpoint, to hand to readers of proofs."""
    with open_store(data_dir) as store:
        chain = ChainReader(store)
        header = chain.find_header(chain.height)
        if header is None:
            raise StoreDamaged(f"block {chain.height} is missing")
        if not header.height:
            raise StoreError("no block is final yet, and genesis needs no checkpoint")
    last = Checkpoint(header.height, header.id)
    print_line(json.dumps({"checkpoint": str(last), **header_to_plain(header)}) if as_json else str(last))


def _say_next(position: int | str | None) -> tuple[str, ...]:
    return () if position is None else (f"older ones: --before {position}",)
