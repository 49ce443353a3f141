"""The ``chain`` command: audit, show, export and prove a ledger without running a node.

Exit codes: 0 fine, 1 the chain or a proof is at fault, shows less than was asked, or cannot be read, 2 the command line
is wrong.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeGuard

import platformdirs
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from chain.audit.audit import audit_chain
from chain.audit.checks import list_checks
from chain.audit.duels import list_duels
from chain.audit.export import ExportSource, export_chain
from chain.audit.proof_builder import prove_balance, prove_operation, rebuild_chain
from chain.audit.sources import ChainSource, StoreSource
from chain.cli.checks import check_to_plain, describe_check
from chain.cli.duels import describe_duel, duel_to_plain
from chain.cli.format import (
    account_to_rows,
    describe_proof,
    format_rows,
    print_line,
    print_lines,
    proof_to_plain,
)
from chain.cli.report_text import describe_report, report_to_plain
from chain.crypto import format_address, parse_address
from chain.exceptions import GenesisError, LedgerError, ProofError, StoreDamaged, StoreError, StoreInUse
from chain.explorer import blocks
from chain.explorer.accounts import show_account
from chain.explorer.plain import header_to_plain
from chain.genesis import load_genesis
from chain.light.client import Checkpoint
from chain.light.proofs import MAX_PROOF_BYTES, Proof, VerifiedProof, check_proof, format_proof, parse_proof
from chain.store.kv import CHAIN_DIRECTORY, LevelStore
from chain.store.reader import ChainReader, load_stored_genesis
from chain.store.writer import ChainStore

OpenRemote = Callable[[str, Path | None, str | None], ChainSource]
"""Opens the chain of a running node by its multiaddress, the trusted genesis file (None: the usual one) and the SOCKS5
proxy to dial through (None: directly)."""

FindCheckpoint = Callable[[Path], Checkpoint | None]
"""The checkpoint that the owner of a data directory set there, if any."""


def get_default_data_dir() -> Path:
    """Where a node keeps its data unless told otherwise: the platform's usual place."""
    return Path(platformdirs.user_data_dir("wwwserve", appauthor=False))


DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", "-d", help="Data directory of a node (default: the platform's usual place)."),
]
Place = Annotated[
    str | None,
    typer.Option(
        "--data-dir",
        "-d",
        help="Data directory or multiaddress of a node, or an export file (default: the platform's usual directory).",
    ),
]
Since = Annotated[
    str | None,
    typer.Option(
        "--checkpoint", help="HEIGHT:BLOCK-ID of a block that the verifier trusts to be final (default: genesis)."
    ),
]
Trusted = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        help="HEIGHT:BLOCK-ID of a block that you trust, which the chain must have (default: none; for a data "
        "directory that has not all blocks, without --genesis, the one in its config.yaml).",
    ),
]
TrustedGenesis = Annotated[
    Path | None,
    typer.Option(
        "--genesis",
        help="Genesis file that the chain must begin with, and whose restarts are accepted (default: its own, and no "
        "restart).",
    ),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="File to write; must not exist (default: print the proof).")
]
Proxy = Annotated[
    str | None,
    typer.Option("--socks5", metavar="HOST:PORT", help="Reach a node at a multiaddress through this proxy alone."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]


def build_app(open_remote: OpenRemote | None = None, find_checkpoint: FindCheckpoint | None = None) -> typer.Typer:
    """The command line; ``open_remote`` lets ``verify`` and ``prove`` read the chain of a running node."""
    app = typer.Typer(
        help="Audit, show, export and prove a ledger.", no_args_is_help=True, pretty_exceptions_enable=False
    )

    @app.command()
    def verify(
        target: Annotated[
            str | None, typer.Argument(help="Data directory, export file, or multiaddress of a node (/ip4/…/p2p/…).")
        ] = None,
        genesis: TrustedGenesis = None,
        checkpoint: Trusted = None,
        socks5: Proxy = None,
        as_json: AsJson = False,
    ) -> None:
        """Re-check everything from genesis, or from a state that a checkpoint proves, with no trust in the node."""
        with _errors():
            trusted = _parse_checkpoint(checkpoint)
            with _open(target, genesis, open_remote, socks5) as source:
                # A caller who names the genesis file does not trust the one in the directory.
                if trusted is None and genesis is None and source.base.height and find_checkpoint is not None:
                    trusted = find_checkpoint(get_default_data_dir() if target is None else Path(target))
                report = _with_progress(
                    "Verifying", source.height, lambda tick: audit_chain(source, tick, checkpoint=trusted), as_json
                )
        print_lines(json.dumps(report_to_plain(report, genesis)) if as_json else describe_report(report, genesis))
        raise typer.Exit(0 if report.ok else 1)

    @app.command()
    def show(
        what: Annotated[str, typer.Argument(help="Height, block id, operation id, or 'head'.")] = "head",
        data_dir: DataDir = None,
        duels: Annotated[
            bool, typer.Option("--duels", help="Show every duel: parties, digests, votes, verdict, credits moved.")
        ] = False,
        checks: Annotated[
            bool, typer.Option("--checks", help="Show every check of the model: parties, reports, finding, credits.")
        ] = False,
        as_json: AsJson = False,
    ) -> None:
        """Show a block, an operation, or all duels or checks of the model."""
        with _errors(), _open_store(data_dir or get_default_data_dir()) as store:
            source = StoreSource(store)
            if checks:
                listed = _with_progress("Replaying", source.height, lambda tick: list_checks(source, tick), as_json)
                text = "\n\n".join(map(describe_check, listed)) or "no checks"
                print_lines(json.dumps([check_to_plain(each) for each in listed]) if as_json else text)
                return
            if duels:
                found = _with_progress("Replaying", source.height, lambda tick: list_duels(source, tick), as_json)
                text = "\n\n".join(map(describe_duel, found)) or "no duels"
                print_lines(json.dumps([duel_to_plain(each) for each in found]) if as_json else text)
                return
            content = blocks.show(ChainReader(store), what)
        print_lines(json.dumps(content, indent=None if as_json else 2, ensure_ascii=False))

    @app.command()
    def account(
        address: Annotated[str, typer.Argument(help="Address of the account (12D3KooW…).")],
        data_dir: DataDir = None,
        as_json: AsJson = False,
    ) -> None:
        """Show an account's credits as of the last final block."""
        with _errors():
            key = parse_address(address)
            with _open_store(data_dir or get_default_data_dir()) as store:
                chain = ChainStore(store, load_stored_genesis(store))
        if as_json:
            print_line(json.dumps(show_account(chain, key)))
        else:
            held = account_to_rows(chain.state.account(key))
            rows = {"address": format_address(key), "height": f"{chain.height:,}", **held}
            print_lines(format_rows(rows))

    @app.command()
    def export(
        file: Annotated[Path, typer.Argument(help="File to write; must not exist.")],
        data_dir: DataDir = None,
    ) -> None:
        """Write the whole chain to one file that anyone can verify."""
        with _errors(), _open_store(data_dir or get_default_data_dir()) as store:
            source = StoreSource(store)
            if file.exists():
                raise StoreError(f"{file} exists already; choose another name")
            height = _with_progress("Exporting", source.height, lambda tick: export_chain(source, file, tick), False)
        name = source.genesis.name
        print_line(f"{height} blocks of chain {name} written to {file}; check it with: chain verify {file}")

    @app.command()
    def checkpoint(data_dir: DataDir = None, as_json: AsJson = False) -> None:
        """Print the last final block as a checkpoint, to hand to readers of proofs."""
        with _errors(), _open_store(data_dir or get_default_data_dir()) as store:
            chain = ChainReader(store)
            header = chain.find_header(chain.height)
            if header is None:
                raise StoreDamaged(f"block {chain.height} is missing")
            if not header.height:
                raise StoreError("no block is final yet, and genesis needs no checkpoint")
        last = Checkpoint(header.height, header.id)
        print_line(json.dumps({"checkpoint": str(last), **header_to_plain(header)}) if as_json else str(last))

    prove = typer.Typer(
        help="Write a proof that anyone can check with the genesis file and a checkpoint.", no_args_is_help=True
    )
    app.add_typer(prove, name="prove")

    @prove.command()
    def balance(
        address: Annotated[str, typer.Argument(help="Address of the account (12D3KooW…).")],
        data_dir: Place = None,
        genesis: TrustedGenesis = None,
        checkpoint: Since = None,
        socks5: Proxy = None,
        output: Output = None,
    ) -> None:
        """Prove what an account has after the last final block, or that there is no such account."""
        with _errors():
            key, since = parse_address(address), _parse_checkpoint(checkpoint)
            with _open_chain(data_dir, genesis, open_remote, socks5, output) as chain:
                _hand_out(prove_balance(chain, key, since), since, output)

    @prove.command()
    def operation(
        operation_id: Annotated[str, typer.Argument(help="Id of the operation (64 hexadecimal digits).")],
        data_dir: Place = None,
        genesis: TrustedGenesis = None,
        checkpoint: Since = None,
        socks5: Proxy = None,
        output: Output = None,
    ) -> None:
        """Prove that a final block has an operation."""
        with _errors():
            wanted, since = _parse_operation_id(operation_id), _parse_checkpoint(checkpoint)
            with _open_chain(data_dir, genesis, open_remote, socks5, output) as chain:
                _hand_out(prove_operation(chain, wanted, since), since, output)

    @app.command("check-proof")
    def check(
        file: Annotated[Path, typer.Argument(help="File with the proof ('-': standard input).", allow_dash=True)],
        genesis: Annotated[Path, typer.Option(help="Genesis file of the chain.")],
        checkpoint: Since = None,
        as_json: AsJson = False,
    ) -> None:
        """Check a proof, trusting nothing but the genesis file and the checkpoint."""
        with _errors():
            trusted, since = load_genesis(genesis), _parse_checkpoint(checkpoint)
            with nullcontext(sys.stdin.buffer) if str(file) == "-" else file.open("rb") as stream:
                raw = stream.read(2 * MAX_PROOF_BYTES + 1)
        verified: VerifiedProof | None = None
        fault: str | None = None
        try:
            verified = check_proof(trusted, since, parse_proof(raw.decode("utf-8", errors="replace")))
        except ProofError as error:
            fault = str(error)
        if as_json:
            content = {} if verified is None else proof_to_plain(trusted, verified)
            print_line(json.dumps({"ok": fault is None, "fault": fault, **content}))
        elif verified is None:
            print_line(f"REFUSED: {fault}")
        else:
            print_lines(describe_proof(trusted, verified))
        raise typer.Exit(0 if fault is None else 1)

    return app


def _parse_checkpoint(text: str | None) -> Checkpoint | None:
    try:
        return None if text is None else Checkpoint.parse(text)
    except ValueError as error:
        raise ProofError(f"--checkpoint: {error}") from error


def _parse_operation_id(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise ProofError(f"{text!r} is not the id of an operation (64 hexadecimal digits)")
    return raw


def _hand_out(proof: Proof, checkpoint: Checkpoint | None, output: Path | None) -> None:
    """Write a proof to a file, or else print it."""
    text = format_proof(proof)
    if output is None:
        print_lines(text.removesuffix("\n"))
        return
    with output.open("x", encoding="ascii") as file:
        file.write(text)
    since = "" if checkpoint is None else f" --checkpoint {checkpoint}"
    print_line(f"proof written to {output}; check it with: chain check-proof {output} --genesis GENESIS-FILE{since}")


@contextmanager
def _errors() -> Iterator[None]:
    """One clear line on stderr and exit code 1 for whatever the ledger refuses."""
    try:
        yield
    except StoreInUse as error:
        print_line(
            f"error: {error}; stop the node, or ask it: `wwwserve status`, `wwwserve wallet show`, or "
            "`chain verify /ip4/…/tcp/…/p2p/…` and `chain prove … -d /ip4/…/tcp/…/p2p/…` with the address that "
            "`wwwserve status` prints",
            to_stderr=True,
        )
        raise typer.Exit(1) from error
    except StoreDamaged as error:
        print_line(f"error: {error}; a node that is started on this database repairs it", to_stderr=True)
        raise typer.Exit(1) from error
    except (LedgerError, OSError) as error:
        print_line(f"error: {error}", to_stderr=True)
        raise typer.Exit(1) from error


def _find_store(path: Path) -> Path:
    """The database in a data directory, or the database itself."""
    for directory in (path / CHAIN_DIRECTORY, path):
        if (directory / "CURRENT").exists():
            return directory
    raise StoreError(f"no chain in {path}: expected a data directory of a node, a database or an export file")


def _is_remote(target: str | None) -> TypeGuard[str]:
    return target is not None and target.startswith(("/ip4/", "/ip6/", "/dns"))


def _check_proxy(target: str | None, proxy: str | None) -> None:
    if proxy is not None and not _is_remote(target):
        raise StoreError("--socks5 is for a node at a multiaddress (/ip4/…/p2p/…); what is on this machine needs none")


@contextmanager
def _open(
    target: str | None, genesis: Path | None, open_remote: OpenRemote | None, proxy: str | None = None
) -> Iterator[ChainSource]:
    """The chain that a target names, which must begin with the ``genesis`` file if one is given.

    Only restarts in that file are accepted: to accept one is up to the reader, not to the writer of a chain.
    """
    _check_proxy(target, proxy)
    path = get_default_data_dir() if target is None else Path(target)
    if _is_remote(target):
        if open_remote is None:
            raise StoreError("this command cannot reach other nodes; give a data directory or an export file")
        remote = open_remote(target, genesis, proxy)  # which begins with that file
        yield remote if genesis is not None else _require(remote, None)
    elif path.is_file():
        yield _require(ExportSource(path), genesis)
    else:
        with _open_store(path) as store:
            yield _require(StoreSource(store), genesis)


@contextmanager
def _open_chain(
    target: str | None,
    genesis: Path | None,
    open_remote: OpenRemote | None,
    proxy: str | None,
    output: Path | None,
) -> Iterator[ChainStore]:
    """The chain that a target names, with its state, to make a proof that goes to ``output``."""
    _check_proxy(target, proxy)
    if output is not None and output.exists():
        raise StoreError(f"{output} exists already; choose another name")
    if target is not None and not Path(target).is_dir():
        with _open(target, genesis, open_remote, proxy) as source:
            yield _with_progress("Replaying", source.height, lambda tick: rebuild_chain(source, tick), False)
        return
    with _open_store(get_default_data_dir() if target is None else Path(target)) as store:
        _require(StoreSource(store), genesis)
        yield ChainStore(store, load_stored_genesis(store))


@contextmanager
def _open_store(path: Path) -> Iterator[LevelStore]:
    store = LevelStore(_find_store(path), create=False)
    try:
        yield store
    finally:
        store.close()


def _require(source: ChainSource, genesis: Path | None) -> ChainSource:
    if genesis is None:
        source.genesis = replace(source.genesis, restarts=())
        return source
    trusted = load_genesis(genesis)
    if trusted.chain_id != source.genesis.chain_id:
        raise GenesisError(
            f"the chain is {source.genesis.name!r} ({source.genesis.chain_id.hex()[:8]}), not that of {genesis}: "
            f"{trusted.name!r} ({trusted.chain_id.hex()[:8]})"
        )
    source.genesis = trusted
    return source


def _with_progress(label: str, total: int, work: Callable[[Callable[[int], None]], Any], quiet: bool) -> Any:
    console = Console(stderr=True)
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task(label, total=total)
        return work(lambda height: progress.update(task, completed=height))


def main() -> None:
    """Entry point without access to other nodes."""
    build_app()()
