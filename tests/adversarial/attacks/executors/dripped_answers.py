"""An executor sends bytes without content, each just before it would be given up: its user waits, others are free."""

from __future__ import annotations

import trio

from serving.offload.protocol import ResponseChunk, ResponseHead
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_executor import SALT, Deal, give_back, plant
from tests.support.market_world import World, ask, make_request, simulate

DRIPS = [
    ("text/event-stream", b"\n\n"),
    ("text/event-stream", b": wait\n\n"),
    ("text/event-stream", b": wait"),
    ("application/json", b" "),
]
INTERVAL_S = 14.0
LIMIT_S = 7200.0
"""How long a request is watched."""
UNIT = "requests without an end"


def run() -> Outcome:
    waited = [wait_for(kind, piece) for kind, piece in DRIPS]
    hung = sum(seconds >= LIMIT_S for seconds in waited)
    return Outcome(0, hung, hung, f"of {len(DRIPS)}; another executor answers after {max(waited):.0f} s at most", UNIT)


def wait_for(kind: str, piece: bytes) -> float:
    """How long a user waits for an answer, in seconds."""
    waited = LIMIT_S

    async def drip(deal: Deal) -> None:
        await deal.send(ResponseHead(200, kind, SALT))
        while True:
            await deal.send(ResponseChunk(piece))
            await trio.sleep(INTERVAL_S)

    async def play(world: World) -> None:
        nonlocal waited
        liar, honest = world.drawn()
        deals = plant(world, liar, drip)
        begun = trio.current_time()
        with trio.move_on_after(LIMIT_S):
            result = await ask(world.gateway, make_request(stream=kind == "text/event-stream"))
            assert result.executor == honest.public_key
            waited = trio.current_time() - begun
        assert deals, "the liar was never asked"
        give_back(liar, deals)
        await world.settle(90)

    simulate(play)
    return waited


ATTACK = Attack(
    "bytes without content every 14 s",
    Outcome(0, 4, 4, "of 4; no other executor was asked within two hours", UNIT),
    run,
)
