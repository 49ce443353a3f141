"""The request for the rest of an answer that was cut: the user's own, with the text so far as its beginning. Pure.

It is a request like any other: it has its own offer, hold and payment, and the digest in its hold covers the text so
far. Its token limit is what the first answer has left over.
"""

from __future__ import annotations

import math
from typing import Any

from msgspec.structs import replace

from serving.backends.backend import CONTINUATION
from serving.openai.answers import AnswerInspector
from serving.openai.begun_answers import begin_answer
from serving.openai.bodies import parse_json
from serving.openai.endpoints import CHAT
from serving.openai.requests import HELD_BYTES_PER_TOKEN, LIMITS, Request, encode_body

MAX_CONTINUATIONS = 3
"""How often one answer is gone on with."""
MAX_CONTINUED_BYTES = 4 << 20
"""Longest request, the text so far included: no executor takes a longer one."""
UNCONTINUED = (
    "echo", "suffix", "logprobs", "top_logprobs", "prompt_logprobs", "functions", "audio",
    "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "grammar", "json_schema",
)  # fmt: skip
"""Fields whose answers cannot be continued: a grammar would begin anew, and so would an echo, an index into the text,
or a forced call."""


def count_written(inspector: AnswerInspector) -> int:
    """Tokens of the answer so far: the largest of the reported number, the number of events, and an estimate by
    bytes."""
    return max(inspector.completion_tokens, math.ceil(inspector.completion_bytes / HELD_BYTES_PER_TOKEN))


def make_continuation(request: Request, inspector: AnswerInspector) -> Request | None:
    """The request for the rest of an answer to ``request`` that broke off; None if it cannot be continued.

    A continued answer is not at its end, and has at least one token left.
    """
    written, tokens = inspector.written, count_written(inspector)
    if written is None or not written.is_plain or inspector.is_malformed or request.choices != 1:
        return None
    content = parse_json(request.body)
    if not isinstance(content, dict) or not _can_go_on(content):
        return None
    text = written.join().rstrip()  # most tokens begin with white space: see :mod:`serving.failover.seam`
    begun = begin_answer(content, text) if text else content
    if begun is None:
        return None
    limits = {name: max(1, begun[name] - tokens) for name in LIMITS if begun.get(name) is not None}
    if type(begun.get("min_tokens")) is int:
        limits["min_tokens"] = max(0, begun["min_tokens"] - tokens)
    body = encode_body({**begun, **limits})
    if len(body) > MAX_CONTINUED_BYTES:
        return None
    needs = {CONTINUATION} if text and request.path == CHAT.path else set()
    return replace(
        request,
        body=body,
        max_tokens=request.max_tokens - tokens,
        wants_usage=True,
        timeout_s=math.inf,
        features=request.features | needs,
    )


def _can_go_on(content: dict[str, Any]) -> bool:
    """Whether the answer to a request can be continued."""
    form = content.get("response_format")
    is_text = form is None or (isinstance(form, dict) and form.get("type") == "text")
    is_free = content.get("tool_choice") in (None, "auto", "none")
    return is_text and is_free and not any(content.get(name) for name in UNCONTINUED)
