"""The HTTP/1.1 front of the hot path: h11 speaks the protocol, trio moves the bytes.

One task per connection reads requests, calls the handler and writes what it responds; a second task does nothing but
read from the socket. So a client that disconnects is noticed while the handler waits for a model: the second task sees
the end of the stream and cancels the handler, which cancels the work down to the backend. (A client that shuts down
only its sending side counts as disconnected; no HTTP client in use does that while it waits for a response.)

Everything a client can make grow has a bound (:class:`HttpLimits`), and nothing that goes wrong on one connection
leaves its task.

It is written by hand on h11, because every request of a user passes here. With 16 connections and client, relay and
backend on two cores, a relay like this one passed on 3,600 answers of 64 tokens a second, and one made of hypercorn and
httpx 520. ``benchmarks/gateway.py`` measures a whole node in this way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from traceback import format_exception

import h11
import structlog
import trio

from p2p.runtime import Runtime
from serving.openai.errors import (
    INVALID_REQUEST,
    ApiError,
    headers_too_large,
    internal_error,
    request_timeout,
    too_large,
    unavailable,
)

log = structlog.get_logger(__name__)

Headers = Sequence[tuple[bytes, bytes]]

REQUEST_READ_BYTES = 65536
"""Most bytes of one read from a socket."""
REFUSAL_READ_TIMEOUT_S = 2.0
"""Seconds that a refused client has to read why it was refused."""
MAX_REFUSALS = 64
"""Connections over the limit that are answered with 503 at a time; further ones are closed at once."""
JSON = b"application/json"
"""Content type of a response, unless the handler names another."""


class ListenError(Exception):
    """The address cannot be listened on: the port is in use, not permitted, or not of this machine."""


class ClientGone(Exception):
    """The client has disconnected, or has not read what was sent to it for too long."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds on what a client may make the server hold. Sizes in bytes, times in seconds."""

    header_bytes: int = 32 * 1024
    body_bytes: int = 4 * 1024 * 1024
    connections: int = 1024
    headers_timeout_s: float = 10.0  # from the first byte of a request to the end of its headers
    body_timeout_s: float = 60.0  # from the end of the headers to the end of the body
    idle_timeout_s: float = 75.0  # between two requests of one connection
    write_timeout_s: float = 60.0  # for a client that does not read


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request, read whole. Header names are lower case."""

    method: str
    target: str
    headers: Headers
    body: bytes
    client: str

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    def header(self, name: bytes) -> bytes | None:
        """Value of the first header called ``name`` (lower case), or None."""
        return next((value for key, value in self.headers if key == name), None)


Handler = Callable[[HttpRequest, "Responder"], Awaitable[None]]


class HttpServer:
    """Listens on one address and calls ``handler`` for each request.

    The handler answers through its :class:`Responder` and is cancelled when the client disconnects. An
    :class:`~serving.openai.errors.ApiError` that leaves it before the response has started becomes the response, any
    other exception a 500; once the response has started the connection is closed in the middle of it instead, so that
    no client takes the beginning for the whole.
    """

    def __init__(
        self, handler: Handler, listeners: Sequence[trio.SocketListener], runtime: Runtime, limits: HttpLimits
    ) -> None:
        self.limits = limits
        self._handler = handler
        self._listeners = list(listeners)
        self._runtime = runtime
        self._connections = 0
        self._date = (-1, b"")

    @classmethod
    async def open(
        cls, handler: Handler, host: str, port: int, runtime: Runtime, limits: HttpLimits | None = None
    ) -> HttpServer:
        """Bind ``host`` (an IP address or a name) and ``port`` (0: any free one); :meth:`run` then serves.

        Raises:
            ListenError: the address is in use or cannot be bound.
        """
        try:
            listeners = await trio.open_tcp_listeners(port, host=host)
        except OSError as error:
            raise ListenError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
        return cls(handler, listeners, runtime, limits or HttpLimits())

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened on (the first, if the name stands for several addresses)."""
        host, port, *_ = self._listeners[0].socket.getsockname()
        return host, port

    @property
    def connections(self) -> int:
        """Connections open at this moment."""
        return self._connections

    async def run(self) -> None:
        """Serve until cancelled; then every connection and the listeners are closed."""
        # trio's accept loop already waits out EMFILE and the like.
        await trio.serve_listeners(self._serve, self._listeners)

    async def _serve(self, stream: trio.SocketStream) -> None:
        if self._connections >= self.limits.connections + MAX_REFUSALS:
            return
        self._connections += 1
        connection = _Connection(self, stream, self._handler, refuse=self._connections > self.limits.connections)
        try:
            await connection.serve()
        except Exception as error:
            log.error("connection failed", exception="".join(format_exception(error)))
        finally:
            self._connections -= 1

    def date(self) -> bytes:
        """Value of the ``Date`` header, formatted once per second."""
        second = self._runtime.now() // 1000
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True).encode())
        return self._date[1]


