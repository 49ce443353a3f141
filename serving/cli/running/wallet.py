"""``wwwserve wallet``: the account of the running node."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from chain.amounts import CREDIT, format_credits
from chain.cli.contract import CommandError, ExitCode, print_result
from chain.cli.options import AsJson, DataDir
from chain.cli.text import print_line, say_credits
from chain.cli.tree import Entry, build_group
from serving.cli.running.admin_client import ADMIN_TIMEOUT_S, ask_node, print_fields

FINALITY_TIMEOUT_S = 60
"""How long a command waits for its operation to be final."""
REGISTER_TIMEOUT_S = 3600.0
"""How long the proof of work for a newcomer's bond may take."""

Amount = Annotated[str, typer.Argument(help="Credits, such as 12 or 0.5.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
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
ASKS = "It shows what that costs and does, and asks on a terminal before it signs."
"""What the help says of orders."""
EFFECTS = {
    "bond": "counts for votes from epoch {votes_from_epoch} on, if this node validates",
    "unbond": "free from epoch {free_from_epoch} on; no vote counts by it from epoch {votes_from_epoch} on",
    "withdraw": "what has finished unbonding is available",
    "enroll": "this node votes from epoch {votes_from_epoch} on; new stake grows by a tenth of all stake each epoch",
    "retire": "this node votes no more from epoch {votes_from_epoch} on; until then it must keep running",
    "unjail": "this node votes again from epoch {votes_from_epoch} on",
    "serve": "requests for these models may be drawn for this node, and its bond answers for them",
}
"""What an order does, beside what it costs."""
NEGATIVE_NUMBERS = {"ignore_unknown_options": True}
"""So that an amount such as -5 is refused as an amount, not as an option."""


def build_wallet_app() -> typer.Typer:
    """The commands of ``wwwserve wallet``."""
    entries = {
        "show": Entry("Address and balances.", lambda: show, ("wwwserve wallet show",)),
        "history": Entry(
            "All that changed the balance of this account, the latest first: it adds up to the balance on the ledger.",
            "serving.cli.running.history:history",
            ("wwwserve wallet history", "wwwserve wallet history --limit 0 --csv > history.csv"),
        ),
        "transfer": Entry(
            "Send credits to another account.",
            lambda: transfer,
            ("wwwserve wallet transfer ADDRESS 12.5", "wwwserve wallet transfer ADDRESS 12.5 --yes --no-wait"),
            settings=NEGATIVE_NUMBERS,
        ),
    }
    for name, text in AMOUNT_COMMANDS.items():
        command = _make_amount_command(name, text)
        entries[name] = Entry(
            text, partial(_return, command), (f"wwwserve wallet {name} 5",), settings=NEGATIVE_NUMBERS
        )
    for name, text in PLAIN_COMMANDS.items():
        command = _make_plain_command(name, text)
        entries[name] = Entry(text, partial(_return, command), (f"wwwserve wallet {name}",))
    entries["serve"] = Entry(
        "Declare on the ledger the models that the bond stands behind; an empty declaration leaves the lottery.",
        lambda: serve,
        ("wwwserve wallet serve smollm2-135m",),
    )
    entries["register"] = Entry(
        "Get a newcomer's first bond, where the chain grants one, for some minutes of computing.",
        lambda: register,
        ("wwwserve wallet register",),
    )
    return build_group(entries, "The node's account.")


def _return(command: Callable[..., None]) -> Callable[..., None]:
    return command


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
    yes: Yes = False,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Send credits to another account.

    It shows what that costs and does, and asks on a terminal before it signs.
    """
    from chain.crypto import parse_address
    from chain.exceptions import KeyFormatError

    try:
        parse_address(recipient)
    except KeyFormatError as error:
        raise CommandError(str(error), code=ExitCode.USAGE) from error
    micro_credits = parse_credits(amount)
    order = {"recipient": recipient, "amount": micro_credits}
    if not yes and not as_json:
        confirm(
            data_dir, "transfer", order, [("to", recipient), ("amount", f"{format_credits(micro_credits)} credits")]
        )
    _order(data_dir, "transfer", order, no_wait, as_json)


def serve(
    models: Annotated[list[str] | None, typer.Argument(help="Model names; none: an empty declaration.")] = None,
    data_dir: DataDir = None,
    yes: Yes = False,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Declare on the ledger the models that the bond stands behind; an empty declaration leaves the lottery.

    A running node with a bond declares the models of its backends again within seconds. So before an empty declaration
    unbond everything, or set 'models: []' in config.yaml and restart the node.
    """
    order = {"models": sorted(set(models or []))}
    if not yes and not as_json:
        confirm(data_dir, "serve", order, [("models", ", ".join(order["models"]) or "none")])
    _order(data_dir, "serve", order, no_wait, as_json)


def register(data_dir: DataDir = None, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Get a newcomer's first bond, where the chain grants one, for some minutes of computing."""
    print_line("searching for a proof of work, if the chain grants a bond; this may take some minutes", to_stderr=True)
    _order(data_dir, "register", {}, no_wait, as_json, REGISTER_TIMEOUT_S)


def _make_amount_command(kind: str, text: str) -> Callable[..., None]:
    def command(
        amount: Amount, data_dir: DataDir = None, yes: Yes = False, no_wait: NoWait = False, as_json: AsJson = False
    ) -> None:
        order = {"amount": parse_credits(amount)}
        if not yes and not as_json:
            confirm(data_dir, kind, order, [("amount", f"{format_credits(order['amount'])} credits")])
        _order(data_dir, kind, order, no_wait, as_json)

    command.__doc__ = f"{text}\n\n    {ASKS}"
    return command


def _make_plain_command(kind: str, text: str) -> Callable[..., None]:
    def command(data_dir: DataDir = None, yes: Yes = False, no_wait: NoWait = False, as_json: AsJson = False) -> None:
        if not yes and not as_json:
            confirm(data_dir, kind, {}, [])
        _order(data_dir, kind, {}, no_wait, as_json)

    command.__doc__ = f"{text}\n\n    {ASKS}"
    return command


def confirm(data_dir: Path | None, kind: str, order: dict[str, Any], rows: list[tuple[str, str]]) -> None:
    """Show what an order costs and does, and ask whether to sign it. Nothing is asked where there is no terminal.

    Raises:
        CommandError: the order would fail.
        typer.Abort: it is not to be signed.
    """
    if not sys.stdin.isatty():
        return
    foreseen = ask_node(data_dir, "POST", f"/wallet/{kind}", {**order, "dry_run": True})
    rows = [
        *rows,
        ("fee", f"{format_credits(foreseen['fee'])} credits"),
        ("available", f"{format_credits(foreseen['available_after'])} credits afterwards"),
        ("bonded", f"{format_credits(foreseen['bonded_after'])} credits afterwards"),
    ]
    if kind in EFFECTS:
        rows.append(("effect", EFFECTS[kind].format(**foreseen)))
    for name, text in rows:
        print_line(f"{name:<11}{text}")
    typer.confirm(f"Sign and send this {kind}?", abort=True)


def _order(
    data_dir: Path | None,
    kind: str,
    content: dict[str, Any],
    no_wait: bool,
    as_json: bool,
    timeout: float = ADMIN_TIMEOUT_S,
) -> None:
    """Have the node submit an operation, and print what became of it.

    Raises:
        CommandError: no node runs, it refuses, or the operation failed.
    """
    wait = 0 if no_wait else FINALITY_TIMEOUT_S
    answer = ask_node(data_dir, "POST", f"/wallet/{kind}", {**content, "wait": wait}, timeout)
    if answer.get("failure"):
        failure = f"final at height {answer['height']}, but the operation failed: {say_credits(answer['failure'])}"
        raise CommandError(failure, code=ExitCode.REFUSED)
    if answer.get("height") is not None:
        print_result(answer, as_json, f"final at height {answer['height']}: {answer['operation']}")
        return
    print_result(answer, as_json, f"sent, not final yet: {answer['operation']}")
    if not no_wait:
        raise typer.Exit(ExitCode.TIMEOUT)


def parse_credits(text: str) -> int:
    """Micro-credits of an amount in credits such as ``12`` or ``0.5``.

    Raises:
        CommandError: not a positive amount with at most six decimals.
    """
    whole, _, fraction = text.partition(".")
    digits = whole + fraction
    if not (digits.isascii() and digits.isdigit()) or len(fraction) > 6:
        raise CommandError(
            f"{text!r} is not an amount of credits (expected 12 or 0.5, with at most six decimals)", code=ExitCode.USAGE
        )
    amount = int(whole or 0) * CREDIT + int(fraction.ljust(6, "0") or 0)
    if not 0 < amount < 2**63:
        raise CommandError(
            f"{text} credits cannot be moved; expected more than 0 and less than 9,223,372,036,854 credits",
            code=ExitCode.USAGE,
        )
    return amount
