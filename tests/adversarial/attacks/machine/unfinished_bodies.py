"""Clients send large bodies but for their last byte, and so have the node hold all of them."""

from __future__ import annotations

import trio

from serving.http.limits import HttpLimits
from serving.http.messages import HttpRequest
from serving.http.responder import Responder
from serving.http.server import HttpServer
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.http_front import connect, receive_until, run_front
from tests.support.waiting import eventually

CONNECTIONS = 32
BODY_BYTES = 4 * 1024 * 1024
MIB = 1024 * 1024
HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


def run_attack() -> Outcome:
    return trio.run(hold_back)


async def answer(request: HttpRequest, respond: Responder) -> None:
    await respond.reply(200, b"{}")


async def hold_back() -> Outcome:
    limit = HttpLimits().unfinished_bytes
    sent = most = 0
    async with run_front(answer) as server:
        streams = []
        for _ in range(CONNECTIONS):
            stream = await connect(server)
            streams.append(stream)
            await stream.send_all(HEAD % BODY_BYTES)
            await stream.send_all(bytes(BODY_BYTES - 1))
            sent += BODY_BYTES - 1
            await wait_until_held(server, min(sent, limit - BODY_BYTES))
            most = max(most, server.bodies.size)
            assert await is_served(server), "an honest client is served meanwhile"
        for stream in streams:
            await stream.aclose()
    assert most <= limit
    return Outcome(sent // MIB, most // MIB, most // MIB, "the oldest unfinished bodies are given up", "MiB")


async def wait_until_held(server: HttpServer, size: int) -> None:
    await eventually(lambda: server.bodies.size >= size)


async def is_served(server: HttpServer) -> bool:
    async with await connect(server) as stream:
        await stream.send_all(HEAD % 5 + b"hello")
        return (await receive_until(stream, b"{}")).startswith(b"HTTP/1.1 200 ")


ATTACK = Attack(
    "bodies short of their last byte (spent: MiB sent; gained: MiB held)",
    Outcome(600, 615, 615, "150 connections; 1,024 would hold 4.1 GiB, for 60 s each time", "MiB"),
    run_attack,
)
