"""``wwwserve top``: the running node at a glance, drawn anew every second until q or Ctrl-C."""

from __future__ import annotations

import select
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from chain.amounts import format_credits
from chain.cli.contract import CommandError, ExitCode, print_result
from chain.cli.options import AsJson, DataDir, get_default_data_dir
from chain.cli.text import shorten_address
from chain.printable import escape_unprintable
from serving.cli.running.admin_client import ask_node
from serving.cli.running.status import describe_status

LISTED_REQUESTS = 100
"""Requests that are asked for; as many are shown as the screen has room for."""
GONE = (ExitCode.NO_NODE, ExitCode.TIMEOUT)
"""How a node fails that may come back."""


def top(
    data_dir: DataDir = None,
    interval: Annotated[float, typer.Option(min=0.2, max=60, help="Seconds between two looks.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """The node at a glance: verdict, backends, requests, peers; drawn anew every second until q.

    Where the output is no terminal it looks once.
    """
    directory = str(data_dir or get_default_data_dir())
    if as_json or not sys.stdout.isatty():
        found = look(data_dir)
        print_result(found, as_json, *draw(found, directory, None))
        return
    with _screen() as wait_for_key:
        while True:
            try:
                lines = draw(look(data_dir), directory, shutil.get_terminal_size().lines - 1)
            except CommandError as error:
                if error.failure.code not in GONE:
                    raise
                lines = [f"✗ {escape_unprintable(error.failure.text)}", "  waiting for it to come back; q ends this"]
            width = shutil.get_terminal_size().columns
            text = "".join(f"{line[:width]}\x1b[K\r\n" for line in lines)
            sys.stdout.write(f"\x1b[H{text}\x1b[J")
            sys.stdout.flush()
            if wait_for_key(interval) == "q":
                return


def look(data_dir: Any) -> dict[str, Any]:
    """What is shown, as the node reports it.

    Raises:
        CommandError: no node runs there, or it does not answer.
    """
    return {
        "status": ask_node(data_dir, "GET", "/status"),
        "requests": ask_node(data_dir, "GET", f"/requests?limit={LISTED_REQUESTS}")["requests"],
        "peers": ask_node(data_dir, "GET", "/peers")["peers"],
    }


def draw(found: dict[str, Any], directory: str, height: int | None) -> list[str]:
    """The lines of the screen, ``height`` at most (None: as many as there are)."""
    lines = [*describe_status(found["status"], directory), ""]
    requests = [HEAD_OF_REQUESTS, *map(_describe_request, found["requests"])]
    peers = [HEAD_OF_PEERS, *map(_describe_peer, found["peers"])]
    if height is None:
        return [*lines, *requests, "", *peers]
    room = max(0, height - len(lines) - 1)
    shown = requests[: max(room - len(peers), room * 2 // 3)]
    return [*lines, *shown, "", *peers[: room - len(shown)]][:height]


HEAD_OF_REQUESTS = f"{'request':<22}{'model':<22}{'by':<18}{'first':>9}{'took':>9}{'tokens':>8}  outcome"
HEAD_OF_PEERS = f"{'peer':<18}{'path':<15}{'load':>6}{'credits bonded':>16}  models"


def _describe_request(row: dict[str, Any]) -> str:
    executor = row["executor"] or "-"
    by = "here" if executor == "local" else shorten_address(executor)
    first, took = (f"{row[name] / 1000:.2f} s" if row[name] is not None else "-" for name in ("ttft_ms", "duration_ms"))
    line = f"{row['id']:<22}{row['model'][:20]:<22}{by:<18}{first:>9}{took:>9}{row['completion_tokens']:>8}"
    return escape_unprintable(f"{line}  {row['outcome']}")


def _describe_peer(peer: dict[str, Any]) -> str:
    path = "not connected" if not peer["connected"] else "relayed" if peer["relayed"] else "direct"
    load = f"{peer['utilization'] / 10:.0f} %"
    line = f"{shorten_address(peer['address']):<18}{path:<15}{load:>6}{format_credits(peer['bonded']):>16}"
    return escape_unprintable(f"{line}  {', '.join(peer['models']) or '-'}")


@contextmanager
def _screen() -> Iterator[Any]:
    """The terminal's other screen, without a cursor and with keys as they are pressed; all as before at the end.

    Yields what waits for a key for some seconds, and returns it, or nothing.
    """
    import termios
    import tty

    is_typed = sys.stdin.isatty()
    before = termios.tcgetattr(sys.stdin) if is_typed else None

    def wait_for_key(seconds: float) -> str:
        if not is_typed:
            time.sleep(seconds)
            return ""
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        return sys.stdin.read(1).lower() if ready else ""

    sys.stdout.write("\x1b[?1049h\x1b[?25l")
    try:
        if is_typed:
            tty.setcbreak(sys.stdin)
        yield wait_for_key
    except KeyboardInterrupt:
        pass
    finally:
        if before is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()
