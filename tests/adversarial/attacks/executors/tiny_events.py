"""An executor answers with events of two bytes: each costs the payer as much as one with content."""

from __future__ import annotations

from unittest import mock

from serving.offload.protocol import CHUNK_BYTES, ResponseHead
from serving.openai.answers import AnswerInspector
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_executor import SALT, Deal, give_back, plant
from tests.support.market_world import World, ask, simulate

EVENT = b"\n\n"
CHUNKS = 32
PAID_BYTES = 16
"""Bytes for which one event is no attack: the shortest with content has some forty."""
UNIT = "events read"


def run() -> Outcome:
    events = sent = 0
    watch = AnswerInspector._watch

    def count(inspector: AnswerInspector, event: bytes) -> bytes:
        nonlocal events
        events += 1
        return watch(inspector, event)

    async def play(world: World) -> None:
        async def flood(deal: Deal) -> None:
            nonlocal sent
            await deal.send(ResponseHead(200, "text/event-stream", SALT))
            for _ in range(CHUNKS):
                await deal.send_body(EVENT * (CHUNK_BYTES // len(EVENT)))
                sent += CHUNK_BYTES

        liar, honest = world.drawn()
        deals = plant(world, liar, flood)
        assert (await ask(world.gateway)).executor == honest.public_key
        assert deals, "the liar was never asked"
        give_back(liar, deals)
        await world.settle(90)

    with mock.patch.object(AnswerInspector, "_watch", count):
        simulate(play)
    return Outcome(sent // PAID_BYTES, events, events, f"broken off; {sent:,} bytes were sent", UNIT)


ATTACK = Attack(
    "events of two bytes",
    Outcome(131_072, 1_048_576, 1_048_576, "2.2 s of CPU for 2 MiB; up to 84 ms in one go", UNIT),
    run,
)
