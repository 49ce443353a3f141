"""Checks of the real small model: of itself in another server, and of other weights made from it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from benchmarks.quality.model_variants import get_variant
from p2p.runtime import RealRuntime
from serving.backends.embedded import MODEL, EmbeddedBackend
from serving.openai.begun_answers import CONTINUED
from serving.openai.requests import CHAT_COMPLETIONS
from serving.quality.same_model.answer_text import read_written
from serving.quality.same_model.checking import NoTranscript, check_answer, make_request, record_answer, run_checks
from serving.quality.same_model.engines import find_scorer
from serving.quality.same_model.logprob_tap import LogprobTap, ask_for_logprobs
from serving.quality.same_model.prompts import draw_prompts
from serving.quality.same_model.scoring import Scorer
from serving.quality.same_model.statistics import Measurement
from serving.quality.same_model.transcript import TopToken, Transcript, TranscriptToken

pytestmark = pytest.mark.long


@asynccontextmanager
async def serving(executor: EmbeddedBackend) -> AsyncIterator[Scorer]:
    """Run ``executor``, and another server with the weights as they are shipped, which scores its answers."""
    own = EmbeddedBackend(RealRuntime(), parallel=2)
    async with trio.open_nursery() as nursery:
        for backend in (own, executor):
            nursery.start_soon(backend.run)
            await backend.wait_alive()
        yield await find_scorer(own, MODEL)
        nursery.cancel_scope.cancel()


def check(executor: EmbeddedBackend, prompts: int = 6) -> Sequence[Measurement]:
    """Check answers of ``executor`` with a server of its own that has the weights as they are shipped."""

    async def main() -> Sequence[Measurement]:
        async with serving(executor) as scorer:
            assert scorer.engine == "llamacpp"
            requests = [make_request(MODEL, each, max_tokens=24, temperature=0) for each in draw_prompts(7, prompts)]
            run = await run_checks(partial(record_answer, executor), scorer, requests, 7, parallel=2, note=lambda: None)
        assert len(run.measurements) >= prompts - 1
        return run.measurements

    return trio.run(main)


def test_another_server_of_the_same_weights_differs_little() -> None:
    measurements = check(EmbeddedBackend(RealRuntime(), parallel=4))
    assert max(each.distance for each in measurements) < 0.02
    assert max(each.shortfall for each in measurements) < 2


@pytest.mark.parametrize("variant", ["q4_0", "28 layers"])
def test_other_weights_differ_in_every_answer(variant: str) -> None:
    measurements = check(EmbeddedBackend(RealRuntime(), weights=get_variant(variant)))
    assert min(each.distance for each in measurements) > 0.02


def test_answers_to_what_people_ask_can_be_checked_streamed_or_not() -> None:
    """Also one in which a character has several tokens, of which llama.cpp lists one."""

    async def main() -> None:
        async with serving(executor := EmbeddedBackend(RealRuntime())) as scorer:
            for prompt in ("Repeat exactly: Hi there \N{GRINNING FACE} and more", "Name three colours."):
                for stream in (True, False):
                    fields = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
                    content = {**json.loads(make_request(MODEL, prompt, max_tokens=24, temperature=0)), **fields}
                    request = json.dumps(content).encode()
                    answer, transcript = await tap_answer(executor, request, stream)
                    measurement = await check_answer(scorer, request, answer, transcript, b"seed")
                    assert measurement.distance < 0.02
                    with pytest.raises(NoTranscript, match="tokens that the model does not have"):
                        await check_answer(scorer, request, answer, make_junk(), b"seed")

    trio.run(main)


@pytest.mark.parametrize(
    ("prompt", "begun", "stream", "repeats"),
    [
        pytest.param("Name three colours.", "Three colours are red, gre", False, True, id="begun, whole"),
        pytest.param("Name three colours.", "1. Red.\n\n2.", True, False, id="begun, streamed"),
        pytest.param("Say hello.", "", True, False, id="streamed to its end"),
    ],
)
def test_answers_can_be_checked_that_llama_cpp_reports_in_ways_of_its_own(
    prompt: str, begun: str, stream: bool, repeats: bool
) -> None:
    """It repeats the beginning of an answer that is not streamed, and does not list the last token of one that is."""

    async def main() -> None:
        async with serving(executor := EmbeddedBackend(RealRuntime())) as scorer:
            content = json.loads(make_request(MODEL, prompt, max_tokens=30, temperature=0))
            if begun:
                content |= CONTINUED
                content["messages"].append({"role": "assistant", "content": begun})
            if stream:
                content |= {"stream": True, "stream_options": {"include_usage": True}}
            request = json.dumps(content).encode()
            answer, transcript = await tap_answer(executor, request, stream)
            written = read_written(answer)
            assert written is not None and (bool(begun) and written.text.startswith(begun)) == repeats
            measurement = await check_answer(scorer, request, answer, transcript, b"seed")
            assert measurement.distance < 0.02 and measurement.shortfall < 2

    trio.run(main)


async def tap_answer(backend: EmbeddedBackend, request: bytes, stream: bool) -> tuple[bytes, Transcript]:
    async with backend.complete(CHAT_COMPLETIONS, ask_for_logprobs(request), stream=stream) as answer:
        tap = LogprobTap(stream)
        body = b"".join([tap.feed(piece) async for piece in answer.body]) + tap.finish()
    transcript = tap.get_transcript(len(body))
    assert transcript is not None, tap.fault
    return body, transcript


def make_junk() -> Transcript:
    """A transcript of a token that no model has."""
    return Transcript((TranscriptToken(2**32 - 1, tuple(TopToken(number, 0) for number in range(5))),))
