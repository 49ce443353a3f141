"""The data directory of a node that is stopped, for commands that work on its key, its ledger and its genesis file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from chain.cli.contract import CommandError
from chain.cli.options import get_default_data_dir
from chain.crypto import KeyPair
from chain.files import write_atomically
from chain.genesis import Genesis, load_genesis
from chain.keyfile import PassphraseNeeded, load_identity
from chain.store.layout import PAYMENTS_PREFIX
from consensus.voting.disk import DataDisk, NodeStorage, open_storage
from p2p.runtime import RealRuntime
from serving.config.data_directory import GENESIS_FILE, KEY_FILE, lock_data_dir

PASSPHRASE_VARIABLE = "WWWSERVE_PASSPHRASE"
"""Environment variable with the passphrase of the key file."""


def get_passphrase() -> str | None:
    """The passphrase in the environment, if there is one."""
    return os.environ.get(PASSPHRASE_VARIABLE) or None


def load_key(path: Path) -> KeyPair:
    """The key in a key file; its passphrase comes from the environment, or else from the terminal.

    Raises:
        IdentityError: it cannot be read; the message says what to do.
    """
    try:
        return load_identity(path, get_passphrase())
    except PassphraseNeeded as error:
        if not sys.stdin.isatty():
            raise PassphraseNeeded(f"{error}, in the environment variable {PASSPHRASE_VARIABLE}") from error
    return load_identity(path, typer.prompt("passphrase", hide_input=True))


def load_own_genesis(directory: Path) -> Genesis:
    """The genesis in a data directory.

    Raises:
        CommandError: there is none.
        GenesisError: it cannot be used.
    """
    path = directory / GENESIS_FILE
    if not path.exists():
        raise CommandError(f"no genesis file {path}; copy it from another node of the chain")
    return load_genesis(path)


@contextmanager
def open_stopped_node(data_dir: Path | None) -> Iterator[tuple[NodeStorage, KeyPair]]:
    """The ledger, the votes and the key in a data directory.

    Raises:
        CommandError: there is no node in it.
        StoreInUse: its node is running.
    """
    directory = data_dir or get_default_data_dir()
    if not (directory / KEY_FILE).exists():
        raise CommandError(f"no node in {directory}; name its data directory with -d")
    genesis, key, runtime = load_own_genesis(directory), load_key(directory / KEY_FILE), RealRuntime()
    with lock_data_dir(directory):
        disk = DataDisk(directory, runtime.now)
        opened = open_storage(disk, genesis, key, runtime.random, votes=True, kept=(PAYMENTS_PREFIX,))
        try:
            yield opened, key
        finally:
            opened.close()


def replace_genesis(data_dir: Path | None, content: str) -> None:
    """Replace the genesis file in a data directory, atomically and durably.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically((data_dir or get_default_data_dir()) / GENESIS_FILE, content.encode())
