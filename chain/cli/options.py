"""Options and arguments that several commands take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

DATA_DIR_VARIABLE = "WWWSERVE_DATA_DIR"
"""Environment variable with the data directory of commands without ``--data-dir``."""


def get_default_data_dir() -> Path:
    """Where a node keeps its data unless told otherwise: the directory in the environment, or the platform's usual."""
    named = os.environ.get(DATA_DIR_VARIABLE)
    if named:
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_data_dir("wwwserve", appauthor=False))


DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", "-d", metavar="DIR",
        help="Data directory of a node (default: WWWSERVE_DATA_DIR, else the platform's usual place).",
    ),
]  # fmt: skip
Place = Annotated[
    str | None,
    typer.Option(
        "--data-dir", "-d", metavar="PLACE",
        help="Data directory or multiaddress of a node, or an export file (default: as other commands).",
    ),
]  # fmt: skip
Since = Annotated[
    str | None,
    typer.Option(
        "--checkpoint", metavar="HEIGHT:BLOCKID",
        help="A block that the verifier trusts to be final (default: genesis).",
    ),
]  # fmt: skip
Trusted = Annotated[
    str | None,
    typer.Option(
        "--checkpoint", metavar="HEIGHT:BLOCKID",
        help="A block that you trust, which the chain must have (default: none; for a data directory that has not all "
        "blocks, without --genesis, the one in its config.yaml).",
    ),
]  # fmt: skip
TrustedGenesis = Annotated[
    Path | None,
    typer.Option(
        "--genesis", metavar="FILE",
        help="Genesis file that the chain must begin with, and whose restarts are accepted (default: its own, and no "
        "restart).",
    ),
]  # fmt: skip
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="File to write; must not exist (default: print the proof)."),
]
Proxy = Annotated[
    str | None,
    typer.Option("--socks5", metavar="HOST:PORT", help="Reach a node at a multiaddress through this proxy alone."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]
AccountAddress = Annotated[str, typer.Argument(help="Address of the account (12D3KooW…).")]
