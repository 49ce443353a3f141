"""The owner's commands to the running node: ``status``, ``peers``, ``models``, ``duels``, ``policy``, ``reload``;
``wallet`` is beside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chain.cli.app import AsJson, DataDir, get_default_data_dir
from chain.cli.format import format_count, format_credits, format_percent, print_line
from chain.files import SECRET_MODE, write_atomically
from chain.printable import escape_unprintable
from serving.cli.admin_client import ask_node, print_fields
from serving.cli.errors import CommandError
from serving.cli.wallet import build_wallet_app
from serving.config.data_directory import CONFIG_FILE
from serving.config.edit import edit_config
from serving.config.yaml_marks import KeyPath


def add_owner_commands(app: typer.Typer) -> None:
    """Add all of the owner's commands to the command line."""
    app.command()(status)
    app.command()(peers)
    app.command()(models)
    app.command()(duels)
    app.add_typer(build_wallet_app(), name="wallet")
    policy = typer.Typer(help="The policy of the running node.", no_args_is_help=True)
    policy.command("show")(show_policy)
    policy.command("set")(set_policy)
    app.add_typer(policy, name="policy")
    app.command()(reload)


def status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Where the node stands: ledger, peers, models, requests."""
    print_fields(ask_node(data_dir, "GET", "/status"), as_json)


def peers(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Who is online, and what they serve."""
    answer = ask_node(data_dir, "GET", "/peers")
    if as_json:
        print_line(json.dumps(answer))
        return
    table = Table("address", "models", "load", "reachable at", box=None)
    for peer in answer["peers"]:
        load = f"{peer['utilization'] / 10:.0f} %"
        cells = (peer["address"], ", ".join(peer["models"]), load, ", ".join(peer["addresses"]) or "-")
        table.add_row(*(Text(escape_unprintable(cell)) for cell in cells))  # Text, so that a name is no markup
    Console(width=1000).print(table)  # not the terminal's width: an address that is cut is of no use


