"""The ``chain`` commands with what only a node has: other nodes' chains, the owner's checkpoint, and restarts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from chain.cli.app import build_app
from chain.cli.tree import Entry

if TYPE_CHECKING:
    from chain.audit.sources import ChainSource
    from chain.light.client import Checkpoint


def build_chain_app() -> typer.Typer:
    """The command line ``chain``, which is also ``wwwserve chain``."""
    restart = Entry(
        "Go on without validators that are gone for good, if they held too much stake for a quorum.",
        _load_restart,
        panel="Repair",
    )
    return build_app(_open_remote, _find_checkpoint, {"restart": restart})


def _open_remote(multiaddress: str, genesis: Path | None, socks5: str | None) -> ChainSource:
    from serving.cli.ledger.chain_sources import open_remote

    return open_remote(multiaddress, genesis, socks5)


def _find_checkpoint(data_dir: Path) -> Checkpoint | None:
    from serving.cli.ledger.chain_sources import find_checkpoint

    return find_checkpoint(data_dir)


def _load_restart() -> typer.Typer:
    from serving.cli.ledger.restart import build_restart_app
    from serving.cli.ledger.stopped_node import open_stopped_node, replace_genesis

    return build_restart_app(open_stopped_node, replace_genesis)
