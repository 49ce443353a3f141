"""The HTTP/1.1 front of the hot path: h11 speaks the protocol, trio moves the bytes.

One task per connection reads requests, calls the handler and writes what it responds; a second task does nothing but
read from the socket. So a client that disconnects is noticed while the handler waits for a model: the second task sees
the end of the stream and cancels the handler, which cancels the work down to the backend. (A client that shuts down
only its sending side counts as disconnected; no HTTP client in use does that while it waits for a response.)

The head of a request is checked before a byte of its body is parsed, by a hook (``admit``) that knows paths, hosts and
keys. Everything a client can make grow has a bound (:mod:`serving.http.limits`), and nothing that goes wrong on one
connection leaves its task. If there are too many connections, the one that has waited longest for a whole request gives
way.

It is written by hand on h11, because every request of a user passes here. With 16 connections and client, relay and
backend on two cores, a relay like this one passed on 3,600 answers of 64 tokens a second, and one made of hypercorn and
httpx 520. ``benchmarks/endpoint/gateway.py`` measures a whole node in this way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from email.utils import formatdate
from traceback import format_exception

import h11
import structlog
import trio

from p2p.runtime import Runtime
from serving.http.limits import BodyBudget, ConnectionCounter, HttpLimits, Verdict
from serving.http.messages import HttpRequest, RequestHead, check_framing, find_header
from serving.http.responder import ClientGone, Responder
from serving.http.tls import ServerCertificate
from serving.http.transport import Transport
from serving.openai.errors import (
    INVALID_REQUEST,
    ApiError,
    bad_request,
    headers_too_large,
    internal_error,
    request_timeout,
    too_large,
    unavailable,
)

log = structlog.get_logger(__name__)

REQUEST_READ_BYTES = 65536
"""Most bytes of one read from a socket."""
REFUSAL_READ_TIMEOUT_S = 2.0
"""Seconds that a refused client has to read why it was refused."""
PIECES_PER_TURN = 16
"""Pieces of a body that are parsed before other tasks get a turn."""
PIECES_PER_CHARGE = 64
"""Small pieces of a body that an address is charged for as for a connection; they take about as long."""
BLAMELESS_STATUSES = (429, 503)
"""Refusals that are not charged: a key is used above its rate, or others take up the server."""
BODY_RETRY_AFTER_S = 1.0
"""Seconds after which a client may send a body again that was given up because of others."""


class ListenError(Exception):
    """The address cannot be listened on: the port is in use, not permitted, or not of this machine."""


Handler = Callable[[HttpRequest, Responder], Awaitable[None]]
Admit = Callable[[RequestHead, Responder], None]
"""Admits a request by its head, or raises ``ApiError``; it may add to the headers of whatever the response is."""


def admit_all(head: RequestHead, respond: Responder) -> None:
    """Admits every request."""


class HttpServer:
    """Listens on one address and calls ``handler`` for each request that ``admit`` lets in by its head.

    The handler answers through its :class:`Responder` and is cancelled when the client disconnects. An
    :class:`~serving.openai.errors.ApiError` that leaves it before the response has started becomes the response, any
    other exception a 500; once the response has started the connection is closed in the middle of it instead, so that
    no client takes the beginning for the whole.
    """

    def __init__(
        self,
        handler: Handler,
        listeners: Sequence[trio.SocketListener],
        runtime: Runtime,
        limits: HttpLimits,
        admit: Admit,
        certificate: ServerCertificate | None = None,
    ) -> None:
        """``certificate``: speak TLS alone."""
        self.limits = limits
        self.admit = admit
        self.bodies: BodyBudget[_Connection] = BodyBudget(limits.unfinished_bytes)
        self._handler = handler
        self._listeners = list(listeners)
        self._runtime = runtime
        self._certificate = certificate
        self.counter = ConnectionCounter(limits)
        self.newcomers = trio.Lock()
        """Held for a turn by one of the connections that have carried nothing yet."""
        self.waiting: dict[_Connection, None] = {}
        """Connections whose next request is not whole, the one that has waited longest for it first."""
        self._date = (-1, b"")

    @classmethod
    async def open(
        cls,
        handler: Handler,
        host: str,
        port: int,
        runtime: Runtime,
        limits: HttpLimits | None = None,
        admit: Admit = admit_all,
        certificate: ServerCertificate | None = None,
    ) -> HttpServer:
        """Bind ``host`` (an IP address or a name) and ``port`` (0: any free one); :meth:`run` then serves.

        Raises:
            ListenError: the address is in use or cannot be bound.
        """
        try:
            listeners = await trio.open_tcp_listeners(port, host=host)
        except OSError as error:
            raise ListenError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
        return cls(handler, listeners, runtime, limits or HttpLimits(), admit, certificate)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened on (the first, if the name stands for several addresses)."""
        host, port, *_ = self._listeners[0].socket.getsockname()
        return host, port

    @property
    def scheme(self) -> str:
        """Scheme of its URLs."""
        return "http" if self._certificate is None else "https"

    @property
    def connections(self) -> int:
        """Connections open at this moment."""
        return self.counter.total

    async def run(self) -> None:
        """Serve until cancelled; then every connection and the listeners are closed."""
        # trio's accept loop already waits out EMFILE and the like.
        await trio.serve_listeners(self._serve, self._listeners)

    async def _serve(self, stream: trio.SocketStream) -> None:
        client = _get_peer_name(stream)
        verdict = self.counter.add(client, trio.current_time(), can_replace=bool(self.waiting))
        if verdict is Verdict.CLOSE:
            return
        if verdict is Verdict.SERVE and self.counter.total > self.limits.connections:
            longest = next(iter(self.waiting))
            del self.waiting[longest]
            longest.close()
        try:
            secured = await self._secure(stream)
            if secured is not None:
                connection = _Connection(self, secured, client, self._handler, refuse=verdict is Verdict.REFUSE)
                await connection.serve()
        except Exception as error:
            log.error("connection failed", exception="".join(format_exception(error)))
        finally:
            self.counter.remove(client)

    async def _secure(self, stream: trio.SocketStream) -> Transport | None:
        """What to speak HTTP over; None if the client does not finish a TLS handshake in time."""
        if self._certificate is None:
            return Transport(stream)
        secured = trio.SSLStream(
            stream, self._certificate.get_context(trio.current_time()), server_side=True, https_compatible=True
        )
        with trio.move_on_after(self.limits.headers_timeout_s), suppress(trio.BrokenResourceError):
            await secured.do_handshake()
            return Transport(stream, secured)
        return None

    def date(self) -> bytes:
        """Value of the ``Date`` header, formatted once per second."""
        second = self._runtime.now() // 1000
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True).encode())
        return self._date[1]


