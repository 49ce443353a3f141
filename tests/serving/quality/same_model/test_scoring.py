"""Scorers against servers that speak the API of each engine, over loopback."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from serving.backends.backend import BackendError
from serving.backends.openai_compatible import OpenAICompatibleBackend
from serving.openai.requests import CHAT_COMPLETIONS
from serving.quality.same_model.checking import (
    NotCheckable,
    NoTranscript,
    check,
    check_answer,
    make_request,
    record_answer,
    run_checks,
)
from serving.quality.same_model.engines import find_scorer
from serving.quality.same_model.scoring import ScoringError, draw_positions
from serving.quality.same_model.statistics import SCORED_TOKENS
from serving.quality.same_model.transcript import TopToken, Transcript, TranscriptToken, to_surprisal
from tests.support.http_front import run_front
from tests.support.openai_answers import make_whole
from tests.support.patience import PATIENT_BACKEND
from tests.support.servers.scripted_model import MODEL, Flavour, ScriptedModel, tokenize

FLAVOURS: tuple[Flavour, ...] = ("vllm", "sglang", "llamacpp")


@asynccontextmanager
async def connect_to(model: ScriptedModel) -> AsyncIterator[OpenAICompatibleBackend]:
    async with run_front(model.handle) as server:
        host, port = server.address
        yield OpenAICompatibleBackend(f"http://{host}:{port}", models=(MODEL,), timeouts=PATIENT_BACKEND)


def with_backends(work: Callable[..., Awaitable[None]], *models: ScriptedModel) -> None:
    """Run ``work`` with a backend for each model."""

    async def enter(backends: list[OpenAICompatibleBackend]) -> None:
        if len(backends) == len(models):
            await work(*backends)
            return
        async with connect_to(models[len(backends)]) as backend:
            await enter([*backends, backend])

    trio.run(enter, [])


def ask(prompt: str = "Hi", temperature: float = 0.0, seed: int = 0) -> bytes:
    return make_request(MODEL, prompt, max_tokens=24, temperature=temperature, seed=seed)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_way_that_a_backend_offers_is_found_and_scores_what_its_model_says(flavour: Flavour) -> None:
    model = ScriptedModel(flavour)

    async def work(backend: OpenAICompatibleBackend) -> None:
        scorer = await find_scorer(backend, MODEL)
        assert scorer.engine == flavour
        tokens, positions = [3, 7, 3, 9, 12, 4], (0, 2, 5)
        scores = await scorer.score(ask(), tokens, positions)
        assert tuple(scores) == positions
        for position in positions:
            expected = model.compute([*tokenize("<user>Hi<assistant>"), *tokens[:position]])
            likeliest = sorted(expected, key=lambda token: -expected[token])[:SCORED_TOKENS]
            assert scores[position] == {token: pytest.approx(expected[token]) for token in likeliest}

    with_backends(work, model)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_prompt_is_the_scorers_own_reading_of_the_request(flavour: Flavour) -> None:
    async def work(backend: OpenAICompatibleBackend) -> None:
        scorer = await find_scorer(backend, MODEL)
        other = {"model": "another name", "messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 5}
        sampled = json.dumps({**other, "stream": True, "stream_options": {"include_usage": True}, "logprobs": True})
        assert await scorer.score(sampled.encode(), [3, 7], (1,)) == await scorer.score(ask(), [3, 7], (1,))
        assert await scorer.score(ask("Ho"), [3, 7], (1,)) != await scorer.score(ask(), [3, 7], (1,))

    with_backends(work, ScriptedModel(flavour))


def test_one_prefill_scores_all_positions_where_prompts_have_log_probabilities() -> None:
    counts = {}
    for flavour in FLAVOURS:
        model = ScriptedModel(flavour)

        async def work(backend: OpenAICompatibleBackend, model: ScriptedModel = model) -> None:
            scorer = await find_scorer(backend, MODEL)
            model.paths.clear()
            await scorer.score(ask(), [3] * 20, range(10))

        with_backends(work, model)
        counts[flavour] = Counter(model.paths)
    assert counts["vllm"] == {"/v1/chat/completions": 1, "/v1/completions": 1}
    assert counts["sglang"] == {"/v1/chat/completions": 1, "/generate": 1}
    assert counts["llamacpp"] == {"/apply-template": 1, "/tokenize": 2, "/v1/completions": 10}


def test_a_backend_that_scores_nothing_is_refused_in_one_line() -> None:
    async def work(backend: OpenAICompatibleBackend) -> None:
        with pytest.raises(ScoringError, match="not vLLM, SGLang or llama"):
            await find_scorer(backend, MODEL)
        with pytest.raises(NoTranscript, match="no log-probabilities"):
            await record_answer(backend, ask())

    with_backends(work, ScriptedModel("plain"))


def test_a_backend_that_is_away_is_no_backend_that_refuses() -> None:
    with pytest.raises(BackendError):
        trio.run(find_scorer, OpenAICompatibleBackend("http://127.0.0.1:1"), MODEL)


@pytest.mark.parametrize("flavour", ["vllm", "llamacpp"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_honest_answers_differ_by_nothing_and_other_weights_show(flavour: Flavour, temperature: float) -> None:
    """The declared model scores itself, and a copy whose logits are a third of a nat off."""
    requests = [ask(f"Question {number}", temperature, seed=number) for number in range(12)]

    async def work(honest: OpenAICompatibleBackend, cheat: OpenAICompatibleBackend) -> None:
        scorer = await find_scorer(honest, MODEL)
        for backend, is_honest in ((honest, True), (cheat, False)):

            async def record(request: bytes, backend: OpenAICompatibleBackend = backend) -> Transcript:
                return await record_answer(backend, request)

            run = await run_checks(record, scorer, requests, 7, parallel=3, note=lambda: None)
            assert len(run.measurements) == 12
            distances = [each.distance for each in run.measurements]
            assert max(distances) < 1e-4 if is_honest else min(distances) > 0.02

    with_backends(work, ScriptedModel(flavour), ScriptedModel(flavour, "other", noise=0.35))


def test_a_small_model_that_writes_is_seen_by_the_shortfall_alone() -> None:
    """The transcript has the declared model's own log-probabilities, and the tokens of another."""
    declared, small = ScriptedModel("llamacpp"), ScriptedModel("llamacpp", "small", noise=1.5)

    async def work(backend: OpenAICompatibleBackend) -> None:
        scorer = await find_scorer(backend, MODEL)
        prompt = tokenize("<user>Hi<assistant>")
        written = small.write(prompt, 24, 0.0, 0)
        honest = await record_answer(backend, ask())
        top = []
        for position in range(len(written)):
            logprobs = declared.compute([*prompt, *written[:position]])
            likeliest = sorted(logprobs, key=lambda token: -logprobs[token])[:5]
            top.append((written[position], [(token, logprobs[token]) for token in likeliest]))
        forged = make_transcript(top)
        mine, theirs = [await check(scorer, ask(), each, b"seed") for each in (honest, forged)]
        assert theirs.distance < 1e-4
        assert mine.shortfall < 1 < 5 < theirs.shortfall

    with_backends(work, declared)


