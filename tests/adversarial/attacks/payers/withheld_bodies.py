"""Payers with credit announce the longest bodies and send nothing: how many honest requests does that keep out?"""

from __future__ import annotations

import trio

from p2p.network import NetworkError
from serving.offload.protocol import MAX_REQUEST_BYTES, OFFLOAD_PROTOCOL, Offer, encode_message
from serving.openai.requests import CHAT_COMPLETIONS
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_payer import SALT, CheatingPayer
from tests.support.market.offers_by_hand import receive
from tests.support.market_world import Member, World, ask, make_request, simulate

PAYERS = 8
BODY = make_request().body
AMOUNT = 1_000 + 3 * MAX_REQUEST_BYTES + 40
REQUESTS = 12


def run() -> Outcome:
    announced = refused = spent = 0

    async def play(world: World) -> None:
        nonlocal refused, spent
        payers = [await CheatingPayer.join(world, number, 2 * AMOUNT + 100_000) for number in range(PAYERS)]
        before = sum(payer.balance for payer in payers)

        async def withhold(payer: CheatingPayer, seq: int, victim: Member) -> None:
            nonlocal announced
            while True:
                hold = payer.make_hold(seq, BODY, AMOUNT, victim)
                try:
                    async with payer.streams.open(victim.public_key, OFFLOAD_PROTOCOL) as exchange:
                        await exchange.send(encode_message(Offer(CHAT_COMPLETIONS, MAX_REQUEST_BYTES, SALT, hold)))
                        announced += 1
                        await receive(exchange)
                except NetworkError:
                    pass
                await trio.sleep(1.0)

        async with trio.open_nursery() as nursery:
            for payer in payers:
                for victim in world.members[1:]:
                    for seq in range(2):
                        nursery.start_soon(withhold, payer, seq, victim)
            await trio.sleep(2.0)
            for _ in range(REQUESTS):
                refused += (await ask(world.gateway)).error is not None
                await trio.sleep(2.0)
            nursery.cancel_scope.cancel()
        assert announced >= 2 * PAYERS
        spent = before - sum(payer.balance for payer in payers)

    simulate(play)
    return Outcome(spent, refused, refused, f"{refused} of {REQUESTS} honest requests refused", "requests")


ATTACK = Attack(
    "offers of bodies that do not come",
    Outcome(0, 99, 99, "99 of 101 honest requests refused", "requests"),
    run,
)
