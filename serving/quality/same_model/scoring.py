"""The interface of a scorer, and the draw of the positions that it scores.

A scorer has one backend compute what comes next at given positions of a given answer. It renders the prompt itself from
the user's request, and trusts nothing that an executor says of the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

from chain import crypto
from serving.backends.backend import Backend, BackendError
from serving.quality.same_model.statistics import Distribution

POSITIONS = 10
"""Positions that are scored of one answer."""
MAX_SCORES_BYTES = 64 << 20
"""Longest answer of a backend to one question of a scorer: a prompt has tens of thousands of tokens, each with
twenty."""
DETOKENIZE = "/detokenize"
"""Path under which backends say the text of tokens."""
NOT_OF_THE_PROMPT = (
    "stream",
    "stream_options",
    "max_completion_tokens",
    "logprobs",
    "top_logprobs",
    "seed",
    "stop",
)
"""Fields of a request that do not change its prompt, and that a question of the scorer must not carry."""


class ScoringError(Exception):
    """A backend cannot score given tokens, or what it says of them cannot be read."""


class Scorer(Protocol):
    """Scores the tokens of an answer with one backend."""

    @property
    def engine(self) -> str:
        """Family of the engine: ``vllm``, ``sglang`` or ``llamacpp``."""

    async def is_offered(self) -> bool:
        """Whether the backend can be asked in this way.

        Raises:
            BackendError: it does not answer.
        """

    async def score(self, request: bytes, tokens: Sequence[int], positions: Sequence[int]) -> dict[int, Distribution]:
        """The likeliest tokens at each of ``positions`` of the answer ``tokens`` to a chat completion ``request``.

        Raises:
            ScoringError: the backend refuses, or its answer cannot be read.
            BackendError: it does not answer.
        """

    async def write_out(self, tokens: Sequence[int]) -> str:
        """The text of ``tokens``, marks of the chat template included.

        Raises:
            ScoringError: the backend does not say it.
            BackendError: it does not answer.
        """


def draw_positions(seed: bytes, length: int, count: int = POSITIONS) -> tuple[int, ...]:
    """``count`` of the positions 0 to ``length`` − 1 (all, if there are fewer), in order: all sets are equally
    likely."""

    def draw(position: int) -> bytes:
        return crypto.hash_bytes("positions", seed, position.to_bytes(8, "big"))

    return tuple(sorted(sorted(range(length), key=draw)[:count]))


async def ask_for_text(backend: Backend, model: str, tokens: Sequence[int], field: str) -> str:
    """The text of ``tokens``, which the backend says in a ``field`` of its answer.

    Raises:
        ScoringError: it does not.
        BackendError: it does not answer.
    """
    answer = await ask(backend, DETOKENIZE, {"model": model, "tokens": list(tokens)})
    text = None if answer is None else answer.get(field)
    if not isinstance(text, str):
        raise ScoringError("the backend does not say the text of tokens")
    return text


def make_question(request: bytes, **fields: Any) -> dict[str, Any]:
    """The fields of a request that make its prompt, and those of the scorer's question."""
    content = json.loads(request)
    return {**{name: value for name, value in content.items() if name not in NOT_OF_THE_PROMPT}, **fields}


async def ask(backend: Backend, path: str, content: dict[str, Any]) -> dict[str, Any] | None:
    """POST JSON to a backend; None if it refuses or does not know the path.

    Raises:
        BackendError: it does not answer.
        ScoringError: its answer is no JSON object, or too long.
    """
    async with backend.complete(path, json.dumps(content).encode(), stream=False) as answer:
        body = bytearray()
        async for piece in answer.body:
            body += piece
            if len(body) > MAX_SCORES_BYTES:
                raise ScoringError(f"the answer of the backend is longer than {MAX_SCORES_BYTES} bytes")
        if answer.status in (500, 502, 503, 504):
            raise BackendError(f"the backend answered {answer.status}")
        if answer.status != 200:
            return None
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ScoringError(f"the answer of the backend to {path} is no JSON object")
    return found
