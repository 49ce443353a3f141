"""When a block is overdue."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consensus.stall import LATE_BLOCK_S, compute_overdue, compute_stall

BEAT_S = 10.0
TIMES = st.floats(0, 1e6)


def test_an_idle_ledger_is_overdue_after_its_beat_and_a_busy_one_at_once() -> None:
    assert compute_overdue(BEAT_S + 1.0, BEAT_S, 0.0) == 0.0
    assert compute_overdue(BEAT_S + 3.0, BEAT_S, 0.0) == 3.0
    assert compute_overdue(6.0, BEAT_S, 5.0) == 5.0
    assert compute_overdue(1.0, BEAT_S, 1.0) == 0.0


@given(silence_s=TIMES, beat_s=TIMES, waiting_s=TIMES)
def test_nothing_that_waits_makes_a_ledger_overdue_whose_blocks_become_final(
    silence_s: float, beat_s: float, waiting_s: float
) -> None:
    overdue_s = compute_overdue(silence_s, beat_s, waiting_s)
    assert overdue_s <= silence_s
    assert overdue_s == 0.0 or overdue_s > LATE_BLOCK_S


@given(beat_s=TIMES)
def test_a_stalled_ledger_is_overdue(beat_s: float) -> None:
    assert compute_overdue(compute_stall(beat_s), beat_s, 0.0) > 0.0
