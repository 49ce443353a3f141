"""An executor sends megabytes after the closing event, then small chunks, before its delivery."""

from __future__ import annotations

from serving.offload.protocol import CHUNK_BYTES
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_executor import Deal, give_back, plant
from tests.support.market.offers_by_hand import receive
from tests.support.market_world import World, ask, simulate

PADDING = (b":" + b"x" * (CHUNK_BYTES - 3) + b"\n\n") * 64
SMALL_CHUNKS = 200
UNIT = "bytes kept"


def run() -> Outcome:
    outcome = Outcome(0, 0, 0, "", UNIT)

    async def go_on(deal: Deal) -> None:
        await deal.send_answer()
        await deal.send_body(PADDING)
        for _ in range(SMALL_CHUNKS):
            await deal.send_body(b"\n\n")
        await deal.send(deal.make_completed(deal.make_delivery(deal.answer + PADDING + b"\n\n" * SMALL_CHUNKS)))
        await receive(deal.exchange)

    async def play(world: World) -> None:
        nonlocal outcome
        liar = world.drawn()[0]
        deals = plant(world, liar, go_on)
        result = await ask(world.gateway)
        kept = len(result.body) - len(deals[0].answer)
        assert result.broken is None and kept >= 0
        give_back(liar, deals)
        await world.settle(90)
        outcome = Outcome(0, kept, kept, "dropped as they come", UNIT)

    simulate(play)
    return outcome


ATTACK = Attack(
    "megabytes after the closing event",
    Outcome(0, 4_194_704, 4_194_704, "copied anew with each chunk: after 30 MiB 8 ms for each of 2 bytes", UNIT),
    run,
)
