"""A backend with a language model of thirty tokens in it, for markets in which answers are checked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from serving.openai.answers import Answer
from serving.openai.errors import ApiError
from serving.openai.requests import CHAT_COMPLETIONS
from serving.quality.same_model.identity import ModelIdentity
from tests.support.market.scripted_backend import Pieces, ScriptedBackend
from tests.support.market_world import MODEL
from tests.support.servers.scripted_model import ScriptedModel

IDENTITY = ModelIdentity(MODEL, bytes(32), "w16a16-kv16", "vllm")
"""What its nodes declare."""


@dataclass
class ModelBackend(ScriptedBackend):
    """A scripted backend whose answers come from ``model``; questions of scorers are counted apart."""

    model: ScriptedModel = field(default_factory=lambda: ScriptedModel("vllm"))
    questions: int = 0
    question_delay: float = 0.05

    @asynccontextmanager
    async def complete(self, path: str, body: bytes, *, stream: bool) -> AsyncIterator[Answer]:
        is_question = path != CHAT_COMPLETIONS or b"return_token_ids" in body
        self.questions += is_question
        self.requests += not is_question
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.bodies.append(body)
        try:
            await trio.sleep(self.question_delay if is_question else self.script.first_delay)
            try:
                answer = self.model.answer(path, body)
            except ApiError as error:
                yield Answer(error.status, "application/json", Pieces([b"{}"]))
                return
            if isinstance(answer, bytes):
                yield Answer(200, "application/json", Pieces([answer]))
            else:
                yield Answer(200, "text/event-stream", Pieces(answer, self.script.token_delay))
            self.completed += not is_question
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
