"""One balance, promised to every executor at once: how many answers does it buy?"""

from __future__ import annotations

import trio

from chain.types.operations import Hold
from serving.offload.protocol import Completed
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_payer import CheatingPayer
from tests.support.market.scripted_backend import compute_text
from tests.support.market_world import Options, World, get_script, make_request, simulate

EXECUTORS = 12
TOKENS = 100
BODY = make_request().body
HOLD_AMOUNT = 1_000 + 3 * len(BODY) + 5 * 8 * TOKENS
PRICE = 1_000 + 3 * len(BODY) + 5 * len(compute_text("m1-", TOKENS))
"""Of an answer."""


def run() -> Outcome:
    ends: list[object] = []
    spent = captured = 0

    async def play(world: World) -> None:
        nonlocal spent, captured
        payer, executors = CheatingPayer.of_gateway(world), world.members[1:]
        for member in executors:
            get_script(member).tokens = TOKENS
        before = payer.balance
        holds = payer.find_holds(range(120), BODY, HOLD_AMOUNT)
        assert len(holds) == EXECUTORS

        async def cheat(hold: Hold) -> None:
            ends.append(await payer.take(hold, BODY))

        async with trio.open_nursery() as nursery:
            for hold in holds:
                nursery.start_soon(cheat, hold)
        await trio.sleep(30.0)
        assert len(world.operations(Hold)) == 1
        spent = before - payer.balance
        captured = sum(item.delivery.amount for item in world.captured)

    simulate(
        play, Options(executors=EXECUTORS, available={0: HOLD_AMOUNT + 1_000}, parameters={"capture_grace_ms": 5_000})
    )
    answers = sum(isinstance(end, Completed) for end in ends)
    gained = answers * PRICE
    return Outcome(spent, gained, gained - captured, f"{answers} of {EXECUTORS} answers delivered whole")


ATTACK = Attack(
    "one balance promised to many executors at once",
    Outcome(4_198, 48_060, 43_862, "12 of 12 answers delivered whole"),
    run,
)
