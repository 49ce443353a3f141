"""HTTP/1.1 connections to one server, kept open between requests: how a node talks to a backend.

Bodies are handed on as they arrive, after transfer decoding and without being looked at. A request is cancelled by
leaving its context before the body has ended: the connection is then closed at once, which every serving engine takes
as the sign to stop generating.

It is written by hand because of the cost. Even when this pool still used h11, the pool of httpcore 1.0.9 took three
times its CPU for an answer in one piece (1.2 ms instead of 0.4 ms, the HTTP front of the relay included) and over four
times for a stream of 16 pieces (3.6 ms instead of 0.8 ms), with 16 requests at a time.
"""

from __future__ import annotations

import math
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import trio

from serving.http.idle_connections import IdleConnections
from serving.http.messages import Headers, find_header
from serving.http.response_reader import MalformedResponse, ResponseHead, ResponseReader
from serving.http.transport import Transport

RESPONSE_READ_BYTES = 65536
"""Most bytes of one read from a socket."""
UNGATHERED_PIECES = 8
"""Pieces of a body that are taken as they come, after an interval without any: gathering a slow body would cost
twice."""
RESEND_WITHIN_S = 1.0
"""Longest time until a kept connection that the server had already closed is found dead."""


class HttpClientError(Exception):
    """The server could not be reached, was too slow, or broke off."""


@dataclass(frozen=True, slots=True)
class HttpTimeouts:
    """Patience in seconds."""

    connect_s: float = 5.0  # to open a connection, the TLS handshake included
    first_byte_s: float = 30.0  # from the start of a request to the first byte of the response's body
    stall_s: float = 15.0  # for each piece of the body (the first has the later of both limits)


@dataclass(frozen=True, slots=True)
class BaseUrl:
    """Where a server is: ``prefix`` is the path in front of every request path, without a final slash."""

    tls: bool
    host: str
    port: int
    prefix: str

    @classmethod
    def parse(cls, url: str) -> BaseUrl:
        """Parse an ``http`` or ``https`` URL. A final ``/v1`` is dropped: request paths carry it.

        Raises:
            ValueError: another scheme, no host, or a query.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"not the base URL of an HTTP server: {url!r}")
        if not parts.hostname.isascii():
            raise ValueError(f"write the host of {url!r} in its ASCII (xn--) form")
        if not (parts.hostname + parts.path).isprintable() or not parts.path.isascii() or " " in parts.path:
            raise ValueError(f"write the path of {url!r} with percent signs")
        tls = parts.scheme == "https"
        prefix = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
        return cls(tls, parts.hostname, parts.port or (443 if tls else 80), prefix)

    @property
    def authority(self) -> str:
        """Value of the ``Host`` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


