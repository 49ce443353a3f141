"""``chain verify`` and ``chain export``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from chain.audit.audit import audit_chain
from chain.audit.export import export_chain
from chain.audit.report import Report
from chain.audit.sources import StoreSource
from chain.cli.contract import CommandError, ExitCode, print_result
from chain.cli.options import AsJson, DataDir, Proxy, Trusted, TrustedGenesis, get_default_data_dir
from chain.cli.places import FindCheckpoint, OpenRemote, open_source, open_store, parse_checkpoint, show_progress
from chain.cli.report_text import describe_report, report_to_plain
from chain.cli.text import print_lines
from chain.exceptions import StoreError


def make_verify(open_remote: OpenRemote | None, find_checkpoint: FindCheckpoint | None) -> Callable[..., Any]:
    """The command ``verify``."""

    def verify(
        target: Annotated[
            str | None, typer.Argument(help="Data directory, export file, or multiaddress of a node (/ip4/…/p2p/…).")
        ] = None,
        data_dir: DataDir = None,
        genesis: TrustedGenesis = None,
        checkpoint: Trusted = None,
        socks5: Proxy = None,
        as_json: AsJson = False,
    ) -> None:
        """Re-check everything from genesis, or from a state that a checkpoint proves, with no trust in the node.

        Exit code: 0 proven, 5 a fault was found, 6 nothing is wrong, but it need not be the true chain.
        """
        if data_dir is not None:
            if target is not None:
                raise CommandError("give one place to read: an argument, or -d", code=ExitCode.USAGE)
            target = str(data_dir)
        trusted = parse_checkpoint(checkpoint)
        with open_source(target, genesis, open_remote, socks5) as source:
            # A caller who names the genesis file does not trust the one in the directory.
            if trusted is None and genesis is None and source.base.height and find_checkpoint is not None:
                trusted = find_checkpoint(get_default_data_dir() if target is None else Path(target))
            report: Report = show_progress(
                "Verifying", source.height, lambda tick: audit_chain(source, tick, checkpoint=trusted), as_json
            )
        print_lines(json.dumps(report_to_plain(report, genesis)) if as_json else describe_report(report, genesis))
        if report.fault is not None:
            raise typer.Exit(ExitCode.FAULT)
        raise typer.Exit(ExitCode.OK if report.ok else ExitCode.NOT_PROVEN)

    return verify


def export(
    file: Annotated[Path, typer.Argument(help="File to write; must not exist.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write the whole chain to one file that anyone can verify."""
    with open_store(data_dir) as store:
        source = StoreSource(store)
        if file.exists():
            raise StoreError(f"{file} exists already; choose another name")
        height = show_progress("Exporting", source.height, lambda tick: export_chain(source, file, tick), as_json)
    name = source.genesis.name
    text = f"{height} blocks of chain {name} written to {file}; check it with: chain verify {file}"
    print_result({"file": str(file), "chain": name, "blocks": height}, as_json, text)
