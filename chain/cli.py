"""The ``chain`` command: audit, show and export a ledger without running a node.

Exit codes: 0 fine, 1 the chain is at fault or cannot be read, 2 the command line is wrong.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import platformdirs
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from chain.blocks import Block
from chain.blockstore import BlockStore, StoredChain, load_stored_genesis
from chain.crypto import format_address, parse_address
from chain.exceptions import GenesisError, LedgerError, StoreDamaged, StoreError, StoreInUse
from chain.export import ExportSource, export_chain
from chain.genesis import CREDIT, load_genesis
from chain.operations import SignedOperation
from chain.store import LevelStore
from chain.verify import Report, Source, StoreSource, verify_chain

OpenRemote = Callable[[str, Path | None], Source]
"""Opens the chain of a running node by its multiaddress and the trusted genesis file (None: the usual one)."""

CHAIN_DIRECTORY = "chain"


def get_default_data_dir() -> Path:
    """Where a node keeps its data unless told otherwise: the platform's usual place."""
    return Path(platformdirs.user_data_dir("wwwserve", appauthor=False))


DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", "-d", help="Data directory of a node (default: the platform's usual place)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]


def build_app(open_remote: OpenRemote | None = None) -> typer.Typer:
    """The command line; ``open_remote`` lets ``verify`` audit a running node."""
    app = typer.Typer(help="Audit, show and export a ledger.", no_args_is_help=True, pretty_exceptions_enable=False)

    @app.command()
    def verify(
        target: Annotated[
            str | None, typer.Argument(help="Data directory, export file, or multiaddress of a node (/ip4/…/p2p/…).")
        ] = None,
        genesis: Annotated[
            Path | None, typer.Option(help="Genesis file that the chain must begin with (default: its own).")
        ] = None,
        as_json: AsJson = False,
    ) -> None:
        """Re-check everything from genesis, with no trust in the node."""
        with _errors(), _open(target, genesis, open_remote) as source:
            report = _with_progress("Verifying", source.height, lambda tick: verify_chain(source, tick), as_json)
        print(json.dumps(_report_json(report)) if as_json else _report_text(report))
        raise typer.Exit(0 if report.ok else 1)

    @app.command()
    def show(
        what: Annotated[str, typer.Argument(help="Height, block id, operation id, or 'head'.")] = "head",
        data_dir: DataDir = None,
        as_json: AsJson = False,
    ) -> None:
        """Show a block or an operation."""
        with _errors(), _open_store(data_dir or get_default_data_dir()) as store:
            content = _find(StoredChain(store), what)
        print(json.dumps(content, indent=None if as_json else 2, ensure_ascii=False))

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
                blocks = BlockStore(store, load_stored_genesis(store))
            content = {"address": format_address(key), "height": blocks.height, **_plain(blocks.state.account(key))}
        if as_json:
            print(json.dumps(content))
            return
        for name, value in content.items():
            is_amount = name in ("available", "held", "bonded")
            print(f"{name:>10}  {format_credits(value) if is_amount else value or '-'}")

    @app.command()
    def export(
        file: Annotated[Path, typer.Argument(help="File to write; must not exist.")],
        data_dir: DataDir = None,
    ) -> None:
        """Write the whole chain to one file that anyone can verify."""
        with _errors(), _open(None if data_dir is None else str(data_dir), None, None) as source:
            if file.exists():
                raise StoreError(f"{file} exists already; choose another name")
            height = _with_progress("Exporting", source.height, lambda tick: export_chain(source, file, tick), False)
        print(f"{height} blocks of chain {source.genesis.name} written to {file}; check it with: chain verify {file}")

    return app


@contextmanager
def _errors() -> Iterator[None]:
    """One clear line on stderr and exit code 1 for whatever the ledger refuses."""
    try:
        yield
    except StoreInUse as error:
        print(
            f"error: {error}; stop the node, or ask it: `wwwserve status`, `wwwserve wallet show`, or "
            "`chain verify /ip4/…/tcp/…/p2p/…` with the address that `wwwserve status` prints",
            file=sys.stderr,
        )
        raise typer.Exit(1) from error
    except (LedgerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


def _find_store(path: Path) -> Path:
    """The database in a data directory, or the database itself."""
    for candidate in (path / CHAIN_DIRECTORY, path):
        if (candidate / "CURRENT").exists():
            return candidate
    raise StoreError(f"no chain in {path}: expected a data directory of a node, a database or an export file")


@contextmanager
def _open(target: str | None, genesis: Path | None, open_remote: OpenRemote | None) -> Iterator[Source]:
    """The chain that a target names, which must begin with the ``genesis`` file if one is given."""
    if target is not None and target.startswith(("/ip4/", "/ip6/", "/dns")):
        if open_remote is None:
            raise StoreError("this command cannot reach other nodes; give a data directory or an export file")
        yield open_remote(target, genesis)
        return
    path = get_default_data_dir() if target is None else Path(target)
    if path.is_file():
        yield _require(ExportSource(path), genesis)
        return
    with _open_store(path) as store:
        yield _require(StoreSource(store), genesis)


@contextmanager
def _open_store(path: Path) -> Iterator[LevelStore]:
    store = LevelStore(_find_store(path), create=False)
    try:
        yield store
    finally:
        store.close()


def _require(source: Source, genesis: Path | None) -> Source:
    if genesis is not None and (trusted := load_genesis(genesis)) != source.genesis:
        raise GenesisError(
            f"the chain is {source.genesis.name!r} ({source.genesis.chain_id.hex()[:8]}), not that of {genesis}: "
            f"{trusted.name!r} ({trusted.chain_id.hex()[:8]})"
        )
    return source


def _with_progress(label: str, total: int, work: Callable[[Callable[[int], None]], Any], quiet: bool) -> Any:
    console = Console(stderr=True)
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task(label, total=total)
        return work(lambda height: progress.update(task, completed=height))


def format_credits(amount: int) -> str:
    """An amount of micro-credits for people, in credits; exact."""
    whole, rest = divmod(abs(amount), CREDIT)
    return f"{'-' if amount < 0 else ''}{whole:,}.{rest:06}"


def _report_text(report: Report) -> str:
    if report.fault is not None:
        fault = report.fault
        return f"FAULT at height {fault.height}, {fault.field}: {fault.reason}\n(chain {report.name}, sound below)"
    lines = [
        f"ok, confirmed by {_percent(report.smallest_certificate)} of stake",
        f"  chain        {report.name} ({report.chain_id.hex()[:8]})",
        f"  height       {report.height}, block {report.block_id.hex()[:16] or '(genesis)'}",
        f"  state root   {report.state_root.hex()[:16]}",
        f"  checked      {_count(report.operations, 'operation')}, {_count(report.signatures, 'signature')}, "
        f"{_count(report.epochs, 'epoch')}",
        f"  certificates every block final; the smallest by {_percent(report.smallest_certificate)} "
        f"of stake at height {report.smallest_height}",
        f"  validators   {report.validators}; the {report.blocking_group} largest together could halt the chain",
        f"  supply       {format_credits(report.supply)} credits conserved, treasury {format_credits(report.treasury)}",
    ]
    holds = sum(draws.holds for draws in report.payers.values())
    skipped = sum(draws.skipped for draws in report.payers.values())
    if holds:
        lines.append(
            f"  lottery      {_count(holds, 'hold')}, each to its drawn executor; {_count(skipped, 'draw')} skipped"
        )
        for payer, draws in sorted(report.payers.items(), key=lambda item: (-item[1].holds, item[0]))[:10]:
            expected = draws.holds * skipped / holds
            lines.append(
                f"    {format_address(payer)}  {_count(draws.holds, 'hold')}, {draws.unused:,} unused numbers, "
                f"skipped {_count(draws.skipped, 'draw')} "
                f"(at the common rate: {expected:.1f})"
            )
    return "\n".join(lines)


def _report_json(report: Report) -> dict[str, Any]:
    return {
        "ok": report.ok,
        "fault": None if report.fault is None else _plain(report.fault),
        "name": report.name,
        "chain_id": report.chain_id.hex(),
        "height": report.height,
        "block_id": report.block_id.hex(),
        "state_root": report.state_root.hex(),
        "operations": report.operations,
        "signatures": report.signatures,
        "epochs": report.epochs,
        "smallest_certificate": {"share": report.smallest_certificate, "height": report.smallest_height},
        "validators": report.validators,
        "blocking_group": report.blocking_group,
        "supply": report.supply,
        "treasury": report.treasury,
        "payers": {
            format_address(payer): {
                "holds": draws.holds,
                "skipped_draws": draws.skipped,
                "unused_numbers": draws.unused,
            }
            for payer, draws in sorted(report.payers.items())
        },
    }


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def _find(blocks: StoredChain, what: str) -> dict[str, Any]:
    if what == "head":
        height: int | None = blocks.height
    elif what.isascii() and what.isdigit() and len(what) < 20:
        height = int(what)
    else:
        try:
            wanted = bytes.fromhex(what)
        except ValueError:
            raise StoreError(f"{what!r} is neither a height nor a block or operation id") from None
        found = blocks.find_operation(wanted)
        if found is not None:
            return _operation_json(blocks, _get_block(blocks, found[0]), found[1])
        height = blocks.height_of_block(wanted)
    if height is None or height > blocks.height:
        raise StoreError(f"no final block or operation {what} (the last final block is {blocks.height})")
    if height == 0:
        header = blocks.genesis.header
        return {"id": header.id.hex(), "header": _plain(header), "final_by": None, "operations": []}
    block = _get_block(blocks, height)
    nearest = blocks.nearest_certificate(block.height)
    return {
        "id": block.id.hex(),
        "header": _plain(block.header),
        "final_by": None if nearest is None else {"height": nearest[0], "signers": len(nearest[1].signers)},
        "operations": [_operation_json(blocks, block, index) for index in range(len(block.body.operations))],
    }


def _get_block(blocks: StoredChain, height: int) -> Block:
    block = blocks.block(height)
    if block is None:
        raise StoreDamaged(f"block {height} is missing")
    return block


def _operation_json(blocks: StoredChain, block: Block, index: int) -> dict[str, Any]:
    failures = blocks.failures(block.height) or [None] * len(block.body.operations)
    if not index < len(block.body.operations) == len(failures):
        raise StoreDamaged(f"what is said about the operations of block {block.height} does not fit them")
    signed: SignedOperation = block.body.operations[index]
    return {
        "id": signed.id.hex(),
        "height": block.height,
        "index": index,
        "kind": type(signed.operation).__name__.lower(),
        "signer": format_address(signed.signer),
        "failure": failures[index],
        **_plain(signed.operation),
    }


_KEYS = ("recipient", "payee", "payer", "proposer", "public_key", "signer")


def _plain(record: Any) -> Any:
    """A record as JSON: keys as addresses, other bytes as hexadecimal digits."""
    if isinstance(record, bytes):
        return record.hex()
    if isinstance(record, tuple):
        return [_plain(item) for item in record]
    if not hasattr(record, "__dataclass_fields__"):
        return record
    content = {}
    for name in record.__dataclass_fields__:
        value = getattr(record, name)
        content[name] = format_address(value) if name in _KEYS and any(value) else _plain(value)
    return content


def main() -> None:
    """Entry point without access to other nodes."""
    build_app()()
