"""``wwwserve backup`` and ``wwwserve restore``: a node in a file, and a node again from it.

:mod:`serving.config.backup_file` says what is in the file. The vote journal is not, so that a restored validator waits
before it votes (:mod:`consensus.voting.lockout`), even if the first machine runs on.
"""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from chain.cli.contract import CommandError, print_result
from chain.cli.options import AsJson, DataDir, get_default_data_dir
from chain.cli.text import format_count
from chain.crypto import parse_address
from chain.exceptions import StoreInUse
from chain.files import SECRET_MODE, write_atomically
from chain.genesis import Genesis
from chain.store.kv import CHAIN_DIRECTORY
from consensus.voting.disk import JOURNAL_FILE
from p2p.runtime import RealRuntime
from serving.cli.ledger.stopped_node import get_passphrase
from serving.cli.running.admin_client import ask_node
from serving.config.backup_file import (
    MAX_BACKUP_BYTES,
    Backup,
    BackupSealed,
    decode_backup,
    find_named_files,
)
from serving.config.data_directory import (
    CONFIG_FILE,
    DUELS_DIRECTORY,
    GENESIS_FILE,
    KEY_FILE,
    KEYS_DIRECTORY,
    PEERS_FILE,
    lock_data_dir,
    make_data_dir,
)
from serving.config.file import load_config
from serving.keys.keyring import import_keyring, open_keyring

OWN_FILES = (
    KEY_FILE, GENESIS_FILE, CONFIG_FILE, JOURNAL_FILE, CHAIN_DIRECTORY, KEYS_DIRECTORY, DUELS_DIRECTORY, PEERS_FILE,
)  # fmt: skip
"""What is a node's own in its data directory."""

Force = Annotated[bool, typer.Option("--force", help="Also where something is already.")]


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write, for its owner alone (mode 0600).")],
    data_dir: DataDir = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write key, configuration, genesis and API keys to a file. The node may run; WWWSERVE_PASSPHRASE seals it."""
    directory = data_dir or get_default_data_dir()
    if not (directory / KEY_FILE).exists():
        raise CommandError(f"no node in {directory}; name its data directory with -d")
    if file.exists() and not force:
        raise CommandError(f"{file} exists already", hint="name another file, or replace it with --force")
    named = [KEY_FILE, GENESIS_FILE, CONFIG_FILE, *find_named_files(load_config(directory / CONFIG_FILE))]
    files = {}
    for name in named:
        try:
            files[name] = (directory / name).read_bytes()
        except OSError as error:
            raise CommandError(f"cannot read {directory / name}: {error.strerror}") from error
    kept = Backup(files, tuple(_read_api_keys(data_dir, directory)))
    passphrase = get_passphrase()
    made = datetime.fromtimestamp(RealRuntime().now() // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    address, genesis, _ = kept.check(str(directory))
    try:
        write_atomically(file, kept.encode(made, passphrase), mode=SECRET_MODE, replace=force)
    except FileExistsError:
        raise CommandError(f"{file} exists already", hint="name another file, or replace it with --force") from None
    except OSError as error:
        raise CommandError(f"cannot write {file}: {error.strerror}") from error
    content = {
        "file": str(file),
        "address": address,
        "chain": genesis.name,
        "chain_id": genesis.chain_id.hex(),
        "files": sorted(files),
        "api_keys": len(kept.api_keys),
        "sealed": passphrase is not None,
    }
    print_result(
        content, as_json,
        f"{file} has the key of {address}, its chain {genesis.name} and {format_count(len(kept.api_keys), 'API key')}",
        "it is sealed under your passphrase" if passphrase is not None
        else "whoever reads it has your account: keep it where only you can, or seal it with WWWSERVE_PASSPHRASE",
    )  # fmt: skip


def restore(
    file: Annotated[Path, typer.Argument(help="What 'wwwserve backup' wrote.")],
    data_dir: DataDir = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make a node again from a backup. It fetches the chain, and a validator waits before it votes."""
    directory = data_dir or get_default_data_dir()
    kept = _read_backup(file)
    address, genesis, _ = kept.check(str(file))
    aside = None
    try:
        make_data_dir(directory)
        with lock_data_dir(directory):
            if found := [name for name in OWN_FILES if (directory / name).exists()]:
                if not force:
                    raise CommandError(
                        f"{directory} has a node already ({', '.join(found)})",
                        hint="choose another directory with -d, or move that node aside with --force",
                    )
                aside = _move_aside(directory, found)
            _write_files(directory, kept)
    except OSError as error:
        raise CommandError(f"cannot write {directory}: {error.strerror}; choose another directory with -d") from error
    content = {
        "address": address,
        "chain": genesis.name,
        "chain_id": genesis.chain_id.hex(),
        "directory": str(directory),
        "api_keys": len(kept.api_keys),
        "moved_aside_to": None if aside is None else str(aside),
    }
    print_result(content, as_json, *_describe_restored(content, genesis))


def _describe_restored(content: dict[str, Any], genesis: Genesis) -> list[str]:
    directory, aside = content["directory"], content["moved_aside_to"]
    lines = [
        f"address  {content['address']}",
        f"chain    {content['chain']} ({content['chain_id'][:8]})",
        *(() if aside is None else (f"the node that was here is in {aside} now",)),
        "it begins without the ledger, which it fetches from others, and without its votes. If it is a validator, it "
        "votes from the epoch after the one in which an operation that it makes is final; the machine that this key "
        "voted on before votes no more from then on. End the node there: two nodes with one key disturb each other.",
    ]
    if {each.public_key for each in genesis.validators} == {parse_address(content["address"])}:
        lines.append(
            "This chain began with this validator alone. If it still is alone, no other can bring the ledger back or "
            "let it vote: then move the whole data directory of the stopped node instead."
        )
    return [*lines, f"start it with: wwwserve run -d {directory}"]


def _read_api_keys(data_dir: Path | None, directory: Path) -> list[dict[str, Any]]:
    """The API keys of a node, from its files or, if it runs, from itself."""
    if not (directory / KEYS_DIRECTORY).exists():
        return []
    try:
        with (
            lock_data_dir(directory),
            closing(open_keyring(directory / KEYS_DIRECTORY, RealRuntime())) as keys,
        ):
            return keys.export()
    except StoreInUse:
        found: list[dict[str, Any]] = ask_node(data_dir, "GET", "/keys/backup")["keys"]
        return found


def _read_backup(file: Path) -> Backup:
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_BACKUP_BYTES + 1)
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}") from error
    try:
        return decode_backup(raw, str(file), get_passphrase())
    except BackupSealed as error:
        raise CommandError(str(error), hint="put it into the environment variable WWWSERVE_PASSPHRASE") from error


def _write_files(directory: Path, kept: Backup) -> None:
    """Write a node's files; the key last, without which there is none."""
    if kept.api_keys:
        import_keyring(directory / KEYS_DIRECTORY, kept.api_keys)
    for name in sorted(kept.files, key=lambda name: name == KEY_FILE):
        write_atomically(directory / name, kept.files[name], mode=SECRET_MODE)


def _move_aside(directory: Path, names: list[str]) -> Path:
    """Move what is a node's own into a new directory beside it: the vote journal above all is never lost."""
    stamp = datetime.fromtimestamp(RealRuntime().now() // 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = directory / f"replaced-{stamp}"
    while aside.exists():
        aside = aside.with_name(aside.name + "x")
    aside.mkdir(0o700)
    for name in sorted(names, key=lambda name: name != KEY_FILE):  # first the key: half of a node is none
        (directory / name).rename(aside / name)
    return aside
