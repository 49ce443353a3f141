"""The Unix sockets in a data directory, by which commands of the node's owner reach the running node.

Only the owner may open them (mode 0600, in a directory of mode 0700), and no other user's process is answered. There is
no port that another program may have, and no file that says where a node was that runs no longer: a socket to which
nothing listens refuses at once.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
import trio

from chain.files import SECRET_MODE, short_path
from chain.store.kv import Store
from chain.store.lending import SOCKET_FILE, lend

log = structlog.get_logger(__name__)

ADMIN_SOCKET_FILE = "admin.sock"
"""HTTP of the admin listener, without a token."""
BACKLOG = 16
"""Connections that wait to be accepted."""
MAX_READERS = 4
"""Readers of the ledger at a time; further ones wait."""
IDLE_TIMEOUT_S = 600.0
"""How long a reader may ask nothing. It holds a snapshot, for which the database keeps files."""


def listen_locally(path: Path) -> socket.socket | None:
    """A Unix socket that listens at ``path``, in place of one that a node left there; None if there can be none.

    The directory must be the owner's alone.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        with short_path(path) as name:
            listener.bind(name)
        path.chmod(SECRET_MODE)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        log.warning("commands cannot reach this node by a socket", path=str(path), error=error.strerror or str(error))
        return None
    return listener


def is_owner(connection: socket.socket) -> bool:
    """Whether the process at the other end is of this user, or root's; True where the system does not say."""
    peer_credentials = getattr(socket, "SO_PEERCRED", None)
    if peer_credentials is None:
        return True
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, peer_credentials, struct.calcsize("3i")))
    return user in (os.geteuid(), 0)


async def lend_ledger(directory: Path, store: Store, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
    """Lend the database to commands until cancelled; returns at once where there can be no socket."""
    found = listen_locally(directory / SOCKET_FILE)
    task_status.started()
    if found is None:
        return
    limiter = trio.CapacityLimiter(MAX_READERS)
    listener = trio.socket.from_stdlib_socket(found)
    try:
        with listener:
            async with trio.open_nursery() as nursery:
                while True:
                    accepted, _ = await listener.accept()
                    reader = socket.socket(fileno=accepted.detach())
                    if is_owner(reader) and len(nursery.child_tasks) < 4 * MAX_READERS:
                        nursery.start_soon(_lend, reader, store, limiter)
                    else:
                        reader.close()
    finally:
        (directory / SOCKET_FILE).unlink(missing_ok=True)


async def _lend(reader: socket.socket, store: Store, limiter: trio.CapacityLimiter) -> None:
    """Answer one reader in a thread. A cancellation ends the connection, and so the thread, which uses the store."""
    reader.settimeout(IDLE_TIMEOUT_S)
    with reader:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_when_cancelled, reader)
            await trio.to_thread.run_sync(lend, reader, store, limiter=limiter)
            nursery.cancel_scope.cancel()


async def _end_when_cancelled(reader: socket.socket) -> None:
    try:
        await trio.sleep_forever()
    finally:
        with suppress(OSError):
            reader.shutdown(socket.SHUT_RDWR)
