"""The database of a running node, read by another process on the same machine through a Unix socket.

LevelDB lets one process in. The node lends others a snapshot of what it holds, so that a command reads the same from a
node that runs as from what a stopped one left, by the same code. A reader can change nothing.

A request is a length (4 bytes, big-endian) and a list: ``get`` and a key; ``items``, a prefix and the key to go on
after; or ``last`` and the arguments of :meth:`chain.store.kv.Store.last_keys`. The answer is a length and a list:
``ok`` and the value, the keys, or the entries as far as they fit; or ``error``, its text and whether it is damage. A
reader sees what was there when it connected.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from chain.codec import pack, unpack
from chain.exceptions import CodecError, StoreDamaged, StoreError
from chain.files import short_path
from chain.store.kv import Changes, Store

SOCKET_FILE = "ledger.sock"
"""The socket in a node's data directory."""
PAGE_BYTES = 256 * 1024
"""Entries of one answer, by their size: it ends with the one that reaches it."""
MAX_REQUEST_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 512 << 20
"""Largest answer: an undo entry and its key."""
READ_TIMEOUT_S = 30.0
"""How long a node may take to answer a reader."""


def lend(connection: socket.socket, store: Store) -> None:
    """Answer a reader from what ``store`` holds now, until it has gone."""
    with connection, store.snapshot() as snapshot, suppress(OSError), suppress(ValueError):  # nonsense
        while (request := _receive(connection, MAX_REQUEST_BYTES)) is not None:
            try:
                answer = ["ok", _answer(snapshot, request)]
            except StoreError as error:
                answer = ["error", str(error), isinstance(error, StoreDamaged)]
            _send(connection, answer)


def _answer(store: Store, request: Any) -> Any:
    match request:
        case ["get", bytes() as key]:
            return store.get(key)
        case ["last", bytes() as start, bytes() as stop, int() as limit] if limit > 0:
            return store.last_keys(start, stop, limit)
        case ["items", bytes() as prefix, bytes() as after]:
            entries, size = [], 0
            for key, value in store.items(prefix, after):
                entries.append([key, value])
                size += len(key) + len(value)
                if size >= PAGE_BYTES:
                    break
            return entries
    raise ValueError("not a request")


class LentStore:
    """The database of the node that runs in a data directory, as a :class:`chain.store.kv.Store` that only reads.

    Raises:
        FileNotFoundError, ConnectionRefusedError: no node lends one there.
        StoreError: the node has gone, or what it holds is damaged; from every method.
    """

    def __init__(self, data_dir: Path, connection: socket.socket | None = None) -> None:
        """``connection`` is one to the lender, if there is one already."""
        self._path = data_dir
        self._lock = threading.Lock()
        self._connection = connection or socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connection.settimeout(READ_TIMEOUT_S)
        if connection is not None:
            return
        try:
            with short_path(data_dir / SOCKET_FILE) as path:
                self._connection.connect(path)
        except BaseException:
            self._connection.close()
            raise

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._ask(["get", key])
        return value

    def items(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        while entries := self._ask(["items", prefix, after]):
            yield from ((key, value) for key, value in entries)
            after = entries[-1][0]

    def last_keys(self, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        keys: list[bytes] = self._ask(["last", start, stop, limit])
        return keys

    @contextmanager
    def snapshot(self) -> Iterator[LentStore]:
        yield self

    def write(self, changes: Changes, is_synced: bool = True) -> None:
        raise StoreError(f"the database of the node that runs in {self._path} cannot be written to by others")

    def close(self) -> None:
        self._connection.close()

    def _ask(self, request: list[Any]) -> Any:
        try:
            with self._lock:
                _send(self._connection, request)
                answer = _receive(self._connection, MAX_ANSWER_BYTES)
        except (OSError, ValueError) as error:
            raise StoreError(f"the node that runs in {self._path} does not answer: {error}") from error
        match answer:
            case ["ok", value]:
                return value
            case ["error", str() as text, bool() as is_damage]:
                raise StoreDamaged(text) if is_damage else StoreError(text)
        raise StoreError(f"the node that runs in {self._path} has ended")


def _send(connection: socket.socket, content: list[Any]) -> None:
    raw = pack(content)
    connection.sendall(len(raw).to_bytes(4, "big") + raw)


def _receive(connection: socket.socket, limit: int) -> Any:
    """The next list; None if the other side has gone.

    Raises:
        ValueError: it is too long or malformed.
    """
    head = _take(connection, 4)
    if head is None:
        return None
    size = int.from_bytes(head, "big")
    if size > limit:
        raise ValueError(f"{size} bytes, more than {limit}")
    raw = _take(connection, size)
    try:
        return None if raw is None else unpack(raw, limit)
    except CodecError as error:
        raise ValueError(str(error)) from error


def _take(connection: socket.socket, size: int) -> bytes | None:
    raw = bytearray()
    while len(raw) < size:
        part = connection.recv(min(size - len(raw), 1 << 20))
        if not part:
            return None
        raw += part
    return bytes(raw)
