"""Holds without a request: who pays for giving them back?"""

from __future__ import annotations

import trio

from chain.types.operations import Hold
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_payer import CheatingPayer
from tests.support.market_world import Options, World, make_request, simulate

HOLDS = 60
AMOUNT = 1_000
"""The least that a hold may be for."""
BODY = make_request().body


def run() -> Outcome:
    spent = lost = 0

    async def play(world: World) -> None:
        nonlocal spent, lost
        payer, victim = CheatingPayer.of_gateway(world), world.members[1]
        before = payer.balance, world.account(victim.number).total
        for seq in range(HOLDS):
            await world.gateway.engine.submit(payer.sign(payer.make_hold(seq, BODY, AMOUNT, victim)))
            await trio.sleep(0.6)  # one at a time, so that no two refunds share a capture
        await world.settle(700)
        assert len(world.operations(Hold)) == HOLDS
        spent = before[0] - payer.balance
        lost = before[1] - world.account(victim.number).total

    simulate(play, Options(executors=1))
    return Outcome(spent, 0, lost, f"{HOLDS} holds without a request")


ATTACK = Attack(
    "holds without a request, to be refunded",
    Outcome(11_580, 0, 9_436, "60 holds without a request"),
    run,
)
