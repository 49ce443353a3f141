"""An executor that delivers nothing captures the whole hold: what does it lose, and what the payer that disputes?"""

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
        numbers = (0, liar.number)
        payer, executor = (world.account(number).total for number in numbers)
        with trio.move_on_after(2):
            await ask(world.gateway, make_request(max_tokens=4_096))
        (deal,) = deals
        await capture_all(deal)
        await trio.sleep(60)
        assert len(world.operations(Dispute)) == 1
        lost, spent = payer - world.account(0).total, executor - world.account(liar.number).total
        held = deal.offer.hold.amount
        assert min(spent, lost) > held
        outcome = Outcome(spent, 0, lost, f"both lose the hold of {held:,}, and their fees")
        liar.node.payments.payee._served.clear()

    simulate(play, Options(parameters={"capture_grace_ms": 5_000}))
    return outcome


ATTACK = Attack(
    "captures what was never delivered, to burn the payer's hold",
    Outcome(0, 0, 84_260, "of a hold of 83,928: the liar loses nothing, its fee came out of the hold"),
    run,
)