class HttpResponse:
    """Head of a response, and its body as an asynchronous iterator of the pieces in which it arrives.

    It has a connection of ``pool`` until its context is left.
    """

    def __init__(
        self, pool: HttpPool, head: ResponseHead, connection: _Connection, timeouts: HttpTimeouts, deadline: float
    ) -> None:
        self.status = head.status
        self.headers: Headers = head.headers
        self._pool = pool
        self._connection = connection
        self._timeouts = timeouts
        self._deadline = deadline  # of the first piece
        self._interval = 0.0
        self._is_behind = False
        self._ungathered = 0  # pieces to come that are not waited for

    def gather(self, interval: float) -> bool:
        """From now on, return all that arrives until the next multiple of ``interval`` seconds as one piece.

        A piece costs about the same whatever its length. A body too fast for one read per interval is not slowed down.
        After an interval without bytes, the next pieces are returned as they come.
        """
        self._interval = interval
        return True

    async def __aenter__(self) -> HttpResponse:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Give the connection back: no more of the body is read."""
        await self._pool.take_back(self._connection)

    def header(self, name: bytes) -> bytes | None:
        """Value of the first header called ``name`` (lower case), or None."""
        return find_header(self.headers, name)

    def __aiter__(self) -> HttpResponse:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._gather() if self._interval else self._connection.take_body()
        if not piece and not self._connection.is_body_over:
            # Counted from here, so that the time of a slow reader between two pieces is not charged to the server.
            deadline = max(self._deadline, trio.current_time() + self._timeouts.stall_s)
            piece = await self._connection.receive_body(deadline)
        if not piece:
            raise StopAsyncIteration
        self._deadline = 0.0
        self._is_behind = len(piece) >= RESPONSE_READ_BYTES // 2
        return piece

    async def _gather(self) -> bytes:
        """Wait for the next multiple of the interval. Returns what has come by then."""
        if self._is_behind or self._connection.is_body_over:
            return b""
        if self._ungathered:
            self._ungathered -= 1
            return b""
        await trio.sleep_until((math.floor(trio.current_time() / self._interval) + 1) * self._interval)
        piece = self._connection.take_arrived()
        if piece == b"":
            self._ungathered = UNGATHERED_PIECES
        return piece or b""

    async def read(self, limit: int = 16 * 1024 * 1024) -> bytes:
        """The rest of the body in one piece.

        Raises:
            HttpClientError: over ``limit`` bytes, or the server broke off.
        """
        body = bytearray()
        async for piece in self:
            body += piece
            if len(body) > limit:
                raise HttpClientError(f"the body is larger than {limit} bytes")
        return bytes(body)


class HttpPool:
    """Requests to one server over at most ``max_connections`` connections; further requests wait for one."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeouts: HttpTimeouts | None = None,
        max_connections: int = 256,
        max_idle: int = 64,
        max_age: float = 4.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """``max_age`` (s) bounds the reuse of idle connections, ``ssl_context`` replaces the system's trust.

        Raises:
            ValueError: ``base_url`` is not one, or ``api_key`` cannot be one.
        """
        self.url = BaseUrl.parse(base_url)
        self.timeouts = timeouts or HttpTimeouts()
        self._ssl = (ssl_context or ssl.create_default_context()) if self.url.tls else None
        self._slots = trio.Semaphore(max_connections)
        self._idle: IdleConnections[_Connection] = IdleConnections(max_idle, max_age)
        headers = f"host: {self.url.authority}\r\naccept-encoding: identity\r\n"
        if api_key:
            if not api_key.isprintable():
                raise ValueError("an API key has no control characters")
            headers += f"authorization: Bearer {api_key}\r\n"
        self._headers = headers.encode()

    @asynccontextmanager
    async def request(
        self, method: str, path: str, body: bytes = b"", timeouts: HttpTimeouts | None = None
    ) -> AsyncIterator[HttpResponse]:
        """Send a request and enter with the head of the response: see :meth:`send`."""
        async with await self.send(method, path, body, timeouts) as response:
            yield response

    async def send(
        self, method: str, path: str, body: bytes = b"", timeouts: HttpTimeouts | None = None
    ) -> HttpResponse:
        """Send a request (a body is sent as JSON) and return the response, whose context must be entered.

        If a kept connection turns out to be dead before any byte of a response, within :data:`RESEND_WITHIN_S`, the
        request is sent once more over a fresh connection. After that time the server may have worked on it, and would
        do so again.

        Raises:
            HttpClientError: the server does not answer.
        """
        timeouts, now = timeouts or self.timeouts, trio.current_time()
        deadline = now + timeouts.first_byte_s
        request = self._write_request(method, path, body)
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            await self._acquire_slot(deadline)
            now = trio.current_time()
        try:
            connection, response = await self._exchange(request, timeouts, deadline, now)
        except BaseException:
            self._slots.release()
            raise
        return HttpResponse(self, response, connection, timeouts, deadline)

    async def take_back(self, connection: _Connection) -> None:
        """A response has been read as far as it will be; its connection is kept if it is of further use."""
        try:
            useless = self._idle.put(connection, trio.current_time()) if connection.finish() else [connection]
            for old in useless:
                await old.close()
        finally:
            self._slots.release()

    async def aclose(self) -> None:
        """Close the connections that are kept. The pool remains usable."""
        for connection in self._idle.clear():
            await connection.close()

    async def _acquire_slot(self, deadline: float) -> None:
        with trio.CancelScope(deadline=deadline):
            await self._slots.acquire()
            return
        raise HttpClientError(f"no free connection to {self.url.authority} in time")

    def _write_request(self, method: str, path: str, body: bytes) -> bytes:
        head = b"%s %s HTTP/1.1\r\n%s" % (method.encode(), (self.url.prefix + path).encode(), self._headers)
        if not body:
            return head + b"\r\n"
        return b"%scontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (head, len(body), body)

    async def _exchange(
        self, request: bytes, timeouts: HttpTimeouts, deadline: float, now: float
    ) -> tuple[_Connection, ResponseHead]:
        """Send the request over a kept or fresh connection and receive the head of the response."""
        connection, useless = self._idle.take(now)
        for old in useless:
            await old.close()
        if connection is not None:
            try:
                return connection, await connection.exchange(request, deadline)
            except _DeadConnection:
                if trio.current_time() - now > RESEND_WITHIN_S:
                    raise HttpClientError("the server closed the connection without an answer") from None
        connection = await self._connect(timeouts)
        try:
            return connection, await connection.exchange(request, deadline)
        except _DeadConnection:
            raise HttpClientError("the server closed the connection without an answer") from None

    async def _connect(self, timeouts: HttpTimeouts) -> _Connection:
        url = self.url
        try:
            with trio.fail_after(timeouts.connect_s):
                tcp = await trio.open_tcp_stream(url.host, url.port)
                if self._ssl is None:
                    return _Connection(Transport(tcp))
                tls = trio.SSLStream(tcp, self._ssl, server_hostname=url.host, https_compatible=True)
                try:
                    await tls.do_handshake()
                except BaseException:
                    await trio.aclose_forcefully(tcp)
                    raise
                return _Connection(Transport(tcp, tls))
        except trio.TooSlowError:
            raise HttpClientError(f"no connection to {url.authority} within {timeouts.connect_s:g} s") from None
        except (OSError, trio.BrokenResourceError) as error:
            raise HttpClientError(f"cannot connect to {url.authority}: {_describe_cause(error)}") from error


