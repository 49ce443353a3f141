"""HTTP/1.1 connections to one server, kept open between requests: how a node talks to a backend.

Bodies are handed on as they arrive, after transfer decoding and without being looked at. A request is cancelled by
leaving its context before the body has ended: the connection is then closed at once, which every serving engine takes
as the sign to stop generating.

It is written by hand on h11 for its cost. In place of this pool, that of httpcore 1.0.9 takes three times the CPU for
an answer in one piece (1.2 ms after 0.4 ms, the HTTP front of the relay included) and over four times for a stream of
16 pieces (3.6 ms after 0.8 ms), with 16 requests at a time.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar
from urllib.parse import urlsplit

import h11
import trio

from serving.http.messages import Headers
from serving.http.transport import Transport

RESPONSE_READ_BYTES = 65536
"""Most bytes of one read from a socket."""
MAX_HEADER_BYTES = 64 * 1024
"""Longest head of a response."""
RESEND_WITHIN_S = 1.0
"""Seconds within which a kept connection that the server had closed already is found dead."""


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
        tls = parts.scheme == "https"
        prefix = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
        return cls(tls, parts.hostname, parts.port or (443 if tls else 80), prefix)

    @property
    def authority(self) -> str:
        """Value of the ``Host`` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


class _Closable(Protocol):
    def is_usable(self) -> bool: ...


C = TypeVar("C", bound=_Closable)


class IdleConnections(Generic[C]):
    """The connections that wait for their next request, newest last: decides which to reuse and which to close.

    Servers close idle connections too (uvicorn, under vLLM, after 5 s), so none older than ``max_age`` seconds is
    reused, and the newest is preferred. Pure: what must be closed is returned, and closed by the caller.
    """

    def __init__(self, max_idle: int, max_age: float) -> None:
        self._max_idle = max_idle
        self._max_age = max_age
        self._idle: list[tuple[float, C]] = []

    def __len__(self) -> int:
        return len(self._idle)

    def take(self, now: float) -> tuple[C | None, list[C]]:
        """The connection to reuse, if there is one, and the connections found useless on the way."""
        useless: list[C] = []
        while self._idle:
            since, connection = self._idle.pop()
            if now - since <= self._max_age and connection.is_usable():
                return connection, useless
            useless.append(connection)
        return None, useless

    def put(self, connection: C, now: float) -> list[C]:
        """Keep ``connection`` for the next request; returns the connections that have to go."""
        self._idle.append((now, connection))
        excess = [old for _, old in self._idle[: max(0, len(self._idle) - self._max_idle)]]
        self._idle = self._idle[len(excess) :]
        expired = [old for since, old in self._idle if now - since > self._max_age]
        self._idle = [entry for entry in self._idle if now - entry[0] <= self._max_age]
        return excess + expired

    def clear(self) -> list[C]:
        """Give up all of them."""
        idle = [connection for _, connection in self._idle]
        self._idle = []
        return idle


