"""An executor that answers 400 to whatever it is drawn for: clients do not repeat such a request."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from serving.offload.protocol import ResponseChunk, ResponseHead
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_executor import SALT, Deal, give_back, plant
from tests.support.market.scripted_backend import ERROR_BODY
from tests.support.market_world import Options, World, ask, simulate

REQUESTS = 30
UNIT = "failed requests"


async def blame_the_request(deal: Deal) -> None:
    """Answer with a client error, and give the hold back."""
    refund = replace(deal.make_delivery(ERROR_BODY), amount=0)
    await deal.send(ResponseHead(400, "application/json", SALT), ResponseChunk(ERROR_BODY))
    await deal.send(deal.make_completed(refund))


def run() -> Outcome:
    outcome = Outcome(0, 0, 0, "", UNIT)

    async def play(world: World) -> None:
        nonlocal outcome
        liar = world.members[1]
        deals = plant(world, liar, blame_the_request)
        before = world.account(liar.number).total
        statuses = Counter([(await ask(world.gateway)).status for _ in range(REQUESTS)])
        assert deals, "the liar was never asked"
        give_back(liar, deals)
        await world.settle(90)
        spent = before - world.account(liar.number).total
        failed = REQUESTS - statuses[200]
        detail = f"of {REQUESTS}; {len(deals)} reached the liar, which paid {spent:,} µcredits"
        outcome = Outcome(0, failed, failed, detail, UNIT)

    simulate(play, Options(executors=4, parameters={"capture_grace_ms": 5_000}))
    return outcome


ATTACK = Attack(
    "an executor blames every request that it is drawn for",
    Outcome(0, 8, 8, "of 30; 8 reached the liar, which paid 1,168 µcredits", UNIT),
    run,
)
