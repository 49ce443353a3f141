"""An executor announces that it has nothing to do: is it asked before others of the same stake?"""

from __future__ import annotations

from dataclasses import replace

from p2p.peers.announcement import Announcement
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market_world import MODEL, Options, World, simulate

NUMBERS = 2_000
LOAD_PERMILLE = 400
UNIT = "first offers"


def run() -> Outcome:
    outcome = Outcome(0, 0, 0, "", UNIT)

    async def play(world: World) -> None:
        nonlocal outcome
        liar, originator = world.members[1].public_key, world.gateway.originator
        dialer, first_round = originator._dialer, originator._context.first_round

        def count(lie: int) -> int:
            """How often the liar is asked first if it announces a load of ``lie``."""

            def find(peer: bytes) -> Announcement | None:
                announcement = dialer.find(peer)
                if announcement is None:
                    return None
                utilization = lie if peer == liar else LOAD_PERMILLE
                return replace(announcement, load=replace(announcement.load, utilization=utilization))

            originator._dialer = replace(dialer, find=find)
            return sum(originator._draw(MODEL, first_round, seq)[0][1] == liar for seq in range(NUMBERS))

        honest, lying = count(LOAD_PERMILLE), count(0)
        assert honest, "it is never drawn"
        outcome = Outcome(0, lying - honest, lying - honest, f"{lying:,} of {NUMBERS:,} instead of {honest:,}", UNIT)

    simulate(play, Options(executors=4))
    return outcome


ATTACK = Attack(
    "an executor announces a load of 0",
    Outcome(0, 523, 523, "982 of 2,000 instead of 459", UNIT),
    run,
)
