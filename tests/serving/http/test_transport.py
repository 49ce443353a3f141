"""The bytes of one connection: all of them arrive, in time or not at all, and nobody has the machine for itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from serving.http.transport import WRITES_PER_TURN, Transport

MUCH = bytes(range(256)) * 40_000
"""More than the buffers of both sides hold."""


def connected(play: Callable[[Transport, trio.SocketStream], Awaitable[None]]) -> None:
    """Run ``play`` with a transport and the other end of its connection."""

    async def main() -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        address = listener.socket.getsockname()
        async with listener, await trio.open_tcp_stream(*address) as tcp, await listener.accept() as end:
            await play(Transport(tcp), end)

    trio.run(main)


def test_whatever_the_size_all_of_it_arrives_in_order() -> None:
    async def play(transport: Transport, end: trio.SocketStream) -> None:
        received = bytearray()

        async def read() -> None:
            async for piece in end:
                received.extend(piece)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for piece in (b"one", b"", MUCH, b"two"):
                await transport.send(piece)
            await transport.end()
        assert received == b"one" + MUCH + b"two"

    connected(play)


def test_it_reads_what_has_come_and_then_the_end() -> None:
    async def play(transport: Transport, end: trio.SocketStream) -> None:
        await end.send_all(b"three")
        assert (await transport.receive(3), await transport.receive(3)) == (b"thr", b"ee")
        assert not transport.has_data()
        await end.send_eof()
        assert await transport.receive(3) == b""
        assert transport.has_data()

    connected(play)


def test_who_does_not_read_is_given_up_in_time() -> None:
    async def play(transport: Transport, end: trio.SocketStream) -> None:
        with pytest.raises(trio.TooSlowError):
            await transport.send(MUCH, 0.05)

    connected(play)


def test_a_connection_that_is_broken_or_closed_says_so() -> None:
    async def play(transport: Transport, end: trio.SocketStream) -> None:
        await transport.send(b"never read: closing then resets the connection")
        await trio.sleep(0.01)
        await trio.aclose_forcefully(end)
        with pytest.raises(trio.BrokenResourceError):
            await transport.receive(1)
        with pytest.raises(trio.BrokenResourceError):
            await transport.send(b"x")
        await transport.abort()
        for act in (transport.receive(1), transport.send(b"x")):
            with pytest.raises(trio.ClosedResourceError):
                await act

    connected(play)


def test_one_that_waits_for_bytes_notices_that_the_connection_is_closed_here() -> None:
    async def play(transport: Transport, end: trio.SocketStream) -> None:
        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await transport.receive(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await transport.abort()

    connected(play)


def test_other_tasks_get_their_turn_between_many_pieces() -> None:
    async def play(transport: Transport, end: trio.SocketStream) -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            for _ in range(4 * WRITES_PER_TURN):
                await transport.send(b"x")
            assert turns >= 2
            nursery.cancel_scope.cancel()

    connected(play)
