"""A node's data directory: the names of the files in it, and the lock that keeps a second process out.

The chain's database and the vote journal are named where they are opened (``chain.store.kv``,
``consensus.voting.disk``).
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chain.exceptions import StoreInUse

CONFIG_FILE = "config.yaml"
"""The owner's configuration; :mod:`serving.config.schema` defines its keys."""
KEY_FILE = "key"
"""The node's private key; see :mod:`chain.keyfile`."""
GENESIS_FILE = "genesis.json"
"""The chain that the node belongs to."""
PEERS_FILE = "peers.db"
"""Addresses of peers from earlier runs; see :mod:`p2p.discovery.peer_store`."""
ADMIN_TOKEN_FILE = "admin.token"
"""The token that the admin listener asks for."""
ADMIN_ADDRESS_FILE = "admin.address"
"""``HOST:PORT`` of the admin listener, while the node runs."""
LOCK_FILE = "lock"
"""Locked by the process that uses the directory."""


@contextmanager
def lock_data_dir(directory: Path) -> Iterator[None]:
    """Hold a data directory against other processes.

    Raises:
        StoreInUse: another process holds it.
    """
    with (directory / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreInUse(f"{directory} is in use by another node process; stop it first") from error
        yield
