"""Guards of an encrypted connection below the multiplexer: how it is read, and its locks."""

from __future__ import annotations

import trio
from libp2p.abc import ISecureConn
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.security.noise.io import BaseNoiseMsgReadWriter
from libp2p.security.secure_session import SecureSession

READ_BYTES = 64 << 10
"""Bytes that are taken off a connection at once."""


class EagerLock:
    """Like ``trio.Lock`` in ``async with``, but a free lock is taken without a checkpoint.

    It does not record its owner either, which is most of the cost of ``trio.Lock``.
    """

    __slots__ = ("_is_taken", "_waiting")

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        if self._is_taken:
            await self._waiting.park()  # the task that leaves passes the lock on
        self._is_taken = True

    async def __aexit__(self, *_: object) -> None:
        self._is_taken = bool(self._waiting.unpark())

    def write_lock(self) -> EagerLock:
        """The library has a readers-writer lock here, and uses only the writer's half."""
        return self


class BufferedReads:
    """Each message of the peer is read in two system calls: one for its length of two bytes, one for the rest.

    Here one call reads all that has come. Delete when the library does that.
    """

    def __init__(self, connection: ReadWriteCloser) -> None:
        self._read = connection.read
        self._buffer = b""
        self._start = 0
        self.stream = getattr(connection, "stream", None)
        self.write = connection.write
        self.close = connection.close
        self.get_remote_address = connection.get_remote_address

    async def read(self, n: int | None = None) -> bytes:
        if self._start == len(self._buffer):
            self._buffer, self._start = await self._read(READ_BYTES), 0
        end = len(self._buffer) if n is None else self._start + n
        data = self._buffer[self._start : end]
        self._start += len(data)
        return data


class DecryptedReads:
    """Decrypted bytes are read out of a file in memory, which takes a dozen calls for the twelve bytes of a header.

    Here they are sliced from a buffer; the length of this object is the number of unread bytes. Delete when reading
    buffered bytes costs about as much as a slice.
    """

    def __init__(self, connection: ISecureConn) -> None:
        self._read = connection.read
        self._data = b""
        self._start = 0
        self.heard_at = trio.current_time()
        """When bytes last arrived."""

    def __len__(self) -> int:
        return len(self._data) - self._start

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes, which are here."""
        end = self._start + size
        data = self._data[self._start : end]
        self._start = end
        return data

    async def read(self, n: int | None = None) -> bytes:
        """The next ``n`` bytes, once they have come; None: what is here, or else the next message."""
        size = 1 if n is None else n
        if len(self) < size:
            data = bytearray(self._data[self._start :])
            while len(data) < size:
                data += await self._read(None)
                self.heard_at = trio.current_time()
            self._data, self._start = bytes(data), 0
        return self.take(len(self) if n is None else n)


def ease_connection(connection: ISecureConn) -> None:
    """Reads and writes of a connection wait even for a free lock; see also :class:`BufferedReads`.

    Here a free lock is taken at once. Delete when the library does that.
    """
    encrypted = connection.conn if isinstance(connection, SecureSession) else None
    if isinstance(encrypted, BaseNoiseMsgReadWriter):
        messages = encrypted.read_writer
        raw = messages.read_write_closer
        vars(messages)["read_write_closer"] = BufferedReads(raw)
        if isinstance(raw, RawConnection) and isinstance(raw.stream, TrioTCPStream):
            vars(raw.stream)["read_lock"] = EagerLock()
            vars(raw.stream)["write_lock"] = EagerLock()
