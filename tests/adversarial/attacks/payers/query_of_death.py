"""A payer asks what a backend answers with an error, such as for a grammar that it cannot compile, and is refunded.

Two errors in a row opened the breaker of the backend. Then its node served nobody, and each further request was the one
that tried it. So a rival had an honest executor out of the market for the fees of some holds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from chain.parameters.parameters import CREDIT
from serving.offload.protocol import Failed
from serving.openai.answers import Answer
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_payer import CheatingPayer
from tests.support.market.scripted_backend import ERROR_BODY, Pieces, ScriptedBackend
from tests.support.market_world import Options, World, ask, make_body, simulate

DEADLY = "a grammar"
BODY = make_body(stream=True, user=DEADLY)
PAYERS, REQUESTS = 2, 12
UNIT = "failed requests"


class DelicateBackend(ScriptedBackend):
    """A server that works, and answers some requests with an error."""

    @asynccontextmanager
    async def complete(self, path: str, body: bytes, *, stream: bool) -> AsyncIterator[Answer]:
        if DEADLY.encode() in body:
            yield Answer(500, "application/json", Pieces([ERROR_BODY]))
            return
        async with super().complete(path, body, stream=stream) as answer:
            yield answer


def run() -> Outcome:
    outcome = Outcome(0, 0, 0, "", UNIT)

    async def play(world: World) -> None:
        nonlocal outcome
        victim, deaths = world.members[1], 0
        payers = [await CheatingPayer.join(world, number, 20 * CREDIT) for number in range(PAYERS)]
        before = sum(payer.balance for payer in payers)

        async def kill(payer: CheatingPayer) -> None:
            nonlocal deaths
            seq, amount = 0, payer.compute_price(BODY, 100)
            while True:
                end = await payer.take(payer.make_hold(seq, BODY, amount, victim), BODY)
                is_dead = isinstance(end, Failed)  # declined, if not
                deaths, seq = deaths + is_dead, seq + is_dead
                await trio.sleep(1.0)

        async with trio.open_nursery() as nursery:
            for payer in payers:
                nursery.start_soon(kill, payer)
            await trio.sleep(5.0)
            statuses = []
            for _ in range(REQUESTS):
                statuses.append((await ask(world.gateway)).status)
                await trio.sleep(2.0)
            nursery.cancel_scope.cancel()
        assert deaths >= PAYERS, "no request was answered with an error"
        await world.settle()
        spent = before - sum(payer.balance for payer in payers)
        failed = REQUESTS - statuses.count(200)
        outcome = Outcome(0, failed, failed, f"of {REQUESTS}; {deaths} errors, for {spent:,} µcredits", UNIT)

    simulate(play, Options(executors=1, make_backend=lambda number: DelicateBackend(f"m{number}-")))
    return outcome


ATTACK = Attack(
    "a payer asks what a backend answers with errors, so that its node serves nobody",
    Outcome(0, 12, 12, "of 12; 4 errors, for 772 µcredits", UNIT),
    run,
)
