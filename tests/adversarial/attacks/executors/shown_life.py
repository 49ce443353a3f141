"""An executor accepts, says again and again that it is busy, and never answers: how long does it hold requests up?"""

from __future__ import annotations

import trio

from serving.offload.protocol import KeepAlive
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_executor import Deal, give_back, plant
from tests.support.market_world import Options, World, ask, make_request, simulate

REQUESTS = 40
UNIT = "seconds held up"


async def show_life(deal: Deal) -> None:
    while True:
        await deal.send(KeepAlive(True))
        await trio.sleep(5)


def run() -> Outcome:
    outcome = Outcome(0, 0, 0, "", UNIT)

    async def play(world: World) -> None:
        nonlocal outcome
        liar = world.members[1]
        deals = plant(world, liar, show_life)
        waits: list[float] = []
        for number in range(REQUESTS):
            begun = trio.current_time()
            await ask(world.gateway, make_request(stream=number % 2 == 0))
            waits.append(trio.current_time() - begun)
        assert deals, "the liar was never asked"
        give_back(liar, deals)
        await world.settle(90)
        held_up = [round(wait) for wait in waits if wait > 20]
        detail = f"{len(held_up)} of {REQUESTS} requests, {max(held_up)} s at most"
        outcome = Outcome(0, sum(held_up), sum(held_up), detail, UNIT)

    simulate(play, Options(executors=3))
    return outcome


ATTACK = Attack(
    "an executor only shows life",
    Outcome(0, 4_695, 4_695, "15 of 40 requests, 601 s at most", UNIT),
    run,
    accepted="one that is busy says the same; it is not paid, and is asked last for the next minutes",
)
