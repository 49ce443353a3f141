"""Answers of an OpenAI-compatible server to chat completions, whole and in events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

DONE = b"data: [DONE]\n\n"
PROMPT_TOKENS = 5


def make_event(content: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"


def make_chunk(model: str, text: str | None = None, finish_reason: str | None = None) -> bytes:
    """The event of a piece of the text, or of its end."""
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return make_event({**_make_head(model, "chat.completion.chunk"), "choices": [choice]})


def make_usage(model: str, tokens: int) -> bytes:
    """The event that says how many tokens there were."""
    return make_event({**_make_head(model, "chat.completion.chunk"), "choices": [], "usage": _count(tokens)})


def make_whole(model: str, text: str, tokens: int, finish_reason: str) -> bytes:
    """An answer that is not streamed."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return json.dumps({**_make_head(model, "chat.completion"), "choices": [choice], "usage": _count(tokens)}).encode()


def make_text_chunk(model: str, text: str, finish_reason: str | None = None) -> bytes:
    """The event of a piece of a completion."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
    return make_event({**_make_head(model, "text_completion"), "choices": [choice]})


def make_text_usage(model: str, tokens: int) -> bytes:
    """The event that says how many tokens a completion had."""
    return make_event({**_make_head(model, "text_completion"), "choices": [], "usage": _count(tokens)})


def make_texts(model: str, texts: Sequence[str], tokens: int, finish_reason: str) -> bytes:
    """An answer to a request for completions that is not streamed."""
    choices = [
        {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}
        for index, text in enumerate(texts)
    ]
    return json.dumps({**_make_head(model, "text_completion"), "choices": choices, "usage": _count(tokens)}).encode()


def make_vectors(model: str, count: int) -> bytes:
    """An answer to a request for so many embeddings."""
    data = [{"object": "embedding", "index": index, "embedding": [0.5, -0.25, index]} for index in range(count)]
    usage = {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS}
    return json.dumps({"object": "list", "model": model, "data": data, "usage": usage}).encode()


def _make_head(model: str, kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-fake", "object": kind, "created": 1, "model": model}


def _count(tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": tokens,
        "total_tokens": PROMPT_TOKENS + tokens,
    }
