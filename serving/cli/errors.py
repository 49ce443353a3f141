"""How a command line of a node ends: an error that its user can put right is one line on stderr and an exit code."""

from __future__ import annotations

import typer

from chain.cli.contract import REPAIR, CommandError, ExitCode, Failure, describe_ledger_error, run_command

__all__ = ["REPAIR", "CommandError", "ExitCode", "describe_error", "run_app"]


def run_app(app: typer.Typer) -> None:
    """Run a command line.

    Raises:
        SystemExit: it has ended, with a code of :class:`chain.cli.contract.ExitCode`.
    """
    raise SystemExit(run_command(app, describe=describe_error))


def describe_error(error: BaseException) -> Failure | None:
    """How an error is shown, which nurseries may have wrapped in groups; None if it is a defect, or beside one."""
    if isinstance(error, BaseExceptionGroup):
        found = [describe_error(part) for part in error.exceptions]
        return found[0] if found and None not in found else None
    if isinstance(error, CommandError):
        return error.failure
    from p2p.network import NetworkError
    from serving.config.fields import ConfigError
    from serving.http.server import ListenError
    from serving.quality.same_model.identity import IdentityRefused

    if isinstance(error, (NetworkError, ListenError, ConfigError, IdentityRefused)):
        return Failure(str(error))
    return describe_ledger_error(error)