class _Connection:
    """One client's connection: the request loop, and the task that reads."""

    def __init__(self, server: HttpServer, transport: Transport, client: str, handler: Handler, refuse: bool) -> None:
        self.date = server.date
        self.server = server
        self.protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=server.limits.header_bytes)
        self._transport = transport
        self._client = client
        self._handler = handler
        self._refuse = refuse
        self._inbox = bytearray()  # read from the socket, not yet given to h11
        self._arrived = trio.Event()
        self._taken = trio.Event()
        self._gone = False  # the client closed the connection, or broke it
        self._discarding = False
        self._served = False
        self._charges = 1
        """What the client is charged for the request under way: for this connection, and for small pieces."""
        self._scope = trio.CancelScope()
        self._waiting: trio.CancelScope | None = None  # for more of a request
        self._handling: trio.CancelScope | None = None
        self._is_given_up = False  # the body under way, for the sake of others

    def close(self) -> None:
        """Break off whatever is under way."""
        self._scope.cancel()

    async def serve(self) -> None:
        """Serve requests until either side closes. Never raises on account of the client."""
        with self._scope:
            await self._serve_requests()

    async def _serve_requests(self) -> None:
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
        try:
            await self._transport.send(data, self.server.limits.write_timeout_s)
        except (trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError):
            raise ClientGone from None

    # --- the reading task ---

    async def _read(self) -> None:
        """Move bytes from the socket to the inbox until the client is gone, then stop whatever works for it."""
        try:
            while data := await self._transport.receive(REQUEST_READ_BYTES):
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
            with trio.CancelScope(deadline=deadline) as self._waiting:  # only where it must wait: scopes are not cheap
                await self._fill()
            waited, self._waiting = self._waiting, None
            if waited.cancelled_caught and not self._is_given_up:
                raise request_timeout("The request was not received in time.")
            self._check_not_given_up()
        return event

    def give_up_body(self) -> None:
        """Break off the body that is under way here, because all of them together have become too large."""
        self._is_given_up = True
        if self._waiting is not None:
            self._waiting.cancel()

    def _check_not_given_up(self) -> None:
        if self._is_given_up:
            raise unavailable("Too many request bodies are under way; try again.", BODY_RETRY_AFTER_S)

    async def _take_turn(self) -> None:
        """Let other tasks run.

        All connections that have carried nothing yet share one turn, so that many of them do not slow down the others.
        """
        if self._served:
            await trio.lowlevel.checkpoint()
            return
        async with self.server.newcomers:
            await trio.lowlevel.checkpoint()

    def _give_back(self) -> None:
        """Give back what the client was charged for the request under way."""
        self.server.counter.give_back(self._client, self._charges)
        self._charges = 0

    # --- the request loop ---

    async def _serve_request(self) -> bool:
        """Read one request and answer it. Returns whether the connection can carry another."""
        responder = Responder(self, "")
        try:
            with self._wait():
                head = await self._read_head()
                if head is None:
                    return False
                responder = Responder(self, head.method)
                if self._refuse:
                    raise unavailable("This node has too many connections; try again.")
                self.server.admit(head, responder)
                body = await self._read_body(head)
        except ApiError as error:
            if error.status in BLAMELESS_STATUSES:
                self._give_back()
            await responder.reply(error.status, error.body(), headers=[*error.headers(), (b"connection", b"close")])
            await self._linger()
            return False
        if body is None:
            return False
        self._give_back()
        request = HttpRequest(head.method, head.target, head.headers, head.client, body)
        if not await self._handle(request, responder):
            return False
        self._served = True
        if self.protocol.our_state is h11.DONE and self.protocol.their_state is h11.DONE:
            return True
        await self._linger()
        return False

    @contextmanager
    def _wait(self) -> Iterator[None]:
        """Wait for a request within the context: until it is whole, this connection may have to give way."""
        self.server.waiting[self] = None
        try:
            yield
        finally:
            self.server.waiting.pop(self, None)

    async def _read_head(self) -> RequestHead | None:
        """The head of the next request, or None when the client is done with the connection.

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
            if not self._served:
                await self._take_turn()
        try:
            head = await self._next_event(trio.current_time() + limits.headers_timeout_s)
            if not isinstance(head, h11.Request):
                return None
        except h11.RemoteProtocolError as error:
            self._refuse_malformed(error)
            return None
        headers = list(head.headers)
        # h11 bounds only what is incomplete; headers that arrive in one piece are bounded here.
        if sum(len(name) + len(value) for name, value in headers) > limits.header_bytes:
            raise headers_too_large(limits.header_bytes)
        check_framing(headers)
        if int(find_header(headers, b"content-length") or b"0") > limits.body_bytes:
            raise too_large(limits.body_bytes)
        return RequestHead(head.method.decode("ascii"), head.target.decode("latin-1"), headers, self._client)

    async def _read_body(self, head: RequestHead) -> bytes | None:
        """The body of a request, or None when the client has gone.

        Raises:
            ApiError: malformed, too large, too slow, in too small pieces, or given up for the sake of others.
        """
        limits = self.server.limits
        deadline = trio.current_time() + limits.body_timeout_s
        body, pieces = bytearray(), 0
        try:
            while isinstance(event := await self._next_event(deadline), h11.Data):
                body += event.data
                pieces += 1
                if len(body) > limits.body_bytes:
                    raise too_large(limits.body_bytes)
                for connection in self.server.bodies.hold(self, len(event.data)):
                    connection.give_up_body()
                self._check_not_given_up()
                if pieces % PIECES_PER_TURN == 0:
                    await self._check_pace(len(body), pieces, deadline)
        except h11.RemoteProtocolError as error:
            self._refuse_malformed(error)
            return None
        finally:
            self.server.bodies.release(self)
            self._is_given_up = False
        return bytes(body)

    async def _check_pace(self, size: int, pieces: int, deadline: float) -> None:
        """Let other tasks run, and check that a body of ``size`` bytes so far does not come in crumbs or too late.

        Raises:
            ApiError: it does.
        """
        await self._take_turn()
        limits, now = self.server.limits, trio.current_time()
        small_pieces = pieces - size // limits.least_piece_bytes
        is_paid = small_pieces <= PIECES_PER_CHARGE * self._charges
        if not is_paid and (is_paid := self.server.counter.charge(self._client, now)):
            self._charges += 1
        if small_pieces > limits.small_pieces or not is_paid:
            raise bad_request("The request body comes in too small pieces.")
        if now > deadline:  # one that never lets this node wait is not timed out by waiting
            raise request_timeout("The request was not received in time.")

    def _refuse_malformed(self, error: h11.RemoteProtocolError) -> None:
        """Refuse a request that is no HTTP, unless its client went away in the middle of it.

        Raises:
            ApiError: the refusal.
        """
        if not self._gone:
            raise ApiError(error.error_status_hint, f"Malformed HTTP: {error}.", INVALID_REQUEST) from None

    async def _handle(self, request: HttpRequest, responder: Responder) -> bool:
        """Run the handler. Returns whether the response is complete."""
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
                await self._transport.end()
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


def _get_peer_name(stream: trio.SocketStream) -> str:
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return "unknown"
