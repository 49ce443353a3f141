"""The parts of an answer's JSON that a node reads, and its completion bytes, by which it is billed.

Completion bytes are the UTF-8 bytes, after JSON unescaping, of what the model produced and a client shows: text,
reasoning, and the names and arguments of calls, if the request has tools. Framing, white space and fields not listed
here do not count, and of a repeated key the last counts, as for clients. The node that pays and the node that is paid
count the same bytes with :func:`count_completion_bytes`, so that both come to the same number.

Answers have one of three forms: messages (chat completions), texts (the older completions) and vectors (embeddings),
which have no completion bytes.

Decoding is typed and skips all other fields: msgspec takes a seventh of the time of ``json`` for an event. No field has
the type Any, which would have lists of any size built.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

ENVELOPE = ("id", "object", "created", "model", "system_fingerprint", "service_tier")
"""What all events of a stream have in common."""
MAX_FORM_CHARS = 1024
"""Most characters of these fields that are repeated in the event that ends a stream."""


class Function(msgspec.Struct, gc=False):
    """A call that the model asks for."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct, gc=False):
    """A tool call; its function is all that is read of it."""

    function: Function | None = None


class Message(msgspec.Struct, gc=False):
    """A message, or a piece of one (``delta``)."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None


class Choice(msgspec.Struct, gc=False):
    """One of the answers to a request."""

    finish_reason: str | None = None
    message: Message | None = None


class StreamedChoice(msgspec.Struct, gc=False):
    """A choice in an event of a stream: its message is a piece."""

    finish_reason: str | None = None
    message: Message | None = msgspec.field(default=None, name="delta")


class TextChoice(msgspec.Struct, gc=False):
    """A choice of the older completions, whole or a piece of it."""

    finish_reason: str | None = None
    text: str | None = None


class Vector(msgspec.Struct, gc=False):
    """An embedding, which is not looked at."""

    finish_reason: ClassVar[None] = None


class ReportedUsage(msgspec.Struct, gc=False):
    """The usage that a backend reports; it is for the user alone."""

    prompt_tokens: msgspec.Raw = msgspec.Raw()
    completion_tokens: msgspec.Raw = msgspec.Raw()


C = TypeVar("C", Choice, StreamedChoice, TextChoice)
T = TypeVar("T")


class Content(msgspec.Struct, Generic[C], gc=False):
    """A whole answer, or one event of a streamed one."""

    choices: list[C] | None = None
    usage: ReportedUsage | None = None
    error: msgspec.Raw = msgspec.Raw()


class VectorContent(msgspec.Struct, gc=False):
    """A whole answer that is a list of embeddings: they are its choices."""

    choices: list[Vector] | None = msgspec.field(default=None, name="data")
    usage: ReportedUsage | None = None
    error: msgspec.Raw = msgspec.Raw()


AnyContent = Content[Any] | VectorContent


class Form(msgspec.Struct, gc=False, omit_defaults=True):
    """What all events of a stream have in common."""

    id: str = ""
    object: str = ""
    created: int = 0
    model: str = ""


_FORM = msgspec.json.Decoder(Form)


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """How the answers of an endpoint are written: the decoders of a whole one and of an event, an empty piece of a
    choice, and the longest whole answer in bytes."""

    body: msgspec.json.Decoder[Any]
    event: msgspec.json.Decoder[Any]
    empty_piece: tuple[str, Any]
    max_bytes: int


MAX_UNSTREAMED_BYTES = 4 << 20
"""Longest answer that is not streamed. It is decoded on the event loop, in a tenth of a second at worst: a thread would
hold the interpreter's lock meanwhile."""
MAX_VECTORS_BYTES = 32 << 20
"""Longest answer with embeddings: a thousand of a large model. Skipping numbers takes no longer than reading text."""

MESSAGES = AnswerForm(
    msgspec.json.Decoder(Content[Choice]),
    msgspec.json.Decoder(Content[StreamedChoice]),
    ("delta", {}),
    MAX_UNSTREAMED_BYTES,
)
"""Of chat completions."""
TEXTS = AnswerForm(
    msgspec.json.Decoder(Content[TextChoice]),
    msgspec.json.Decoder(Content[TextChoice]),
    ("text", ""),
    MAX_UNSTREAMED_BYTES,
)
"""Of the older completions."""
VECTORS = AnswerForm(
    msgspec.json.Decoder(VectorContent), msgspec.json.Decoder(VectorContent), ("", None), MAX_VECTORS_BYTES
)
"""Of embeddings, which are never streamed."""


def decode_body(raw: bytes | bytearray, form: AnswerForm = MESSAGES) -> AnyContent | None:
    """An answer in one piece; None if it is not valid JSON of this form."""
    return _decode(form.body, raw)


def decode_event(data: bytes, form: AnswerForm = MESSAGES) -> AnyContent | None:
    """The data of one event of a stream; None if it is not valid JSON of this form."""
    return _decode(form.event, data)


def _decode(decoder: msgspec.json.Decoder[T], raw: bytes | bytearray) -> T | None:
    try:
        if not raw.isascii():
            raw.decode()  # the decoder does not look at the text of fields that it skips
        return decoder.decode(raw)
    except (ValueError, RecursionError):  # ValueError: of either
        return None


def count_completion_bytes(content: AnyContent, most_choices: int, has_tools: bool) -> int:
    """The completion bytes of an event or a body, of whose choices the first ``most_choices`` count.

    Calls count if the request ``has_tools``; otherwise no client shows them. Reasoning under both of its names is one
    text.
    """
    if isinstance(content, VectorContent):
        return 0
    count = 0
    for choice in (content.choices or ())[:most_choices]:
        if isinstance(choice, TextChoice):
            count += _measure(choice.text)
            continue
        message = choice.message
        if message is None:
            continue
        count += _measure(message.content) + (_measure(message.reasoning) or _measure(message.reasoning_content))
        if has_tools:
            for function in (message.function_call, *(call.function for call in message.tool_calls or ())):
                if function is not None:
                    count += _measure(function.name) + _measure(function.arguments)
    return count


def _measure(text: str | None) -> int:
    if text is None:
        return 0
    return len(text) if text.isascii() else len(text.encode())


def make_end(event: bytes, choices: int, answer_form: AnswerForm = MESSAGES) -> bytes:
    """The events that end a stream at its limit, in the form of its last ``event`` (JSON)."""
    form = _decode(_FORM, event)
    if form is None or len(form.id) + len(form.object) + len(form.model) > MAX_FORM_CHARS:
        form = Form()
    name, piece = answer_form.empty_piece
    ends = [{"index": index, name: piece, "finish_reason": "length"} for index in range(choices)]
    return b"data: " + json.dumps({**msgspec.to_builtins(form), "choices": ends}).encode() + b"\n\ndata: [DONE]\n\n"
