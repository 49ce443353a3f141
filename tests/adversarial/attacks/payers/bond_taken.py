"""A payer offers the dearest requests that are accepted, and has most of the executors' bonds stand behind them."""

from __future__ import annotations

import trio

from chain.parameters.parameters import CREDIT
from chain.types.operations import Hold
from serving.offload.protocol import OFFLOAD_PROTOCOL, Accepted, Payment, encode_message
from serving.openai.requests import MAX_CHOICES
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_payer import SALT, CheatingPayer
from tests.support.market.offers_by_hand import send_offer
from tests.support.market_world import Options, World, ask, get_script, make_body, make_request, simulate

MAX_TOKENS = 4_096
REQUESTS = 12


def run() -> Outcome:
    refused = backed = 0

    async def play(world: World) -> None:
        nonlocal refused, backed
        world.introduce(paid=CREDIT)
        payer = await CheatingPayer.join(world, 1, 100 * CREDIT)
        for member in world.members[1:]:
            get_script(member).token_delay = 60.0  # until it hangs up: nothing is streamed, and nothing owed

        async def occupy(body: bytes, hold: Hold) -> None:
            nonlocal backed
            async with payer.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
                if isinstance(await send_offer(exchange, hold, body, SALT), Accepted):
                    backed += hold.amount
                    await exchange.send(encode_message(Payment(payer.sign(hold))))
                    await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            seq = 0
            for choices in range(MAX_CHOICES, 0, -1):
                body = make_body(max_tokens=MAX_TOKENS, n=choices)
                for hold in payer.find_holds(
                    range(seq, seq + 40), body, payer.compute_price(body, choices * MAX_TOKENS)
                ):
                    nursery.start_soon(occupy, body, hold)
                await trio.sleep(3.0)
                seq += 40
            assert backed
            for _ in range(REQUESTS):
                with trio.move_on_after(2.0):  # once it is taken, its answer takes long
                    refused += (await ask(world.gateway, make_request(max_tokens=100))).error is not None
            nursery.cancel_scope.cancel()

    simulate(play, Options(bonded={1: 10 * CREDIT, 2: 10 * CREDIT}, capacity=64))
    detail = f"{refused} of {REQUESTS} honest requests refused, {backed:,} of 20,000,000 micro-credits taken"
    return Outcome(0, refused, refused, detail, "requests")


ATTACK = Attack(
    "requests that take the whole bond of the executors, and owe nothing",
    Outcome(0, 115, 115, "115 of 115 honest requests refused, for 585 micro-credits", "requests"),
    run,
)
