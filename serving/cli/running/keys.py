"""``wwwserve keys``: the API keys of a node, whether it runs or not.

A running node is asked through its admin listener. Without one the commands work on its data directory, which they
lock.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any

import trio
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chain.amounts import format_credits, format_decimal
from chain.cli.contract import CommandError, print_result
from chain.cli.options import AsJson, DataDir, get_default_data_dir
from chain.cli.text import format_time, print_line
from chain.cli.tree import Entry, build_group
from chain.exceptions import StoreInUse
from p2p.runtime import RealRuntime
from serving.cli.running.admin_client import ask_node
from serving.cli.running.wallet import parse_credits
from serving.config.data_directory import CONFIG_FILE, KEY_FILE, KEYS_DIRECTORY, lock_data_dir
from serving.config.file import load_config

KeyName = Annotated[str, typer.Argument(help="Name of the key: for whom or for what it is.")]
USAGE_COLUMNS = ("key", "day", "requests", "refused", "prompt_bytes", "completion_bytes", "completion_tokens", "spent")
"""Columns of what was used, as the admin listener names them."""
_SPAN = re.compile(r"([1-9][0-9]{0,4})([hdw])")
_HOURS = {"h": 1, "d": 24, "w": 168}


def build_keys_app() -> typer.Typer:
    """The commands of ``wwwserve keys``."""
    entries = {
        "create": Entry(
            "Make a key and print it. It is shown this once: the node keeps no more than its hash.",
            lambda: create,
            ("wwwserve keys create laptop", "wwwserve keys create ci --budget 5 --expires 30d"),
        ),
        "list": Entry(
            "All keys, what they may do, and what is left of their budgets.", lambda: list_keys, ("wwwserve keys list",)
        ),
        "revoke": Entry(
            "Make a key good for nothing from now on; answers under way are finished.",
            lambda: revoke,
            ("wwwserve keys revoke laptop",),
        ),
        "usage": Entry(
            "What each key used on each day (UTC); 'spent' is the price of its answers, in credits.",
            lambda: usage,
            ("wwwserve keys usage", "wwwserve keys usage --csv"),
        ),
    }
    return build_group(entries, "Keys of the OpenAI API.")


def create(
    name: KeyName,
    data_dir: DataDir = None,
    models: Annotated[
        list[str] | None, typer.Option("--models", help="A model that it may use, repeatable; default: all.")
    ] = None,
    requests_per_minute: Annotated[int, typer.Option(min=0, help="0: no limit.")] = 0,
    tokens_per_minute: Annotated[int, typer.Option(min=0, help="Of prompts and answers; 0: no limit.")] = 0,
    concurrency: Annotated[int, typer.Option(min=0, help="Requests at a time; 0: no limit.")] = 0,
    budget: Annotated[
        str | None, typer.Option(metavar="CREDITS", help="What its answers may cost in all, such as 12 or 0.5.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="WHEN", help="After 12h, 30d or 8w, or on a day: 2030-01-31 (UTC).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it. It is shown this once: the node keeps no more than its hash."""
    order = {
        "name": name,
        "models": [model for given in models or () for model in given.split(",") if model],
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrency": concurrency,
        "budget": None if budget is None else parse_credits(budget),
        "expires": None if expires is None else parse_expiry(expires, datetime.now(UTC)),
    }
    answer = _order(data_dir, "POST", "/keys", order)
    print_line(json.dumps(answer) if as_json else answer["key"])
    if not as_json:
        print_line("Keep it: it cannot be shown again.", to_stderr=True)


