"""A payer is restarted while its hold is open; the executor, which delivered nothing, captures it whole."""

from __future__ import annotations

import trio

from chain.types.operations import Dispute
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_executor import capture_all, deliver_nothing, plant
from tests.support.market_world import Options, World, ask, make_request, simulate


def run() -> Outcome:
    outcome = Outcome(0, 0, 0, "")

    async def play(world: World) -> None:
        nonlocal outcome
        liar = world.drawn()[0]

        deals = plant(world, liar, deliver_nothing)
        payer, executor = world.account(0).total, world.account(liar.number).total
        with trio.move_on_after(3):
            await ask(world.gateway, make_request(max_tokens=4_096))
        (deal,) = deals
        await world.kill(0)
        await trio.sleep(2)
        await world.start(0)
        await trio.sleep(5)
        await capture_all(deal)
        await trio.sleep(60)
        change = world.account(liar.number).total - executor
        disputes = len(world.operations(Dispute))
        detail = f"of a hold of {deal.offer.hold.amount:,}; disputes: {disputes}"
        outcome = Outcome(max(0, -change), max(0, change), payer - world.account(0).total, detail)
        liar.node.payments.payee._served.clear()

    simulate(play, Options(parameters={"capture_grace_ms": 5_000}))
    return outcome


ATTACK = Attack(
    "captures what was never delivered, from a payer that was restarted",
    Outcome(0, 83_734, 84_123, "of a hold of 83,928; disputes: 0"),
    run,
)
