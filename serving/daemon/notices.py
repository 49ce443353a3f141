"""What a node says of its start and its end: to its owner, to programs, to its log and to the service manager."""

from __future__ import annotations

import sys
import time
from contextlib import suppress

import structlog

from chain.cli.contract import print_result
from chain.cli.text import format_count, print_line
from serving.admin.health.diagnosis import judge
from serving.admin.health.health import find_node_troubles, get_version
from serving.admin.reports import report_status
from serving.admin.server import Admin
from serving.cli.running.status import describe_start
from serving.config.schema import NodeConfig
from serving.daemon.listeners import get_api_url
from serving.daemon.runnable_node import RunnableNode
from serving.http.server import HttpServer

log = structlog.get_logger(__name__)


def announce(
    node: RunnableNode, front: HttpServer, admin: Admin, *, config: NodeConfig, as_json: bool, loaded_at: float
) -> None:
    """Say that the node is ready: who it is, where, what is wrong, and how long ago it was loaded (monotonic time)."""
    api = get_api_url(front)
    owner = f"http://{admin.address[0]}:{admin.address[1]}"
    peers = [f"{address}/p2p/{node.key.address}" for address in node.network.listen_addresses]
    status = report_status(node)
    content = {"address": node.key.address, "api": api, "admin": owner, "peers": peers, "troubles": status["troubles"]}
    taken = time.monotonic() - loaded_at
    lines = describe_start(status, api, bool(config.api.keys), owner, peers)
    log.info(
        "ready",
        after_s=round(taken, 1),
        version=get_version(),
        address=node.key.address,
        chain=node.engine.genesis.name,
        api=api,
        admin=owner,
        models=status["models"],
    )
    hint = "Try: wwwserve ask Hello! " if status["models"] else ""
    print_result(content, as_json, *lines, f"ready in {taken:.1f} s. {hint}Stop with Ctrl-C.")
    sys.stdout.flush()


def describe_briefly(node: RunnableNode) -> str:
    """How the node is, in one line for the service manager."""
    troubles = find_node_troubles(node)
    found = "; ".join(trouble.text for trouble in troubles)
    return f"{judge(troubles).value}, height {node.engine.header.height:,}" + (f": {found}" if found else "")


def describe_stop(under_way: int, timeout_s: float) -> str:
    """What a stopping node still does, and how to stop it at once."""
    what = f"{format_count(under_way, 'request')} under way, {timeout_s:g} s at most" if under_way else "saying goodbye"
    return f"stopping ({what}; again: at once)"


def print_notice(line: str) -> None:
    """Print a line, if anybody still reads."""
    with suppress(OSError):
        print_line(line)
        sys.stdout.flush()


def say_nothing(line: str) -> None:
    """In place of :func:`print_notice`, where a program reads."""
