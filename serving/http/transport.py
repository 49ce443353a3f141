"""The bytes of one HTTP connection, over TCP or TLS, on both sides of the hot path.

Without TLS it takes less time than trio's stream. That stream tries to read before it waits, though the next request or
event has hardly ever come yet. With each piece that it writes it gives other tasks a turn, and a deadline takes a
cancel scope, though there is nearly always room for the piece. Here reading waits first, and writing waits only for
room.
"""

from __future__ import annotations

import math
import os

import trio

WRITES_PER_TURN = 16
"""Pieces that are written at once before other tasks get a turn. Reading gives them one each time."""


class Transport:
    """One connection: ``tcp``, secured by ``tls`` or in the clear. One task at a time reads, and one writes."""

    def __init__(self, tcp: trio.SocketStream, tls: trio.SSLStream | None = None) -> None:
        self._tcp = tcp
        self._tls = tls
        self._writes = 0
        """Since other tasks had a turn."""

    @property
    def is_secured(self) -> bool:
        """Whether it is over TLS."""
        return self._tls is not None

    async def receive(self, most: int) -> bytes:
        """What has come, up to so many bytes, once something has; ``b""`` at the end of the stream.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: the connection is broken, or closed here.
        """
        if self._tls is not None:
            return bytes(await self._tls.receive_some(most))
        while True:
            await trio.lowlevel.wait_readable(self._get_descriptor())
            try:
                return self.receive_nowait(most)
            except trio.WouldBlock:  # the system was wrong (BUGS in select(2))
                continue

    def receive_nowait(self, most: int) -> bytes:
        """Like :meth:`receive`, without waiting. Only for a connection that is not secured.

        Raises:
            trio.WouldBlock: nothing has.
            trio.BrokenResourceError, trio.ClosedResourceError: the connection is broken, or closed here.
        """
        try:
            return os.read(self._get_descriptor(), most)
        except BlockingIOError:
            raise trio.WouldBlock from None
        except OSError as error:
            raise _describe_broken(error) from error

    async def send(self, data: bytes, timeout_s: float = math.inf) -> None:
        """Write all of ``data``.

        Raises:
            trio.TooSlowError: not in so many seconds.
            trio.BrokenResourceError, trio.ClosedResourceError: the connection is broken, or closed here.
        """
        if self._tls is None:
            data = data[self._write(data) :]
            if not data and self._writes % WRITES_PER_TURN:
                return
        with trio.fail_after(timeout_s):
            await (self._tls or self._tcp).send_all(data)

    async def end(self) -> None:
        """Close the sending side. TLS has no half-closed connections.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: the connection is broken, or closed here.
        """
        if self._tls is None:
            await self._tcp.send_eof()

    async def abort(self) -> None:
        """Close at once, without a TLS close_notify."""
        await trio.aclose_forcefully(self._tls or self._tcp)

    def has_data(self) -> bool:
        """Whether something can be read, be it the end of the stream."""
        return self._tcp.socket.is_readable()

    def _write(self, data: bytes) -> int:
        """Write as much as there is room for; returns how much that was."""
        self._writes += 1
        try:
            return os.write(self._get_descriptor(), data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _describe_broken(error) from error

    def _get_descriptor(self) -> int:
        """The descriptor of the socket, read anew each time: after a close, the number may already belong to another
        file.

        Raises:
            trio.ClosedResourceError: it is closed.
        """
        descriptor = self._tcp.socket.fileno()
        if descriptor < 0:
            raise trio.ClosedResourceError("the connection was closed")
        return descriptor


def _describe_broken(error: OSError) -> trio.BrokenResourceError:
    """An error of the socket under the name that trio has for it."""
    return trio.BrokenResourceError(f"the connection is broken: {error}")
