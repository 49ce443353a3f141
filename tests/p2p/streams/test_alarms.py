"""Alarms that are put off cost nothing, and ring neither early nor late."""

from __future__ import annotations

import random

import pytest
import trio

from p2p.simulation.runtime import SimulatedClock
from p2p.streams.alarms import Alarms

pytestmark = pytest.mark.trio


class Waiter:
    """Notes when it is rung."""

    def __init__(self) -> None:
        self.rung: list[float] = []

    def ring(self, due: float) -> None:
        self.rung.append(trio.current_time())


async def test_each_rings_at_its_time_in_whatever_order_they_were_set(simulated_clock: SimulatedClock) -> None:
    chance, alarms, start = random.Random(1), Alarms(), trio.current_time()
    times = [start + chance.uniform(0.1, 100.0) for _ in range(50)]
    waiters = [Waiter() for _ in times]
    async with trio.open_nursery() as nursery:
        for waiter, due in zip(waiters[:25], times, strict=False):
            alarms.set(waiter, due)
        nursery.start_soon(alarms.run)
        await trio.sleep(0.05)
        for waiter, due in zip(waiters[25:], times[25:], strict=True):
            alarms.set(waiter, due)
        await trio.sleep(101.0)
        nursery.cancel_scope.cancel()
    assert [waiter.rung for waiter in waiters] == [pytest.approx([due]) for due in times]


async def test_one_that_is_gone_is_not_kept(simulated_clock: SimulatedClock) -> None:
    alarms, there = Alarms(), Waiter()
    alarms.set(Waiter(), trio.current_time() + 1.0)
    alarms.set(there, trio.current_time() + 1.0)
    with trio.move_on_after(2.0):
        await alarms.run()
    assert len(there.rung) == 1
