"""The owner's commands: ``status``, ``peers``, ``models``, ``wallet`` and ``policy``, asked of the running node.

They speak to the admin listener of the node in a data directory: its address is in ``config.yaml``, or in the file
``admin.address`` that a running node writes where the port is chosen at start, and its token in ``admin.token``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from chain.cli.app import AsJson, DataDir, get_default_data_dir
from chain.cli.format import format_credits
from chain.crypto import parse_address
from chain.exceptions import KeyFormatError
from chain.genesis import CREDIT
from serving.cli.errors import CommandError
from serving.config.data_directory import ADMIN_ADDRESS_FILE, ADMIN_TOKEN_FILE

TIMEOUT = 90.0


def ask(data_dir: Path | None, method: str, path: str, content: Any = None, timeout: float = TIMEOUT) -> Any:
    """Send a request to the node's admin listener and return its JSON answer.

    Raises:
        CommandError: no node runs there, or it refuses.
    """
    import httpx

    directory = data_dir or get_default_data_dir()
    try:
        address = (directory / ADMIN_ADDRESS_FILE).read_text().strip()
        token = (directory / ADMIN_TOKEN_FILE).read_text().strip()
    except OSError as error:
        raise CommandError(f"no node runs in {directory}; start it with: wwwserve run -d {directory}") from error
    headers = {"Authorization": f"Bearer {token}"}
    try:
        response = httpx.request(
            method, f"http://{address}{path}", json=content, headers=headers, timeout=timeout, trust_env=False
        )
    except httpx.HTTPError as error:
        raise CommandError(
            f"the node in {directory} does not answer at {address}; is it running? (wwwserve run -d {directory})"
        ) from error
    answer = response.json() if response.headers.get("content-type", "").startswith("application/json") else {}
    if response.is_error:
        raise CommandError(str(answer.get("error", f"the node answered {response.status_code}")))
    return answer


def parse_credits(text: str) -> int:
    """Micro-credits of an amount in credits such as ``12`` or ``0.5``.

    Raises:
        CommandError: not a positive amount with at most six decimals.
    """
    whole, _, fraction = text.partition(".")
    if (
        not (whole or fraction)
        or len(fraction) > 6
        or not (whole + fraction).isascii()
        or not (whole + fraction).isdigit()
    ):
        raise CommandError(f"{text!r} is not an amount of credits (expected 12 or 0.5, with at most six decimals)")
    amount = int(whole or 0) * CREDIT + int(fraction.ljust(6, "0") or 0)
    if not 0 < amount < 2**63:
        raise CommandError(f"{text} credits cannot be moved")
    return amount


Amount = Annotated[str, typer.Argument(help="Credits, such as 12 or 0.5.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait until it is final.")]


def add_owner_commands(app: typer.Typer) -> None:
    """Add the owner's commands to the command line."""

    @app.command()
    def status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
        """Where the node stands: ledger, peers, models, requests."""
        _print_fields(ask(data_dir, "GET", "/status"), as_json)

    @app.command()
    def peers(data_dir: DataDir = None, as_json: AsJson = False) -> None:
        """Who is online, and what they serve."""
        answer = ask(data_dir, "GET", "/peers")
        if as_json:
            print(json.dumps(answer))
            return
        table = Table("address", "models", "load", "reachable at", box=None)
        for peer in answer["peers"]:
            load = f"{peer['utilization'] / 10:.0f} %"
            table.add_row(peer["address"], ", ".join(peer["models"]), load, ", ".join(peer["addresses"]) or "-")
        Console(width=1000).print(table)  # as wide as it is: an address cut to the terminal is of no use

    @app.command()
    def models(data_dir: DataDir = None, as_json: AsJson = False) -> None:
        """Models that this node serves or can offload to others."""
        answer = ask(data_dir, "GET", "/models")
        print(json.dumps(answer) if as_json else "\n".join(entry["id"] for entry in answer["models"]))

    app.add_typer(_build_wallet(), name="wallet")
    app.add_typer(_build_policy(), name="policy")


