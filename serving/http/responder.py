"""How a handler of the HTTP server answers a request: the bytes of the response (RFC 9112), written by hand."""

from __future__ import annotations

import re
from typing import Protocol

from serving.http.messages import TOKEN, Headers

JSON = b"application/json"
"""Content type of a response, unless the handler names another."""
CONTINUE = b"HTTP/1.1 100 \r\n\r\n"
"""The answer to a client that asks before it sends its body."""
LAST_CHUNK = b"0\r\n\r\n"
"""The end of a body in chunks."""
BODYLESS_STATUSES = (204, 304)
"""Statuses of responses that have no body (RFC 9110, sections 15.3.5 and 15.4.5)."""
_FIELD = re.compile(TOKEN + rb": [\t\x20-\x7e\x80-\xff]*\r\n")
"""A header. A line break within one would begin another header, or the body."""


class ClientGone(Exception):
    """The client has disconnected, or has not read what was sent to it for too long."""


class Connection(Protocol):
    """The connection that a response goes to."""

    is_last: bool
    """Whether it carries no request after this one."""

    def date(self) -> bytes:
        """Value of the ``Date`` header."""

    async def send(self, data: bytes) -> None:
        """Write all of ``data``.

        Raises:
            ClientGone: the connection is broken, or the client has stopped reading.
        """


class Responder:
    """The way a handler answers: :meth:`reply` at once, or :meth:`start`, any number of :meth:`send`, :meth:`end`.

    It answers a request with ``method``. ``can_chunk``: the client understands chunked bodies, as with HTTP/1.1. Every
    method raises :class:`ClientGone` if the client cannot be written to; handlers let it pass.
    """

    def __init__(self, connection: Connection, method: str, *, can_chunk: bool = False) -> None:
        self._connection = connection
        self._is_bodyless = method == "HEAD"
        self._can_chunk = can_chunk
        self.common_headers: list[tuple[bytes, bytes]] = []
        """Headers of the response, whatever it will be."""
        self.started = False
        self.ended = False

    async def reply(self, status: int, body: bytes, content_type: bytes = JSON, headers: Headers = ()) -> None:
        """Send a whole response, its length declared, unless its status says that there is no body."""
        framing = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
        head = self._begin(status, headers if status in BODYLESS_STATUSES else [*framing, *headers])
        await self._connection.send(head if self._is_bodyless else head + body)
        self.ended = True

    async def start(self, status: int, headers: Headers) -> None:
        """Send the head of a response whose body follows piece by piece.

        The body is chunked, or ends with the connection.
        """
        is_chunked = self._can_chunk and status not in BODYLESS_STATUSES
        framing = [(b"transfer-encoding", b"chunked")] if is_chunked else []
        await self._connection.send(self._begin(status, [*headers, *framing]))

    async def send(self, chunk: bytes) -> None:
        """Send a piece of the body; waits while the client is slow."""
        self._check_open()
        if chunk and not self._is_bodyless:
            await self._connection.send(b"%x\r\n%s\r\n" % (len(chunk), chunk) if self._can_chunk else chunk)

    async def end(self) -> None:
        """Say that the body is complete."""
        self._check_open()
        if self._can_chunk and not self._is_bodyless:
            await self._connection.send(LAST_CHUNK)
        self.ended = True

    def _begin(self, status: int, headers: Headers) -> bytes:
        """The head of the response."""
        if self.started:
            raise RuntimeError("the response has started already")
        lines = [b"HTTP/1.1 %d \r\n" % status, b"date: %s\r\n" % self._connection.date()]
        for name, value in (*self.common_headers, *headers):
            line = b"%s: %s\r\n" % (name, value)
            if _FIELD.fullmatch(line) is None:
                raise ValueError("a header of the response is malformed")
            lines.append(line)
        lines.append(b"connection: close\r\n\r\n" if self._connection.is_last else b"\r\n")
        self._is_bodyless = self._is_bodyless or status in BODYLESS_STATUSES
        self.started = True
        return b"".join(lines)

    def _check_open(self) -> None:
        if self.ended or not self.started:
            raise RuntimeError("a piece of a response that has not started, or has ended")
