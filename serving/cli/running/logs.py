"""``wwwserve logs``: the events of a node from the log file in its data directory, whether it runs or not."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any

import typer

from chain.cli.contract import CommandError, ExitCode, print_result
from chain.cli.options import AsJson, DataDir, get_default_data_dir
from chain.printable import escape_unprintable
from serving.logs.events import LEVELS
from serving.logs.file import LogFollower, read_events

FOLLOW_INTERVAL_S = 0.25
"""Seconds between two looks for new events."""
ALWAYS = ("timestamp", "level", "logger", "event", "exception")
"""What is shown by itself, or not at all."""


def logs(
    data_dir: DataDir = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is logged, until Ctrl-C.")] = False,
    level: Annotated[str, typer.Option(help="The least level: debug, info, warning or error.")] = "info",
    event: Annotated[str | None, typer.Option(help="Only events whose name contains this.")] = None,
    request: Annotated[
        str | None, typer.Option(metavar="ID", help="Only those of a request, by the X-Request-Id of its answer.")
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many, the latest; 0: all.")] = 50,
    as_json: AsJson = False,
) -> None:
    """What the node has logged, whether it runs or not (docs/reference/events.md says what each event means).

    With --json, --follow prints one value a line.
    """
    if level not in LEVELS:
        raise CommandError(f"--level: {level!r} is none of {', '.join(LEVELS)}", code=ExitCode.USAGE)
    directory = data_dir or get_default_data_dir()
    try:
        follower = LogFollower(directory) if follow else None  # first, so that no event falls between the two
        found = deque(select(read_events(directory), level, event, request), maxlen=lines or None)
    except FileNotFoundError:
        hint = f"a node that runs writes it, unless log.file_mib in config.yaml is 0: wwwserve run -d {directory}"
        raise CommandError(f"no log in {directory}", code=ExitCode.NO_NODE, hint=hint) from None
    if follower is None:
        print_result({"events": list(found)}, as_json, *map(describe_event, found))
        return
    try:
        while True:
            for each in found:
                print_result(each, as_json, describe_event(each))
            sys.stdout.flush()
            time.sleep(FOLLOW_INTERVAL_S)
            found = deque(select(follower.read(), level, event, request))
    except KeyboardInterrupt:
        raise typer.Exit from None
    finally:
        follower.close()


def select(
    events: Iterable[dict[str, Any]], level: str, name: str | None, request: str | None
) -> Iterator[dict[str, Any]]:
    """The events from ``level`` on whose name contains ``name``, and which are of ``request``."""
    least = LEVELS.index(level)
    for each in events:
        found = each.get("level", "info")
        if (LEVELS.index(found) if found in LEVELS else least) < least:
            continue
        if (name is None or name in each["event"]) and (request is None or each.get("request") == request):
            yield each


def describe_event(event: dict[str, Any]) -> str:
    """An event in one line, at local time; a traceback stands below it."""
    try:
        at = datetime.fromisoformat(str(event["timestamp"])).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (KeyError, ValueError):
        at = "-"
    fields = [f"{name}={_show(value)}" for name, value in event.items() if name not in ALWAYS]
    line = "  ".join([f"{at} {event.get('level', '-'):<7}", event["event"], *fields])
    trace = event.get("exception")
    return escape_unprintable(line) + (f"\n{escape_unprintable(str(trace), keep=chr(10))}" if trace else "")


def _show(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
