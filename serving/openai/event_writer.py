"""A whole answer, written as the events of a stream: for users of a backend that ignores ``stream``. Pure.

Some servers answer a request for a stream in one piece, which clients that asked for events cannot read. The answer has
everything that a stream would have, so it is written as events: the role, the text and the calls, the end, and the
usage. It must be there by the time at which a stream must begin: until then nobody knows that it will be no stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import msgspec

from serving.openai.content import ENVELOPE, TEXTS, AnswerForm, decode_body

MAX_STREAM_EVENTS = 4_096
"""Most events of a stream that is written: the longest answer with log probabilities has half as many. Each takes some
microseconds of the event loop."""
MAX_STREAM_BYTES = 8 << 20
"""Most bytes of a stream that is written: twice the longest answer in one piece, since each event repeats the common
fields."""
PIECE_CHARS = 8_192
"""Most characters of a text in one event: even if all are escaped, the event is not too long."""
PIECE_TOKENS = 50
"""Most tokens whose log probabilities are in one event."""
OTHER_TEXTS = ("reasoning", "reasoning_content", "refusal")
"""Texts of a message beside its content. If the first two are both there, they are the same text, and stay in one
event."""

_CALLS = "tool_calls"
_OWN = ("index", "message", "text", "logprobs", "finish_reason")
"""Fields of a choice that are written in the events before the last."""

Fields = dict[str, Any]


def write_events(body: bytes, form: AnswerForm, most_choices: int) -> bytes:
    """A complete stream with the first ``most_choices`` choices of the answer ``body``.

    Raises:
        ValueError: it is no answer of this ``form``, or has more parts than a stream can have.
    """
    if decode_body(body, form) is None:
        raise ValueError("the answer is not of the form that was asked for")
    stream = bytearray()
    for count, event in enumerate(_write_answer(msgspec.json.decode(body), form, most_choices)):
        stream += b"data: " + msgspec.json.encode(event) + b"\n\n"
        if count >= MAX_STREAM_EVENTS or len(stream) > MAX_STREAM_BYTES:
            raise ValueError("the answer has too many parts for a stream")
    return bytes(stream) + b"data: [DONE]\n\n"


def _write_answer(content: Fields, form: AnswerForm, most_choices: int) -> Iterator[Fields]:
    choices = content.get("choices")
    if not choices:
        raise ValueError("the answer has no choices")
    envelope = {name: content[name] for name in ENVELOPE if name in content}
    if form is not TEXTS:
        envelope["object"] = "chat.completion.chunk"
    for number, choice in enumerate(choices[:most_choices]):
        for piece in _write_choice(choice, number, form):
            yield {**envelope, "choices": [piece]}
    if isinstance(content.get("usage"), dict):
        yield {**envelope, "choices": [], "usage": content["usage"]}


def _write_choice(choice: Mapping[str, Any], number: int, form: AnswerForm) -> Iterator[Fields]:
    """The pieces of a choice. The last has the finish reason and all other fields of the choice."""
    index = choice["index"] if type(choice.get("index")) is int else number
    for piece in _write_text(choice) if form is TEXTS else _write_message(choice):
        yield {"index": index, **piece, "finish_reason": None}
    name, empty_piece = form.empty_piece
    others = {key: value for key, value in choice.items() if key not in _OWN}
    yield {**others, "index": index, name: empty_piece, "finish_reason": choice.get("finish_reason")}


def _write_message(choice: Mapping[str, Any]) -> Iterator[Fields]:
    message = choice.get("message")
    if message is None:
        raise ValueError("a choice of the answer has no message")
    texts = [name for name in OTHER_TEXTS if isinstance(message.get(name), str)]
    later = ("content", _CALLS, *texts)
    first = {name: value for name, value in message.items() if name not in later and value is not None}
    content = message.get("content")
    yield {"delta": {"role": "assistant", **first, "content": None if content is None else ""}}
    for parts in zip_longest(*(_cut(message[name], PIECE_CHARS) for name in texts), fillvalue=""):
        yield {"delta": dict(zip(texts, parts, strict=True))}
    for part, logprobs in _pair(content, choice.get("logprobs")):
        yield {"delta": {"content": part}, **logprobs}
    for number, call in enumerate(message.get(_CALLS) or ()):
        for piece in _write_call(call):
            yield {"delta": {_CALLS: [{**piece, "index": number}]}}


def _write_text(choice: Mapping[str, Any]) -> Iterator[Fields]:
    if "text" not in choice:
        raise ValueError("a choice of the answer has no text")
    for part, logprobs in _pair(choice["text"], choice.get("logprobs")):
        yield {"text": part, **logprobs}


def _write_call(call: Fields) -> Iterator[Fields]:
    """A tool call, of which its arguments may come in pieces."""
    function = call.get("function")
    if function is None:
        yield call
        return
    arguments = function.get("arguments") or ""
    yield {**call, "function": {**function, "arguments": arguments[:PIECE_CHARS]}}
    for part in _cut(arguments[PIECE_CHARS:], PIECE_CHARS):
        yield {"function": {"arguments": part}}


def _pair(text: str | None, logprobs: Any) -> Iterator[tuple[str, Fields]]:
    """The pieces of a text, and of the log probabilities of its tokens as far as there are any."""
    for part, listed in zip_longest(_cut(text or "", PIECE_CHARS), _cut_logprobs(logprobs)):
        yield part or "", {} if listed is None else {"logprobs": listed}


def _cut_logprobs(logprobs: Any) -> list[Fields]:
    """The log probabilities of so many tokens at a time. All their lists have one entry for each token."""
    if not isinstance(logprobs, dict):
        return []
    lists = {name: _cut(value, PIECE_TOKENS) for name, value in logprobs.items() if isinstance(value, list)}
    count = max((len(pieces) for pieces in lists.values()), default=0)
    return [
        {
            name: (lists[name][number] if number < len(lists[name]) else []) if name in lists else value
            for name, value in logprobs.items()
        }
        for number in range(count)
    ]


def _cut(whole: Sequence[Any], size: int) -> list[Any]:
    return [whole[start : start + size] for start in range(0, len(whole), size)]
