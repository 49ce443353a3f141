"""Connections that say nothing take all places of the API, where it listens publicly: what do its users get?"""

from __future__ import annotations

from contextlib import suppress

import trio

from serving.http.limits import MAX_REFUSALS, HttpLimits
from serving.http.messages import HttpRequest
from serving.http.responder import Responder
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.http_front import connect, exchange, run_front

PLACES = 64
USERS = 20
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def run_attack() -> Outcome:
    return trio.run(keep_silent)


async def answer(request: HttpRequest, respond: Responder) -> None:
    await respond.reply(200, b"{}")


async def keep_silent() -> Outcome:
    refused = 0
    async with run_front(answer, limits=HttpLimits(connections=PLACES)) as server:
        streams = []
        for _ in range(PLACES + MAX_REFUSALS):
            streams.append(await connect(server))
        while not server.connections >= PLACES:
            await trio.sleep(0)
        for _ in range(USERS):
            response = b""
            with suppress(trio.BrokenResourceError):
                response = await exchange(server, GET)
            refused += not response.startswith(b"HTTP/1.1 200 ")
        assert server.connections <= PLACES
        for stream in streams:
            await stream.aclose()
    return Outcome(0, refused, refused, f"{USERS - refused} of {USERS} users answered", "users")


ATTACK = Attack(
    "silent connections to the API",
    Outcome(0, USERS, USERS, "0 of 20 users answered, for 109 connections a second", "users"),
    run_attack,
)
