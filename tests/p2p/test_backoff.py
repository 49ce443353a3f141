"""Back-off: it doubles, stops at its limit, and varies within its jitter."""

from __future__ import annotations

from random import Random

from p2p.backoff import Backoff


def test_it_doubles_up_to_its_limit() -> None:
    backoff = Backoff(1.0, 60.0)
    assert [backoff.get_delay(failures) for failures in (0, 1, 2, 5, 6, 10_000)] == [1, 2, 4, 32, 60, 60]


def test_jitter_multiplies_the_delay() -> None:
    backoff, random = Backoff(8.0, 60.0, jitter=(0.5, 1.0)), Random(1)
    delays = [backoff.get_delay(0, random) for _ in range(100)]
    assert all(4 <= delay <= 8 for delay in delays) and max(delays) - min(delays) > 2
    assert backoff.get_delay(0) == 8
