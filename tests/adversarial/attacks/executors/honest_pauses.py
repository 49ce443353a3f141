"""A backend pauses for 20 s in the middle of each stream, as one does to which someone else sends huge prompts."""

from __future__ import annotations

from chain.types.operations import Dispute
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market_world import Options, World, ask, get_script, simulate

REQUESTS = 12
PAUSE_S = 20.0


def run() -> Outcome:
    outcome = Outcome(0, 0, 0, "")

    async def play(world: World) -> None:
        nonlocal outcome
        for member in world.members[1:]:
            get_script(member).tokens, get_script(member).token_delay = 2, PAUSE_S
        whole = 0
        for _ in range(REQUESTS):
            whole += (await ask(world.gateway)).broken is None
        await world.settle(200)
        disputed = {dispute.hold for dispute in world.operations(Dispute)}
        # A dispute takes what was captured from both sides.
        lost = 2 * sum(item.delivery.amount for item in world.captured if item.delivery.hold in disputed)
        detail = f"{len(disputed)} of {REQUESTS} answers disputed; {whole} came whole"
        outcome = Outcome(0, 0, lost, detail)

    simulate(play, Options(parameters={"capture_grace_ms": 5_000}))
    return outcome


ATTACK = Attack(
    "honest pauses of 20 s in streams",
    Outcome(0, 0, 49_656, "12 of 12 answers disputed; 0 came whole"),
    run,
)
