"""The command ``chain``: audit, show, export and prove a ledger, of a running node or of what one left."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from chain.cli.contract import run_command
from chain.cli.options import AsJson, DataDir, get_default_data_dir
from chain.cli.tree import Entry, build_group

if TYPE_CHECKING:
    from chain.cli.places import FindCheckpoint, OpenRemote

__all__ = ["AsJson", "DataDir", "build_app", "get_default_data_dir"]

LOOK, AUDIT, PROVE = "Look", "Audit", "Prove to others"


def build_app(
    open_remote: OpenRemote | None = None,
    find_checkpoint: FindCheckpoint | None = None,
    more: dict[str, Entry] | None = None,
) -> typer.Typer:
    """The command line; ``open_remote`` lets ``verify`` and ``prove`` read the chain of a node elsewhere.

    ``more`` are commands that only a caller has.
    """

    def load_verify() -> Callable[..., Any]:
        from chain.cli.audit_commands import make_verify

        return make_verify(open_remote, find_checkpoint)

    def load_prove() -> typer.Typer:
        from chain.cli.prove import build_prove_app

        return build_prove_app(open_remote)

    entries = {
        "show": Entry(
            "Show a block, an operation, or all duels or checks of the model.",
            "chain.cli.look:show",
            ("chain show head", "chain show 1 --json"),
            LOOK,
        ),
        "blocks": Entry(
            "List blocks, the latest first.",
            "chain.cli.look:show_blocks",
            ("chain blocks --limit 5",),
            LOOK,
        ),
        "account": Entry(
            "Show an account's credits as of the last final block.",
            "chain.cli.look:account",
            ("chain account ADDRESS",),
            LOOK,
        ),
        "history": Entry(
            "List the operations that an account has to do with, the latest first.",
            "chain.cli.look:history",
            ("chain history ADDRESS --limit 5",),
            LOOK,
        ),
        "validators": Entry(
            "Who votes, with how much stake, and how many votes were seen.",
            "chain.cli.look:validators",
            ("chain validators",),
            LOOK,
        ),
        "verify": Entry(
            "Re-check everything from genesis, or from a state that a checkpoint proves, with no trust in the node.",
            load_verify,
            ("chain verify", "chain verify --json"),
            AUDIT,
        ),
        "export": Entry(
            "Write the whole chain to one file that anyone can verify.",
            "chain.cli.audit_commands:export",
            ("chain export FILE",),
            AUDIT,
        ),
        "checkpoint": Entry(
            "Print the last final block as a checkpoint, to hand to readers of proofs.",
            "chain.cli.look:checkpoint",
            ("chain checkpoint",),
            PROVE,
        ),
        "prove": Entry(
            "Write a proof that anyone can check with the genesis file and a checkpoint.",
            load_prove,
            panel=PROVE,
        ),
        "check-proof": Entry(
            "Check a proof, trusting nothing but the genesis file and the checkpoint.",
            "chain.cli.prove:check_proof_file",
            ("chain check-proof PROOF --genesis GENESIS",),
            PROVE,
        ),
        **(more or {}),
    }
    return build_group(entries, "Audit, show, export and prove a ledger.")


def main() -> None:
    """Entry point without access to other nodes."""
    sys.exit(run_command(build_app()))
