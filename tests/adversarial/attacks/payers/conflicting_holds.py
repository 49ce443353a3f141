"""A payer with credit gives the number of each hold that it pays with to another, smaller hold, which becomes final."""

from __future__ import annotations

from dataclasses import replace

import trio

from chain.parameters.parameters import CREDIT
from chain.types.operations import Hold
from p2p.network import NetworkError
from serving.offload.protocol import OFFLOAD_PROTOCOL, Accepted, Completed, Payment, encode_message
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_payer import SALT, CheatingPayer, read_answer
from tests.support.market.offers_by_hand import send_offer
from tests.support.market_world import Options, World, get_script, make_request, simulate

TOKENS = 400
ANSWERS = 20
BODY = make_request(max_tokens=TOKENS).body


def run() -> Outcome:
    outcome = Outcome(0, 0, 0, "")

    async def play(world: World) -> None:
        nonlocal outcome
        payer, victim = await CheatingPayer.join(world, 1, 50 * CREDIT), world.members[1]
        get_script(victim).tokens, get_script(victim).token_delay = TOKENS, 0.004
        amount = payer.compute_price(BODY, TOKENS)
        victim.node.payments.payee.history.note_payment(payer.key.public_key, 10 * amount)
        before, gained, taken = payer.balance, 0, 0
        for seq in range(ANSWERS):
            worth = await steal(payer, payer.make_hold(seq, BODY, amount, victim))
            gained, taken = gained + worth, taken + bool(worth)
            await trio.sleep(2)
        assert taken
        detail = f"{taken} of {ANSWERS} answers, then the credit is gone"
        outcome = Outcome(before - payer.balance, gained, gained, detail)

    simulate(play, Options(executors=1))
    return outcome


async def steal(payer: CheatingPayer, hold: Hold) -> int:
    """What the answer was worth, in micro-credits; 0 if none came."""
    soon = payer.world.gateway.engine.chain_time() + 30_000
    rival = replace(hold, amount=1_000, request_digest=bytes(32), deadline=soon)
    try:
        async with payer.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
            if not isinstance(await send_offer(exchange, hold, BODY, SALT), Accepted):
                return 0
            await payer.world.gateway.engine.submit(payer.sign(rival))
            await exchange.send(encode_message(Payment(payer.sign(hold))))
            _, end = await read_answer(exchange)
            return end.delivery.amount if isinstance(end, Completed) else 0
    except NetworkError:
        return 0


ATTACK = Attack(
    "pays with holds whose number another hold has used",
    Outcome(6_600, 729_940, 729_940, "20 of 20 answers, and the credit is never used up"),
    run,
    accepted="once as much as the credit that it had paid for ten times over",
)
