"""The same-model check with a real vLLM server that scores its own answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from serving.backends.openai_compatible import OpenAICompatibleBackend
from serving.openai.requests import CHAT_COMPLETIONS
from serving.quality.same_model.checking import CheckRun, make_request, record_answer, run_checks
from serving.quality.same_model.engines import find_scorer
from serving.quality.same_model.logprob_tap import LogprobTap, ask_for_logprobs
from serving.quality.same_model.prompts import draw_prompts
from serving.quality.same_model.transcript import Transcript


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[OpenAICompatibleBackend, str]]:
    async with trio.open_nursery() as nursery:
        backend = OpenAICompatibleBackend(url, capacity=4)
        nursery.start_soon(backend.run)
        await backend.wait_alive()
        yield backend, backend.models[0]
        nursery.cancel_scope.cancel()


async def check_own_answers(url: str) -> CheckRun:
    async with connected(url) as (backend, model):
        scorer = await find_scorer(backend, model)
        assert scorer.engine == "vllm"
        requests = [
            make_request(model, prompt, max_tokens=24, temperature=number % 2, seed=number)
            for number, prompt in enumerate(draw_prompts(7, 8))
        ]
        return await run_checks(partial(record_answer, backend), scorer, requests, 7, parallel=4, note=lambda: None)


def test_it_scores_its_own_answers_by_one_prefill_and_hardly_differs(vllm_url: str) -> None:
    run = trio.run(check_own_answers, vllm_url)
    assert run.left_out == {}
    assert max(each.distance for each in run.measurements) < 0.05
    assert max(each.shortfall for each in run.measurements) < 4


async def read_one_answer_in_both_forms(url: str) -> tuple[Transcript, LogprobTap, bytes]:
    async with connected(url) as (backend, model):
        request = make_request(model, "Name a colour.", max_tokens=12, temperature=0)
        whole = await record_answer(backend, request)
        content = {**json.loads(request), "stream": True, "stream_options": {"include_usage": True}}
        asked = ask_for_logprobs(json.dumps(content).encode())
        tap = LogprobTap(stream=True)
        async with backend.complete(CHAT_COMPLETIONS, asked, stream=True) as answer:
            passed = b"".join([tap.feed(piece) async for piece in answer.body]) + tap.finish()
    return whole, tap, passed


def test_a_streamed_answer_has_the_transcript_of_a_whole_one_and_no_sign_of_it(vllm_url: str) -> None:
    whole, tap, passed = trio.run(read_one_answer_in_both_forms, vllm_url)
    streamed = tap.get_transcript()
    assert streamed is not None, tap.fault
    assert streamed.ids == whole.ids
    assert b"logprobs" not in passed and b"token_id:" not in passed
