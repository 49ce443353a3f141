"""A node's data directory: the names of the files in it, who may access them, and the lock that keeps others out.

The chain's database and the vote journal are named where they are opened (``chain.store.kv``,
``consensus.voting.disk``).
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chain.exceptions import StoreError, StoreInUse
from chain.files import SECRET_MODE

CONFIG_FILE = "config.yaml"
"""The owner's configuration; :mod:`serving.config.schema` defines its keys."""
SCHEMA_FILE = "config.schema.json"
"""What the configuration may hold, for editors: a JSON schema. The node does not read it."""
KEY_FILE = "key"
"""The node's private key; see :mod:`chain.keyfile`."""
GENESIS_FILE = "genesis.json"
"""The chain that the node belongs to."""
PEERS_FILE = "peers.db"
"""Addresses of peers from earlier runs; see :mod:`p2p.discovery.peer_store`."""
DUELS_DIRECTORY = "duels"
"""What the node must remember of duels; see :mod:`serving.quality.duels.table`."""
KEYS_DIRECTORY = "keys"
"""The API keys by their digests, and what was used of them; see :mod:`serving.keys.keyring`."""
ADMIN_TOKEN_FILE = "admin.token"
"""The token that the admin listener asks for."""
ADMIN_ADDRESS_FILE = "admin.address"
"""``HOST:PORT`` of the admin listener, while the node runs."""
SESSIONS_FILE = "sessions.ended"
"""Sessions of the dashboard that were ended before their time; see :mod:`serving.dashboard.ended_sessions`."""
LOCK_FILE = "lock"
"""Locked by the process that uses the directory."""

DIRECTORY_MODE = 0o700
"""Access mode of a data directory."""
OTHERS = 0o077
"""Permissions of all users but the owner; a data directory and its files grant none of them."""


class DirectoryNotPrivate(StoreError):
    """A data directory that other users have a hand in. The message says what to do."""


@contextmanager
def lock_data_dir(directory: Path) -> Iterator[bool]:
    """Hold a data directory against other processes and users; what is created meanwhile is its owner's alone.

    Yields whether other users had access to it before.

    Raises:
        StoreInUse: another process holds it.
        DirectoryNotPrivate: other users have a hand in it.
        OSError: it cannot be read or written.
    """
    was_open = close_to_others(directory)
    # Who can open the file can lock it, so only the owner may.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(directory / LOCK_FILE, flags, SECRET_MODE), "w") as file:  # noqa: PTH123  # a descriptor
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreInUse(f"{directory} is in use by another node process; stop it first") from error
        with create_private():
            yield was_open


@contextmanager
def create_private() -> Iterator[None]:
    """Let what this process creates be accessible to its owner alone."""
    mask = os.umask(OTHERS)
    try:
        yield
    finally:
        os.umask(mask)


def make_data_dir(directory: Path) -> None:
    """Make a data directory for its owner alone, or take one that is there and empty, or closed to others.

    Raises:
        DirectoryNotPrivate: other users have a hand in it.
        OSError: it cannot be made or read.
    """
    directory.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
    if directory.stat().st_mode & OTHERS and any(directory.iterdir()) and not (directory / KEY_FILE).exists():
        raise DirectoryNotPrivate(
            f"{directory} has other files in it and is open to other users, so it is not made a data directory; "
            f"choose an empty one with -d, or run chmod 700 {directory}"
        )
    close_to_others(directory)


def close_to_others(directory: Path) -> bool:
    """Take from other users all access to a data directory and to what is in it. Returns whether they had access.

    Raises:
        DirectoryNotPrivate: it is a directory that users share, or it or a file in it belongs to another user.
        OSError: it cannot be read.
    """
    if directory.stat().st_mode & stat.S_ISVTX:  # such as /tmp
        raise DirectoryNotPrivate(f"{directory} is a directory that users share; choose another with -d")
    was_open = _close(directory)
    for path in directory.iterdir():
        _close(path)
    return was_open


def _close(path: Path) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:  # a link to nothing, or a file that has just gone
        return False
    if status.st_uid not in (os.geteuid(), 0):
        raise DirectoryNotPrivate(
            f"{path} belongs to another user; run this as its owner, or give it to this user with chown"
        )
    if not status.st_mode & OTHERS or status.st_uid != os.geteuid():  # what root has put here is left as it is
        return False
    try:
        path.chmod(stat.S_IMODE(status.st_mode) & ~OTHERS)
    except OSError as error:
        raise DirectoryNotPrivate(f"{path} is open to other users and cannot be closed: {error.strerror}") from error
    return True
