"""A payer has answers made that are not streamed, and hangs up just before they come."""

from __future__ import annotations

from dataclasses import replace

import trio

from chain.parameters.parameters import CREDIT
from p2p.network import NetworkError
from serving.offload.protocol import OFFLOAD_PROTOCOL, Accepted, Payment, encode_message
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_payer import SALT, CheatingPayer
from tests.support.market.offers_by_hand import receive, send_offer
from tests.support.market_world import Options, World, get_script, make_request, simulate

TOKENS = 4_000
TOKEN_DELAY_S = 0.02
CYCLES, REQUESTS = 6, 4
BODY = make_request(stream=False, max_tokens=TOKENS).body


def run() -> Outcome:
    busy, begun, outcome = 0.0, 0, Outcome(0, 0, 0, "")

    async def play(world: World) -> None:
        nonlocal outcome
        payer, victim = await CheatingPayer.join(world, 1, 20 * CREDIT), world.members[1]
        get_script(victim).tokens, get_script(victim).token_delay = TOKENS, TOKEN_DELAY_S
        amount, before = payer.compute_price(BODY, TOKENS), payer.balance

        async def leave(seq: int) -> None:
            nonlocal busy, begun
            hold = payer.make_hold(seq, BODY, amount, victim)
            hold = replace(hold, deadline=world.gateway.engine.chain_time() + 310_000)
            try:
                async with payer.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
                    if not isinstance(await send_offer(exchange, hold, BODY, SALT), Accepted):
                        return
                    started, begun = trio.current_time(), begun + 1
                    await exchange.send(encode_message(Payment(payer.sign(hold))))
                    with trio.move_on_after(78):
                        while True:
                            await receive(exchange)
                    busy += trio.current_time() - started
                    await exchange.abort("no longer wanted")
            except NetworkError:
                pass

        for cycle in range(CYCLES):
            async with trio.open_nursery() as nursery:
                for number in range(REQUESTS):
                    nursery.start_soon(leave, cycle * REQUESTS + number)
                    await trio.sleep(1.2)
                await trio.sleep(80)
        assert begun
        price = world.genesis.parameters.price.per_completion_byte
        work = round(busy / TOKEN_DELAY_S) * 8 * price
        detail = f"{begun} of {CYCLES * REQUESTS} requests run, for {busy:.0f} s of a slot"
        outcome = Outcome(before - payer.balance, work, work, detail)

    simulate(play, Options(executors=1, capacity=16))
    return outcome


ATTACK = Attack(
    "leaves requests just before their answers come",
    Outcome(7_694, 3_744_000, 3_744_000, "24 of 24 requests run, for 1872 s of a slot"),
    run,
    accepted="a new payer's first requests, a minute of work for each offer that it may have; then it is declined",
)
