"""Where a command reads a chain: from the node that runs in a data directory, from what a stopped one left there, from
an export file, or from a node elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from chain.audit.export import ExportSource
from chain.audit.proof_builder import rebuild_chain
from chain.audit.sources import ChainSource, StoreSource
from chain.cli.options import get_default_data_dir
from chain.exceptions import GenesisError, ProofError, StoreError
from chain.genesis import load_genesis
from chain.light.client import Checkpoint
from chain.store.kv import CHAIN_DIRECTORY, LevelStore, Store
from chain.store.lending import LentStore
from chain.store.reader import load_stored_genesis
from chain.store.writer import ChainStore

OpenRemote = Callable[[str, Path | None, str | None], ChainSource]
"""Opens the chain of a running node by its multiaddress, the trusted genesis file (None: the usual one) and the SOCKS5
proxy to dial through (None: directly)."""

FindCheckpoint = Callable[[Path], Checkpoint | None]
"""The checkpoint that the owner of a data directory set there, if any."""


@contextmanager
def open_store(data_dir: Path | None) -> Iterator[Store]:
    """The database in a data directory, of the node that runs there or as a stopped one left it; or one by itself.

    Raises:
        StoreError: there is none, or it cannot be read.
    """
    path = data_dir or get_default_data_dir()
    store: Store
    try:
        store = LentStore(path)
    except OSError:  # no node runs there, or it has just begun or ended
        store = LevelStore(_find_store(path), create=False)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def open_chain_store(data_dir: Path | None) -> Iterator[ChainStore]:
    """The chain in a data directory, with its state."""
    with open_store(data_dir) as store:
        yield ChainStore(store, load_stored_genesis(store))


@contextmanager
def open_source(
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
        with open_store(path) as store:
            yield _require(StoreSource(store), genesis)


@contextmanager
def open_chain(
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
        with open_source(target, genesis, open_remote, proxy) as source:
            yield show_progress("Replaying", source.height, lambda tick: rebuild_chain(source, tick), False)
        return
    with open_store(None if target is None else Path(target)) as store:
        _require(StoreSource(store), genesis)
        yield ChainStore(store, load_stored_genesis(store))


def parse_checkpoint(text: str | None) -> Checkpoint | None:
    """The checkpoint of an option.

    Raises:
        ProofError: it is none.
    """
    try:
        return None if text is None else Checkpoint.parse(text)
    except ValueError as error:
        raise ProofError(f"--checkpoint: {error}") from error


def show_progress(label: str, total: int, work: Callable[[Callable[[int], None]], Any], quiet: bool) -> Any:
    """Do work that says how far it is, and show that on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task(label, total=total)
        return work(lambda height: progress.update(task, completed=height))


def _find_store(path: Path) -> Path:
    for directory in (path / CHAIN_DIRECTORY, path):
        if (directory / "CURRENT").exists():
            return directory
    raise StoreError(f"no chain in {path}: expected a data directory of a node, a database or an export file")


def _is_remote(target: str | None) -> TypeGuard[str]:
    return target is not None and target.startswith(("/ip4/", "/ip6/", "/dns"))


def _check_proxy(target: str | None, proxy: str | None) -> None:
    if proxy is not None and not _is_remote(target):
        raise StoreError("--socks5 is for a node at a multiaddress (/ip4/…/p2p/…); what is on this machine needs none")


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