class Responder:
    """The way a handler answers: :meth:`reply` at once, or :meth:`start`, any number of :meth:`send`, :meth:`end`.

    Every method raises :class:`ClientGone` if the client cannot be written to; handlers let it pass.
    """

    def __init__(self, connection: _Connection, method: str) -> None:
        self._connection = connection
        self._bodyless = method == "HEAD"
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
        all_headers = [(b"date", self._connection.server.date()), *headers]
        head = self._connection.protocol.send(h11.Response(status_code=status, headers=all_headers)) or b""
        self.started = True
        return head


class _Connection:
    """One client's connection: the request loop, and the task that reads."""

    def __init__(self, server: HttpServer, stream: trio.SocketStream, handler: Handler, refuse: bool) -> None:
        self.server = server
        self.protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=server.limits.header_bytes)
        self.client = _peer_name(stream)
        self._stream = stream
        self._handler = handler
        self._refuse = refuse
        self._inbox = bytearray()  # read from the socket, not yet given to h11
        self._arrived = trio.Event()
        self._taken = trio.Event()
        self._gone = False  # the client closed the connection, or broke it
        self._discarding = False
        self._served = False
        self._handling: trio.CancelScope | None = None

    async def serve(self) -> None:
        """Serve requests until either side closes. Never raises on account of the client."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read)
            try:
                while await self._serve_request():
                    self.protocol.start_next_cycle()
            except ClientGone:
                pass
            finally:
                nursery.cancel_scope.cancel()

    async def send(self, data: bytes) -> None:
        """Write all of ``data``.

        Raises:
            ClientGone: the connection is broken, or the client has stopped reading.
        """
        deadline = trio.current_time() + self.server.limits.write_timeout_s
        with trio.CancelScope(deadline=deadline), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._stream.send_all(data)
            return
        raise ClientGone

    # --- the reading task ---

    async def _read(self) -> None:
        """Move bytes from the socket to the inbox until the client is gone, then stop whatever works for it."""
        try:
            while data := await self._stream.receive_some(REQUEST_READ_BYTES):
                if self._discarding:
                    continue
                self._inbox += data
                self._arrived.set()
                while len(self._inbox) > REQUEST_READ_BYTES and self._handling is None:
                    self._taken = trio.Event()
                    await self._taken.wait()
                if len(self._inbox) > 2 * REQUEST_READ_BYTES:
                    break  # it pipelines without waiting for responses, more than is worth keeping
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self._gone = True
        self._arrived.set()
        if self._handling is not None:
            self._handling.cancel()

    async def _fill(self) -> None:
        """Give h11 what has arrived, waiting until something has. The end of the stream is given as ``b""``."""
        while not self._inbox and not self._gone:
            self._arrived = trio.Event()
            await self._arrived.wait()
        self.protocol.receive_data(bytes(self._inbox))
        self._inbox.clear()
        self._taken.set()

    async def _next_event(self, deadline: float) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next event of the protocol.

        Raises:
            ApiError: it did not come by ``deadline``.
        """
        while (event := self.protocol.next_event()) is h11.NEED_DATA:
            if self.protocol.they_are_waiting_for_100_continue:
                await self.send(self.protocol.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            with trio.CancelScope(deadline=deadline) as waiting:  # only where it must wait: scopes are not cheap
                await self._fill()
            if waiting.cancelled_caught:
                raise request_timeout("The request was not received in time.")
        return event

    # --- the request loop ---

    async def _serve_request(self) -> bool:
        """Read one request and answer it. Returns whether the connection can carry another."""
        method = ""
        try:
            request = await self._read_request()
            if request is not None and self._refuse:
                method = request.method
                raise unavailable("This node has too many connections; try again.")
        except ApiError as error:
            await Responder(self, method).reply(
                error.status, error.body(), headers=[*error.headers(), (b"connection", b"close")]
            )
            await self._linger()
            return False
        if request is None or not await self._handle(request):
            return False
        self._served = True
        if self.protocol.our_state is h11.DONE and self.protocol.their_state is h11.DONE:
            return True
        await self._linger()
        return False

    async def _read_request(self) -> HttpRequest | None:
        """The next request, or None when the client is done with the connection.

        Raises:
            ApiError: malformed, too large or too slow.
        """
        limits = self.server.limits
        if not self.protocol.trailing_data[0]:
            # A connection that has carried nothing yet gets less time than a keep-alive one.
            with trio.move_on_after(limits.idle_timeout_s if self._served else limits.headers_timeout_s) as idle:
                await self._fill()
            if idle.cancelled_caught:
                return None
        try:
            head = await self._next_event(trio.current_time() + limits.headers_timeout_s)
            if not isinstance(head, h11.Request):
                return None
            # h11 bounds only what is incomplete; headers that arrive in one piece are bounded here.
            if sum(len(name) + len(value) for name, value in head.headers) > limits.header_bytes:
                raise headers_too_large(limits.header_bytes)
            body = await self._read_body(head)
        except h11.RemoteProtocolError as error:
            if self._gone:  # it went away in the middle of a request: there is no client left to tell
                return None
            raise ApiError(error.error_status_hint, f"Malformed HTTP: {error}.", INVALID_REQUEST) from None
        return HttpRequest(head.method.decode("ascii"), head.target.decode("latin-1"), head.headers, body, self.client)

    async def _read_body(self, head: h11.Request) -> bytes:
        limit = self.server.limits.body_bytes
        declared = next((value for name, value in head.headers if name == b"content-length"), b"0")
        if int(declared) > limit:
            raise too_large(limit)
        deadline = trio.current_time() + self.server.limits.body_timeout_s
        body = bytearray()
        while isinstance(event := await self._next_event(deadline), h11.Data):
            body += event.data
            if len(body) > limit:
                raise too_large(limit)
        return bytes(body)

    async def _handle(self, request: HttpRequest) -> bool:
        """Run the handler. Returns whether the response is complete."""
        responder = Responder(self, request.method)
        with trio.CancelScope() as self._handling:
            self._taken.set()
            if self._gone:
                self._handling.cancel()
            try:
                await self._handler(request, responder)
                if not responder.ended:
                    raise RuntimeError("the handler returned before its response was complete")
            except Exception as error:
                await self._respond_to(_only_exception(error), request, responder)
        self._handling = None
        return responder.ended

    async def _respond_to(self, error: Exception, request: HttpRequest, responder: Responder) -> None:
        """Answer for a handler that raised ``error``, if the response has not started."""
        if isinstance(error, ClientGone):
            return
        if not isinstance(error, ApiError):
            # Formatted here, because log renderers may add local variables, and those hold prompts.
            log.error("handler failed", path=request.path, exception="".join(format_exception(error)))
            error = internal_error()
        if not responder.started:
            await responder.reply(error.status, error.body(), headers=error.headers())

    async def _linger(self) -> None:
        """Close the sending side and wait a moment for the client to close its own.

        Closing outright while bytes of the client are unread would reset the connection, and the client could lose the
        response that says what was wrong.
        """
        self._discarding = True
        self._inbox.clear()
        self._taken.set()
        with trio.move_on_after(REFUSAL_READ_TIMEOUT_S):
            try:
                await self._stream.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            while not self._gone:
                self._arrived = trio.Event()
                await self._arrived.wait()


def _only_exception(error: Exception) -> Exception:
    """The one exception in a group of one (as nurseries make them), else ``error`` itself."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _peer_name(stream: trio.SocketStream) -> str:
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return "unknown"
