"""What every command promises: exit codes, one JSON value for programs, one line on stderr for an error.

Nothing heavy is imported here, because every call of a command and every completion comes through.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import typer
from typer._click.exceptions import ClickException

if TYPE_CHECKING:
    from typer import Typer


REPAIR = "start the node again to repair it: the database is kept aside, and the chain fetched from others"
"""What the owner of a node does about a damaged database."""


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_NODE = 3
    """No node runs in the data directory, or it is starting or ending."""
    REFUSED = 4
    """The ledger refuses the operation, or would."""
    FAULT = 5
    """A fault was found in a chain or a database."""
    NOT_PROVEN = 6
    """Nothing is wrong, but what was to be shown is not shown."""
    TIMEOUT = 7
    """The node does not answer, or not in time."""


class CommandError(Exception):
    """The command cannot be carried out as it was given. The message says why, the hint what to do."""

    def __init__(self, message: str, *, code: ExitCode = ExitCode.FAILED, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.failure = Failure(message, code, hint)


@dataclass(frozen=True, slots=True)
class Failure:
    """How an error is shown."""

    message: str
    code: ExitCode = ExitCode.FAILED
    hint: str = ""

    @property
    def text(self) -> str:
        """Message and hint in one line."""
        return f"{self.message}; {self.hint}" if self.hint else self.message


Describe = Callable[[BaseException], Failure | None]
"""How an error is shown; None for a defect, which is shown with its traceback."""


def describe_ledger_error(error: BaseException) -> Failure | None:
    """How an error of the ledger or of a file is shown."""
    from chain.exceptions import InvalidOperation, LedgerError, StoreDamaged, StoreInUse

    match error:
        case CommandError():
            return error.failure
        case StoreInUse() if str(error).endswith("by another process"):
            hint = "the node that runs there does not lend its ledger yet; ask again when it says that it is ready"
            return Failure(str(error), hint=hint)
        case StoreDamaged():
            return Failure(str(error), ExitCode.FAULT, REPAIR)
        case InvalidOperation():
            return Failure(str(error), ExitCode.REFUSED)
        case OSError(filename=str() as path, strerror=str() as reason):
            return Failure(f"{path}: {reason}")
        case LedgerError() | OSError():
            return Failure(str(error))
    return None


def run_command(app: Typer, arguments: Sequence[str] | None = None, describe: Describe = describe_ledger_error) -> int:
    """Run a command line (default: that of this process), show its error if there is one, and return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    if any(name.endswith("_COMPLETE") for name in os.environ):
        from typer._completion_classes import completion_init

        completion_init()
    try:
        code = app(list(arguments), standalone_mode=False)
    except ClickException as error:
        if as_json:
            hint = error.ctx.command_path + " --help" if getattr(error, "ctx", None) is not None else ""  # type: ignore[attr-defined]
            show_failure(Failure(error.format_message(), ExitCode.USAGE, hint), as_json)
        else:
            error.show()
        return ExitCode.USAGE
    except typer.Abort:
        show_failure(Failure("stopped; nothing was done"), as_json)
        return ExitCode.FAILED
    except BrokenPipeError:  # the reader of the output has closed it
        sys.stderr.close()
        return ExitCode.FAILED
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        failure = describe(error)
        if failure is None:
            raise
        show_failure(failure, as_json)
        return failure.code
    return code if isinstance(code, int) else ExitCode.OK


def show_failure(failure: Failure, as_json: bool) -> None:
    """Print an error: a line on stderr, or as JSON in place of the answer."""
    from chain.printable import escape_unprintable

    if as_json:
        content = {"code": int(failure.code), "message": failure.message, "hint": failure.hint}
        print(escape_unprintable(json.dumps({"error": content}, ensure_ascii=False)))
    else:
        print(escape_unprintable(f"error: {failure.text}", keep="\n"), file=sys.stderr)


def print_result(content: Any, as_json: bool, *lines: str) -> None:
    """Print the answer of a command: as one JSON value, or the lines for people."""
    from chain.printable import escape_unprintable

    if as_json:
        print(escape_unprintable(json.dumps(content, ensure_ascii=False)))
    else:
        for line in lines:
            print(escape_unprintable(line, keep="\n"))
