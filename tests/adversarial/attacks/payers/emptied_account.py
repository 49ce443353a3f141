"""A payer that empties its account a moment before its holds reach a leader: who is paid for the answers?"""

from __future__ import annotations

import trio

from chain.types.operations import Hold, Transfer, sign_operation
from serving.offload.protocol import Completed
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_payer import CheatingPayer
from tests.support.market.scripted_backend import compute_text
from tests.support.market_world import Options, World, get_script, make_request, simulate

EXECUTORS = 8
TOKENS = 60
BODY = make_request().body
HOLD_AMOUNT = 1_000 + 3 * len(BODY) + 5 * 8 * 100
PRICE = 1_000 + 3 * len(BODY) + 5 * len(compute_text("m1-", TOKENS))
"""Of an answer."""
FEES = 5_000
"""Micro-credits beside the price of one answer, for the fees of a hold and a transfer."""


def run() -> Outcome:
    ends: list[object] = []
    spent = 0

    async def play(world: World) -> None:
        nonlocal spent
        payer, executors = await CheatingPayer.join(world, 1, HOLD_AMOUNT + FEES), world.members[1:]
        for member in executors:
            get_script(member).tokens = TOKENS
        holds = payer.find_holds(range(120), BODY, HOLD_AMOUNT)
        assert len(holds) == EXECUTORS
        is_drained = trio.Event()

        async def cheat(hold: Hold) -> None:
            ends.append(await payer.take(hold, BODY, pay_after=is_drained))

        async with trio.open_nursery() as nursery:
            for hold in holds:
                nursery.start_soon(cheat, hold)
            await trio.sleep(0.5)  # all have accepted, and wait for the payment
            drain = Transfer(0, world.members[0].public_key, HOLD_AMOUNT + FEES - 300)
            # To the leader alone, which has it before any hold.
            signed = sign_operation(payer.key, world.genesis.chain_id, drain)
            world.gateway.engine._mempool.add(signed, trio.current_time())
            is_drained.set()
        await trio.sleep(30.0)
        assert world.operations(Transfer)[-1] == drain and world.operations(Hold) == []
        spent = HOLD_AMOUNT + FEES - drain.amount - payer.balance

    simulate(play, Options(executors=EXECUTORS, parameters={"capture_grace_ms": 5_000}))
    answers = sum(isinstance(end, Completed) for end in ends)
    gained = answers * PRICE
    return Outcome(spent, gained, gained, f"{answers} of {EXECUTORS} answers delivered whole")


ATTACK = Attack(
    "an account emptied just before its holds",
    Outcome(300, 8 * 3_205, 8 * 3_205, "8 of 8 answers delivered whole"),
    run,
)
