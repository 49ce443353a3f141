"""Whole checks: a backend answers prompts, and a scorer scores what it reported."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio

from serving.backends.backend import Backend
from serving.openai.requests import CHAT_COMPLETIONS
from serving.quality.same_model.logprob_tap import LogprobTap, ask_for_logprobs
from serving.quality.same_model.sampling import read_temperature
from serving.quality.same_model.scoring import Scorer, ScoringError, draw_positions
from serving.quality.same_model.statistics import Measurement, measure
from serving.quality.same_model.transcript import Transcript


class NoTranscript(Exception):
    """The backend answered, but not so that its answer can be checked; the message says why."""


def make_request(model: str, prompt: str, *, max_tokens: int, temperature: float, seed: int = 0) -> bytes:
    """A chat completion that can be checked."""
    messages = [{"role": "user", "content": prompt}]
    content = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    return json.dumps(content).encode()


async def record_answer(backend: Backend, request: bytes) -> Transcript:
    """Have ``backend`` answer, and take the transcript.

    Raises:
        NoTranscript: it refuses, or reports no log-probabilities that can be used.
        BackendError: it does not answer.
    """
    asked, _ = ask_for_logprobs(request)
    async with backend.complete(CHAT_COMPLETIONS, asked, stream=False) as answer:
        tap = LogprobTap(answer.is_stream, strip=True)
        body = b"".join([tap.feed(piece) async for piece in answer.body]) + tap.finish()
        if answer.status != 200:
            raise NoTranscript(f"the backend answered {answer.status}: {body[:200].decode('utf-8', 'replace')}")
    transcript = tap.get_transcript()
    if transcript is None:
        raise NoTranscript(tap.fault)
    return transcript


async def check(scorer: Scorer, request: bytes, transcript: Transcript, seed: bytes) -> Measurement:
    """Score the transcript of an answer to ``request`` at the positions that ``seed`` draws.

    Raises:
        ScoringError: the request cannot be checked, or the backend of the scorer refuses.
        BackendError: that backend does not answer.
    """
    temperature = read_temperature(request)
    if temperature is None:
        raise ScoringError("the request changes what is drawn, so its answer cannot be checked")
    positions = draw_positions(seed, len(transcript.tokens))
    scores = await scorer.score(request, transcript.ids, positions)
    return measure(transcript, scores, temperature)


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
        ScoringError, BackendError: see :func:`check`.
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
