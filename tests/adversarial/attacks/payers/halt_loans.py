"""While the chain is halted, a stranger has each executor answer on the same balance, which it then moves away."""

from __future__ import annotations

import trio

from chain.parameters.parameters import CREDIT
from chain.types.operations import Transfer, sign_operation
from p2p.network import NetworkError
from serving.offload.protocol import Completed
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_payer import CheatingPayer
from tests.support.market_world import Options, World, get_script, make_request, simulate

TOKENS = 400
EXECUTORS = 4
BODY = make_request(max_tokens=TOKENS).body


def run() -> Outcome:
    outcome = Outcome(0, 0, 0, "")

    async def play(world: World) -> None:
        nonlocal outcome
        payer, victims = await CheatingPayer.join(world, 1, CREDIT), world.members[1:]
        await trio.sleep(2)
        holds = payer.find_holds(range(60), BODY, payer.compute_price(BODY, TOKENS))
        assert len(holds) == EXECUTORS
        for victim in victims:
            get_script(victim).tokens, get_script(victim).token_delay = TOKENS, 0.004
        before, earned = payer.balance, sum(world.account(victim.number).total for victim in victims)
        gained = answers = 0
        await world.kill(0)  # the only validator

        async def take(number: int) -> None:
            nonlocal gained, answers
            try:
                end = await payer.take(holds[number], BODY)
            except NetworkError:
                return
            if isinstance(end, Completed):
                gained, answers = gained + end.delivery.amount, answers + 1

        async with trio.open_nursery() as nursery:
            for number in range(EXECUTORS):
                nursery.start_soon(take, number)
        await world.start(0)
        rest = Transfer(0, world.members[0].public_key, CREDIT - 200)
        await world.gateway.engine.submit(sign_operation(payer.key, world.genesis.chain_id, rest))
        await trio.sleep(60)
        assert payer.balance < 200
        spent = before - payer.balance - rest.amount
        earned = sum(world.account(victim.number).total for victim in victims) - earned
        outcome = Outcome(spent, gained, gained - earned, f"{answers} answers of {EXECUTORS} executors")

    simulate(play, Options(executors=EXECUTORS))
    return outcome


ATTACK = Attack(
    "borrows on one balance from all executors while the chain is halted",
    Outcome(0, 1_518_802, 1_518_802, "16 executors answer for more than the credit that there is"),
    run,
)