def _describe_cause(error: BaseException) -> str:
    """Why a connection failed; if several addresses were tried, the reason for the first."""
    cause = error.__cause__ or error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError | socket.gaierror) and cause.errno:
        return os.strerror(cause.errno)
    return str(cause)


class _DeadConnection(Exception):
    """The connection ended before any byte of a response."""


class _Connection:
    """One connection: the exchange that runs over it, if any."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._reader = ResponseReader()
        self._body = b""
        """What came of the body together with the head."""

    def is_usable(self) -> bool:
        """Whether an idle connection has nothing to read: neither the end of the stream nor unexpected bytes."""
        return not self._transport.has_data()

    async def exchange(self, request: bytes, deadline: float) -> ResponseHead:
        """Send a request and receive the head of its response. On any exception the connection is closed.

        Raises:
            _DeadConnection: it ended before any byte of a response.
            HttpClientError: no response by ``deadline``, or a malformed one.
        """
        try:
            return await self._exchange(request, deadline)
        except BaseException:
            await self.close()
            raise

    async def _exchange(self, request: bytes, deadline: float) -> ResponseHead:
        with trio.CancelScope(deadline=deadline) as scope:
            # A server that answers without reading the whole request may close at once: its response can still be read.
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._transport.send(request)
            received = False
            while True:
                data = await self._receive()
                if not data:
                    if received:
                        raise HttpClientError("the server closed the connection without an answer")
                    raise _DeadConnection
                received = True
                self._body = self._read(data)
                if self._reader.head is not None:
                    return self._reader.head
        assert scope.cancelled_caught
        raise HttpClientError("the server did not answer in time")

    @property
    def is_body_over(self) -> bool:
        """Whether the whole body was received."""
        return self._reader.is_over and not self._body

    def take_body(self) -> bytes:
        """What came of the body together with the head."""
        piece, self._body = self._body, b""
        return piece

    async def receive_body(self, deadline: float) -> bytes:
        """The next piece of the body, all that has arrived; ``b""`` once it is complete.

        Raises:
            HttpClientError: nothing came by ``deadline``, or the server broke off.
        """
        piece, self._body = self._body, b""
        while not piece and not self._reader.is_over:
            with trio.CancelScope(deadline=deadline) as waiting:
                piece = self._read(await self._receive())
            if waiting.cancelled_caught:
                raise HttpClientError("the server stopped in the middle of its answer")
        return piece

    def take_arrived(self) -> bytes | None:
        """What has arrived of the body, without waiting; None if that cannot be told.

        Raises:
            HttpClientError: the server broke off.
        """
        if self._transport.is_secured:
            return None
        piece, self._body = self._body, b""
        if not piece and not self._reader.is_over:
            try:
                piece = self._read(self._transport.receive_nowait(RESPONSE_READ_BYTES))
            except trio.WouldBlock:
                pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                piece = self._read(b"")
        return piece

    def finish(self) -> bool:
        """Whether the response is complete and the connection can carry another request. If so, it is made ready for
        one."""
        self._body = b""
        return self._reader.restart()

    async def close(self) -> None:
        """Close at once, without a TLS close_notify."""
        await self._transport.abort()

    def _read(self, data: bytes) -> bytes:
        """Parse ``data`` (``b""``: the end of the stream). Returns the bytes of the body in it."""
        try:
            if data:
                return self._reader.feed(data)
            self._reader.end()
            return b""
        except MalformedResponse as error:
            raise HttpClientError(f"the server broke off or does not speak HTTP: {error}") from None

    async def _receive(self) -> bytes:
        try:
            return await self._transport.receive(RESPONSE_READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""
