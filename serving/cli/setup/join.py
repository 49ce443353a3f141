"""The command ``wwwserve join``: from an invitation to a running node."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from chain.cli.contract import CommandError, print_result
from chain.cli.options import AsJson, DataDir, get_default_data_dir
from chain.cli.text import print_lines
from serving.cli.setup.ports import choose_ports
from serving.cli.setup.start import DEFAULTS, create_node
from serving.config.invitation import MAX_TEXT_BYTES, parse_invitation

MAX_NAME_BYTES = 255
"""A longer text is an invitation and not the name of a file."""


def make_join(run: Callable[..., None]) -> Callable[..., None]:
    """The command; ``run`` is the command that runs the node."""

    def join(
        invitation: Annotated[str, typer.Argument(help="The invitation, a file that has it, or - for standard input.")],
        data_dir: DataDir = None,
        api_key: Annotated[
            bool, typer.Option("--api-key", help="Make a key for users of the API, and print it.")
        ] = False,
        no_run: Annotated[bool, typer.Option("--no-run", help="Make the node, and do not run it.")] = False,
        as_json: AsJson = False,
    ) -> None:
        """Join the network that an invitation names. It makes a node of it, and runs it."""
        if as_json and not no_run:
            raise CommandError("--json goes with --no-run; then 'wwwserve run --json' runs the node")
        directory = data_dir or get_default_data_dir()
        found = parse_invitation(_read(invitation))
        config = choose_ports(DEFAULTS).model_copy(update={"bootstrap": found.bootstrap})
        content, lines = create_node(
            directory, found.genesis, None, checkpoint=found.checkpoint or None, api_key=api_key, config=config
        )
        content |= {"bootstrap": list(found.bootstrap), "api": config.api.port, "admin": config.admin.port}
        if as_json:
            print_result(content, as_json)
        else:
            print_lines("\n".join(lines))
        if not no_run:
            run(directory)

    return join


def _read(given: str) -> str:
    """The invitation that was given, or is in the file that was named."""
    try:
        if given == "-":
            return sys.stdin.read(MAX_TEXT_BYTES)
        if len(given.encode()) <= MAX_NAME_BYTES and Path(given).is_file():
            with Path(given).open(encoding="utf-8", errors="replace") as file:
                return file.read(MAX_TEXT_BYTES)
    except OSError as error:
        raise CommandError(f"cannot read {given}: {error.strerror}") from error
    if "/" in given or given.endswith(".txt"):  # no invitation has these
        raise CommandError(f"there is no file {given}")
    return given
