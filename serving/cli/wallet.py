"""``wwwserve wallet``: the account of the running node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from chain.cli.app import AsJson, DataDir
from chain.cli.format import format_credits, print_line
from chain.crypto import parse_address
from chain.exceptions import KeyFormatError
from chain.parameters import CREDIT
from serving.cli.admin_client import ADMIN_TIMEOUT_S, ask_node, print_fields
from serving.cli.errors import CommandError

FINALITY_TIMEOUT_S = 60
"""How long a command waits for its operation to be final."""
REGISTER_TIMEOUT_S = 3600.0
"""How long the proof of work for a newcomer's bond may take."""

Amount = Annotated[str, typer.Argument(help="Credits, such as 12 or 0.5.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait until it is final.")]

AMOUNT_COMMANDS = {
    "bond": "Bond credits behind the models that this node serves.",
    "unbond": "Take credits out of the bond; they are free after the unbonding time.",
}
"""Commands that take an amount."""
PLAIN_COMMANDS = {
    "withdraw": "Make available what has finished unbonding.",
    "enroll": "Become a validator with the whole bond, from the epoch after next on.",
    "retire": "Stop being a validator, from the epoch after next on; until then the node must keep running.",
    "unjail": "Be a validator again after having been jailed (a running node asks for it by itself).",
}
"""Commands that take nothing."""


def build_wallet_app() -> typer.Typer:
    """The commands of ``wwwserve wallet``."""
    app = typer.Typer(help="The node's account.", no_args_is_help=True)
    app.command()(show)
    app.command()(transfer)
    for name, text in AMOUNT_COMMANDS.items():
        app.command(name, help=text)(_make_amount_command(name))
    for name, text in PLAIN_COMMANDS.items():
        app.command(name, help=text)(_make_plain_command(name))
    app.command()(serve)
    app.command()(register)
    return app


def show(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Address and balances."""
    answer = ask_node(data_dir, "GET", "/wallet")
    to_bond = answer["income_to_bond"]
    if not as_json:
        answer = {
            name: format_credits(value) if isinstance(value, int) and name != "nonce" else value
            for name, value in answer.items()
        }
    print_fields(answer, as_json)
    if to_bond and not as_json:
        print_line(
            f"The next {format_credits(to_bond)} that this node earns are bonded: until its bond is the least of the "
            "chain (min_service_bond), it could be paid and have nothing to lose. All further income is available."
        )


def transfer(
    recipient: Annotated[str, typer.Argument(help="Address of the recipient (12D3KooW…).")],
    amount: Amount,
    data_dir: DataDir = None,
    no_wait: NoWait = False,
) -> None:
    """Send credits to another account."""
    try:
        parse_address(recipient)
    except KeyFormatError as error:
        raise CommandError(str(error)) from error
    _order(data_dir, "transfer", {"recipient": recipient, "amount": parse_credits(amount)}, no_wait)


def serve(
    models: Annotated[list[str] | None, typer.Argument(help="Model names; none: an empty declaration.")] = None,
    data_dir: DataDir = None,
    no_wait: NoWait = False,
) -> None:
    """Declare on the ledger the models that the bond stands behind; an empty declaration leaves the lottery.

    A running node with a bond declares the models of its backends again within seconds. So before an empty declaration
    unbond everything, or set 'models: []' in config.yaml and restart the node.
    """
    _order(data_dir, "serve", {"models": sorted(set(models or []))}, no_wait)


def register(data_dir: DataDir = None, no_wait: NoWait = False) -> None:
    """Get a newcomer's first bond, where the chain grants one, for some minutes of computing."""
    print_line("searching for a proof of work; this may take some minutes")
    _order(data_dir, "register", {}, no_wait, REGISTER_TIMEOUT_S)


def _make_amount_command(kind: str) -> Callable[..., None]:
    def command(amount: Amount, data_dir: DataDir = None, no_wait: NoWait = False) -> None:
        _order(data_dir, kind, {"amount": parse_credits(amount)}, no_wait)

    return command


def _make_plain_command(kind: str) -> Callable[..., None]:
    def command(data_dir: DataDir = None, no_wait: NoWait = False) -> None:
        _order(data_dir, kind, {}, no_wait)

    return command


def _order(
    data_dir: Path | None, kind: str, content: dict[str, Any], no_wait: bool, timeout: float = ADMIN_TIMEOUT_S
) -> None:
    """Have the node submit an operation, and print what became of it.

    Raises:
        CommandError: no node runs, it refuses, or the operation failed.
    """
    wait = 0 if no_wait else FINALITY_TIMEOUT_S
    answer = ask_node(data_dir, "POST", f"/wallet/{kind}", {**content, "wait": wait}, timeout)
    if answer.get("height") is None:
        print_line(f"sent, not final yet: {answer['operation']}")
    elif answer.get("failure"):
        raise CommandError(f"final at height {answer['height']}, but the operation failed: {answer['failure']}")
    else:
        print_line(f"final at height {answer['height']}: {answer['operation']}")


def parse_credits(text: str) -> int:
    """Micro-credits of an amount in credits such as ``12`` or ``0.5``.

    Raises:
        CommandError: not a positive amount with at most six decimals.
    """
    whole, _, fraction = text.partition(".")
    digits = whole + fraction
    if not (digits.isascii() and digits.isdigit()) or len(fraction) > 6:
        raise CommandError(f"{text!r} is not an amount of credits (expected 12 or 0.5, with at most six decimals)")
    amount = int(whole or 0) * CREDIT + int(fraction.ljust(6, "0") or 0)
    if not 0 < amount < 2**63:
        raise CommandError(f"{text} credits cannot be moved; expected more than 0 and less than 2^63 micro-credits")
    return amount
