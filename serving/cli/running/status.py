"""How a node says how it is: the lines of ``status`` and of the start of ``run``, from what it reports (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chain.amounts import format_credits
from chain.cli.text import format_count, format_duration, format_percent
from chain.printable import escape_unprintable
from serving.admin.health.troubles import Severity, describe_mend

MARKS = {"ready": "●", "degraded": "!", "stalled": "✗", "ending": "○"}
"""What stands before the verdict; the words beside it say the same."""
SEVERITY_MARKS = {Severity.PROBLEM: "✗", Severity.ADVICE: "!", Severity.NOTE: "·"}
"""What stands before a trouble."""
VERDICTS = {
    "ready": "ready",
    "degraded": "serving, but not all is well",
    "stalled": "stalled: nothing is paid",
    "ending": "ending",
}


def describe_status(status: dict[str, Any], directory: str) -> list[str]:
    """The state of a node in a screenful: the verdict first, then what is wrong, then the parts."""
    uptime = format_duration(int(1000 * status["uptime_s"]))
    lines = [
        f"{MARKS[status['verdict']]} {VERDICTS[status['verdict']]}   (up {uptime}, version {status['version']}, "
        f"{directory})",
        *_describe_troubles(status["troubles"]),
    ]
    rows = [
        ("ledger", _describe_ledger(status)),
        ("network", _describe_network(status)),
        ("serving", _describe_serving(status)),
        *(("", line) for line in _describe_backends(status["backends"])),
        ("requests", _describe_requests(status)),
        *((("", f"declined of others: {_list_counts(status['declines'])}"),) if status["declines"] else ()),
        ("credit", _describe_credit(status)),
        ("address", status["address"]),
        *(("peers at", address) for address in status["listening"]),
        *((("checkpoint", status["checkpoint"]),) if status["checkpoint"] else ()),
    ]
    return lines + _format(rows)


def describe_start(status: dict[str, Any], api: str, needs_key: bool, admin: str, peers: list[str]) -> list[str]:
    """What a node says when it has started: who it is, where, what it serves, and what is wrong. Notes can wait."""
    keys = "programs need a key" if needs_key else "no keys: every program on this machine may use it"
    name = escape_unprintable(status["chain"])
    rows = [
        ("api", f"{api}   {keys}"),
        ("dashboard", f"{admin}   open it with your rights: wwwserve dashboard"),
        *(("peers", address) for address in peers),
        ("network", _describe_network(status)),
        ("models", _describe_serving(status)),
        *(("", line) for line in _describe_backends(status["backends"])),
        ("ledger", _describe_ledger(status)),
        ("credit", _describe_credit(status)),
    ]
    head = f"wwwserve {status['version']} · chain {name} ({status['chain_id'][:8]}) · node {status['address']}"
    troubles = [each for each in status["troubles"] if each["severity"] != Severity.NOTE]
    return [head, *_describe_troubles(troubles), *_format(rows)]


def _format(rows: list[tuple[str, str]]) -> list[str]:
    return [f"  {escape_unprintable(name):<10}  {escape_unprintable(text)}".rstrip() for name, text in rows]


def _describe_troubles(troubles: list[dict[str, str]]) -> Iterator[str]:
    for trouble in troubles:
        severity = Severity(trouble["severity"])
        yield f"  {SEVERITY_MARKS[severity]} {escape_unprintable(trouble['text'])}"
        if severity is not Severity.NOTE:
            yield f"    → {escape_unprintable(describe_mend(trouble['mend'], trouble['command']))}"


def _describe_ledger(status: dict[str, Any]) -> str:
    parts = [f"height {status['height']:,}, {status['final_age_s']} s old"]
    if status["is_syncing"]:
        parts.append("catching up")
    parts.append(f"epoch {status['epoch']:,}, {format_count(status['epoch_blocks_left'], 'block')} to go")
    if status["is_validator"]:
        parts.append(f"validator with {format_percent(status['stake_share'])} of stake")
        if status["participation_votes"] is not None and status["participation_blocks"]:
            parts.append(f"voted for {status['participation_votes']} of {status['participation_blocks']}")
    return " · ".join(parts)


def _describe_network(status: dict[str, Any]) -> str:
    reachable = {True: "others can dial this node", False: "others reach it through relays", None: ""}
    known = f"{status['connected_peers']} connected of {status['known_peers']} known"
    return " · ".join(filter(None, (known, reachable[status["can_be_dialled"]])))


def _describe_serving(status: dict[str, Any]) -> str:
    backends = status["backends"]
    if not backends:
        return "no backend: every request is offloaded"
    running = sum(each["running"] for each in backends)
    waiting = sum(each["queued_own"] + each["queued_delegated"] for each in backends)
    slots = sum(each["capacity"] for each in backends if each["is_alive"])
    models = ", ".join(status["models"]) or "no model"
    others = "" if status["serves_others"] else " · not for others now"
    return f"{models} · {running} running, {waiting} waiting, {format_count(slots, 'slot')}{others}"


def _describe_backends(backends: list[dict[str, Any]]) -> Iterator[str]:
    """Those that do not answer."""
    for each in backends:
        if not each["is_alive"]:
            yield f"✗ {each['place']}: {each['fault'] or 'does not answer'}"


def _describe_requests(status: dict[str, Any]) -> str:
    errors = f", {format_count(status['requests_error'], 'error')} passed on" if status["requests_error"] else ""
    return (
        f"{status['requests_local']} here, {status['requests_offloaded']} offloaded, "
        f"{status['offers_served']} for others · {status['requests_failed']} failed, "
        f"{status['requests_refused']} refused{errors}"
    )


def _list_counts(counts: dict[str, int]) -> str:
    """Counts by name, the most first."""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


def _describe_credit(status: dict[str, Any]) -> str:
    parts = [
        f"{format_credits(status['available'])} credits available",
        f"{format_credits(status['held'])} held",
        f"{format_credits(status['bonded'])} bonded",
    ]
    if status["earned"]:
        parts.append(f"{format_credits(status['earned'])} earned since the start")
    return " · ".join(parts)
