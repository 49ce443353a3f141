"""A web page that the owner looks at sends requests to the API of the owner's node, and so spends the owner's credits.

It sends what browsers let any page send: a body of plain text to another host, and after its own name was made to
stand for this machine (DNS rebinding) any body to that name.
"""

from __future__ import annotations

import httpx

from serving.api import Api
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.http_front import run_front
from tests.support.market_world import Options, World, make_body, simulate

PAGES = (
    {"Origin": "https://evil.example", "Content-Type": "text/plain;charset=UTF-8", "Sec-Fetch-Site": "cross-site"},
    {"Host": "evil.example:8000", "Origin": "http://evil.example:8000", "Content-Type": "application/json"},
    {"Host": "evil.example:8000", "Content-Type": "application/json"},
)
OWNER = {"Content-Type": "application/json"}


def run_attack() -> Outcome:
    statuses: list[int] = []
    spent = 0

    async def play(world: World) -> None:
        nonlocal spent
        before = world.account(0).total
        api = Api(world.gateway.dispatcher)
        async with run_front(api.handle, admit=api.admit) as server, httpx.AsyncClient(trust_env=False) as browser:
            url = "http://{}:{}/v1/chat/completions".format(*server.address)
            for headers in PAGES:
                answer = await browser.post(url, content=make_body(max_tokens=50), headers=headers, timeout=60)
                statuses.append(answer.status_code)
            await world.settle()
            spent = before - world.account(0).total
            answer = await browser.post(url, content=make_body(max_tokens=50), headers=OWNER, timeout=60)
            assert answer.status_code == httpx.codes.OK, "the owner's own program is answered"
            await world.settle()

    simulate(play, Options(parameters={"capture_grace_ms": 1_000}), real_time=True)
    answered = statuses.count(httpx.codes.OK)
    return Outcome(0, spent, spent, f"{answered} of {len(PAGES)} requests of pages answered")


ATTACK = Attack(
    "a web page spends the owner's credits",
    Outcome(0, 4_354, 4_354, "2 of 2 requests answered"),
    run_attack,
)
