"""Predicted times: what they add up to, and in which direction each number moves them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from serving.prediction.predicted_time import (
    PRIOR_DECODE_RATE,
    PRIOR_PREFILL_RATE,
    PRIOR_ROOM,
    UNKNOWN_SPEED,
    PredictedTime,
    RequestSize,
    ServiceSpeed,
    estimate_tokens,
    predict_time,
    share_cache,
)

COUNTS = st.integers(0, 1000)
RATES = st.floats(0.1, 1e6)
SIZES = st.builds(RequestSize, st.integers(0, 200_000), st.floats(0, 1e5))
SPEEDS = st.builds(ServiceSpeed, COUNTS, COUNTS, COUNTS, st.just(0.0) | RATES, st.just(0.0) | RATES)
SCALES = st.floats(1.0, 100.0)


def is_at_most(less: PredictedTime, more: PredictedTime) -> bool:
    """Whether neither time of ``less`` is longer, but for rounding."""
    slack = 1 + 1e-9
    return less.first_token <= more.first_token * slack and less.total <= more.total * slack


def test_an_idle_node_prefills_and_decodes() -> None:
    speed = ServiceSpeed(running=3, waiting=0, slots=4, prefill_rate=1000.0, decode_rate=50.0)
    time = predict_time(speed, RequestSize(500, 100.0), cached_tokens=200, round_trip_s=0.1)
    assert time.first_token == pytest.approx(0.1 + 0.3 + 0.02)
    assert time.total == pytest.approx(0.1 + 0.3 + 2.0)


def test_a_full_node_first_finishes_what_is_before_the_request() -> None:
    speed = ServiceSpeed(running=4, waiting=7, slots=4, prefill_rate=1e6, decode_rate=50.0)
    # Eight answers of 100 tokens leave before this one begins; four streams write 200 tokens a second.
    assert predict_time(speed, RequestSize(1, 100.0)).total == pytest.approx(8 * 100 / 200 + 2.0, abs=1e-3)
    assert predict_time(speed, RequestSize(1, 100.0), usual_output=25.0).total == pytest.approx(3.0, abs=1e-3)


def test_a_further_request_gets_less_of_a_cache_with_each_one_that_runs() -> None:
    def get_rate(running: int, cache_tokens: int = 10_000, rate: float = 30.0) -> float:
        speed = ServiceSpeed(running, 0, 32, 1000.0, rate, cache_tokens=cache_tokens)
        return share_cache(speed, 2_000.0).decode_rate

    assert [get_rate(running) for running in (0, 1, 5, 10)] == [30.0, pytest.approx(25.0), 15.0, pytest.approx(10.0)]
    slower = [30.0 / get_rate(running) for running in range(20)]
    assert [after - before for before, after in pairwise(slower)] == pytest.approx([0.2] * 19)
    assert get_rate(10, cache_tokens=0) == 30.0, "its size is not known"
    assert get_rate(10, rate=0.0) == 0.0


def test_a_node_of_which_nothing_is_known_is_taken_for_an_ordinary_one_that_is_idle() -> None:
    time = predict_time(UNKNOWN_SPEED, RequestSize(int(PRIOR_PREFILL_RATE), PRIOR_DECODE_RATE))
    assert time.total == pytest.approx(2.0)
    assert predict_time(replace(UNKNOWN_SPEED, running=5), RequestSize(0, 1.0)).first_token < 0.1


def test_where_the_rate_is_not_known_the_requests_there_share_what_is_left() -> None:
    def predict_total(running: int, waiting: int = 0, rate: float = 0.0) -> float:
        speed = replace(UNKNOWN_SPEED, running=running, waiting=waiting, slots=100, decode_rate=rate)
        return predict_time(speed, RequestSize(0, 10 * PRIOR_DECODE_RATE)).total

    assert predict_total(0) == pytest.approx(10.0)
    assert predict_total(PRIOR_ROOM) == predict_total(0, PRIOR_ROOM) == pytest.approx(20.0)
    assert predict_total(PRIOR_ROOM, rate=PRIOR_DECODE_RATE) == predict_total(0), "one that was measured says it all"


def test_the_score_of_a_stream_weighs_its_first_token() -> None:
    time = PredictedTime(first_token=1.0, total=11.0)
    assert time.score(stream=False) == 11.0
    assert time.score(stream=True) == pytest.approx(4.0)


def test_bytes_count_as_tokens_in_whole_numbers() -> None:
    assert [estimate_tokens(size) for size in (0, 1, 4, 5, 400)] == [1, 1, 1, 2, 100]


@given(SPEEDS, SIZES, COUNTS)
def test_more_that_waits_or_runs_never_makes_it_sooner(speed: ServiceSpeed, size: RequestSize, more: int) -> None:
    base = predict_time(speed, size)
    assert is_at_most(base, predict_time(replace(speed, waiting=speed.waiting + more), size))
    if speed.slots:  # else the slots are those that run
        assert is_at_most(base, predict_time(replace(speed, running=speed.running + more), size))


@given(SPEEDS, SIZES, st.integers(0, 10_000), st.floats(0, 1e4))
def test_a_larger_request_never_takes_less(speed: ServiceSpeed, size: RequestSize, prompt: int, output: float) -> None:
    larger = RequestSize(size.prompt + prompt, size.output + output)
    assert is_at_most(predict_time(speed, size), predict_time(speed, larger))


@given(SPEEDS, SIZES, SCALES, SCALES)
def test_a_faster_node_never_takes_longer(speed: ServiceSpeed, size: RequestSize, one: float, other: float) -> None:
    known = replace(speed, prefill_rate=speed.prefill_rate or 1.0, decode_rate=speed.decode_rate or 1.0)
    faster = replace(known, prefill_rate=known.prefill_rate * one, decode_rate=known.decode_rate * other)
    assert is_at_most(predict_time(faster, size), predict_time(known, size))


@given(SPEEDS, SIZES, st.integers(0, 300_000), st.floats(0, 10))
def test_the_first_token_is_never_after_the_last(
    speed: ServiceSpeed, size: RequestSize, cached: int, round_trip_s: float
) -> None:
    time = predict_time(speed, size, cached, round_trip_s)
    assert round_trip_s <= time.first_token <= time.total
    assert is_at_most(time, predict_time(speed, size, 0, round_trip_s))
    assert time.first_token <= time.score(stream=True) * (1 + 1e-9) and time.score(stream=True) <= time.total * (
        1 + 1e-9
    )
