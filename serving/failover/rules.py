"""What a failed try means: whether another backend or node is asked, or the user gets the answer as it is. One table,
pure.

The same table serves the backends of this node and the executors of other nodes. The difference is trust: the node
believes its own backend that a request is at fault, but another node only when a second one says so too
(``serving.offload.originator.originator``).

All of it holds until the first content of an answer has gone to the user. From then on no other may begin it anew: its
text would contradict what the user has read. Only the rest of it can be asked for
(``serving.failover.continued_answer``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

import msgspec

CLIENT_ERRORS = (400, 413, 415, 422)
"""Statuses that say that the request is at fault. No other error of a node is passed on to the user of another."""
MAX_ERROR_BYTES = 64 << 10
"""Longest error body that is read."""

CONTEXT_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"})
"""Codes and types by which OpenAI and llama.cpp say that a prompt is too long for *them*."""
FILTER_CODES = frozenset(
    {"content_filter", "content_policy_violation", "moderation_blocked", "responsibleaipolicyviolation"}
)
"""Codes and types of an answer that is withheld for what was asked (OpenAI, Azure)."""
_CONTEXT_MESSAGE = re.compile(
    r"maximum context length|model'?s context|context (?:size|window|length)|max_model_len|prompt is too long", re.I
)
"""Messages for the same of vLLM, SGLang, Ollama and others, which have no code for it."""


class Next(Enum):
    """What is done after a try."""

    ELSEWHERE = "another is asked; if none is left, the user gets the first error"
    CONFIRM = "the user gets it from a backend of this node; another node must be confirmed by a second one"
    RELAY = "the user gets it, whichever backend answered"


@dataclass(frozen=True, slots=True)
class Rule:
    """``is_fault``: it counts against the backend or node that answered. Other outcomes do not show that it is
    faulty."""

    next: Next
    is_fault: bool


class Outcome(Enum):
    """How a try failed before the first content."""

    BROKEN = "connection lost, silence, a malformed or cut body, 200 with an error in it, or 408"
    SERVER_ERROR = "5xx"
    BUSY = "429"
    REFUSED = "any other status: a key, a path or a model that is not known there"
    CONTEXT = "the prompt is too long for this backend"
    FILTERED = "a content filter"
    CLIENT_ERROR = "400, 413, 415 or 422 for another reason"

    @property
    def rule(self) -> Rule:
        """What it means."""
        return RULES[self]


RULES = {
    Outcome.BROKEN: Rule(Next.ELSEWHERE, is_fault=True),
    Outcome.SERVER_ERROR: Rule(Next.ELSEWHERE, is_fault=True),
    Outcome.BUSY: Rule(Next.ELSEWHERE, is_fault=False),
    Outcome.REFUSED: Rule(Next.ELSEWHERE, is_fault=True),
    Outcome.CONTEXT: Rule(Next.ELSEWHERE, is_fault=False),
    Outcome.FILTERED: Rule(Next.RELAY, is_fault=False),
    Outcome.CLIENT_ERROR: Rule(Next.CONFIRM, is_fault=False),
}
"""The table."""


class _Error(msgspec.Struct, gc=False):
    message: msgspec.Raw = msgspec.Raw()
    type: msgspec.Raw = msgspec.Raw()
    code: msgspec.Raw = msgspec.Raw()
    innererror: msgspec.Raw = msgspec.Raw()


class _Whole(msgspec.Struct, gc=False):
    """An answer in one piece, or an error. Older vLLM puts ``message``, ``type`` and ``code`` of an error at the top
    level."""

    error: msgspec.Raw = msgspec.Raw()
    object: msgspec.Raw = msgspec.Raw()
    choices: msgspec.Raw = msgspec.Raw()
    message: msgspec.Raw = msgspec.Raw()
    type: msgspec.Raw = msgspec.Raw()
    code: msgspec.Raw = msgspec.Raw()


_WHOLE = msgspec.json.Decoder(_Whole)
_ERROR = msgspec.json.Decoder(_Error)
_NONE = (b"", b"null", b"false", b"0", b'""', b"{}", b"[]")
"""Values of the field ``error`` that mean no error."""


def judge_status(status: int, body: bytes = b"") -> Outcome | None:
    """The outcome of a try that was answered with ``status`` and ``body``; None if it is an answer."""
    if status == 200:
        return None
    if status == 429:
        return Outcome.BUSY
    if status >= 500:
        return Outcome.SERVER_ERROR
    if status == 408:
        return Outcome.BROKEN
    if status not in CLIENT_ERRORS:
        return Outcome.REFUSED
    return _judge_error(body)


def judge_whole(body: bytes) -> str | None:
    """The fault in the body of an answer in one piece that came with status 200; None: there is none.

    Text that is no JSON is malformed, and so is half of a character.
    """
    try:
        if not body.isascii():
            body.decode()
        whole = _WHOLE.decode(body)
    except (ValueError, RecursionError):
        return "the answer is not JSON"
    is_error = bytes(whole.error) not in _NONE or bytes(whole.object) == b'"error"'
    return "the answer is an error" if is_error and bytes(whole.choices) in _NONE else None


def _judge_error(body: bytes) -> Outcome:
    """Which client error a body describes."""
    names, message = _read_error(body)
    if names & FILTER_CODES:
        return Outcome.FILTERED
    if names & CONTEXT_CODES or _CONTEXT_MESSAGE.search(message):
        return Outcome.CONTEXT
    return Outcome.CLIENT_ERROR


def _read_error(body: bytes) -> tuple[set[str], str]:
    """The code, type and inner code of an error in lower case, and its message."""
    try:
        whole = _WHOLE.decode(body[:MAX_ERROR_BYTES])
        if bytes(whole.error)[:1] == b"{":
            error = _ERROR.decode(whole.error)
        elif bytes(whole.error) in _NONE:
            error = _Error(whole.message, whole.type, whole.code)
        else:
            error = _Error(whole.error)
        inner = _ERROR.decode(error.innererror) if bytes(error.innererror)[:1] == b"{" else _Error()
    except (ValueError, RecursionError):
        return set(), ""
    names = {_read_text(raw).lower() for raw in (error.code, error.type, inner.code)}
    return names - {""}, _read_text(error.message)


def _read_text(raw: msgspec.Raw) -> str:
    value = msgspec.json.decode(raw) if bytes(raw)[:1] == b'"' else ""
    return value if isinstance(value, str) else ""