def _build_wallet() -> typer.Typer:
    app = typer.Typer(help="The node's account.", no_args_is_help=True)

    def submit(
        data_dir: Path | None, kind: str, content: dict[str, Any], no_wait: bool, timeout: float = TIMEOUT
    ) -> None:
        wait = 0 if no_wait else 60
        answer = ask(data_dir, "POST", f"/wallet/{kind}", {**content, "wait": wait}, timeout)
        if answer.get("height") is None:
            print(f"sent, not final yet: {answer['operation']}")
        elif answer.get("failure"):
            raise CommandError(f"final at height {answer['height']}, but it failed: {answer['failure']}")
        else:
            print(f"final at height {answer['height']}: {answer['operation']}")

    @app.command()
    def show(data_dir: DataDir = None, as_json: AsJson = False) -> None:
        """Address and balances."""
        answer = ask(data_dir, "GET", "/wallet")
        if not as_json:
            answer = {
                name: format_credits(value) if isinstance(value, int) and name != "nonce" else value
                for name, value in answer.items()
            }
        _print_fields(answer, as_json)

    @app.command()
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
        submit(data_dir, "transfer", {"recipient": recipient, "amount": parse_credits(amount)}, no_wait)

    @app.command()
    def bond(amount: Amount, data_dir: DataDir = None, no_wait: NoWait = False) -> None:
        """Bond credits behind the models that this node serves."""
        submit(data_dir, "bond", {"amount": parse_credits(amount)}, no_wait)

    @app.command()
    def unbond(amount: Amount, data_dir: DataDir = None, no_wait: NoWait = False) -> None:
        """Take credits out of the bond; they are free after the unbonding time."""
        submit(data_dir, "unbond", {"amount": parse_credits(amount)}, no_wait)

    @app.command()
    def withdraw(data_dir: DataDir = None, no_wait: NoWait = False) -> None:
        """Make available what has finished unbonding."""
        submit(data_dir, "withdraw", {}, no_wait)

    @app.command()
    def serve(
        models: Annotated[list[str] | None, typer.Argument(help="Model names; none leaves the lottery.")] = None,
        data_dir: DataDir = None,
        no_wait: NoWait = False,
    ) -> None:
        """Declare the models that the bond stands behind."""
        submit(data_dir, "serve", {"models": sorted(set(models or []))}, no_wait)

    @app.command()
    def enroll(data_dir: DataDir = None, no_wait: NoWait = False) -> None:
        """Become a validator with the whole bond, from the epoch after next on."""
        submit(data_dir, "enroll", {}, no_wait)

    @app.command()
    def retire(data_dir: DataDir = None, no_wait: NoWait = False) -> None:
        """Stop being a validator, from the epoch after next on; until then the node must keep running."""
        submit(data_dir, "retire", {}, no_wait)

    @app.command()
    def unjail(data_dir: DataDir = None, no_wait: NoWait = False) -> None:
        """Return to duty after having been jailed (a running node asks for it by itself)."""
        submit(data_dir, "unjail", {}, no_wait)

    @app.command()
    def register(data_dir: DataDir = None, no_wait: NoWait = False) -> None:
        """Get a newcomer's first bond, where the chain grants one, for some minutes of computing."""
        print("searching for a proof of work; this may take some minutes")
        submit(data_dir, "register", {}, no_wait, timeout=3600.0)

    return app


def _build_policy() -> typer.Typer:
    app = typer.Typer(help="The policy of the running node.", no_args_is_help=True)

    @app.command("show")
    def show(data_dir: DataDir = None, as_json: AsJson = False) -> None:
        """The numbers in force."""
        _print_fields(ask(data_dir, "GET", "/policy"), as_json)

    @app.command("set")
    def set_policy(
        changes: Annotated[list[str], typer.Argument(help="name=value, such as target_utilization=0.5")],
        data_dir: DataDir = None,
        as_json: AsJson = False,
    ) -> None:
        """Change numbers while the node runs (config.yaml keeps what holds after a restart)."""
        content = {}
        for change in changes:
            name, _, value = change.partition("=")
            try:
                content[name] = json.loads(value)
            except ValueError as error:
                raise CommandError(
                    f"{change!r} is not of the form name=value, with a number or true or false"
                ) from error
        _print_fields(ask(data_dir, "PUT", "/policy", content), as_json)

    return app


def _print_fields(content: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(content))
        return
    width = max(map(len, content), default=0)
    for name, value in content.items():
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        print(f"{name.replace('_', ' '):>{width}}  {'-' if value in (None, '') else value}")
