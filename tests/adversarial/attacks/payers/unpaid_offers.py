"""Strangers who offer requests and never pay: how many requests of an honest payer are turned away meanwhile?"""

from __future__ import annotations

from itertools import count

import trio

from p2p.network import NetworkError
from serving.offload.protocol import OFFLOAD_PROTOCOL, Accepted
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_payer import SALT, CheatingPayer, read_answer
from tests.support.market.offers_by_hand import send_offer
from tests.support.market_world import Options, Result, World, ask, get_script, make_body, make_request, simulate

STRANGERS, OFFERS_AT_ONCE = 4, 16
REQUESTS = 60
"""Of the honest payer, one each second and a half: so few that its share of the queue holds them."""
BODY = make_body(max_tokens=1, stream=True)
AMOUNT = 1_000 + 3 * len(BODY) + 5 * 8


def run() -> Outcome:
    results: list[Result] = []
    accepted = spent = 0

    async def play(world: World) -> None:
        nonlocal spent
        victim = world.members[1]
        get_script(victim).tokens = 200  # a 10 s answer unless it is stopped
        strangers = [await CheatingPayer.join(world, number, AMOUNT) for number in range(STRANGERS)]

        async def offer(stranger: CheatingPayer, first: int) -> None:
            nonlocal accepted
            for seq in count(first, OFFERS_AT_ONCE):
                hold, pause = stranger.make_hold(seq % 256, BODY, AMOUNT, victim), 4.0
                try:
                    async with stranger.streams.open(victim.public_key, OFFLOAD_PROTOCOL) as exchange:
                        if isinstance(await send_offer(exchange, hold, BODY, SALT), Accepted):
                            accepted += 1
                            pause = 0.1
                            await read_answer(exchange)
                except NetworkError:
                    pass
                await trio.sleep(pause)

        async def send() -> None:
            results.append(await ask(world.gateway, make_request(max_tokens=100)))

        async with trio.open_nursery() as nursery:
            for stranger in strangers:
                for number in range(OFFERS_AT_ONCE):
                    nursery.start_soon(offer, stranger, number)
            await trio.sleep(2.0)
            async with trio.open_nursery() as users:
                for _ in range(REQUESTS):
                    users.start_soon(send)
                    await trio.sleep(1.5)
            nursery.cancel_scope.cancel()
        spent = STRANGERS * AMOUNT - sum(stranger.balance for stranger in strangers)

    simulate(play, Options(executors=1, parameters={"capture_grace_ms": 5_000}))
    assert accepted
    served = sum(result.status == 200 and result.broken is None for result in results)
    refused = REQUESTS - served
    return Outcome(spent, refused, refused, f"{served} of {REQUESTS} honest requests served", "honest requests refused")


ATTACK = Attack(
    "offers that are never paid",
    Outcome(0, 46, 46, "14 of 60 honest requests served", "honest requests refused"),
    run,
)
