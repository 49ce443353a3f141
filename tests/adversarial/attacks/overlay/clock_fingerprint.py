"""An observer compares the announcements of an anonymous node with the clocks of machines that it can measure."""

from __future__ import annotations

from statistics import mean

import trio

from p2p.coarse_clock import STEP_MS
from p2p.simulation.runtime import SimulatedRuntime, run_simulation
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.discovery_world import world

HOURS = 2
MACHINES = 16
DISTANCE_MS = 250
"""Between the clocks of any two machines."""
ANONYMOUS = 11
"""The machine that the anonymous node runs on."""


async def _watch() -> int:
    """Returns the machine whose clock fits the announcements of the anonymous node best."""
    async with world(0) as w:
        w.bootstrap = [(w.key(0).public_key, "/memory/0")]
        observer, node = w.start(0), w.start(1, skew=ANONYMOUS * DISTANCE_MS)
        await w.until_agreed(10)
        deviations: dict[int, float] = {}
        while trio.current_time() < HOURS * 3600:
            entry = observer.discovery.table.entries[node.me]
            sequence = entry.announcement.sequence
            deviations.setdefault(sequence, sequence - SimulatedRuntime.EPOCH_MS - 1000 * entry.made_at)
            await trio.sleep(5)
    assert len(deviations) > HOURS * 100
    deviation = mean(deviations.values()) + STEP_MS  # a coarse clock is that far behind on average
    return min(range(MACHINES), key=lambda machine: abs(machine * DISTANCE_MS - deviation))


def run() -> Outcome:
    is_found = int(run_simulation(1, _watch) == ANONYMOUS)
    return Outcome(0, is_found, is_found, f"one of {MACHINES} clocks, after {HOURS} h", "anonymous nodes found out")


ATTACK = Attack(
    "announcements tell the clock of an anonymous node",
    before=Outcome(0, 1, 1, f"one of {MACHINES} clocks, at the first announcement", "anonymous nodes found out"),
    run=run,
)
