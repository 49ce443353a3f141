"""Answers that are interrupted and resumed again and again: how long do small payments keep an executor's slots?"""

from __future__ import annotations

import math

import trio

from chain.types.operations import compute_hold_id
from p2p.network import NetworkError
from serving.offload.protocol import (
    OFFLOAD_PROTOCOL,
    Accepted,
    Completed,
    Declined,
    Failed,
    Message,
    Payment,
    ResponseChunk,
    Resume,
    encode_message,
)
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_payer import SALT, CheatingPayer
from tests.support.market.offers_by_hand import receive, send_offer
from tests.support.market_world import Options, World, get_script, make_request, simulate

PAYMENTS, TURNS, PAUSE_S = 3, 10, 48.0
"""Each answer is interrupted after its first part, and resumed after the pause."""
TOKENS = 90
BODY = make_request(max_tokens=100).body
SAMPLE_S = 0.1
"""Between two looks at how many slots are taken."""


def run() -> Outcome:
    taken, begun, bought = 0.0, 0, 0.0

    async def play(world: World) -> None:
        nonlocal bought
        payer, victim = CheatingPayer.of_gateway(world), world.members[1]
        script = get_script(victim)
        script.tokens = TOKENS
        bought = PAYMENTS * (script.first_delay + TOKENS * script.token_delay)

        async def cheat(seq: int) -> None:
            nonlocal begun
            hold = payer.make_hold(seq, BODY, payer.compute_price(BODY, 100), victim)
            hold_id = compute_hold_id(payer.key.public_key, hold)
            for turn in range(TURNS):
                try:
                    async with payer.streams.open(victim.public_key, OFFLOAD_PROTOCOL) as exchange:
                        if turn:
                            await exchange.send(encode_message(Resume(hold_id, 1)))
                        else:
                            assert isinstance(await send_offer(exchange, hold, BODY, SALT), Accepted)
                            await exchange.send(encode_message(Payment(payer.sign(hold))))
                        message: Message | None = None
                        while not isinstance(message, ResponseChunk):
                            message = await receive(exchange)
                            if isinstance(message, Completed | Failed | Declined):
                                return
                        begun += not turn
                        await exchange.stream.raw.reset()  # looks like a connection that was lost
                except NetworkError:
                    pass
                await trio.sleep(PAUSE_S)

        async def sample() -> None:
            nonlocal taken
            while True:
                taken += victim.node.backend_pool.admissions[0].running * SAMPLE_S
                await trio.sleep(SAMPLE_S)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sample)
            async with trio.open_nursery() as cheats:
                for seq in range(PAYMENTS):
                    cheats.start_soon(cheat, 200 - seq)
                    await trio.sleep(1.0)
            nursery.cancel_scope.cancel()

    simulate(play, Options(executors=1, parameters={"capture_grace_ms": 5_000}))
    assert begun == PAYMENTS
    slots, paid = math.floor(taken), math.ceil(bought)
    return Outcome(paid, slots, max(0, slots - paid), f"slots taken by {PAYMENTS} small payments", "slot-seconds")


ATTACK = Attack(
    "answers interrupted and resumed to keep slots",
    Outcome(14, 800, 786, "slots taken by 3 small payments", "slot-seconds"),
    run,
)
