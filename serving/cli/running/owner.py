"""What the owner sees of the running node: ``status``, ``peers``, ``models``, ``duels``."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated, Any

import typer

from chain.amounts import format_credits
from chain.cli.contract import CommandError, ExitCode, print_result
from chain.cli.options import AsJson, DataDir, get_default_data_dir
from chain.cli.text import (
    format_count,
    format_duration,
    format_percent,
    print_line,
    print_lines,
    print_table,
    shorten_address,
)
from serving.cli.running.admin_client import NodeStarting, ask_node, describe_age
from serving.cli.running.status import describe_status


def status(
    data_dir: DataDir = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again every second, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Where the node stands: ledger, peers, models, requests.

    Exit code 3 while it starts or ends, too; it then says what it does, or waits for.
    """
    directory = str(data_dir or get_default_data_dir())
    if watch and as_json:
        raise CommandError("--watch is for people; give it without --json", code=ExitCode.USAGE)
    while True:
        try:
            content = ask_node(data_dir, "GET", "/status")
            lines = describe_status(content, directory)
            is_running = content["ending"] is None
        except NodeStarting as error:
            content = {"verdict": "starting", "since_ms": error.start.since_ms, "doing": error.start.doing}
            lines = [f"○ starting for {describe_age(error.start)}: {error.start.doing}   ({directory})"]
            is_running = False
        if not watch:
            print_result(content, as_json, *lines)
            if not is_running:
                raise typer.Exit(ExitCode.NO_NODE)
            return
        print_lines("\n".join(lines), clear=True)
        time.sleep(1)


PEER_COLUMNS = ("address", "models", "path", "connected for", "round trip", "load", "credits bonded", "reachable at")


def peers(
    data_dir: DataDir = None,
    full: Annotated[bool, typer.Option("--full", help="Whole addresses, also on a terminal.")] = False,
    as_json: AsJson = False,
) -> None:
    """Who is online, and what they serve."""
    answer = ask_node(data_dir, "GET", "/peers")
    if as_json or not answer["peers"]:
        print_result(answer, as_json, "no other node is known yet")
        return
    is_short = sys.stdout.isatty() and not full
    rows = [
        (
            shorten_address(peer["address"]) if is_short else peer["address"],
            ", ".join(peer["models"]) or "-",
            _describe_path(peer),
            "-" if peer["connected_s"] is None else format_duration(int(1000 * peer["connected_s"])),
            "-" if peer["round_trip_ms"] is None else f"{peer['round_trip_ms']:,.1f} ms",
            f"{peer['utilization'] / 10:.0f} %",
            format_credits(peer["bonded"]),
            ", ".join(peer["addresses"]) or "-",
        )
        for peer in answer["peers"]
    ]
    print_table(PEER_COLUMNS, rows)


def _describe_path(peer: dict[str, Any]) -> str:
    if not peer["connected"]:
        return "not connected"
    return "relayed" if peer["relayed"] else "direct"


def models(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Models that this node serves or can offload to others, and how their executors have done in duels."""
    answer = ask_node(data_dir, "GET", "/models")
    if as_json or not answer["models"]:
        print_result(answer, as_json, "no model: neither does a backend answer, nor does another node serve one")
        return
    rows = []
    for entry in answer["models"]:
        rate = entry["win_rate"]
        won = "-" if rate is None else f"won {format_percent(rate)} of {format_count(entry['duels'], 'duel')}"
        others = f"{format_count(entry['executors'], 'node')}, {format_credits(entry['stake'])} credits"
        price = f"{1_000 * float(entry['price']['completion']):,.6f}".rstrip("0").rstrip(".")
        here, elsewhere = "yes" if entry["local"] else "no", others if entry["executors"] else "none"
        rows.append((entry["id"], here, elsewhere, price, won))
    print_table(("model", "here", "others, and their bonds", "credits per 1,000 tokens", "duels"), rows)
    for entry in answer["models"]:
        for identity in entry["identities"]:
            declared = format_count(identity["executors"], "executor")
            checked = format_count(identity["checks"], "check")
            failed = f"{identity['shortfall_failures']} by shortfall, {identity['distance_failures']} by distance"
            print_line(f"  {entry['id']} {identity['digest'][:16]}: {declared}, {checked}, failed {failed}")
    for each in answer["backends"]:
        state = f"{each['running']} of {each['capacity']} slots in use" if each["is_alive"] else f"✗ {each['fault']}"
        print_line(f"backend {each['place']}: {', '.join(each['models']) or '-'} · {state}")


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
    rows = []
    for duel in found:
        opponents = {"executor": [duel["challenger"]], "judge": [duel["executor"], duel["challenger"]]}
        opponent = ", ".join(filter(None, opponents.get(duel["role"], [duel["executor"]]))) or "-"
        moved = format_credits(duel["moved"])
        rows.append((duel["hold"][:16], duel["role"], duel["verdict"] or duel["stage"], opponent, moved))
    print_table(("duel", "role", "stage or verdict", "opponent", "credits"), rows)


def _print_checks(found: list[dict[str, Any]]) -> None:
    rows = []
    for check in found:
        shortfall = "-" if check["shortfall"] is None else f"{check['shortfall'] / 1_000:.3f}"
        distance = "-" if check["distance"] is None else f"{check['distance'] / 1_000_000:.6f}"
        outcome = check["outcome"] or check["stage"]
        if check["is_substitution"]:
            outcome += ": another model"
        moved = format_credits(check["moved"])
        rows.append((check["hold"][:16], check["role"], outcome, check["executor"], shortfall, distance, moved))
    print_table(("check", "role", "stage or outcome", "executor", "shortfall", "distance", "credits"), rows)
