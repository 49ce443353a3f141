"""Whether a transcript is that of an answer: its tokens say what the user has got. Pure.

An executor could have a small model write the answer, and commit to tokens of the declared weights for another
question. So a checker has its backend turn the tokens into text, and compares that with the answer. Backends remove
white space and marks of the chat template from an answer, so the comparison ignores both. Apart from them, the lengths
may differ by :data:`SLACK` at most.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from serving.openai.bodies import read_contents
from serving.quality.same_model.transcript import MAX_TOKENS

SLACK = 64
"""Characters that a transcript may have beyond the answer and what stops it: words of a template."""
LISTS_NO_PARTS = frozenset({"llamacpp"})
"""Engines whose transcript may lack tokens. They list one token for a character made of several, so a transcript may
end before the first one beyond ASCII. And they do not list tokens in which a stop sequence may begin, so answers to
requests with stop sequences are not checked."""

_LEFT_OUT = re.compile(r"<[^<>\s]{1,40}>|\s+|\ufffd")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")


@dataclass(frozen=True, slots=True)
class WrittenAnswer:
    """What a model has written: its reasoning, then its text. ``has_calls``: some of it was read as calls of tools."""

    reasoning: str
    text: str
    has_calls: bool


def read_written(body: bytes) -> WrittenAnswer | None:
    """What is written in the body of an answer with one choice; None if it is none."""
    reasoning: list[str] = []
    text: list[str] = []
    has_calls = False
    for content in read_contents(body):
        choices = content.get("choices") if isinstance(content, dict) else None
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict) or choice.get("index", 0) != 0:
                return None
            message = choice.get("delta") or choice.get("message")
            if isinstance(message, dict):
                reasoning.append(_read_text(message.get("reasoning")) or _read_text(message.get("reasoning_content")))
                text.append(_read_text(message.get("content")))
                has_calls = has_calls or bool(message.get("tool_calls") or message.get("function_call"))
    written = WrittenAnswer("".join(reasoning), "".join(text), has_calls)
    return written if written.reasoning or written.text or has_calls else None


def _read_text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def list_written(answer: WrittenAnswer, begun: str) -> tuple[WrittenAnswer, ...]:
    """The texts that a model may have written, if its answer was ``begun`` in the request.

    llama.cpp repeats the beginning in answers that are not streamed. So the model wrote all of the answer, or only the
    rest.
    """
    text, begun = answer.text.lstrip(), begun.strip()
    if not begun or not text.startswith(begun):
        return (answer,)
    return answer, replace(answer, text=text[len(begun) :])


def count_needed(answer: WrittenAnswer, engine: str) -> int:
    """Characters of an answer that a whole transcript of an engine covers; 0 if it may have none."""
    return _count_needed(_squeeze(answer.reasoning + answer.text), engine)


def is_transcript_of(answer: WrittenAnswer, told: str, tokens: int, engine: str, stops: Sequence[str] = ()) -> bool:
    """Whether a transcript of ``tokens`` tokens, whose text is ``told``, is that of an answer.

    One of the ``stops`` may have ended the answer; it is not in its text.
    """
    text, told = _squeeze(answer.reasoning + answer.text), _squeeze(told)
    common = _count_common(text, told)
    needed = 0 if tokens == MAX_TOKENS else _count_needed(text, engine)
    return common >= needed and len(told) - common <= SLACK + max(map(len, stops), default=0)


def _squeeze(text: str) -> str:
    """A text without white space, and without marks that only templates have."""
    return _LEFT_OUT.sub("", text)


def _count_needed(squeezed: str, engine: str) -> int:
    beyond = _BEYOND_ASCII.search(squeezed) if engine in LISTS_NO_PARTS else None
    return len(squeezed) if beyond is None else beyond.start()


def _count_common(first: str, second: str) -> int:
    """Characters in which both texts begin alike."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
