"""What a shell completes beyond names of commands: models, peers and parameters, as the running node knows them.

A completion must not keep its user waiting: a node that does not answer at once has none.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

from chain.cli.contract import CommandError
from serving.cli.running.admin_client import ask_node

PATIENCE_S = 0.3
"""How long a completion waits for the node."""


def suggest_models(ctx: typer.Context, incomplete: str) -> list[str]:
    """The models that the node serves or can offload."""
    return _select((each["id"] for each in _ask(ctx, "/models").get("models", ())), incomplete)


def suggest_peers(ctx: typer.Context, incomplete: str) -> list[str]:
    """The addresses of the peers that are online."""
    return _select((each["address"] for each in _ask(ctx, "/peers").get("peers", ())), incomplete)


def suggest_changes(ctx: typer.Context, incomplete: str) -> list[str]:
    """The parameters of the policy, each with the ``=`` that goes before its value."""
    return _select((f"{name}=" for name in _ask(ctx, "/policy") if name != "name"), incomplete)


def _ask(ctx: typer.Context, path: str) -> dict[str, Any]:
    named = ctx.params.get("data_dir")
    try:
        answer: dict[str, Any] = ask_node(None if named is None else Path(named), "GET", path, timeout=PATIENCE_S)
    except CommandError:
        return {}
    return answer


def _select(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))
