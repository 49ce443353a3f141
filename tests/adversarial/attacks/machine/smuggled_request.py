"""A request with a length and with chunks, whose body hides a second request from a proxy that goes by the length."""

from __future__ import annotations

import trio

from serving.http.messages import HttpRequest
from serving.http.responder import Responder
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.http_front import exchange, run_front

HIDDEN = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nConnection: close\r\n\r\nEVIL!"
BODY = b"0\r\n\r\n" + HIDDEN
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def run_attack() -> Outcome:
    handled: list[bytes] = []

    async def note(request: HttpRequest, respond: Responder) -> None:
        handled.append(request.body)
        await respond.reply(200, b"{}")

    async def main() -> bytes:
        async with run_front(note) as server:
            return await exchange(server, HEAD % len(BODY) + BODY)

    response = trio.run(main)
    assert response.startswith(b"HTTP/1.1 400 ") and response.count(b"HTTP/1.1") == 1
    hidden = handled.count(b"EVIL!")
    return Outcome(0, hidden, hidden, "400, and the connection is closed", "requests")


ATTACK = Attack(
    "a request hidden in the body of another",
    Outcome(0, 1, 1, "both answered with 200 on one connection", "requests"),
    run_attack,
)
