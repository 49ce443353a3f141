"""A circuit breaker opens after failures in a row, lets one probe through at a time, and closes with an answer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.scheduling.circuit_breaker import BUSY_WAIT_S, FIRST_OPEN_S, MAX_OPEN_S, OPEN_AFTER, CircuitBreaker


def make_open(now: float = 0.0) -> CircuitBreaker:
    breaker = CircuitBreaker()
    for _ in range(OPEN_AFTER):
        breaker.begin(now)
        breaker.note_failure(now)
    return breaker


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = CircuitBreaker()
    for _ in range(10):
        breaker.note_failure(0.0)
        assert not breaker.is_open(0.0)
        breaker.note_answer()
    assert make_open().is_open(FIRST_OPEN_S - 0.1) and not make_open().is_open(FIRST_OPEN_S)
    assert make_open(7.0).get_rest(8.0) == FIRST_OPEN_S - 1.0


def test_one_probe_at_a_time_is_let_through_and_decides() -> None:
    breaker = make_open()
    breaker.begin(6.0)
    assert breaker.is_open(6.0), "the probe is on its way"
    assert not breaker.is_open(6.0 + FIRST_OPEN_S), "it was lost"
    breaker.note_failure(7.0)
    assert breaker.is_open(7.0 + 2 * FIRST_OPEN_S - 0.1) and not breaker.is_open(7.0 + 2 * FIRST_OPEN_S)
    breaker.begin(20.0)
    breaker.note_answer()
    assert not breaker.is_open(20.0) and breaker.failures == 0


def test_those_that_were_sent_before_it_opened_do_not_open_it_for_longer() -> None:
    breaker = make_open()
    for _ in range(30):
        breaker.note_failure(1.0)
    assert not breaker.is_open(FIRST_OPEN_S)


def test_a_busy_backend_has_not_failed() -> None:
    breaker = CircuitBreaker()
    breaker.note_busy(0.0)
    assert breaker.is_open(BUSY_WAIT_S - 0.1) and not breaker.is_open(BUSY_WAIT_S) and not breaker.is_broken
    assert not breaker.is_withdrawn(0.0) and make_open().is_withdrawn(0.0)
    breaker.note_busy(0.0, 10_000.0)
    assert breaker.get_rest(0.0) == MAX_OPEN_S


@given(st.lists(st.tuples(st.sampled_from(["begin", "fail", "answer", "busy"]), st.floats(0, 20))))
def test_it_is_never_open_for_longer_than_the_bound(steps: list[tuple[str, float]]) -> None:
    breaker, now = CircuitBreaker(), 0.0
    for kind, wait in steps:
        now += wait
        if kind == "begin":
            breaker.begin(now)
        elif kind == "fail":
            breaker.note_failure(now)
        elif kind == "busy":
            breaker.note_busy(now, wait)
        else:
            breaker.note_answer()
            assert not breaker.is_open(now)
        assert 0.0 <= breaker.get_rest(now) <= MAX_OPEN_S
        assert not breaker.is_open(now + MAX_OPEN_S)
