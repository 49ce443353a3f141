"""An executor captures a hold that it delivered nothing for, from a payer that could not pay the fee of a dispute."""

from __future__ import annotations

import trio

from chain.transition.fees import compute_fee
from chain.types.operations import Dispute, Transfer, sign_operation
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_executor import capture_all, deliver_nothing, plant
from tests.support.market_world import Options, World, ask, make_request, simulate

LEFT = 50
"""Micro-credits that the payer has available, less than the fee."""


def run() -> Outcome:
    outcome = Outcome(0, 0, 0, "")

    async def play(world: World) -> None:
        nonlocal outcome
        payer, liar = world.members[0], world.members[1]
        deals = plant(world, liar, deliver_nothing)
        with trio.move_on_after(2):
            await ask(world.gateway, make_request(max_tokens=4_096))
        (deal,) = deals
        amount = world.account(0).available
        for _ in range(5):
            transfer = Transfer(0, liar.public_key, amount)
            fee = compute_fee(world.genesis, sign_operation(payer.key, world.genesis.chain_id, transfer))
            amount = world.account(0).available - LEFT - fee
        moved = await world.gateway.wallet.submit(lambda nonce: Transfer(nonce, liar.public_key, amount))
        await world.gateway.engine.wait_final(moved.id, 10)
        assert world.account(0).available == LEFT
        before = [world.account(number).total for number in (0, 1)]
        await capture_all(deal)
        await trio.sleep(60)
        lost, spent = (total - world.account(number).total for number, total in enumerate(before))
        assert len(world.operations(Dispute)) == 1
        detail = f"both lose the hold of {deal.offer.hold.amount:,}"
        outcome = Outcome(max(0, spent), max(0, -spent), lost, detail)
        liar.node.payments.payee._served.clear()

    simulate(play, Options(executors=1, parameters={"capture_grace_ms": 5_000}))
    return outcome


ATTACK = Attack(
    "captures what was never delivered, from a payer without the fee of a dispute",
    Outcome(0, 161_853, 162_242, "no dispute: its payer has 95 left, and the fee is 137"),
    run,
)
