"""The HTTP server on a real socket of this machine, and clients that send it bytes of their own choice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from p2p.runtime import RealRuntime
from serving.http.connection import Admit, Handler
from serving.http.limits import HttpLimits
from serving.http.server import HttpServer, admit_all
from serving.http.tls import ServerCertificate


@asynccontextmanager
async def run_front(
    handler: Handler,
    limits: HttpLimits | None = None,
    admit: Admit = admit_all,
    certificate: ServerCertificate | None = None,
) -> AsyncIterator[HttpServer]:
    """A server that listens on a free port until the context is left."""
    server = await HttpServer.open(handler, "127.0.0.1", 0, RealRuntime(), limits, admit, certificate)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        yield server
        nursery.cancel_scope.cancel()


async def connect(server: HttpServer) -> trio.SocketStream:
    """A new connection to the server."""
    return await trio.open_tcp_stream(*server.address)


async def receive_until(stream: trio.SocketStream, end: bytes) -> bytes:
    """What the server sends, up to ``end``. AssertionError if it closes before."""
    data = b""
    while not data.endswith(end):
        piece = await stream.receive_some()
        assert piece, f"closed after {data!r}"
        data += piece
    return data


async def receive_all(stream: trio.SocketStream) -> bytes:
    """What the server sends until it closes."""
    data = b""
    async for piece in stream:
        data += piece
    return data


async def exchange(server: HttpServer, data: bytes) -> bytes:
    """Send ``data`` over a new connection and return everything until the server closes."""
    async with await connect(server) as stream:
        await stream.send_all(data)
        return await receive_all(stream)