def list_keys(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """All keys, what they may do, and what is left of their budgets."""
    answer = _order(data_dir, "GET", "/keys")
    if as_json:
        print_line(json.dumps(answer))
        return
    if not answer["keys"]:
        print_line("no key: all programs of this machine may use the API, and no other machine")
        return
    table = Table("key", "ends in", "state", "budget left", "may", "made", box=None)
    for key in answer["keys"]:
        left = "-" if key["left"] is None else f"{format_credits(key['left'])} of {format_credits(key['budget'])}"
        made = format_time(key["created"]) if key["created"] else "in config.yaml"
        table.add_row(key["name"], f"…{key['hint']}", _describe_state(key), left, Text(_describe_limits(key)), made)
    Console(width=1000).print(table)


def revoke(name: KeyName, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Make a key good for nothing from now on; answers under way are finished."""
    _order(data_dir, "POST", "/keys/revoke", {"name": name})
    print_result({"name": name, "revoked": True}, as_json, f"{name} is revoked")


def usage(
    data_dir: DataDir = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values (RFC 4180).")] = False,
    as_json: AsJson = False,
) -> None:
    """What each key used on each day (UTC); 'spent' is the price of its answers, in credits."""
    answer = _order(data_dir, "GET", "/keys/usage")
    usage = [{**entry, "spent": format_decimal(entry["spent"])} for entry in answer["usage"]]
    rows = [[entry[column] for column in USAGE_COLUMNS] for entry in usage]
    if as_json:
        print_line(json.dumps(answer))
    elif as_csv:
        csv.writer(sys.stdout).writerows([USAGE_COLUMNS, *rows])
    elif not rows:
        print_line("no key was used yet")
    else:
        table = Table(*(column.replace("_", " ") for column in USAGE_COLUMNS), box=None)
        for row in rows:
            table.add_row(*map(str, row))
        Console(width=1000).print(table)


def parse_expiry(text: str, now: datetime) -> int:
    """When a key expires, in ms since the Unix epoch.

    Raises:
        CommandError: ``text`` is neither a length of time nor a day.
    """
    span = _SPAN.fullmatch(text)
    if span is not None:
        moment = now + timedelta(hours=int(span[1]) * _HOURS[span[2]])
    else:
        try:
            moment = datetime.combine(date.fromisoformat(text), time(), UTC)
        except ValueError:
            raise CommandError(f"--expires: {text!r} is neither like 12h, 30d, 8w nor a day like 2030-01-31") from None
        if moment <= now:
            raise CommandError(f"--expires: {text} is over")
    return round(moment.timestamp() * 1000)


def _describe_state(key: dict[str, Any]) -> str:
    if key["revoked"] is not None:
        return "revoked"
    if key["expires"] is None:
        return "good"
    is_over = key["expires"] <= RealRuntime().now()
    return "expired" if is_over else f"good until {format_time(key['expires'])}"


def _describe_limits(key: dict[str, Any]) -> str:
    limits = [", ".join(key["models"])] if key["models"] else []
    for name, unit in (
        ("requests_per_minute", "requests/min"),
        ("tokens_per_minute", "tokens/min"),
        ("concurrency", "at a time"),
    ):
        if key[name]:
            limits.append(f"{key[name]:,} {unit}")
    return "; ".join(limits) or "everything"


def _order(data_dir: Path | None, method: str, path: str, content: dict[str, Any] | None = None) -> Any:
    """Give an order to the running node, or carry it out in its directory if none runs."""
    directory = data_dir or get_default_data_dir()
    if not (directory / KEY_FILE).exists():
        raise CommandError(f"no node in {directory}; name its data directory with -d")
    try:
        with lock_data_dir(directory):
            return trio.run(_carry_out, directory, method, path, content)
    except StoreInUse:
        return ask_node(data_dir, method, path, content)


async def _carry_out(directory: Path, method: str, path: str, content: dict[str, Any] | None) -> Any:
    from pydantic import ValidationError

    from serving.admin.orders import key_orders as orders
    from serving.admin.orders.wallet_orders import OrderRefused
    from serving.config.file import describe_errors, format_path
    from serving.keys.keyring import open_keyring

    configured = load_config(directory / CONFIG_FILE).api.get_keys()
    with closing(open_keyring(directory / KEYS_DIRECTORY, RealRuntime(), configured)) as keys:
        try:
            match method, path:
                case "GET", "/keys":
                    return orders.list_keys(keys)
                case "GET", "/keys/usage":
                    return orders.list_usage(keys)
                case "POST", "/keys":
                    return await orders.create_key(keys, orders.CreateOrder.model_validate(content))
                case _:
                    return await orders.revoke_key(keys, orders.RevokeOrder.model_validate(content))
        except ValidationError as error:
            faults = describe_errors(error, orders.CreateOrder)
            raise CommandError("; ".join(f"{format_path(where)}: {reason}" for where, reason in faults)) from None
        except OrderRefused as error:
            raise CommandError(str(error)) from None