def models(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Models that this node serves or can offload to others, and how their executors have done in duels."""
    answer = ask_node(data_dir, "GET", "/models")
    if as_json:
        print_line(json.dumps(answer))
        return
    for entry in answer["models"]:
        rate, compared = entry["win_rate"], format_count(entry["duels"], "duel")
        print_line(entry["id"] if rate is None else f"{entry['id']}  won {format_percent(rate)} of {compared}")
        for identity in entry["identities"]:
            declared = format_count(identity["executors"], "executor")
            checked = format_count(identity["checks"], "check")
            failed = f"{identity['shortfall_failures']} by shortfall, {identity['distance_failures']} by distance"
            print_line(f"  {identity['digest'][:16]}: {declared}, {checked}, failed {failed}")


def duels(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Duels and checks of a model that this node took part in since it started ('chain show --duels' has all)."""
    answer = ask_node(data_dir, "GET", "/duels")
    if as_json:
        print_line(json.dumps(answer))
        return
    if answer["benched_s"]:
        hours, minutes = divmod(answer["benched_s"] // 60, 60)
        print_line(f"does not judge for {hours} h {minutes} min: its votes differed when others cast them again")
    if answer["duels"]:
        _print_duels(answer["duels"])
    else:
        print_line("no duel since this node started")
    for identity in answer["identities"]:
        checked = format_count(identity["checks"], "check")
        failed = f"failed {identity['shortfall_failures']} by shortfall, {identity['distance_failures']} by distance"
        print_line(f"{identity['model']} is declared as {identity['digest'][:16]}: {checked}, {failed}")
    if answer["checks"]:
        _print_checks(answer["checks"])


def _print_duels(found: list[dict[str, Any]]) -> None:
    table = Table("duel", "role", "stage or verdict", "opponent", "credits", box=None)
    for duel in found:
        opponents = {"executor": [duel["challenger"]], "judge": [duel["executor"], duel["challenger"]]}
        opponent = ", ".join(filter(None, opponents.get(duel["role"], [duel["executor"]]))) or "-"
        moved = format_credits(duel["moved"])
        cells = (duel["hold"][:16], duel["role"], duel["verdict"] or duel["stage"], opponent, moved)
        table.add_row(*(Text(escape_unprintable(cell)) for cell in cells))
    Console(width=1000).print(table)


def _print_checks(found: list[dict[str, Any]]) -> None:
    table = Table("check", "role", "stage or outcome", "executor", "shortfall", "distance", "credits", box=None)
    for check in found:
        shortfall = "-" if check["shortfall"] is None else f"{check['shortfall'] / 1_000:.3f}"
        distance = "-" if check["distance"] is None else f"{check['distance'] / 1_000_000:.6f}"
        outcome = check["outcome"] or check["stage"]
        if check["is_substitution"]:
            outcome += ": another model"
        moved = format_credits(check["moved"])
        cells = (check["hold"][:16], check["role"], outcome, check["executor"], shortfall, distance, moved)
        table.add_row(*(Text(escape_unprintable(cell)) for cell in cells))
    Console(width=1000).print(table)


def show_policy(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The policy in force."""
    print_fields(ask_node(data_dir, "GET", "/policy"), as_json)


def set_policy(
    changes: Annotated[
        list[str], typer.Argument(help="name=value, such as target_utilization=0.5 or models.MODEL.max_own=2")
    ],
    data_dir: DataDir = None,
    save: Annotated[bool, typer.Option("--save", help="Also write it to config.yaml, for the next start.")] = False,
    as_json: AsJson = False,
) -> None:
    """Change the policy while the node runs: until it stops, or for good with --save."""
    content: dict[str, Any] = {}
    edits: dict[KeyPath, object] = {}
    for change in changes:
        path, value = _read_change(change)
        if ("policy", *path) in edits:
            raise CommandError(f"{'.'.join(path)} is given twice")
        edits["policy", *path] = value
        section = content
        for key in path[:-1]:
            section = section.setdefault(key, {})
        section[path[-1]] = value
    file = (data_dir or get_default_data_dir()) / CONFIG_FILE
    edited = _edit_file(file, edits) if save else None  # before anything changes
    answer = ask_node(data_dir, "PUT", "/policy", content)
    if edited is not None:
        write_atomically(file, edited.encode(), mode=SECRET_MODE)
    print_fields(answer, as_json)
    if not as_json:
        print_line(f"saved in {file}" if save else f"until the node stops; --save also writes it to {file}")


def reload(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Have the running node read the policy in config.yaml again (as the signal HUP does)."""
    print_fields(ask_node(data_dir, "POST", "/policy/reload"), as_json)


def _read_change(change: str) -> tuple[tuple[str, ...], object]:
    """Path and value of a change, which is JSON or plain text.

    Raises:
        CommandError: it is none.
    """
    name, equals, text = change.partition("=")
    path = tuple(name.split("."))
    if path[0] == "models" and len(path) > 1:  # the name of a model may have dots
        _, _, rest = name.partition(".")
        model, dot, key = rest.rpartition(".")
        path = ("models", model, key) if dot else ()
    elif len(path) > 1:
        path = ()
    if not equals or not all(path) or not path:
        raise CommandError(f"{change!r} is not of the form name=value or models.MODEL.name=value")
    value: object
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except ValueError:  # NaN and the like are no JSON
        value = text
    if path == ("schedule",) and isinstance(value, str):
        value = [entry.strip() for entry in value.split(";") if entry.strip()]
    return path, value


def _edit_file(file: Path, edits: Mapping[KeyPath, object]) -> str:
    """The text of a configuration file with changes.

    Raises:
        ConfigError: it cannot be changed.
        CommandError: it cannot be read.
    """
    try:
        return edit_config(file.read_text(encoding="utf-8"), edits, str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"cannot read {file}: {error}") from error
