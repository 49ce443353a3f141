"""The modelled engine against a real one, and against its own rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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


# Output tokens per second of vLLM 0.24 on one H100, Qwen3, prompt 512, output 128, two rounds of requests. The small
# model is limited by its host, which is modelled roughly; benchmarks/evaluation/gpu_model.py compares all points.
MEASURED = {
    QWEN3_8B: ({1: 143, 8: 979, 32: 2818, 64: 4142}, 0.05),
    QWEN3_4B: ({1: 217, 8: 1483, 32: 4282, 64: 6098}, 0.1),
    QWEN3_0_6B: ({1: 395, 8: 2642, 32: 8720, 64: 12139}, 0.35),
}


@pytest.mark.parametrize("curve", MEASURED, ids=lambda curve: curve.model)
def test_throughput_is_that_of_the_measured_gpu(curve: GpuCurve) -> None:
    points, tolerance = MEASURED[curve]
    for streams, measured in points.items():
        modelled = closed_loop(curve, streams, requests=max(4, 2 * streams), prompt=512, output=128)
        assert modelled == pytest.approx(measured, rel=tolerance), streams


def test_a_single_request_takes_its_prefill_and_its_steps() -> None:
    batch = ContinuousBatch(QWEN3_8B)
    batch.submit(10.0, 1, 512, 3)
    reports = batch.advance(20.0)
    first = QWEN3_8B.request_seconds + QWEN3_8B.arrival_seconds
    first += QWEN3_8B.step_seconds(0, 0, QWEN3_8B.prefill_seconds(0, 512))
    rest = QWEN3_8B.decode_seconds(2, 1, 513)
    assert [(report.id, report.tokens, report.finished) for report in reports] == [(1, 1, False), (1, 3, True)]
    assert [report.time for report in reports] == pytest.approx([10 + first, 10 + first + rest])
    assert (batch.running, batch.waiting, batch.cache_usage, batch.next_event()) == (0, 0, 0.0, None)


def test_a_run_of_steps_takes_as_long_as_the_steps_one_by_one() -> None:
    one_by_one = sum(QWEN3_8B.step_seconds(3, 1000 + 3 * step) for step in range(50))
    assert QWEN3_8B.decode_seconds(50, 3, 1000) == pytest.approx(one_by_one)


def drain(batch: ContinuousBatch) -> list[Progress]:
    """Work until nothing is left."""
    reports = []
    while (event := batch.next_event()) is not None:
        reports += batch.advance(event)
    return reports


def test_admission_is_first_come_first_served_within_places_and_cache() -> None:
    batch = ContinuousBatch(replace(QWEN3_8B, kv_capacity=1600, max_running=2))
    for id, prompt in enumerate((960, 700, 10, 10)):
        batch.submit(0.0, id, prompt, 100)
    assert (batch.running, batch.waiting) == (0, 4)  # all are on their way from the HTTP process to the engine
    batch.advance(0.01)
    assert (batch.running, batch.waiting) == (1, 3)  # the second needs more cache than is left; none overtakes it
    assert batch.cache_usage == 0.61  # the prompt and the next token, in blocks of 16
    finished = []
    while (event := batch.next_event()) is not None:
        finished += [progress.id for progress in batch.advance(event) if progress.finished]
        assert batch.running <= 2 and batch.cache_usage <= 1
    assert finished == [0, 1, 2, 3]
    assert batch.preemptions == 0
    with pytest.raises(ValueError, match="does not fit"):
        batch.submit(100.0, 9, 1500, 101)


def test_a_full_cache_preempts_the_latest_which_computes_its_tokens_again() -> None:
    curve = replace(QWEN3_8B, kv_capacity=1600)
    alone = ContinuousBatch(curve)
    alone.submit(0.0, 0, 600, 800)
    batch = ContinuousBatch(curve)
    for id in range(2):
        batch.submit(0.0, id, 600, 800)  # both prompts fit, both answers do not
    ends = {report.id: report.time for report in drain(batch) if report.finished}
    assert batch.preemptions == 1
    assert batch.cache_usage == 0
    assert ends[0] < ends[1]
    assert ends[0] < 1.2 * drain(alone)[-1].time  # the first is not held up by the second
    assert ends[1] > ends[0] + curve.decode_seconds(500, 1, 1000)  # it had about 200 tokens when it was preempted


def names(*parts: int) -> Sequence[int]:
    """Hashes of blocks: each of all parts up to its end."""
    return [hash(parts[: end + 1]) for end in range(len(parts))]


def test_blocks_that_are_cached_cost_no_prefill() -> None:
    batch = ContinuousBatch(QWEN3_8B)
    times, cached = [], []
    for id, parts in enumerate((range(200), range(200), range(100), [*range(50), *range(1000, 1150)])):
        batch.submit(10.0 * id, id, 16 * len(parts), 1, names(*parts))
        (report,) = drain(batch)
        times.append(report.time - 10.0 * id)
        cached.append(report.cached)
    # Of a prompt that is cached as a whole, the last block is computed: the first token follows from it.
    assert cached == [0, 199 * 16, 99 * 16, 50 * 16]
    wait = QWEN3_8B.request_seconds + QWEN3_8B.arrival_seconds
    expected = [(0, 3200), (199 * 16, 16), (99 * 16, 16), (50 * 16, 2400)]
    seconds = [wait + QWEN3_8B.step_seconds(0, 0, QWEN3_8B.prefill_seconds(*part)) for part in expected]
    assert times == pytest.approx(seconds)


def test_an_answer_is_cached_with_its_prompt_and_an_unused_block_is_given_up_first() -> None:
    batch = ContinuousBatch(replace(QWEN3_8B, kv_capacity=100 * 16))
    batch.submit(0.0, 0, 160, 81, names(*range(15)))  # ten blocks of prompt, five of answer and one token
    drain(batch)
    batch.submit(10.0, 1, 320, 1, names(*range(20)))
    assert drain(batch)[0].cached == 15 * 16
    batch.submit(20.0, 2, 95 * 16, 1, names(*range(100, 195)))  # needs the whole cache but four blocks
    drain(batch)
    batch.submit(30.0, 3, 320, 1, names(*range(20)))
    assert drain(batch)[0].cached == 4 * 16  # its beginning is given up last


def test_a_long_prompt_is_taken_up_in_steps() -> None:
    batch = ContinuousBatch(QWEN3_8B)
    batch.submit(0.0, 1, 20_000, 1)
    batch.advance(0.01)
    steps = 0
    while (event := batch.next_event()) is not None:
        batch.advance(event)
        steps += 1
    assert steps == 3
    assert QWEN3_8B.prefill_seconds(8192, 8192) > 1.2 * QWEN3_8B.prefill_seconds(0, 8192)  # attention to what is there


def test_the_http_process_takes_one_request_after_the_other() -> None:
    batch = ContinuousBatch(QWEN3_8B)
    for id in range(100):
        batch.submit(0.0, id, 1, 1)
    last = max(report.time for report in drain(batch))
    assert last > 100 * QWEN3_8B.request_seconds


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
    ),
    st.sampled_from([3600, 6000]),
)
def test_every_request_finishes_once_in_time_order_with_all_its_tokens(steps: list[Step], capacity: int) -> None:
    """Also with preemption, and with prompts that share their beginnings."""
    batch = ContinuousBatch(replace(QWEN3_4B, max_running=4, kv_capacity=capacity), report_interval=0.5)
    now = 0.0
    open_requests: dict[int, int] = {}
    prompts: dict[int, int] = {}
    finished: Counter[int] = Counter()
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
            if not batch.preemptions:
                assert report.time - reported_at.get(report.id, report.time) < 2 * 0.5 + 0.5
            assert 0 <= report.cached < prompts[report.id]
            seen[report.id], reported_at[report.id] = report.tokens, report.time
            if report.finished:
                finished[report.id] += 1
                del open_requests[report.id]

    for id, (action, wait, first, second) in enumerate(steps):
        now += wait
        check(batch.advance(now))
        if action == "submit":
            batch.submit(now, id, first, second, names(*[first % 3] * ((first + second) // 16)))
            prompts[id] = first
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
    assert set(finished.values()) <= {1}
    assert (batch.running, batch.waiting, batch.cache_usage) == (0, 0, 0.0)
