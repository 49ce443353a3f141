"""How a handler of the HTTP server answers a request."""

from __future__ import annotations

from typing import Protocol

import h11

from serving.http.messages import Headers

JSON = b"application/json"
"""Content type of a response, unless the handler names another."""


class ClientGone(Exception):
    """The client has disconnected, or has not read what was sent to it for too long."""


class Connection(Protocol):
    """The connection that a response goes to."""

    protocol: h11.Connection

    def date(self) -> bytes:
        """Value of the ``Date`` header."""

    async def send(self, data: bytes) -> None:
        """Write all of ``data``.

        Raises:
            ClientGone: the connection is broken, or the client has stopped reading.
        """


class Responder:
    """The way a handler answers: :meth:`reply` at once, or :meth:`start`, any number of :meth:`send`, :meth:`end`.

    Every method raises :class:`ClientGone` if the client cannot be written to; handlers let it pass.
    """

    def __init__(self, connection: Connection, method: str) -> None:
        self._connection = connection
        self._bodyless = method == "HEAD"
        self.common_headers: list[tuple[bytes, bytes]] = []
        """Headers of the response, whatever it will be."""
        self.started = False
        self.ended = False

    async def reply(self, status: int, body: bytes, content_type: bytes = JSON, headers: Headers = ()) -> None:
        """Send a whole response, its length declared."""
        head = self._head(status, [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers])
        protocol = self._connection.protocol
        data = b"" if self._bodyless else protocol.send(h11.Data(data=body)) or b""
        end = protocol.send(h11.EndOfMessage()) or b""
        await self._connection.send(head + data + end)
        self.ended = True

    async def start(self, status: int, headers: Headers) -> None:
        """Send the head of a response whose body follows piece by piece, in chunked encoding."""
        await self._connection.send(self._head(status, headers))

    async def send(self, chunk: bytes) -> None:
        """Send a piece of the body; waits while the client is slow."""
        if not self._bodyless and chunk:
            await self._connection.send(self._connection.protocol.send(h11.Data(data=chunk)) or b"")

    async def end(self) -> None:
        """Say that the body is complete."""
        await self._connection.send(self._connection.protocol.send(h11.EndOfMessage()) or b"")
        self.ended = True

    def _head(self, status: int, headers: Headers) -> bytes:
        all_headers = [(b"date", self._connection.date()), *self.common_headers, *headers]
        head = self._connection.protocol.send(h11.Response(status_code=status, headers=all_headers)) or b""
        self.started = True
        return head