def make_transcript(tokens: list[tuple[int, list[tuple[int, float]]]]) -> Transcript:
    return Transcript(
        tuple(
            TranscriptToken(token, tuple(TopToken(each, to_surprisal(logprob)) for each, logprob in top))
            for token, top in tokens
        )
    )


def test_an_answer_with_tokens_that_are_not_listed_is_left_out() -> None:
    model = ScriptedModel("llamacpp")
    model.lost_tokens = 1

    async def work(backend: OpenAICompatibleBackend) -> None:
        scorer = await find_scorer(backend, MODEL)

        async def record(request: bytes) -> Transcript:
            return await record_answer(backend, request)

        run = await run_checks(record, scorer, [ask()], 7, parallel=1, note=lambda: None)
        assert run.measurements == [] and len(run.left_out) == 1
        assert "tokens" in next(iter(run.left_out))

    with_backends(work, model)


def test_a_request_that_changes_what_is_drawn_is_not_scored() -> None:
    async def work(backend: OpenAICompatibleBackend) -> None:
        scorer = await find_scorer(backend, MODEL)
        transcript = await record_answer(backend, ask())
        biased = json.dumps({**json.loads(ask()), "logit_bias": {"1": 5}}).encode()
        with pytest.raises(NotCheckable, match="changes what is drawn"):
            await check(scorer, biased, transcript, b"seed")

    with_backends(work, ScriptedModel("vllm"))


