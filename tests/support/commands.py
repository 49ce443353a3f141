"""Running a command line in this process as its entry point does, and what came of it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, NamedTuple

import structlog
import trio
import typer

from chain.cli.contract import run_command
from serving.cli.app import build_wwwserve_app
from serving.cli.doctor import backend_checks, checks
from serving.cli.errors import describe_error
from serving.cli.ledger.chain import build_chain_app
from serving.cli.running import admin_client, ask, dashboard, history
from serving.cli.setup import local_servers, share
from serving.http.client import HttpTimeouts
from serving.logs.console import HANDLER
from tests.support.waiting import PATIENCE

# Commands wait for a node and for servers as long as tests do: what they ask may be stopped for longer than a person
# at a keyboard would wait.
admin_client.READ_TIMEOUT_S = ask.SETTLE_TIMEOUT_S = history.INDEX_PATIENCE_S = PATIENCE
backend_checks.LIST_TIMEOUT_S = backend_checks.TOKEN_TIMEOUT_S = checks.DIAL_TIMEOUT_S = PATIENCE
dashboard.LOGIN_TIMEOUT_S = local_servers.SEARCH_TIMEOUT_S = PATIENCE
local_servers.TIMEOUTS = share.PROBE_TIMEOUTS = HttpTimeouts(PATIENCE, PATIENCE, PATIENCE)


class Outcome(NamedTuple):
    """Exit code, and what was printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """What it printed. AssertionError unless it ended well, without a word on stderr."""
        assert (self.code, self.stderr) == (0, ""), self
        return self.stdout


def run_cli(app: typer.Typer, *arguments: object) -> Outcome:
    """Run a command line."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        code = run_command(app, [str(argument) for argument in arguments], describe_error)
    return Outcome(code, stdout.getvalue(), stderr.getvalue())


def run_here(*arguments: object, command: str = "wwwserve") -> Outcome:
    """Run ``wwwserve`` or ``chain`` to its end, at a fifth of the cost of ``forked.run_command``.

    Not for what only a process shows: signals, how the interpreter ends, and a node that comes so far as to serve.
    """
    app = build_wwwserve_app(_run_briefly) if command == "wwwserve" else build_chain_app()
    with keep_logs():
        return run_cli(app, *arguments)


async def _run_briefly(*arguments: Any, **options: Any) -> None:
    """Run a node that is expected to end by itself."""
    from node import run_node  # which imports everything

    with trio.fail_after(PATIENCE):
        await run_node(*arguments, **options)


@contextmanager
def keep_logs() -> Iterator[None]:
    """Leave the logs of this process as they were: a command that configures them has a process to itself."""
    root, last_resort = logging.getLogger(), logging.lastResort
    level = root.level
    try:
        yield
    finally:
        for handler in [handler for handler in root.handlers if handler.name == HANDLER]:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(level)
        logging.lastResort = last_resort
        logging.captureWarnings(False)
        structlog.reset_defaults()
