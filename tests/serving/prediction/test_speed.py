"""Measured speeds: what counts, and what a slow reader cannot do."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from serving.openai.prefixes import Prefix, hash_prefixes
from serving.prediction.predicted_time import BYTES_PER_TOKEN, PRIOR_PREFILL_RATE
from serving.prediction.speed import DECODE_HALF_LIFE_S, MAX_MODELS, DecayedRatio, SpeedMeter

RAW = 40
"""Raw bytes of a token."""


def stream(
    meter: SpeedMeter,
    start: float,
    rate: float,
    tokens: int,
    *,
    prompt: int = 100,
    first_s: float = 0.5,
    prefixes: Sequence[Prefix] = (),
) -> float:
    """A stream of so many tokens, after ``first_s``. Returns when it ends."""
    timer = meter.start_timer("m", prompt * BYTES_PER_TOKEN, start, is_stream=True, prefixes=prefixes)
    now = start + first_s
    for number in range(tokens):
        timer.feed(now, RAW)
        now += 1 / rate if number < tokens - 1 else 0.0
    timer.finish(tokens)
    return now


def test_nothing_is_known_at_first() -> None:
    assert SpeedMeter().get("m").prefill_rate == SpeedMeter().get("m").decode_rate == 0.0
    assert DecayedRatio().value == 0.0


def test_the_rate_of_a_stream_is_that_of_one_stream_whatever_runs_beside_it() -> None:
    meter = SpeedMeter()
    for _ in range(4):
        stream(meter, 0.0, 25.0, 200)
    assert meter.get("m").decode_rate == pytest.approx(25.0, rel=0.02)
    assert meter.get("other").decode_rate == 0.0


def test_a_change_of_load_shows_long_before_an_answer_ends() -> None:
    meter = SpeedMeter()
    now = stream(meter, 0.0, 50.0, 500)
    timer = meter.start_timer("m", 100 * BYTES_PER_TOKEN, now, is_stream=True)
    for _ in range(int(3 * DECODE_HALF_LIFE_S * 5)):
        now += 1 / 5
        timer.feed(now, RAW)
    assert meter.get("m").decode_rate == pytest.approx(5.0, rel=0.4)


def test_a_stream_that_the_server_queues_again_does_not_make_the_others_slow() -> None:
    meter = SpeedMeter()
    stream(meter, 0.0, 5.0, 10)
    timers = [meter.start_timer("m", 100 * BYTES_PER_TOKEN, 0.0, is_stream=True) for _ in range(9)]
    for step in range(300):
        for timer in timers if step == 0 else timers[1:]:
            timer.feed(step / 5, RAW)
    timers[0].feed(60.0, RAW)
    assert meter.get("m").decode_rate == pytest.approx(5.0, rel=0.05)


def test_all_windows_that_take_long_are_a_slow_server() -> None:
    meter = SpeedMeter()
    stream(meter, 0.0, 1 / 30, 20)
    assert meter.get("m").decode_rate == pytest.approx(1 / 30, rel=0.02)


def test_a_slow_reader_does_not_make_the_backend_slow() -> None:
    meter = SpeedMeter()
    now = stream(meter, 0.0, 50.0, 500)
    timer = meter.start_timer("m", 100 * BYTES_PER_TOKEN, now, is_stream=True)
    for _ in range(100):
        now += 1 / 50
        timer.feed(now, RAW)
        now += 10.0
        timer.note_taken(now, 10.0)
    timer.finish(100)
    assert meter.get("m").decode_rate == pytest.approx(50.0, rel=0.02)


def test_short_prompts_say_little_about_long_ones() -> None:
    meter, now = SpeedMeter(), 0.0
    for _ in range(100):
        now = stream(meter, now, 50.0, 10, prompt=10, first_s=0.05)  # 200 tokens a second, by the first step alone
    assert meter.get("m").prefill_rate == pytest.approx(PRIOR_PREFILL_RATE, rel=0.6)
    for _ in range(10):
        now = stream(meter, now, 50.0, 10, prompt=20_000, first_s=0.5)
    assert meter.get("m").prefill_rate == pytest.approx(40_000, rel=0.4)


def test_the_rate_of_prompts_is_that_of_what_the_backend_had_not_read_before() -> None:
    meter, messages = SpeedMeter(), [{"role": "user", "content": "w" * 40_000}]
    now = stream(meter, 0.0, 50.0, 10, prompt=10_000, first_s=1.0, prefixes=hash_prefixes("m", messages))
    rate = meter.get("m").prefill_rate
    assert rate == pytest.approx(10_000, rel=0.2)
    for turn in range(1, 101):
        messages += [{"role": "user", "content": "and " * 100}]
        prompt = 10_000 + 110 * turn
        now = stream(meter, now, 50.0, 10, prompt=prompt, first_s=0.1, prefixes=hash_prefixes("m", messages))
    assert meter.get("m").prefill_rate == rate, "not 100,000, nor 1,100"


def test_a_prompt_of_which_most_is_new_counts_by_that() -> None:
    meter, now, instructions = SpeedMeter(), 0.0, [{"role": "system", "content": "w" * 16_000}]
    for number in range(50):
        messages = [*instructions, {"role": "user", "content": f"{number} " + "w" * 64_000}]
        first_s = 0.4 + (0.0 if number else 0.1)  # the instructions are read once
        now = stream(meter, now, 50.0, 10, prompt=20_000, first_s=first_s, prefixes=hash_prefixes("m", messages))
    assert meter.get("m").prefill_rate == pytest.approx(40_000, rel=0.1), "not 50,000"


def test_a_prompt_that_waited_for_others_to_be_read_was_not_read_slowly() -> None:
    meter = SpeedMeter()
    first, *others = [meter.start_timer("m", 20_000 * BYTES_PER_TOKEN, at / 10, is_stream=True) for at in range(5)]
    first.feed(2.0, RAW)
    alone = meter.get("m").prefill_rate
    assert alone == pytest.approx(10_000, rel=0.1)
    for number, timer in enumerate(others):
        timer.feed(4.0 + 2.0 * number, RAW)
    assert meter.get("m").prefill_rate == pytest.approx(10_000, rel=0.1)


def test_prompts_that_are_read_side_by_side_add_up_to_the_rate_of_the_server() -> None:
    meter = SpeedMeter()
    timers = [meter.start_timer("m", 20_000 * BYTES_PER_TOKEN, 0.0, is_stream=True) for _ in range(4)]
    for timer in timers:
        timer.feed(8.0, RAW)
    assert meter.get("m").prefill_rate == pytest.approx(10_000, rel=0.1)
    long, short = (meter.start_timer("m", 4 * tokens, 8.0, is_stream=True) for tokens in (20_000, 1_000))
    short.feed(8.1, RAW)
    long.feed(10.1, RAW)
    assert meter.get("m").prefill_rate == pytest.approx(10_000, rel=0.1)


def test_what_was_given_to_the_backend_and_is_new_to_it_counts_as_unread_until_it_is_read() -> None:
    meter, messages = SpeedMeter(), [{"role": "user", "content": "w" * 40_000}]
    stream(meter, 0.0, 50.0, 10, prompt=10_000, prefixes=hash_prefixes("m", messages))
    turn = [*messages, {"role": "user", "content": "w" * 4_000}]
    assert meter.get("m").unread_tokens == 0
    with meter.reading("m", 44_100, hash_prefixes("m", turn)), meter.reading("other", 400):
        assert meter.get("m").unread_tokens == pytest.approx(1_000, abs=50)
        with meter.reading("m", 40_000):
            assert meter.get("m").unread_tokens == pytest.approx(11_000, abs=50)
    assert meter.get("m").unread_tokens == meter.get("other").unread_tokens == 0


def test_an_answer_in_one_piece_counts_by_its_whole_time() -> None:
    meter = SpeedMeter()
    timer = meter.start_timer("m", 2000 * BYTES_PER_TOKEN, 0.0, is_stream=False)
    timer.feed(11.0, 5000)
    timer.finish(300.0)
    assert meter.get("m").decode_rate == pytest.approx(30.0) and meter.get("m").prefill_rate == 0.0


def test_an_answer_without_content_is_no_measurement() -> None:
    meter = SpeedMeter()
    for is_stream in (False, True):
        timer = meter.start_timer("m", 10 * BYTES_PER_TOKEN, 0.0, is_stream=is_stream)
        timer.finish(10.0)
        timer.feed(1.0, 0)
        timer.feed(2.0, 100)
        timer.finish(0.0)
    assert meter.get("m").decode_rate == 0.0


def test_old_windows_never_lose_all_weight_and_models_are_bounded() -> None:
    meter = SpeedMeter()
    now = stream(meter, 0.0, 50.0, 500)
    assert meter.get("m").decode_rate == pytest.approx(50.0, rel=0.02)
    stream(meter, now + 1e6, 20.0, 500)
    assert meter.get("m").decode_rate == pytest.approx(20.0, rel=0.02)
    for number in range(MAX_MODELS):
        meter.get(f"model {number}")
    assert meter.get("m").decode_rate == 0.0
