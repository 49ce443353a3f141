"""Measurements of a node's machine: how late its event loop is, and how slow and how full its disk is."""

from __future__ import annotations

import shutil
from collections import deque
from pathlib import Path

import trio

from chain.histogram import Histogram
from p2p.runtime import Runtime
from serving.admin.health.diagnosis import LATE_LOOP_S, SLOW_WRITE_S, MachineFacts

LAG_INTERVAL_S = 0.25
"""Seconds between two looks at how late the event loop is."""
LAG_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"""Bounds of the histogram of how late it was."""
LOOK_INTERVAL_S = 10.0
"""Seconds between two looks at the disk and at what was counted."""
LOOKS = 6
"""So many of them are the last minute."""
MIN_RECENT = 6
"""Fewer values than these of the last minute say nothing; an idle chain makes a block in ten seconds."""


class RecentShare:
    """Which part of what a histogram has counted in the last minute is above one of its bounds."""

    def __init__(self, histogram: Histogram, bound: float) -> None:
        self._histogram = histogram
        self._bound = bound
        self._looks: deque[tuple[int, int]] = deque([self._count()], maxlen=LOOKS + 1)

    def look(self) -> None:
        """Remember the counts of this moment; to be called every :data:`LOOK_INTERVAL_S`."""
        self._looks.append(self._count())

    def _count(self) -> tuple[int, int]:
        return self._histogram.count_above(self._bound), self._histogram.count

    @property
    def value(self) -> float:
        """That part, 0 to 1; 0 with too few values."""
        (above_before, before), (above, count) = self._looks[0], self._looks[-1]
        return (above - above_before) / (count - before) if count - before >= MIN_RECENT else 0.0


class Machine:
    """Measures while a node runs on ``directory``. ``write_times`` are those of its database."""

    def __init__(self, directory: Path, write_times: Histogram, runtime: Runtime) -> None:
        self.directory = directory
        self.write_times = write_times
        self.loop_lag = Histogram(LAG_BOUNDS_S)
        """Seconds by which the event loop came later than it was asked to, every quarter of a second."""
        self.free_bytes: int | None = None
        """Space on the disk; None until it was looked at."""
        self._runtime = runtime
        self._slow_writes = RecentShare(write_times, SLOW_WRITE_S)
        self._late_looks = RecentShare(self.loop_lag, LATE_LOOP_S)

    def gather_facts(self) -> MachineFacts:
        """What :mod:`serving.admin.health.diagnosis` looks at."""
        return MachineFacts(str(self.directory), self.free_bytes, self._slow_writes.value, self._late_looks.value)

    async def run(self) -> None:
        """Measure until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._measure_lag)
            while True:
                self.free_bytes = await self._runtime.run_sync(_get_free_bytes, self.directory)
                self._slow_writes.look()
                self._late_looks.look()
                await trio.sleep(LOOK_INTERVAL_S)

    async def _measure_lag(self) -> None:
        while True:
            due = trio.current_time() + LAG_INTERVAL_S
            await trio.sleep_until(due)
            self.loop_lag.observe(trio.current_time() - due)


def _get_free_bytes(directory: Path) -> int | None:
    """Space on the disk of a directory; None if the system does not say."""
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return None
