"""The servers of the substitution benchmark: nodes that answer with the weights they have, and two that score."""

from __future__ import annotations

import random
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

import trio

from benchmarks.quality.model_variants import get_variant
from p2p.runtime import RealRuntime
from serving.backends.backend import Backend
from serving.backends.embedded import MODEL, EmbeddedBackend
from serving.backends.openai_compatible import OpenAICompatibleBackend
from serving.quality.same_model.checking import NoTranscript, check, make_request, record_answer
from serving.quality.same_model.one_token import LlamaCppScorer
from serving.quality.same_model.prompt_logprobs import VllmScorer
from serving.quality.same_model.prompts import draw_prompts
from serving.quality.same_model.scoring import Scorer
from serving.quality.same_model.statistics import Measurement
from serving.quality.same_model.transcript import TOP_TOKENS, TopToken, Transcript, TranscriptToken, to_surprisal

SCORERS = 2
"""Servers that score at the same time, on one thread each; of vLLM it is one server."""
VLLM = "vllm"
"""Stands for the weights of nodes and scorers that are a vLLM with the embedded model in bfloat16."""
VLLM_BATCH = 16
"""Requests that it is given at a time at most."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node that answers: what it serves, and how.

    ``parallel`` is the number of answers that it writes at a time. ``is_forging``: the declared weights supply the
    log-probabilities. ``is_drawn``: it has curves in the picture.
    """

    name: str
    weights: str
    slots: int = 4
    threads: int = 1
    parallel: int = 1
    temperatures: tuple[float, ...] = (0.0, 1.0)
    is_forging: bool = False
    is_drawn: bool = False


@dataclass(frozen=True, slots=True)
class Declaration:
    """What is declared, with the honest nodes and the cheats.

    ``scorer`` are the weights that score, or :data:`VLLM`; ``label`` is what figures call all this.
    """

    weights: str
    honest: tuple[Node, ...]
    cheats: tuple[Node, ...]
    scorer: str
    label: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What was asked of a node, and what it committed to."""

    request: bytes
    transcript: Transcript


class Bench:
    """The servers of one declaration. ``check_s`` is the time that ``checks`` took to score.

    The answers of a node are written first and then scored, so that a node with two threads has both cores. The checks
    of an answer are as far apart as can be: the scorer has then evicted it, and computes it anew.
    """

    def __init__(self, stack: AsyncExitStack, scorer: str, tokens: int, seed: int, vllm_url: str = "") -> None:
        """``scorer`` are the weights that score; ``tokens`` the most of an answer."""
        self._stack = stack
        self._scorer = scorer
        self._vllm_url = vllm_url
        self._tokens = tokens
        self._seed = seed
        self._servers: dict[tuple[str, int, int, int], Backend] = {}
        self.checks = 0
        self.check_s = 0.0

    async def measure(self, node: Node, answers: int, checks: int) -> list[list[Measurement]]:
        """Let ``node`` answer so many prompts, and make so many checks of each answer, with positions of their own.

        Answers that cannot be checked are left out.
        """
        seed = random.Random(f"{self._seed} {self._scorer} {node.name}").getrandbits(31)
        written = await self._write(node, answers, seed)
        scorers = [await self._open_scorer(number) for number in range(SCORERS)]
        if node.is_forging:
            written = [await _forge(scorers[0], answer) for answer in written]
        found: list[list[Measurement]] = [[] for _ in written]

        async def score(scorer: Scorer, number: int) -> None:
            """Every other answer in each pass: each answer comes to the scorers in turn."""
            for pass_number in range(checks):
                for place in range((number + pass_number) % SCORERS, len(written), SCORERS):
                    positions = b"%d %d %d" % (seed, place, pass_number)
                    began = time.monotonic()
                    measured = await check(scorer, written[place].request, written[place].transcript, positions)
                    found[place].append(measured)
                    self.check_s += time.monotonic() - began
                    self.checks += 1

        async with trio.open_nursery() as nursery:
            for number, scorer in enumerate(scorers):
                nursery.start_soon(score, scorer, number)
        return found

    async def _write(self, node: Node, count: int, seed: int) -> list[Answer]:
        server = await self._start(node.weights, node.slots, node.threads)
        waiting = list(enumerate(draw_prompts(seed, count)))[::-1]
        written: dict[int, Answer] = {}

        async def work() -> None:
            while waiting:
                number, prompt = waiting.pop()
                temperature = node.temperatures[number % len(node.temperatures)]
                request = make_request(
                    MODEL, prompt, max_tokens=self._tokens, temperature=temperature, seed=seed + number
                )
                try:
                    written[number] = Answer(request, await record_answer(server, request))
                except NoTranscript:  # it begins with a character that llama.cpp does not list
                    continue

        async with trio.open_nursery() as nursery:
            for _ in range(node.parallel):
                nursery.start_soon(work)
        return [written[number] for number in sorted(written)]

    async def _open_scorer(self, number: int) -> Scorer:
        """A scorer whose server answers to no user, as far as it is llama.cpp."""
        if self._scorer == VLLM:
            return VllmScorer(await self._start(VLLM, VLLM_BATCH, 0), MODEL)
        return LlamaCppScorer(await self._start(self._scorer, 2, 1, scorer=number + 1), MODEL)

    async def _start(self, weights: str, slots: int, threads: int, scorer: int = 0) -> Backend:
        key = (weights, slots, threads, scorer)
        if key not in self._servers:
            server: EmbeddedBackend | OpenAICompatibleBackend
            if weights == VLLM:
                server = OpenAICompatibleBackend(self._vllm_url, capacity=slots)
            else:
                path = await trio.to_thread.run_sync(get_variant, weights)
                server = EmbeddedBackend(RealRuntime(), weights=path, parallel=slots, threads=threads)
            nursery = await self._stack.enter_async_context(trio.open_nursery())
            self._stack.callback(nursery.cancel_scope.cancel)
            nursery.start_soon(server.run)
            await server.wait_alive()
            self._servers[key] = server
        return self._servers[key]


async def _forge(scorer: Scorer, answer: Answer) -> Answer:
    """The answer with a forged transcript: the likeliest tokens at each place as the declared weights see them."""
    tokens = answer.transcript.tokens
    scores = await scorer.score(answer.request, answer.transcript.ids, range(len(tokens)))

    def forge(position: int) -> TranscriptToken:
        likeliest = sorted(scores[position].items(), key=lambda each: -each[1])[:TOP_TOKENS]
        top = tuple(TopToken(token, to_surprisal(logprob)) for token, logprob in likeliest)
        return TranscriptToken(tokens[position].id, top)

    return Answer(answer.request, Transcript(tuple(map(forge, range(len(tokens))))))
