"""The alarm of the event loop: it rings once for each setting, at the time that was set last."""

from __future__ import annotations

import math

import trio

from consensus.alarm import Alarm
from p2p.simulation.runtime import run_simulation


def test_an_alarm_rings_once_at_the_time_that_was_set_last() -> None:
    rung: list[float] = []
    alarm = Alarm(lambda: rung.append(trio.current_time()))

    async def main() -> None:
        alarm.set(3.0)  # before it runs
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alarm.run)
            await trio.sleep(1.0)
            alarm.set(2.0)
            await trio.sleep(4.0)
            assert rung == [2.0]
            alarm.set(6.0)
            alarm.set(8.0)  # later
            await trio.sleep(2.0)
            assert rung == [2.0]
            await trio.sleep(2.0)
            assert rung == [2.0, 8.0]
            alarm.set(4.0)  # in the past: at once
            await trio.sleep(0.0)
            await trio.sleep(1.0)
            assert rung == [2.0, 8.0, 9.0]
            alarm.set(11.0)
            alarm.set(math.inf)
            await trio.sleep(10.0)
            nursery.cancel_scope.cancel()
        assert rung == [2.0, 8.0, 9.0]

    run_simulation(1, main)


def test_a_bell_that_is_put_off_as_it_rings_rings_later() -> None:
    rung: list[float] = []
    alarm = Alarm(lambda: rung.append(trio.current_time()))

    async def put_off() -> None:
        await trio.sleep(2.0)
        alarm.set(5.0)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alarm.run)
            alarm.set(2.0)
            nursery.start_soon(put_off)
            await trio.sleep(9.0)
            nursery.cancel_scope.cancel()

    for seed in range(8):  # both orders of the two tasks that are due at the same time
        rung.clear()
        run_simulation(seed, main)
        assert rung in ([5.0], [2.0, 5.0])
