"""A payer leaves an offer, makes the same offer again, takes the answer, and is refunded for having left."""

from __future__ import annotations

import trio

from chain.parameters.parameters import CREDIT
from p2p.network import NetworkError
from serving.offload.protocol import OFFLOAD_PROTOCOL, Accepted, Completed, Payment, encode_message
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_payer import SALT, CheatingPayer, read_answer
from tests.support.market.offers_by_hand import send_offer
from tests.support.market_world import Options, World, get_script, make_request, simulate

TOKENS = 400
ANSWERS = 2
"""As many as the holds of a new payer that are refunded."""
BODY = make_request(max_tokens=TOKENS).body


def run() -> Outcome:
    outcome = Outcome(0, 0, 0, "")

    async def play(world: World) -> None:
        nonlocal outcome
        payers = [await CheatingPayer.join(world, number, 2 * CREDIT) for number in range(ANSWERS)]
        victim = world.members[1]
        get_script(victim).tokens, get_script(victim).token_delay = TOKENS, 0.004
        before, gained = sum(payer.balance for payer in payers), 0
        earned = world.account(victim.number).total
        for payer in payers:
            gained += await leave_and_take(payer)
            await trio.sleep(75)  # longer than refunds are gathered
            world.hub.connect_all()
        await trio.sleep(75)
        spent, earned = before - sum(payer.balance for payer in payers), world.account(victim.number).total - earned
        outcome = Outcome(
            spent, gained, max(0, gained - earned), f"{ANSWERS} answers, and the executor is paid {earned:,}"
        )

    simulate(play, Options(executors=1))
    return outcome


async def leave_and_take(payer: CheatingPayer) -> int:
    """What the answer was worth, in micro-credits."""
    hold = payer.make_hold(0, BODY, payer.compute_price(BODY, TOKENS), payer.world.members[1])
    async with payer.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
        assert isinstance(await send_offer(exchange, hold, BODY, SALT), Accepted)
        await exchange.abort("on second thoughts")
    await trio.sleep(0.5)
    try:
        async with payer.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
            assert isinstance(await send_offer(exchange, hold, BODY, SALT), Accepted)
            await exchange.send(encode_message(Payment(payer.sign(hold))))
            _, end = await read_answer(exchange)
            assert isinstance(end, Completed)
            # Lost and not reset: the executor waits for the payer to come back, longer than it gathers refunds.
            await payer.streams.network.disconnect(hold.payee)
    except NetworkError:
        pass
    return end.delivery.amount


ATTACK = Attack(
    "is refunded for an offer that it left, and then took up again",
    Outcome(2_450, 218_982, 218_982, "6 answers; the refund is captured before the payment"),
    run,
)
