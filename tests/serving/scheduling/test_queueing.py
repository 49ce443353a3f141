"""The order of a queue: shortest first, but none is passed over for long; and the wait that follows from it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.scheduling.queueing import (
    AGEING_INVERSE,
    MAX_EXPECTED_S,
    QueueEntry,
    ServiceTimes,
    WaitingQueue,
    predict_wait,
)

seconds = st.floats(0, MAX_EXPECTED_S, allow_nan=False)


def make_queue(requests: list[tuple[float, float]]) -> WaitingQueue[QueueEntry]:
    """A queue of requests (arrival, expected service), in seconds."""
    queue = WaitingQueue[QueueEntry]()
    for number, (arrived_at, expected_s) in enumerate(requests):
        queue.add(QueueEntry(arrived_at, number, expected_s))
    return queue


def test_the_shortest_of_those_that_came_together_goes_first() -> None:
    queue = make_queue([(0, 30), (0, 10), (0, 20), (0, 10)])
    assert [(entry.expected_s, entry.number) for entry in queue] == [(10, 1), (10, 3), (20, 2), (30, 0)]


def test_requests_of_unknown_length_go_in_order_of_arrival() -> None:
    queue = make_queue([(number / 10, 0) for number in range(50)])
    assert [entry.number for entry in queue] == list(range(50))


@given(st.lists(st.tuples(seconds, seconds), max_size=40))
def test_a_request_is_passed_over_only_by_shorter_ones_that_come_soon(requests: list[tuple[float, float]]) -> None:
    order = list(make_queue(sorted(requests)))
    for place, entry in enumerate(order):
        for passing in order[:place]:
            if passing.number > entry.number:  # it came later
                later = passing.arrived_at - entry.arrived_at
                # Half a nanosecond for rounding.
                assert later <= AGEING_INVERSE * (entry.expected_s - passing.expected_s) + 5e-10


@given(st.integers(0, 2**32))
def test_the_queue_is_the_same_as_one_that_is_sorted_each_time(seed: int) -> None:
    chance = random.Random(seed)
    queue, model = WaitingQueue[QueueEntry](), list[QueueEntry]()
    for number in range(60):
        if model and chance.random() < 0.4:
            gone = chance.choice(model)
            queue.remove(gone)
            model.remove(gone)
        else:
            entry = QueueEntry(float(number // 4), number, float(chance.randrange(5)))
            queue.add(entry)
            model.append(entry)
        model.sort(key=lambda entry: entry.key)
        assert list(queue) == model and len(queue) == len(model)
        probe = QueueEntry(float(number // 4), 1_000, 2.0)
        assert queue.get_ahead(probe.key) == [entry for entry in model if entry.key < probe.key]


@given(
    slots=st.integers(1, 5),
    busy=st.lists(seconds, max_size=5),
    ahead=st.lists(seconds, max_size=20),
)
def test_the_wait_is_that_of_the_schedule(slots: int, busy: list[float], ahead: list[float]) -> None:
    """Against a schedule that is carried out slot by slot."""
    free_at = [*busy[:slots], *[0.0] * (slots - len(busy[:slots]))]
    for service in [*ahead, 0.0]:
        slot = free_at.index(min(free_at))
        start = free_at[slot]
        free_at[slot] += service
    assert predict_wait(slots, busy[:slots], ahead) == start


def test_requests_that_run_for_longer_than_expected_may_end_at_any_moment() -> None:
    assert predict_wait(1, [-5.0], [3.0]) == 3.0


def test_a_prediction_is_corrected_by_what_was_measured() -> None:
    times = ServiceTimes()
    assert times.correct(0) == 0 and times.correct(4.0) == 4.0
    for _ in range(50):
        times.note(4.0, 12.0)
    assert times.correct(4.0) == pytest.approx(12.0) and times.correct(1.0) == pytest.approx(4.2)
    assert times.correct(0) == pytest.approx(12.0)
    assert times.correct(1e9) == MAX_EXPECTED_S


def test_requests_for_one_token_make_no_long_ones_look_longer() -> None:
    """Each takes ten times as long as its token should: a request has a cost of its own."""
    times = ServiceTimes()
    for _ in range(50):
        times.note(0.03, 0.3)
    assert times.correct(0.03) == pytest.approx(0.3)
    assert times.correct(30.0) < 40.0
