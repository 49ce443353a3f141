"""A payer limits its answers by fields that the backend does not read, and has long ones for the price of a token."""

from __future__ import annotations

import json

import trio

from chain.types.operations import Usage
from serving.offload.protocol import OFFLOAD_PROTOCOL, Accepted, Payment, encode_message
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_payer import SALT, CheatingPayer, read_answer
from tests.support.market.offers_by_hand import send_offer
from tests.support.market_world import MODEL, Options, World, get_script, make_body, make_request, simulate

TOKENS = 20_000
BODIES = (
    make_body(max_tokens=1, n_predict=TOKENS),  # llama.cpp
    make_body(max_completion_tokens=1, max_tokens=TOKENS),
    make_body(max_tokens=1, MAX_TOKENS=TOKENS),  # servers in Go, whose JSON decoder takes names in any case
    make_body(max_tokens=1, N=16),
    make_request(stream=False, max_tokens=1).body,  # a backend that keeps to no limit
)


def run() -> Outcome:
    spent = gained = accepted = 0

    async def play(world: World) -> None:
        nonlocal spent, gained, accepted
        victim, price = world.members[1], world.genesis.parameters.get_price(MODEL)
        payer = await CheatingPayer.join(world, 1, 10_000_000)
        before = payer.balance
        get_script(victim).tokens, get_script(victim).token_delay = TOKENS, 0.0
        for seq, body in enumerate(BODIES):
            hold = payer.make_hold(seq, body, payer.compute_price(body, 1), victim)
            async with payer.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
                if isinstance(await send_offer(exchange, hold, body, SALT), Accepted):
                    accepted += 1
                    await exchange.send(encode_message(Payment(payer.sign(hold))))
                    answer, _ = await read_answer(exchange)
                    if answer:
                        content = json.loads(answer)["choices"][0]["message"]["content"]
                        gained += price.compute(Usage(len(body), len(content)))
            await trio.sleep(3.0)
        await trio.sleep(90.0)
        spent = before - payer.balance

    simulate(play, Options(executors=1))
    return Outcome(spent, gained, max(0, gained - spent), f"{accepted} of {len(BODIES)} offers accepted, none answered")


ATTACK = Attack(
    "limits that executor and backend read differently",
    Outcome(2_012, 846_422, 844_410, "168,890 bytes of content at the price of a token"),
    run,
)
