"""Validators whose clock runs fast, slow, or not at all: agreement rests on no clock, only its pace does."""

from __future__ import annotations

from typing import Any

import pytest

from consensus.messages import Effect, Message
from consensus.simplex import Simplex, Timeouts
from tests.simulation.agreement import Network, Simulation
from tests.simulation.scenarios import always, assert_recovers, disturb, heal, make_keys, make_set


class Hasty(Simplex):
    """Times out before anything can arrive."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{**arguments, "timeouts": Timeouts(0.01, 0.05)})


class Sluggish(Simplex):
    """Waits for minutes."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{**arguments, "timeouts": Timeouts(100.0, 1000.0)})


class Timeless(Simplex):
    """Its timer never rings."""

    def on_timeout(self, view: int) -> list[Effect]:
        return []


class Nervous(Simplex):
    """Its timer rings with every message."""

    def on_message(self, message: Message) -> list[Effect]:
        return super().on_message(message) + self.on_timeout(self.view)


@pytest.mark.parametrize("clock", [Hasty, Sluggish, Timeless, Nervous])
def test_one_wrong_clock_stops_nobody(clock: type[Simplex]) -> None:
    """Its owner is honest: no vote of it contradicts another, and nobody accuses it."""
    for seed in range(5):
        keys = make_keys(4 + seed % 4)
        simulation = Simulation(
            seed,
            keys,
            always(make_set(keys)),
            epoch_heights=(3, 1000)[seed % 2],
            network=Network(delay=(0.005, 0.5), loss=0.1),
            cores={0: clock},
        )
        disturb(simulation, crash_rate=0.0, phases=4)
        heal(simulation)
        assert_recovers(simulation, seconds=400.0)
        assert not simulation.conflicts


def test_clocks_of_all_kinds_together_are_safe() -> None:
    """With no honest clock left progress may be slow, but nothing contradicts itself."""
    for seed in range(2):
        keys = make_keys(4)
        cores: dict[int, type[Simplex]] = {0: Hasty, 1: Sluggish, 2: Timeless, 3: Hasty}
        simulation = Simulation(seed, keys, always(make_set(keys)), cores=cores)
        disturb(simulation, crash_rate=0.0, phases=3)
        heal(simulation)
        simulation.run(10)
        assert not simulation.violations
        assert not simulation.conflicts
