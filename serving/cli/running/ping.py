"""``wwwserve ping`` and ``wwwserve netcheck``: how the running node reaches others, and how they reach it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from chain.cli.contract import CommandError, ExitCode, print_result
from chain.cli.options import AsJson, DataDir
from chain.cli.text import format_count, print_line, print_table
from chain.printable import escape_unprintable
from serving.cli.running.admin_client import ask_node
from serving.cli.running.suggestions import suggest_peers

ORDER_TIMEOUT_S = 25.0
"""Patience with a ping, which may have to connect first."""
INTERVAL_S = 1.0
"""Seconds between two pings."""
NATS = {
    "none": "no NAT: others see an address of this machine",
    "forwarded": "a NAT that lets others in",
    "closed": "a NAT or a firewall that lets nobody in",
    "unknown": "not known: no peer outside of the local network has told where this node is seen",
}
MAX_CLOCK_MS = 5_000
"""A last block that seems so far from now says that a clock is wrong."""


def ping(
    peer: Annotated[
        str,
        typer.Argument(
            help="Its address, or the beginning or the end of that of a known peer.", autocompletion=suggest_peers
        ),
    ],
    count: Annotated[int, typer.Option("--count", "-c", min=1, max=1_000, help="How many.")] = 4,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """How long a round trip to a peer takes, and whether it is direct. Exit code 1 if none is answered."""
    address = find_peer(data_dir, peer)
    sent = 0
    answers: list[dict[str, Any]] = []
    failure: CommandError | None = None
    try:
        for number in range(count):
            if number:
                time.sleep(INTERVAL_S)
            sent += 1
            try:
                answer = ask_node(data_dir, "POST", "/network/ping", {"peer": address}, ORDER_TIMEOUT_S)
            except CommandError as error:
                if error.failure.code is not ExitCode.REFUSED:
                    raise
                failure = error
                if not as_json:
                    print_line(error.failure.message)
                continue
            answers.append(answer)
            if not as_json:
                print_line(f"{address}: {answer['path']}, {answer['round_trip_ms']:.1f} ms")
                sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    if not answers:
        raise CommandError(failure.failure.message if failure else "stopped before an answer came")
    times = [answer["round_trip_ms"] for answer in answers]
    summary = {"min": min(times), "median": median(times), "max": max(times)}
    content = {"address": address, "sent": sent, "answered": len(answers), "round_trip_ms": summary, "pings": answers}
    shown = " / ".join(f"{value:.1f}" for value in summary.values())
    print_result(content, as_json, f"{len(answers)} of {sent} answered, min / median / max {shown} ms")


def find_peer(data_dir: Path | None, text: str) -> str:
    """The address of the peer that a text names: whole, or the beginning or the end of one that is known.

    Raises:
        CommandError: there is none, or more than one.
    """
    begin, _, end = text.partition("…")
    known: list[str] = [peer["address"] for peer in ask_node(data_dir, "GET", "/peers")["peers"]]
    found = [address for address in known if address == text]
    if not found and end:
        found = [address for address in known if address.startswith(begin) and address.endswith(end)]
    elif not found:
        found = [address for address in known if address.startswith(text) or address.endswith(text)]
    if len(found) > 1:
        raise CommandError(f"{format_count(len(found), 'peer')} are called so: {', '.join(found)}", code=ExitCode.USAGE)
    if found:
        return found[0]
    if len(text) < 40:  # no whole address
        raise CommandError(f"no peer that is online is called {text}", hint="see: wwwserve peers --full")
    return text


def netcheck(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """How this node reaches others and is reached: NAT, relays, IPv4 and IPv6, clock, round trips.

    Exit code 1 if it reaches no other node.
    """
    found = ask_node(data_dir, "GET", "/network/check", timeout=ORDER_TIMEOUT_S)
    print_result(found, as_json, *describe_check(found))
    if found["pings"] and not as_json:
        rows = [
            (each["address"], each["path"] or "no answer", f"{each['round_trip_ms']:.1f} ms" if each["path"] else "-")
            for each in found["pings"]
        ]
        print_table(("peer", "path", "round trip"), rows)
    raise typer.Exit(ExitCode.OK if found["connected"] else ExitCode.FAILED)


def describe_check(found: dict[str, Any]) -> list[str]:
    """What was found, a line for each subject: well (✓), worth a look (!), or wrong (✗)."""
    reached = {
        True: "✓ reachable   others can dial this node",
        False: "! reachable   nobody can dial this node: forward the peer port, or set upnp: true in config.yaml",
        None: "! reachable   not known yet: no peer has tried",
    }
    reachable = reached[found["can_be_dialled"]]
    nat = f"{'!' if found['nat'] in ('closed', 'unknown') else '✓'} nat         {NATS[found['nat']]}"
    if not found["listening"]:  # an anonymous node, which others need not dial
        reachable = "✓ reachable   through relays: this node listens nowhere"
        nat = "  nat         without effect on a node that listens nowhere"
    clock = found["clock_ms"]
    clock_line = f"✓ clock       the last block became final {(clock or 0) / 1000:.1f} s after its time stamp"
    if clock is None:
        clock_line = "! clock       not known: no block became final since this node has caught up"
    elif clock < 0:
        clock_line = f"✗ clock       {-clock / 1000:.1f} s behind the last block: timedatectl set-ntp true"
    elif clock > MAX_CLOCK_MS:
        clock_line = f"! clock       {clock / 1000:.1f} s after the last block: this clock or the network is slow"
    paths = f"{found['connected']} connected of {found['known']} known, {found['relayed']} through relays"
    lines = [
        f"{'✓' if found['connected'] else '✗'} peers       {paths}",
        reachable,
        nat,
        f"  seen as     {', '.join(found['seen_as']) or '-'}",
        f"  relays      {', '.join(found['relays']) or '-'}",
        f"  addresses   IPv4: {found['ipv4']}, IPv6: {found['ipv6']} (own and of connected peers)",
        clock_line,
    ]
    return [escape_unprintable(line) for line in lines]
