"""A clock that others may read: it goes on, it is not far behind, and it tells little of the one that it follows."""

from __future__ import annotations

from statistics import mean

from hypothesis import given
from hypothesis import strategies as st

from p2p.coarse_clock import MAX_LAG_MS, STEP_MS, CoarseClock

START = 1_700_000_000_000


@given(st.lists(st.integers(0, 10 * STEP_MS), min_size=1), st.binary(max_size=16))
def test_it_never_goes_back_and_is_a_little_behind(delays: list[int], secret: bytes) -> None:
    times = sorted(START + delay for delay in delays)
    readings = [CoarseClock(lambda time=time: time, secret).now() for time in times]
    assert readings == sorted(readings)
    assert all(reading % STEP_MS == 0 for reading in readings)
    assert all(0 <= time - reading < MAX_LAG_MS for time, reading in zip(times, readings, strict=True))


def find_steps(secret: bytes, skew: int, count: int) -> list[int]:
    """The moments, of a clock without skew, at which the next steps begin."""
    steps, time = [], START
    clock = CoarseClock(lambda: time + skew, secret)
    for number in range(count):
        low, high = time, time + 2 * STEP_MS
        before = clock.now()
        while high - low > 1:
            time = (low + high) // 2
            low, high = (time, high) if clock.now() == before else (low, time)
        time = high
        steps.append(high - (START // STEP_MS + number) * STEP_MS)
    return steps


def test_a_day_of_watching_tells_the_clock_of_a_machine_to_some_seconds() -> None:
    one = [find_steps(b"one %d" % number, 0, 24 * 12) for number in range(4)]
    assert all(max(steps) - min(steps) > STEP_MS / 2 for steps in one)  # no single step tells anything
    deviations = [mean(steps) - STEP_MS / 2 for steps in one]
    assert max(map(abs, deviations)) > 1_000
