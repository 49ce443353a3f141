"""What is measured of the machine: a bad minute is told from a bad moment, and forgotten when it is over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import trio
from trio.testing import MockClock

from chain.histogram import Histogram
from p2p.runtime import RealRuntime
from serving.admin.health.diagnosis import LATE_LOOP_S, LATE_LOOP_SHARE, SLOW_WRITE_S
from serving.admin.health.machine import LOOK_INTERVAL_S, LOOKS, MIN_RECENT, Machine, RecentShare


class Inline(RealRuntime):
    """Runs in the event loop what would run in a thread, for which a simulated clock would not wait."""

    async def run_sync(self, function, *args):  # type: ignore[no-untyped-def]
        return function(*args)


def test_only_the_last_minute_counts() -> None:
    times = Histogram((1, 2))
    share = RecentShare(times, 1)
    for _ in range(MIN_RECENT - 1):
        times.observe(5)
    share.look()
    assert share.value == 0, "too few to say anything"
    times.observe(1)
    share.look()
    assert share.value == (MIN_RECENT - 1) / MIN_RECENT
    for look in range(LOOKS + 1):
        times.observe(0.5)
        share.look()
        assert (share.value > 0) == (look < LOOKS - 2)


def run(play: Callable[[Machine, MockClock], Awaitable[None]], directory: Path) -> None:
    async def main() -> None:
        machine = Machine(directory, Histogram((SLOW_WRITE_S,)), Inline())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(machine.run)
            await play(machine, clock)
            nursery.cancel_scope.cancel()

    clock = MockClock(autojump_threshold=0)
    trio.run(main, clock=clock)


def test_a_loop_that_is_kept_from_its_work_is_seen_for_a_minute(tmp_path: Path) -> None:
    async def play(machine: Machine, clock: MockClock) -> None:
        await trio.sleep(LOOK_INTERVAL_S)
        assert machine.loop_lag.count > 30 and machine.loop_lag.count_above(LATE_LOOP_S) == 0
        for _ in range(20):
            await trio.sleep(0.1)
            clock.jump(0.6)  # as if a step had taken so long
        await trio.sleep(LOOK_INTERVAL_S)
        assert machine.gather_facts().late_looks >= LATE_LOOP_SHARE
        await trio.sleep(LOOKS * LOOK_INTERVAL_S)
        assert machine.gather_facts().late_looks == 0

    run(play, tmp_path)


def test_slow_writes_and_space_are_seen(tmp_path: Path) -> None:
    async def play(machine: Machine, clock: MockClock) -> None:
        await trio.sleep(LOOK_INTERVAL_S / 2)
        assert (machine.gather_facts().free_bytes or 0) > 0
        for took in (0.01, 0.2, 0.3) * MIN_RECENT:
            machine.write_times.observe(took)
        await trio.sleep(LOOK_INTERVAL_S)
        assert machine.gather_facts().slow_writes == 2 / 3

    run(play, tmp_path)
    run(_find_no_directory, tmp_path / "gone")


async def _find_no_directory(machine: Machine, clock: MockClock) -> None:
    await trio.sleep(LOOK_INTERVAL_S)
    assert machine.gather_facts().free_bytes is None
