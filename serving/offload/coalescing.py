"""Joining the small pieces of a streamed answer into fewer messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import trio

from serving.backends.backend import BackendError


@asynccontextmanager
async def coalesce(source: AsyncIterator[bytes], interval: float, size: int) -> AsyncIterator[AsyncIterator[bytes]]:
    """Join what arrives within ``interval`` seconds into pieces of about ``size`` bytes; the first goes at once.

    A message between nodes costs about the same whatever its length, and a token is a few dozen bytes. What came before
    the source fails is passed on before its BackendError is.
    """
    send, receive = trio.open_memory_channel[bytes](16)
    failures: list[BackendError] = []

    async def pump() -> None:
        async with send:
            try:
                async for chunk in source:
                    await send.send(chunk)
            except BackendError as error:
                failures.append(error)

    async def join() -> AsyncGenerator[bytes, None]:
        first = True
        async for chunk in receive:
            joined = bytearray(chunk)
            if not first:
                with trio.move_on_after(interval):
                    async for more in receive:
                        joined += more
                        if len(joined) >= size:
                            break
            first = False
            yield bytes(joined)
        if failures:
            raise failures[0]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump)
        async with receive, aclosing(join()) as joined:
            yield joined
        nursery.cancel_scope.cancel()