@pytest.mark.parametrize(("flavour", "error"), [("vllm", NoTranscript), ("llamacpp", NotCheckable)])
def test_no_answer_is_checked_whose_tokens_llama_cpp_may_have_kept_back(
    flavour: Flavour, error: type[Exception]
) -> None:
    async def work(backend: OpenAICompatibleBackend) -> None:
        scorer, request = await find_scorer(backend, MODEL), json.dumps({**json.loads(ask()), "stop": [", 5"]}).encode()
        with pytest.raises(error):
            await check_answer(scorer, request, await get_answer(backend, request), None, b"seed")

    with_backends(work, ScriptedModel(flavour))


@given(st.binary(max_size=32), st.integers(1, 200), st.integers(1, 20))
def test_positions_are_a_set_that_the_seed_alone_decides(seed: bytes, length: int, count: int) -> None:
    positions = draw_positions(seed, length, count)
    assert positions == draw_positions(seed, length, count) == tuple(sorted(set(positions)))
    assert len(positions) == min(length, count) and set(positions) <= set(range(length))


def test_every_position_is_drawn_as_often() -> None:
    counts = Counter(position for number in range(2000) for position in draw_positions(b"%d" % number, 20, 5))
    assert all(400 < counts[position] < 600 for position in range(20))


@pytest.mark.parametrize("flavour", ["vllm", "llamacpp"])
def test_the_transcript_of_an_answer_is_checked_and_that_of_another_is_none(flavour: Flavour) -> None:
    async def work(own: OpenAICompatibleBackend, other: OpenAICompatibleBackend) -> None:
        scorer, request = await find_scorer(own, MODEL), ask(temperature=1.0, seed=5)
        transcript = await record_answer(other, request)
        answer = await get_answer(other, request)
        measurement = await check_answer(scorer, request, answer, transcript, b"seed")
        assert measurement.distance < 1e-5 and measurement.positions > 1
        replayed = await record_answer(other, ask("another", temperature=1.0, seed=6))
        with pytest.raises(NoTranscript, match="of another answer"):
            await check_answer(scorer, request, answer, replayed, b"seed")
        junk = Transcript(tuple(replace(token, id=2**32 - 1) for token in transcript.tokens))
        with pytest.raises(NoTranscript, match="tokens that the model does not have"):
            await check_answer(scorer, request, answer, junk, b"seed")
        with pytest.raises(NoTranscript, match="committed to no transcript"):
            await check_answer(scorer, request, answer, None, b"seed")

    with_backends(work, ScriptedModel(flavour), ScriptedModel(flavour))


async def get_answer(backend: OpenAICompatibleBackend, request: bytes) -> bytes:
    async with backend.complete(CHAT_COMPLETIONS, request, stream=False) as answer:
        return b"".join([piece async for piece in answer.body])


def test_an_answer_that_cannot_be_checked_is_no_failure_of_its_executor() -> None:
    async def work(backend: OpenAICompatibleBackend) -> None:
        scorer = await find_scorer(backend, MODEL)
        answer = make_whole(MODEL, "Hi", 1, "stop")
        calls = json.dumps({"choices": [{"message": {"tool_calls": [{}]}}]}).encode()
        smile = make_whole(MODEL, "\N{GRINNING FACE}", 1, "stop")
        biased = json.dumps({**json.loads(ask()), "logit_bias": {"5": 1}}).encode()
        for request, given_answer in ((biased, answer), (ask(), calls), (ask(), b"{}"), (ask(), smile)):
            with pytest.raises(NotCheckable):
                await check_answer(scorer, request, given_answer, None, b"seed")

    with_backends(work, ScriptedModel("llamacpp"))
