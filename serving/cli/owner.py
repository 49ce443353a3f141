"""What the owner sees of the running node: ``status``, ``peers``, ``models``, ``duels``."""

from __future__ import annotations

import json
from typing import Any

from chain.cli.options import AsJson, DataDir
from chain.cli.text import format_count, format_credits, format_percent, print_line, print_table
from serving.cli.admin_client import ask_node, print_fields


def status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Where the node stands: ledger, peers, models, requests."""
    print_fields(ask_node(data_dir, "GET", "/status"), as_json)


def peers(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Who is online, and what they serve."""
    answer = ask_node(data_dir, "GET", "/peers")
    if as_json:
        print_line(json.dumps(answer))
        return
    rows = [
        (
            peer["address"],
            ", ".join(peer["models"]),
            f"{peer['utilization'] / 10:.0f} %",
            ", ".join(peer["addresses"]) or "-",
        )
        for peer in answer["peers"]
    ]
    print_table(("address", "models", "load", "reachable at"), rows)


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
