"""Whole checks: a backend answers prompts, and a scorer scores what it reported."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio

from serving.backends.backend import Backend, BackendError
from serving.openai.requests import CHAT_COMPLETIONS
from serving.quality.same_model.answer_text import (
    LISTS_NO_PARTS,
    count_needed,
    is_transcript_of,
    list_written,
    read_written,
)
from serving.quality.same_model.logprob_tap import LogprobTap, ask_for_logprobs
from serving.quality.same_model.sampling import read_beginning, read_stops, read_temperature
from serving.quality.same_model.scoring import Scorer, ScoringError, draw_positions
from serving.quality.same_model.statistics import Measurement, measure
from serving.quality.same_model.transcript import Transcript

KNOWN_TOKENS = (1, 2, 3)
"""Tokens that every model has."""


class NoTranscript(Exception):
    """There is no transcript of an answer; the message says why."""


class NotCheckable(Exception):
    """An answer that cannot be checked, through no fault of its executor; the message says why."""


def make_request(model: str, prompt: str, *, max_tokens: int, temperature: float, seed: int = 0) -> bytes:
    """A chat completion that can be checked."""
    messages = [{"role": "user", "content": prompt}]
    content = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    return json.dumps(content).encode()


async def record_answer(backend: Backend, request: bytes) -> Transcript:
    """Have ``backend`` answer, and take the transcript; raises as :func:`get_answer` does."""
    return (await get_answer(backend, request))[1]


async def get_answer(backend: Backend, request: bytes) -> tuple[bytes, Transcript]:
    """Have ``backend`` answer; the body that a user gets, and the transcript.

    Raises:
        NoTranscript: it refuses, or reports no log-probabilities that can be used.
        BackendError: it does not answer.
    """
    async with backend.complete(CHAT_COMPLETIONS, ask_for_logprobs(request), stream=False) as answer:
        tap = LogprobTap(answer.is_stream)
        body = b"".join([tap.feed(piece) async for piece in answer.body]) + tap.finish()
        if answer.status != 200:
            raise NoTranscript(f"the backend answered {answer.status}: {body[:200].decode('utf-8', 'replace')}")
    transcript = tap.get_transcript()
    if transcript is None:
        raise NoTranscript(tap.fault)
    return body, transcript


async def check(scorer: Scorer, request: bytes, transcript: Transcript, seed: bytes) -> Measurement:
    """Score the transcript of an answer to ``request`` at the positions that ``seed`` draws.

    Raises:
        NotCheckable: the request cannot be checked.
        ScoringError: the backend of the scorer refuses.
        BackendError: that backend does not answer.
    """
    temperature = read_temperature(request)
    if temperature is None:
        raise NotCheckable("the request changes what is drawn, or how it is reported")
    positions = draw_positions(seed, len(transcript.tokens))
    scores = await scorer.score(request, transcript.ids, positions)
    return measure(transcript, scores, temperature)


async def check_answer(
    scorer: Scorer, request: bytes, answer: bytes, transcript: Transcript | None, seed: bytes
) -> Measurement:
    """Check the answer of an executor that has committed to ``transcript``, or to none. Both bodies are JSON.

    Raises:
        NotCheckable: such an answer cannot be checked, whoever gives it.
        NoTranscript: the transcript is not that of the answer, or there is none where there has to be one.
        ScoringError: the backend of the scorer refuses.
        BackendError: that backend does not answer.
    """
    if read_temperature(request) is None:
        raise NotCheckable("the request changes what is drawn, or how it is reported")
    written = read_written(answer)
    if written is None or written.has_calls:
        raise NotCheckable("the answer is no text, or not of text alone")
    stops = read_stops(request)
    if stops and scorer.engine in LISTS_NO_PARTS:
        raise NotCheckable("the engine does not list the tokens that it keeps back where a stop sequence may begin")
    forms = list_written(written, read_beginning(request))
    if transcript is None:
        if not all(count_needed(form, scorer.engine) for form in forms):
            raise NotCheckable("the engine does not list the tokens of such a text")
        raise NoTranscript("the executor has committed to no transcript")
    try:
        told = await scorer.write_out(transcript.ids)
    except (ScoringError, BackendError):
        await scorer.write_out(KNOWN_TOKENS)  # or it is the backend that fails
        raise NoTranscript("the transcript has tokens that the model does not have") from None
    count = len(transcript.tokens)
    if not any(is_transcript_of(form, told, count, scorer.engine, stops) for form in forms):
        raise NoTranscript("the transcript is of another answer")
    return await check(scorer, request, transcript, seed)


GetTranscript = Callable[[bytes], Awaitable[Transcript]]
"""Gets the transcript of an answer to a request. Raises NoTranscript."""


@dataclass(slots=True)
class CheckRun:
    """What a number of checks showed, and why some answers could not be checked."""

    measurements: list[Measurement] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


async def run_checks(
    record: GetTranscript,
    scorer: Scorer,
    requests: Sequence[bytes],
    seed: int,
    *,
    parallel: int,
    note: Callable[[], None],
) -> CheckRun:
    """Check one answer to each request, ``parallel`` at a time; ``note`` is called after each.

    Raises:
        NotCheckable, ScoringError, BackendError: see :func:`check`.
    """
    run = CheckRun()
    waiting = list(enumerate(requests))[::-1]

    async def work() -> None:
        while waiting:
            number, request = waiting.pop()
            try:
                transcript = await record(request)
            except NoTranscript as error:
                run.left_out[str(error)] += 1
            else:
                run.measurements.append(await check(scorer, request, transcript, b"%d %d" % (seed, number)))
            note()

    async with trio.open_nursery() as nursery:
        for _ in range(parallel):
            nursery.start_soon(work)
    return run
