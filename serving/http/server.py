"""The HTTP/1.1 front of the hot path: listens, secures and counts connections.

Everything a client can make grow has a bound (:mod:`serving.http.limits`), and nothing that goes wrong on one
connection (:mod:`serving.http.connection`) leaves its task. If there are too many connections, the one that has waited
longest for a whole request gives way.

It is written by hand, because every request of a user passes here. With 16 connections and client, relay and backend on
two cores, a relay like this one passed on 3,600 answers of 64 tokens a second, and one made of hypercorn and httpx 520.
``benchmarks/endpoint/gateway.py`` measures a whole node in this way.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from email.utils import formatdate
from traceback import format_exception

import structlog
import trio

from p2p.runtime import Runtime
from serving.http.connection import Admit, ClientConnection, Handler
from serving.http.limits import BodyBudget, ConnectionCounter, HttpLimits, Verdict
from serving.http.messages import RequestHead
from serving.http.responder import Responder
from serving.http.tls import ServerCertificate
from serving.http.transport import Transport

log = structlog.get_logger(__name__)

IDLE_LOOK_INTERVAL_S = 1.0
"""Seconds between two looks at the connections that wait."""


class ListenError(Exception):
    """The address cannot be listened on: the port is in use, not permitted, or not of this machine."""


def admit_all(head: RequestHead, respond: Responder) -> None:
    """Admits every request."""


class HttpServer:
    """Listens on one address and calls ``handler`` for each request that ``admit`` lets in by its head.

    The handler answers through its :class:`Responder` and is cancelled when the client disconnects. An
    :class:`~serving.openai.errors.ApiError` that it raises before the response has started becomes the response; any
    other exception becomes a 500. Once the response has started, the connection is closed in the middle of it instead,
    so that no client takes the beginning for the whole.
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
        self.bodies: BodyBudget[ClientConnection] = BodyBudget(limits.unfinished_bytes)
        self._handler = handler
        self._listeners = list(listeners)
        self._runtime = runtime
        self._certificate = certificate
        self.counter = ConnectionCounter(limits)
        self.newcomers = trio.Lock()
        self.waiting: dict[ClientConnection, float] = {}
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
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._close_idle)
            # trio's accept loop already waits out EMFILE and the like.
            await trio.serve_listeners(self._serve, self._listeners)

    async def _close_idle(self) -> None:
        """Close the connections that have waited too long for the beginning of a request.

        One look at all of them now and then costs less than a scope with a deadline for each request.
        """
        while True:
            await trio.sleep(IDLE_LOOK_INTERVAL_S)
            now = trio.current_time()
            for connection in [each for each, due in self.waiting.items() if due <= now]:
                connection.close()

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
                connection = ClientConnection(self, secured, client, self._handler, refuse=verdict is Verdict.REFUSE)
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


def _get_peer_name(stream: trio.SocketStream) -> str:
    """The IP address of a client; something else of one that has gone, or that came through a Unix socket."""
    if stream.socket.family == socket.AF_UNIX:
        return "local"
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return "unknown"
