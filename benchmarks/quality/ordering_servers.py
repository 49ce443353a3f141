"""The model servers of ``ordering``: one variant of the embedded model each, in a process of its own.

A server may be a *strong judge*: it answers a judging prompt with the answer that the full model finds more likely.
That is a stand-in for a judge that knows better than those whom it judges, which no model of this size is. The score of
an answer is the mean log-probability of its tokens under all 30 layers, given the question alone. It knows nothing of
facts, and favours what the full model could have written itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import trio

from benchmarks.quality.model_variants import get_variant
from p2p.runtime import RealRuntime
from serving.backends.embedded import EmbeddedBackend
from serving.http.messages import HttpRequest
from serving.http.responder import Responder
from serving.http.server import HttpServer
from serving.openai.errors import not_found
from serving.openai.requests import CHAT_COMPLETIONS
from serving.quality.same_model.one_token import TOKENIZE, LlamaCppScorer
from serving.quality.same_model.scoring import ScoringError, ask
from serving.quality.same_model.statistics import Distribution
from tests.support.openai_answers import make_whole
from tests.support.servers.judging_texts import read_texts

SLOTS = 4
"""Requests that a server works on at a time."""
NO_SCORE = float("-inf")
"""Score of an answer without any token."""
SOLO_REPLY = "U"
"""What the strong judge says of a single answer: that it is usable, since there is none to compare it with."""


@dataclass(frozen=True, slots=True)
class ModelServer:
    """What a server serves: a variant of the embedded model under a name, to be a strong judge or not."""

    variant: str
    name: str
    is_strong_judge: bool = False


def compute_score(tokens: Sequence[int], listed: Mapping[int, Distribution]) -> float:
    """The mean log-probability of ``tokens``, of which each position lists the likeliest, in nats.

    A token that is not listed counts as the least likely of those that are: it is less likely than that.
    """
    if not tokens:
        return NO_SCORE
    return sum(listed[place].get(token, min(listed[place].values())) for place, token in enumerate(tokens)) / len(
        tokens
    )


def choose_letter(score_a: float, score_b: float) -> str:
    """The letter for the answer with the higher score, or for neither."""
    return "C" if score_a == score_b else "A" if score_a > score_b else "B"


class StrongJudge:
    """Compares two answers by their scores under the model of a backend."""

    def __init__(self, backend: EmbeddedBackend, model: str) -> None:
        self._backend = backend
        self._model = model
        self._scorer = LlamaCppScorer(backend, model)
        self._turn = trio.Lock()
        """One duel at a time: the answers of another would push the texts out of the server's cache."""

    async def judge(self, texts: Mapping[str, str]) -> str:
        """The letter of the reply to a judging prompt with these texts by title."""
        if "ANSWER" in texts:
            return SOLO_REPLY
        async with self._turn:
            score_a, score_b = [
                await self._score(texts["QUESTION"], texts[title]) for title in ("ANSWER A", "ANSWER B")
            ]
        return choose_letter(score_a, score_b)

    async def _score(self, question: str, answer: str) -> float:
        tokens = await self._tokenize(answer) if answer else []
        messages = [{"role": "user", "content": question}]
        request = json.dumps({"model": self._model, "messages": messages}).encode()
        return compute_score(tokens, await self._scorer.score(request, tokens, range(len(tokens))))

    async def _tokenize(self, text: str) -> list[int]:
        answer = await ask(self._backend, TOKENIZE, {"content": text})
        if answer is None:
            raise ScoringError("llama.cpp does not say the tokens of a text")
        return list(answer["tokens"])


class ModelFront:
    """Passes chat completions on to the model, but judging prompts to the strong judge if there is one."""

    def __init__(self, backend: EmbeddedBackend, server: ModelServer) -> None:
        self._backend = backend
        self._server = server
        self._judge = StrongJudge(backend, server.name) if server.is_strong_judge else None

    async def handle(self, request: HttpRequest, respond: Responder) -> None:
        """Answer one request."""
        if request.method == "GET" and request.path == "/v1/models":
            models = [{"id": self._server.name, "object": "model", "created": 0, "owned_by": "benchmarks"}]
            await respond.reply(200, json.dumps({"object": "list", "data": models}).encode())
            return
        if request.path != CHAT_COMPLETIONS:
            raise not_found(f"no {request.path} here")
        call: dict[str, Any] = json.loads(request.body)
        if self._judge is not None and (texts := read_texts(call["messages"])):
            letter = await self._judge.judge(texts)
            await respond.reply(200, make_whole(self._server.name, letter, 1, "stop"))
            return
        await self._pass_on(request, bool(call.get("stream")), respond)

    async def _pass_on(self, request: HttpRequest, is_stream: bool, respond: Responder) -> None:
        async with self._backend.complete(request.path, request.body, stream=is_stream) as answer:
            await respond.start(answer.status, [(b"content-type", answer.content_type.encode())])
            async for piece in answer.body:
                await respond.send(piece)
            await respond.end()


def serve_model(started: Connection, server: ModelServer) -> None:
    """Serve until killed, in a process forked for it; the URL is sent to ``started``."""

    async def serve() -> None:
        runtime = RealRuntime()
        backend = EmbeddedBackend(runtime, weights=get_variant(server.variant), model=server.name, parallel=SLOTS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend.run)
            await backend.wait_alive()
            http = await HttpServer.open(ModelFront(backend, server).handle, "127.0.0.1", 0, runtime)
            nursery.start_soon(http.run)
            started.send("http://{}:{}".format(*http.address))

    trio.run(serve)
