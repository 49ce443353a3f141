"""A SOCKS5 proxy on loopback, written from RFC 1928 alone, that notes what it was asked for."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class Proxy:
    """``requests`` are the (host, port) pairs asked for; ``names`` says where names lead."""

    def __init__(self, port: int, names: dict[str, str]) -> None:
        self.endpoint = ("127.0.0.1", port)
        self.requests: list[tuple[str, int]] = []
        self.connections = 0
        self.reply = 0
        self.names = names

    async def serve(self, client: trio.SocketStream) -> None:
        with suppress(*GONE):
            version, count = await _exactly(client, 2)
            assert version == 5 and 0 in await _exactly(client, count)
            await client.send_all(b"\x05\x00")
            version, command, _, kind = await _exactly(client, 4)
            assert (version, command) == (5, 1)
            if kind == 3:
                (length,) = await _exactly(client, 1)
                host = (await _exactly(client, length)).decode()
            else:
                host = str(ipaddress.ip_address(await _exactly(client, 4 if kind == 1 else 16)))
            (port,) = struct.unpack(">H", await _exactly(client, 2))
            self.requests.append((host, port))
            if self.reply:
                await client.send_all(bytes([5, self.reply, 0, 1]) + bytes(6))
                return
            server = await trio.open_tcp_stream(self.names.get(host, host), port)
            await client.send_all(b"\x05\x00\x00\x03\x01x\x00\x00")  # it answers with a name, as it may
            self.connections += 1
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_pump, client, server, nursery.cancel_scope)
                nursery.start_soon(_pump, server, client, nursery.cancel_scope)


@asynccontextmanager
async def proxy(**names: str) -> AsyncIterator[Proxy]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    one = Proxy(listener.socket.getsockname()[1], names)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, one.serve, [listener])
        yield one
        nursery.cancel_scope.cancel()


async def _exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = await stream.receive_some(size - len(data))
        if not chunk:
            raise OSError("hung up")
        data += chunk
    return data


async def _pump(source: trio.SocketStream, target: trio.SocketStream, scope: trio.CancelScope) -> None:
    with suppress(*GONE):
        async for data in source:
            await target.send_all(data)
    scope.cancel()