class HttpResponse:
    """Head of a response, and its body as an asynchronous iterator of the pieces in which it arrives.

    It has a connection of ``pool`` until its context is left.
    """

    def __init__(
        self, pool: HttpPool, head: h11.Response, connection: _Connection, timeouts: HttpTimeouts, deadline: float
    ) -> None:
        self.status = head.status_code
        self.headers: Headers = head.headers
        self._pool = pool
        self._connection = connection
        self._timeouts = timeouts
        self._deadline = deadline  # of the first piece
        self._interval = 0.0
        self._is_behind = False

    def gather(self, interval: float) -> bool:
        """Have what comes until the next multiple of ``interval`` seconds come as one piece, from now on.

        A piece costs about the same whatever its length. A body that comes too fast for one read in that time is not
        slowed down.
        """
        self._interval = interval
        return True

    async def __aenter__(self) -> HttpResponse:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.take_back(self._connection)

    def header(self, name: bytes) -> bytes | None:
        """Value of the first header called ``name`` (lower case), or None."""
        return next((value for key, value in self.headers if key == name), None)

    def __aiter__(self) -> HttpResponse:
        return self

    async def __anext__(self) -> bytes:
        if self._interval and not self._is_behind and not self._connection.is_body_over:
            await trio.sleep_until((math.floor(trio.current_time() / self._interval) + 1) * self._interval)
        # Counted from here, so that the time a slow reader takes between two pieces is not the server's.
        deadline = max(self._deadline, trio.current_time() + self._timeouts.stall_s)
        piece = await self._connection.receive_body(deadline)
        if not piece:
            raise StopAsyncIteration
        self._deadline = 0.0
        self._is_behind = len(piece) >= RESPONSE_READ_BYTES // 2
        return piece

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
            ValueError: ``base_url`` is not one.
        """
        self.url = BaseUrl.parse(base_url)
        self.timeouts = timeouts or HttpTimeouts()
        self._ssl = (ssl_context or ssl.create_default_context()) if self.url.tls else None
        self._slots = trio.Semaphore(max_connections)
        self._idle: IdleConnections[_Connection] = IdleConnections(max_idle, max_age)
        self._headers = [
            (b"host", self.url.authority.encode("ascii")),
            (b"accept-encoding", b"identity"),
            *([(b"authorization", b"Bearer " + api_key.encode())] if api_key else []),
        ]

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

        A request that finds a kept connection dead before any byte of a response is sent once more, over a fresh
        connection, if that took no longer than :data:`RESEND_WITHIN_S`: a server that worked on it for longer would
        do it all again.

        Raises:
            HttpClientError: the server does not answer.
        """
        timeouts = timeouts or self.timeouts
        deadline = trio.current_time() + timeouts.first_byte_s
        head = h11.Request(method=method, target=self.url.prefix + path, headers=self._request_headers(body))
        await self._acquire_slot(deadline)
        try:
            connection, response = await self._exchange(head, body, timeouts, deadline)
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
        with suppress(trio.WouldBlock):
            self._slots.acquire_nowait()
            return
        with trio.CancelScope(deadline=deadline):
            await self._slots.acquire()
            return
        raise HttpClientError(f"no free connection to {self.url.authority} in time")

    def _request_headers(self, body: bytes) -> list[tuple[bytes, bytes]]:
        if not body:
            return self._headers
        return [*self._headers, (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]

    async def _exchange(
        self, head: h11.Request, body: bytes, timeouts: HttpTimeouts, deadline: float
    ) -> tuple[_Connection, h11.Response]:
        """Send the request over a kept or fresh connection and receive the head of the response."""
        connection, useless = self._idle.take(trio.current_time())
        for old in useless:
            await old.close()
        if connection is not None:
            started_at = trio.current_time()
            try:
                return connection, await connection.exchange(head, body, deadline)
            except _DeadConnection:
                if trio.current_time() - started_at > RESEND_WITHIN_S:
                    raise HttpClientError("the server closed the connection without an answer") from None
        connection = await self._connect(timeouts)
        try:
            return connection, await connection.exchange(head, body, deadline)
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
            raise HttpClientError(f"cannot connect to {url.authority}: {error.__cause__ or error}") from error


class _DeadConnection(Exception):
    """The connection ended before any byte of a response."""


class _Connection:
    """One connection: the exchange that runs over it, if any."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER_BYTES)

    def is_usable(self) -> bool:
        """Whether an idle connection has nothing to read, such as the end of the stream or bytes of no response."""
        return not self._transport.has_data()

    async def exchange(self, head: h11.Request, body: bytes, deadline: float) -> h11.Response:
        """Send a request and receive the head of its response. On any exception the connection is closed.

        Raises:
            _DeadConnection: it ended before any byte of a response.
            HttpClientError: no response by ``deadline``, or a malformed one.
        """
        try:
            return await self._exchange(head, body, deadline)
        except BaseException:
            await self.close()
            raise

    async def _exchange(self, head: h11.Request, body: bytes, deadline: float) -> h11.Response:
        protocol = self._protocol
        data = protocol.send(head) or b""
        if body:
            data += protocol.send(h11.Data(data=body)) or b""
        data += protocol.send(h11.EndOfMessage()) or b""
        with trio.CancelScope(deadline=deadline) as scope:
            # A server that answers without reading the whole request may close at once: see what it said.
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._transport.send(data)
            received = False
            while True:
                event = self._next_event()
                if isinstance(event, h11.Response):
                    return event
                if event is h11.NEED_DATA:
                    data = await self._receive()
                    if not data and not received:
                        raise _DeadConnection
                    received = True
                    protocol.receive_data(data)
                elif not isinstance(event, h11.InformationalResponse):
                    raise HttpClientError("the server closed the connection without an answer")
        assert scope.cancelled_caught
        raise HttpClientError("the server did not answer in time")

    @property
    def is_body_over(self) -> bool:
        """Whether the whole body was received."""
        return self._protocol.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)

    async def receive_body(self, deadline: float) -> bytes:
        """The next piece of the body, all that has arrived; ``b""`` once it is complete.

        Raises:
            HttpClientError: nothing came by ``deadline``, or the server broke off.
        """
        while not self.is_body_over:
            pieces = []
            while isinstance(event := self._next_event(), h11.Data):
                pieces.append(bytes(event.data))
            if pieces:
                return b"".join(pieces)
            if event is h11.NEED_DATA:
                with trio.CancelScope(deadline=deadline) as waiting:
                    self._protocol.receive_data(await self._receive())
                if waiting.cancelled_caught:
                    raise HttpClientError("the server stopped in the middle of its answer")
        return b""

    def finish(self) -> bool:
        """Whether the response is complete and the connection can carry another request, for which it is then ready."""
        protocol = self._protocol
        if protocol.our_state is not h11.DONE or protocol.their_state is not h11.DONE or protocol.trailing_data[0]:
            return False
        protocol.start_next_cycle()
        return True

    async def close(self) -> None:
        """Close at once, without a TLS close_notify."""
        await self._transport.abort()

    def _next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            return self._protocol.next_event()
        except h11.RemoteProtocolError as error:
            raise HttpClientError(f"the server broke off or does not speak HTTP: {error}") from None

    async def _receive(self) -> bytes:
        try:
            return await self._transport.receive(RESPONSE_READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""
