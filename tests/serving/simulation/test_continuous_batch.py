"""The modelled engine against a real one, and against its own rules."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.simulation.continuous_batch import ContinuousBatch, Progress
from serving.simulation.gpu_curves import QWEN3_0_6B, QWEN3_4B, QWEN3_8B, GpuCurve


def closed_loop(curve: GpuCurve, streams: int, requests: int, prompt: int, output: int) -> float:
    """Output tokens per second when ``streams`` clients each send the next request as soon as one is answered."""
    batch = ContinuousBatch(curve)
    for id in range(streams):
        batch.submit(0.0, id, prompt, output)
    sent, now = streams, 0.0
    while (event := batch.next_event()) is not None:
        now = event
        for progress in batch.advance(now):
            if progress.finished and sent < requests:
                batch.submit(now, sent, prompt, output)
                sent += 1
    return requests * output / now


# Output tokens per second of vLLM 0.24 on one H100, Qwen3, prompt 512, output 128, two rounds of requests.
MEASURED = {
    QWEN3_8B: {1: 143, 8: 979, 32: 2818, 64: 4142},
    QWEN3_4B: {1: 217, 8: 1483, 32: 4282, 64: 6098},
    QWEN3_0_6B: {1: 395, 8: 2642, 32: 8720, 64: 12139},
}


@pytest.mark.parametrize("curve", MEASURED, ids=lambda curve: curve.model)
def test_throughput_is_that_of_the_measured_gpu(curve: GpuCurve) -> None:
    for streams, measured in MEASURED[curve].items():
        modelled = closed_loop(curve, streams, requests=max(4, 2 * streams), prompt=512, output=128)
        assert modelled == pytest.approx(measured, rel=0.05 if curve == QWEN3_8B else 0.2), streams


def test_a_single_request_takes_its_prefill_and_its_steps() -> None:
    batch = ContinuousBatch(QWEN3_8B)
    batch.submit(10.0, 1, 512, 3)
    reports = batch.advance(20.0)
    first = QWEN3_8B.step_seconds(0, 0, 512)
    rest = QWEN3_8B.decode_seconds(2, 1, 513)
    assert reports == [Progress(10 + first, 1, 1, False), Progress(10 + first + rest, 1, 3, True)]
    assert (batch.running, batch.waiting, batch.cache_usage, batch.next_event()) == (0, 0, 0.0, None)


def test_a_run_of_steps_takes_as_long_as_the_steps_one_by_one() -> None:
    one_by_one = sum(QWEN3_8B.step_seconds(3, 1000 + 3 * step) for step in range(50))
    assert QWEN3_8B.decode_seconds(50, 3, 1000) == pytest.approx(one_by_one)


def test_admission_is_first_come_first_served_within_places_and_cache() -> None:
    batch = ContinuousBatch(replace(QWEN3_8B, kv_capacity=1000, max_running=2))
    for id, prompt in enumerate((600, 500, 10, 10)):
        batch.submit(0.0, id, prompt, 100)
    assert (batch.running, batch.waiting) == (1, 3)  # the second needs more cache than is left; none overtakes it
    assert batch.cache_usage == 0.7
    finished = []
    while (event := batch.next_event()) is not None:
        finished += [progress.id for progress in batch.advance(event) if progress.finished]
        assert batch.running <= 2 and batch.cache_usage <= 1
    assert finished == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="does not fit"):
        batch.submit(100.0, 9, 900, 101)


def test_a_long_prompt_is_taken_up_in_steps() -> None:
    batch = ContinuousBatch(QWEN3_8B)
    batch.submit(0.0, 1, 20_000, 1)
    steps = 0
    while (event := batch.next_event()) is not None:
        batch.advance(event)
        steps += 1
    assert steps == 3


def test_cancelled_requests_free_their_place_at_once_and_are_not_reported() -> None:
    batch = ContinuousBatch(replace(QWEN3_8B, max_running=1))
    batch.submit(0.0, 1, 100, 10_000)
    batch.submit(0.0, 2, 100, 10)
    batch.submit(0.0, 3, 100, 10)
    batch.advance(0.5)
    batch.cancel(0.5, 1)
    batch.cancel(0.5, 3)
    batch.cancel(0.5, 99)
    reports = batch.advance(1.0)
    assert {report.id for report in reports} == {2}
    assert reports[-1].finished


Step = tuple[str, float, int, int]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["submit", "submit", "cancel"]),
            st.floats(0, 3),
            st.integers(1, 3000),
            st.integers(1, 400),
        ),
        max_size=40,
    )
)
def test_every_request_finishes_once_in_time_order_with_all_its_tokens(steps: list[Step]) -> None:
    batch = ContinuousBatch(replace(QWEN3_4B, max_running=4, kv_capacity=6000), report_interval=0.5)
    now = 0.0
    open_requests: dict[int, int] = {}
    seen: dict[int, int] = {}
    reported_at: dict[int, float] = {}
    last = 0.0

    def check(reports: list[Progress]) -> None:
        nonlocal last
        for report in reports:
            assert last <= report.time
            last = report.time
            assert seen.get(report.id, 0) < report.tokens <= open_requests[report.id]
            assert report.finished == (report.tokens == open_requests[report.id])
            # While a stream decodes, it is heard of at least every other interval (and the step under way).
            assert report.time - reported_at.get(report.id, report.time) < 2 * 0.5 + 0.5
            seen[report.id], reported_at[report.id] = report.tokens, report.time
            if report.finished:
                del open_requests[report.id]

    for id, (action, wait, first, second) in enumerate(steps):
        now += wait
        check(batch.advance(now))
        if action == "submit":
            batch.submit(now, id, first, second)
            open_requests[id] = second
        elif open_requests:
            victim = sorted(open_requests)[first % len(open_requests)]
            batch.cancel(now, victim)
            del open_requests[victim]
        assert batch.running + batch.waiting == len(open_requests)
        assert batch.running <= 4 and 0 <= batch.cache_usage <= 1
    while (event := batch.next_event()) is not None:
        check(batch.advance(event))
    assert not open_requests
    assert (batch.running, batch.waiting, batch.cache_usage) == (0, 0, 0.0)
