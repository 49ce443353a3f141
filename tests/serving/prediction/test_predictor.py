"""The predictor: what goes into a prediction, and what is learned from an answer."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from msgspec.structs import replace

from p2p.peers.announcement import MAX_RATE, ModelLoad
from serving.openai.endpoints import EMBEDDINGS
from serving.openai.number_formats import classify
from serving.openai.provider_rules import ProviderRules
from serving.openai.requests import CHAT_COMPLETIONS, Request, parse_request, read_request
from serving.prediction.announced_load import make_model_load, read_model_load
from serving.prediction.output_length import PRIOR_OUTPUT_TOKENS
from serving.prediction.predicted_time import UNKNOWN_SPEED, RequestSize, ServiceSpeed
from serving.prediction.predictor import LATE_FACTOR, PRIOR_OVERHEAD_S, Prediction, Predictor, is_able

ME, ONE = b"m" * 32, b"1" * 32
SPEED = ServiceSpeed(0, 0, 4, 1000.0, 50.0)
HELLO = [{"role": "user", "content": "x" * 4000}]


def make(**fields: Any) -> Request:
    body = {"model": "m", "messages": HELLO, "stream": True, **fields}
    return parse_request(CHAT_COMPLETIONS, json.dumps(body).encode(), 4096)


def predict(predictor: Predictor, request: Request, node: bytes = ONE, more: int = 0) -> Prediction:
    return predictor.predict(node, request, predictor.expect(request), SPEED, 0.0, more)


def test_a_prediction_adds_up() -> None:
    predictor, request = Predictor(ME, random.Random(0)), make(max_tokens=100)
    there, here = predict(predictor, request), predict(predictor, request, ME)
    assert there.size == RequestSize(pytest.approx(1030, abs=30), 100.0)  # type: ignore[arg-type]
    assert there.time.total == pytest.approx(PRIOR_OVERHEAD_S + there.size.prompt / 1000 + 100 / 50)
    assert there.time.total - here.time.total == pytest.approx(PRIOR_OVERHEAD_S), "there is no payment to make here"
    assert there.score == there.time.score(stream=True)
    assert predict(predictor, make()).size.output == PRIOR_OUTPUT_TOKENS


def test_what_a_request_sorts_by_is_all_that_counts() -> None:
    predictor, request = Predictor(ME, random.Random(0)), make(max_tokens=100)
    predictor.watch_length(request).end(400, is_cut_off=False)
    predictor.note_answered(ONE, request)
    scores = {}
    for sort in (None, "price", "latency", "throughput"):
        sorted_request = replace(request, rules=ProviderRules(sort=sort))  # type: ignore[arg-type]
        assert predictor.expect(sorted_request).kept_by == (ONE if sort in (None, "price") else None)
        prediction = predict(predictor, sorted_request, ME)
        scores[sort] = prediction.score
    assert scores["latency"] == prediction.time.first_token and scores["throughput"] == prediction.time.total
    assert scores["latency"] < scores["price"] == scores[None] < scores["throughput"]


def test_what_is_not_announced_yet_counts() -> None:
    predictor, request = Predictor(ME, random.Random(0)), make(max_tokens=100)
    alone, behind = predict(predictor, request, more=3), predict(predictor, request, more=4)
    assert alone.time == predict(predictor, request).time
    assert behind.time.total == pytest.approx(alone.time.total + PRIOR_OUTPUT_TOKENS / (4 * 50))


def test_prompts_before_its_own_are_read_first_and_are_no_slowness() -> None:
    predictor, request = Predictor(ME, random.Random(0)), make(max_tokens=100)
    expected, alone = predictor.expect(request), predict(predictor, request)
    behind = predictor.predict(ONE, request, expected, SPEED, 0.0, tokens_ahead=5_000)
    for time, other in ((behind.time.first_token, alone.time.first_token), (behind.time.total, alone.time.total)):
        assert time == pytest.approx(other + 5.0), "a thousand tokens a second"
    assert behind.compute_begun() == pytest.approx(alone.compute_begun() + 5.0)
    uncorrected = behind.compute_uncorrected(100.0)
    predictor.note(behind, 0.0, 100.0, uncorrected.first_token, uncorrected.total)
    assert predict(predictor, request).time.total == pytest.approx(alone.time.total)
    assert alone.unread_tokens == alone.size.prompt and behind.unread_tokens == alone.unread_tokens


def test_of_two_cards_alike_the_one_that_runs_less_is_better_whoever_was_measured_more_slowly() -> None:
    """Each has room for about six of such requests, where both together have a few percent of noise."""
    predictor, request = Predictor(ME, random.Random(0)), make(messages=[{"role": "user", "content": "x"}])
    for _ in range(20):
        predictor.watch_length(request).end(4 * 4_000, is_cut_off=False)
    expected = predictor.expect(request)
    assert expected.held_tokens == pytest.approx(4_000, rel=0.05)

    def predict_total(running: int, rate: float, more: int = 0, *, cache_tokens: int = 24_000) -> float:
        speed = ServiceSpeed(running, 0, 32, 3_000.0, rate, cache_tokens=cache_tokens)
        return predictor.predict(ONE, request, expected, speed, 0.0, more).time.total

    assert predict_total(5, 35.0) < predict_total(6, 37.0)
    assert predict_total(2, 35.0, 3) == pytest.approx(predict_total(5, 35.0)), "requests sent since count alike"
    assert predict_total(20, 30.0, cache_tokens=180_000) < predict_total(5, 35.0), "a large card has more room"


def test_the_cache_of_a_conversation_is_credited_to_its_node_alone() -> None:
    predictor, request = Predictor(ME, random.Random(0)), make()
    predictor.note_answered(ONE, request)
    turn = make(messages=[*HELLO, {"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}])
    assert predictor.expect(turn).kept_by == ONE
    assert predict(predictor, turn).time.first_token < predict(predictor, turn, ME).time.first_token
    assert predict(predictor, turn).cached_tokens > 1000 and predict(predictor, turn, ME).cached_tokens == 0
    without = Predictor(ME, random.Random(0), has_affinity=False)
    without.note_answered(ONE, request)
    assert without.expect(turn).kept_by is None and predict(without, turn).cached_tokens == 0


def test_a_long_answer_is_no_slow_one() -> None:
    predictor, request = Predictor(ME, random.Random(0)), make()
    before = predict(predictor, request)
    predictor.note(before, 0.0, 4000.0, before.time.first_token, before.compute_uncorrected(4000.0).total)
    assert predict(predictor, request).time.total == pytest.approx(before.time.total)
    predictor.note(before, 0.0, 4000.0, before.time.first_token, 4 * before.compute_uncorrected(4000.0).total)
    assert predict(predictor, request).time.total > 2 * before.time.total
    without = Predictor(ME, random.Random(0), corrects=False)
    without.note(before, 0.0, 4000.0, 100.0, 1000.0)
    assert predict(without, request).time.total == pytest.approx(before.time.total, abs=1.0)


def test_an_answer_that_is_not_streamed_is_late_when_the_longest_would_be_there() -> None:
    predictor, request = Predictor(ME, random.Random(0)), make(stream=False, max_tokens=1_000)
    before = predict(predictor, request)
    assert predictor.find_late(before, request, 0.0) is None, "nothing was measured"
    longest_s = before.compute_uncorrected(1_000.0).total
    predictor.note(before, 0.0, 1_000.0, None, longest_s)
    late_s = predictor.find_late(before, request, 0.0)
    assert late_s == pytest.approx(LATE_FACTOR * longest_s) and late_s > LATE_FACTOR * before.time.total
    streamed = make(max_tokens=1_000)
    assert predictor.find_late(predict(predictor, streamed), streamed, 0.0) is None, "no first token was measured"
    text = {"model": "m", "input": "x"}
    embedding = parse_request(EMBEDDINGS.path, json.dumps(text).encode(), 4096)
    assert predictor.find_late(predict(predictor, embedding), embedding, 0.0) is None


def test_a_user_who_left_shows_that_a_node_is_slow_and_never_that_it_is_fast() -> None:
    predictor, request = Predictor(ME, random.Random(0)), make()
    before = predict(predictor, request)

    def leave(tokens: float, first_token_s: float | None, waited_s: float) -> float:
        predictor.note_unfinished(before, 0.0, tokens, first_token_s, waited_s)
        return predict(predictor, request).time.total / before.time.total

    assert leave(0.0, None, 2.9) == 1.0, "a payment may take so long"
    assert leave(100.0, before.time.first_token, 2.0) == pytest.approx(1.0)
    assert leave(0.0, None, 30.0) > 5.0
    found = predict(predictor, request).time
    assert leave(0.0, None, 6.0) == found.total / before.time.total, "it had been expected to take longer"
    assert leave(100.0, None, 6.0) == found.total / before.time.total
    assert leave(100.0, None, 600.0) > 2 * found.total / before.time.total


def test_all_that_a_request_asks_for_must_fit() -> None:
    predictor = Predictor(ME, random.Random(0))
    for fields, output in (({}, PRIOR_OUTPUT_TOKENS), ({"max_tokens": 9}, 9.0), ({"max_tokens": 4000, "n": 2}, 4000.0)):
        expected = predictor.expect(make(**fields))
        assert expected.largest == RequestSize(expected.size.prompt, output)


def test_the_delay_of_the_payment_is_no_slowness_up_to_a_bound() -> None:
    predictor, request = Predictor(ME, random.Random(0)), make(max_tokens=100)
    for _ in range(40):
        made = predict(predictor, request)
        predictor.note(made, 0.0, 100.0, made.compute_uncorrected(100.0, 1.2).first_token, None)
    made = predict(predictor, request)
    assert made.overhead_s == pytest.approx(1.2, abs=0.01)
    for _ in range(40):
        made = predict(predictor, request)
        predictor.note(made, 0.0, 100.0, 60.0, None)
    assert predict(predictor, request).overhead_s <= 2.0


def test_who_is_able() -> None:
    size, nothing = RequestSize(100, 100.0), frozenset[str]()
    speed = ServiceSpeed(0, 0, 1, 1.0, 1.0, 200, frozenset({"tools"}))
    assert is_able(speed, size, nothing) and not is_able(speed, RequestSize(101, 100.0), nothing)
    assert is_able(speed, size, frozenset({"tools"})) and not is_able(speed, size, frozenset({"tools", "vision"}))
    assert is_able(UNKNOWN_SPEED, RequestSize(10**9, 1.0), frozenset({"tools", "vision", "logprobs"}))


def test_a_load_survives_its_announcement_within_two_digits() -> None:
    formats = classify("Q8_0-a32-kv16")
    speed = ServiceSpeed(3, 7, 32, 12_345.0, 33.33, 8192, frozenset({"vision", "logprobs"}), formats, 26_384)
    load = make_model_load("m", speed)
    assert load == ModelLoad("m", 3, 7, 32, 12_000_000, 33_000, 8192, 6, 2, 128, 96, 26_000)
    assert read_model_load(load) == replace(speed, prefill_rate=12_000.0, decode_rate=33.0, cache_tokens=26_000)
    assert make_model_load("m", ServiceSpeed(0, 0, 1, 1e12, 0.0)).prefill_rate == MAX_RATE
    assert read_model_load(ModelLoad("m")) == ServiceSpeed(0, 0, 0, 0.0, 0.0)


def test_what_is_read_of_a_request() -> None:
    assert not make().is_limited and make(max_tokens=5).is_limited
    assert make(tools=[{"type": "function"}], logprobs=True).features == {"tools", "logprobs"}
    assert make(messages=[{"role": "user", "content": [{"type": "image_url"}]}]).features == {"vision"}
    for odd in ([None], [{"content": [5]}], [{"content": [{"type": []}]}], "text", 5):
        assert make(messages=odd).features == frozenset()
    request = make()
    assert len(request.prefixes) == 1 and read_request(CHAT_COMPLETIONS, request.body).prefixes == request.prefixes
