"""A client sends a body in chunks of one byte, each of which costs the node as much as one of a kilobyte."""

from __future__ import annotations

from contextlib import suppress
from typing import cast

import trio

from chain.store.kv import MemoryStore
from p2p.runtime import RealRuntime
from serving.api import Api
from serving.dispatcher import Dispatcher
from serving.http.connection import PIECES_PER_TURN
from serving.http.limits import HttpLimits
from serving.http.server import HttpServer
from serving.keys.keyring import Keyring
from serving.keys.records import ConfiguredKey
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.http_front import connect, receive_all, run_front

CHUNK = b"1\r\na\r\n"
CHUNKS = 1024 * 1024 // len(CHUNK)
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n"
)
KEY = b"Authorization: Bearer secret\r\n"


def run_attack() -> Outcome:
    return trio.run(send_chunks)


async def send_chunks() -> Outcome:
    """Send 1 MiB without a key, then with one."""
    keys = Keyring(MemoryStore(), RealRuntime(), [ConfiguredKey("secret")])
    api = Api(cast(Dispatcher, None), keys)  # no request gets as far as to be dispatched
    async with run_front(api.handle, admit=api.admit) as server:
        parsed = count_pieces(server)
        without_key = await send(server, HEAD + b"\r\n")
        strangers = len(parsed)
        with_key = await send(server, HEAD + KEY + b"\r\n")
        users = len(parsed) - strangers
    assert (without_key, with_key) == (401, 400)
    limits = HttpLimits()
    assert users <= limits.small_pieces + users // limits.least_piece_bytes + PIECES_PER_TURN
    return Outcome(0, strangers, strangers, f"refused by the head; with a key after {users} chunks", "chunks parsed")


def count_pieces(server: HttpServer) -> list[int]:
    """A list that gets the size of each piece of a body that the server has parsed."""
    hold, parsed = server.bodies.hold, list[int]()

    def note(owner: object, size: int) -> list[object]:
        parsed.append(size)
        return hold(owner, size)  # type: ignore[arg-type, return-value]

    server.bodies.hold = note  # type: ignore[assignment, method-assign]
    return parsed


async def send(server: HttpServer, head: bytes) -> int:
    """Send all chunks unless the server stops reading. Returns the status of its answer."""
    async with await connect(server) as stream, trio.open_nursery() as nursery:

        async def pump() -> None:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(head + CHUNK * CHUNKS)

        nursery.start_soon(pump)
        response = await receive_all(stream)
        nursery.cancel_scope.cancel()
    return int(response.split()[1])


ATTACK = Attack(
    "a body in chunks of one byte, without a key",
    Outcome(0, CHUNKS, CHUNKS, "0.9 s of CPU a MiB; 9.5 Mbit/s saturate the node", "chunks parsed"),
    run_attack,
)
