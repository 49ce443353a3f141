"""A backend that goes on with answers that are begun, in the right way or in one of two wrong ones."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from serving.openai.answers import Answer
from serving.openai.begun_answers import find_begun
from tests.support.market.scripted_backend import ScriptedBackend, make_token


@dataclass
class BegunBackend(ScriptedBackend):
    """One that goes on with an answer that is begun; or, if it ``repeats``, begins with what there is of it."""

    repeats: bool = False
    forgets: bool = False
    """Whether it begins the answer again, instead, and soon writes something else."""

    @asynccontextmanager
    async def complete(self, path: str, body: bytes, *, stream: bool) -> AsyncIterator[Answer]:
        begun = find_begun(json.loads(body)) or ""
        async with super().complete(path, body, stream=stream) as answer:
            if begun and (self.repeats or self.forgets):
                answer.body = self._begin_again(begun if self.repeats else f"{begun[:-4]}…", answer.body)
            yield answer

    async def _begin_again(self, begun: str, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        for word in begun.split(" "):
            yield make_token("", 0).replace(b"0 ", f"{word} ".encode())
        async for piece in body:
            yield piece
