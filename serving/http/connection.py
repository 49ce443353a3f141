"""One client's connection of the HTTP server: what the client sends, and what it is answered.

One task per connection reads requests, calls the handler and writes what it responds; a second task does nothing but
read from the socket. So a client that disconnects is noticed while the handler waits for a model: the second task sees
the end of the stream and cancels the handler, which cancels the work down to the backend. (A client that shuts down
only its sending side counts as disconnected; no HTTP client in use does that while it waits for a response.)

The head of a request is checked before its body is read, by a hook (``admit``) that knows paths, hosts and keys. (Only
body bytes in the same slice as the head are already parsed: ``request_reader``.)
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from traceback import format_exception
from typing import Protocol, TypeVar

import structlog
import trio

from serving.http.limits import BodyBudget, ConnectionCounter, HttpLimits
from serving.http.messages import HttpRequest, RequestHead, find_header, keeps_open
from serving.http.request_reader import MalformedRequest, RequestReader
from serving.http.responder import CONTINUE, ClientGone, Responder
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
"""An address is charged for so many small pieces of a body as for one connection; they take about as long."""
BLAMELESS_STATUSES = (429, 503)
"""Refusals that are not charged: the key is above its rate, or the server is busy with others."""
BODY_RETRY_AFTER_S = 1.0
"""Seconds after which a client may resend a body that was given up for others."""

T = TypeVar("T")
Handler = Callable[[HttpRequest, Responder], Awaitable[None]]
Admit = Callable[[RequestHead, Responder], None]
"""Admits a request by its head, or raises ``ApiError``; it may add to the headers of whatever the response is."""


class Front(Protocol):
    """What the connections of a server share."""

    limits: HttpLimits
    admit: Admit
    bodies: BodyBudget[ClientConnection]
    counter: ConnectionCounter
    newcomers: trio.Lock
    """Held for a turn by one of the connections that have carried nothing yet."""
    waiting: dict[ClientConnection, float]
    """Connections whose next request is not complete, the one that has waited longest first. Each has the time by which
    the first bytes of that request must have come; infinite once some have."""

    def date(self) -> bytes:
        """Value of the ``Date`` header."""


class ClientConnection:
    """One client's connection: the request loop, and the task that reads."""

    def __init__(self, server: Front, transport: Transport, client: str, handler: Handler, refuse: bool) -> None:
        self.date = server.date
        self.server = server
        self.is_last = True  # until a request has come that lets another follow
        self._reader = RequestReader(server.limits.header_bytes)
        self._knows_chunks = False  # the client, which speaks HTTP/1.1 then
        self._awaits_continue = False  # whether the client waits to be told to send the body
        self._transport = transport
        self._client = client
        self._handler = handler
        self._refuse = refuse
        self._inbox = bytearray()  # come, not yet given to the reader
        self._arrived = trio.lowlevel.ParkingLot()
        self._taken = trio.lowlevel.ParkingLot()
        self._gone = False  # the client closed the connection, or broke it
        self._discarding = False
        self._served = False
        self._charges = 1
        """Charges of the client for the request under way: one for this connection, and those for small pieces."""
        self._scope = trio.CancelScope()
        self._waiting: trio.CancelScope | None = None  # for more of a request
        self._is_handling = False
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
                    self.is_last = True
            except ClientGone:
                pass
            finally:
                self._reader.close()
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
        """Move bytes from the socket to the inbox until the client is gone, then cancel all work for it."""
        try:
            while data := await self._transport.receive(REQUEST_READ_BYTES):
                if self._discarding:
                    continue
                self._inbox += data
                self._arrived.unpark_all()
                while len(self._inbox) > REQUEST_READ_BYTES and not self._is_handling:
                    await self._taken.park()
                if len(self._inbox) > 2 * REQUEST_READ_BYTES:
                    break  # it pipelines without waiting for responses, more than is worth keeping
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self._gone = True
        self._arrived.unpark_all()
        if self._is_handling:
            self.close()

    async def _fill(self) -> None:
        """Give the reader what has arrived, waiting until something has, or the client has gone."""
        while not self._inbox and not self._gone:
            await self._arrived.park()
        self._reader.feed(self._inbox)
        self._inbox.clear()
        self._taken.unpark_all()

    async def _wait_for(self, read: Callable[[], T | None], deadline: float) -> T | None:
        """The result of ``read`` once enough of the request has come; None: the client has gone.

        Raises:
            ApiError: it is malformed, or did not come by ``deadline``.
        """
        while (found := self._read_by(read)) is None:
            if self._gone and not self._inbox:
                return None
            if self._awaits_continue:
                self._awaits_continue = False
                await self.send(CONTINUE)
            with trio.CancelScope(deadline=deadline) as self._waiting:  # only where it must wait: scopes are not cheap
                await self._fill()
            waited, self._waiting = self._waiting, None
            if waited.cancelled_caught and not self._is_given_up:
                raise request_timeout("The request was not received in time.")
            self._check_not_given_up()
        return found

    def _read_by(self, read: Callable[[], T | None]) -> T | None:
        try:
            return read()
        except MalformedRequest as error:
            if error.status == 431:
                raise headers_too_large(self.server.limits.header_bytes) from None
            raise ApiError(error.status, f"Malformed HTTP: {error}.", INVALID_REQUEST) from None

    def give_up_body(self) -> None:
        """Break off the body under way here, because all such bodies together have become too large."""
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
            self.server.waiting[self] = math.inf  # until it has come whole, this connection may have to give way
            try:
                head = await self._read_head()
                if head is None:
                    return False
                responder = Responder(self, head.method, can_chunk=self._knows_chunks)
                if self._refuse:
                    raise unavailable("This node has too many connections; try again.")
                self.server.admit(head, responder)
                body = await self._read_body(head)
            finally:
                self.server.waiting.pop(self, None)
        except ApiError as error:
            if error.status in BLAMELESS_STATUSES:
                self._give_back()
            await responder.reply(error.status, error.body(), headers=error.headers())
            await self._linger()
            return False
        if body is None:
            return False
        self._give_back()
        self.is_last = not (self._knows_chunks and keeps_open(head.headers))
        request = HttpRequest(head.method, head.target, head.headers, head.client, body)
        if not await self._handle(request, responder):
            return False
        self._served = True
        if self.is_last:
            await self._linger()
        return not self.is_last

    async def _read_head(self) -> RequestHead | None:
        """The head of the next request, or None when the client is done with the connection.

        Raises:
            ApiError: malformed, too large or too slow.
        """
        limits = self.server.limits
        if not self._reader.has_data:
            # A connection that has carried nothing yet gets less time than a keep-alive one.
            patience_s = limits.idle_timeout_s if self._served else limits.headers_timeout_s
            self.server.waiting[self] = trio.current_time() + patience_s
            await self._fill()
            self.server.waiting[self] = math.inf
            if not self._served:
                await self._take_turn()
        head = await self._wait_for(self._reader.read_head, trio.current_time() + limits.headers_timeout_s)
        if head is None:
            return None
        self._knows_chunks, self._awaits_continue = head.knows_chunks, head.wants_continue
        if int(find_header(head.headers, b"content-length") or b"0") > limits.body_bytes:
            raise too_large(limits.body_bytes)
        return RequestHead(head.method, head.target, head.headers, self._client)

    async def _read_body(self, head: RequestHead) -> bytes | None:
        """The body of a request, or None when the client has gone.

        Raises:
            ApiError: malformed, too large, too slow, in too small pieces, or given up for the sake of others.
        """
        limits = self.server.limits
        deadline = trio.current_time() + limits.body_timeout_s
        body, pieces = bytearray(), 0
        try:
            while piece := await self._wait_for(self._reader.read_piece, deadline):
                self._awaits_continue = False
                body += piece
                pieces += 1
                if len(body) > limits.body_bytes:
                    raise too_large(limits.body_bytes)
                for connection in self.server.bodies.hold(self, len(piece)):
                    connection.give_up_body()
                self._check_not_given_up()
                if pieces % PIECES_PER_TURN == 0:
                    await self._check_pace(len(body), pieces, deadline)
        finally:
            self.server.bodies.release(self)
            self._is_given_up = self._awaits_continue = False
        return None if piece is None else bytes(body)

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

    async def _handle(self, request: HttpRequest, responder: Responder) -> bool:
        """Run the handler. Returns whether the response is complete."""
        self._is_handling = True
        self._taken.unpark_all()
        if self._gone:
            self.close()
        try:
            await self._handler(request, responder)
            if not responder.ended:
                raise RuntimeError("the handler returned before its response was complete")
        except Exception as error:
            await self._respond_to(_only_exception(error), request, responder)
        self._is_handling = False
        return responder.ended

    async def _respond_to(self, error: Exception, request: HttpRequest, responder: Responder) -> None:
        """Answer for a handler that raised ``error``, if the response has not started."""
        if isinstance(error, ClientGone):
            return
        if not isinstance(error, ApiError):
            # Formatted here: log renderers may add local variables, and these contain prompts.
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
        self._taken.unpark_all()
        with trio.move_on_after(REFUSAL_READ_TIMEOUT_S):
            try:
                await self._transport.end()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            while not self._gone:
                await self._arrived.park()


def _only_exception(error: Exception) -> Exception:
    """The one exception in a group of one (as nurseries make them), else ``error`` itself."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
