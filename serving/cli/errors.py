"""How a command line ends: an error that its user can put right is one line on stderr and exit code 1."""

from __future__ import annotations

import typer

from chain.cli.format import print_line, print_lines
from chain.exceptions import LedgerError, StoreDamaged
from p2p.network import NetworkError
from serving.config.schema import ConfigError
from serving.http.server import ListenError
from serving.quality.same_model.identity import IdentityRefused


class CommandError(Exception):
    """The command cannot be carried out as it was given. The message says what to do."""


USER_ERRORS = (LedgerError, NetworkError, ListenError, ConfigError, IdentityRefused, CommandError)
"""Errors that are shown as one line. Any other is a defect, and is shown with its traceback."""


REPAIR = "start the node again to repair it: the database is kept aside, and the chain fetched from others"
"""What the owner of a node does about a damaged database."""


def run_app(app: typer.Typer) -> None:
    """Run a command line.

    Raises:
        SystemExit: it has ended; the code is 1 after a user's error.
    """
    try:
        app()
    except (*USER_ERRORS, BaseExceptionGroup) as error:
        found = _find_user_error(error)
        if found is None:
            raise
        show = print_lines if isinstance(found, (ConfigError, CommandError)) else print_line
        show(f"error: {found}; {REPAIR}" if isinstance(found, StoreDamaged) else f"error: {found}", to_stderr=True)
        raise SystemExit(1) from None


def _find_user_error(error: BaseException) -> BaseException | None:
    """The user's error in ``error``, which nurseries may have wrapped in groups; None if it holds any other error."""
    if isinstance(error, BaseExceptionGroup):
        found = [_find_user_error(part) for part in error.exceptions]
        return found[0] if found and None not in found else None
    return error if isinstance(error, USER_ERRORS) else None
