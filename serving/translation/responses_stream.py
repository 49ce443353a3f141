"""A stream of a chat completion, written as the events of OpenAI's Responses API: a state machine, without I/O.

Items come one after the other: reasoning, a message, calls. One is done when the next begins; calls, whose pieces may
be mixed, are done at the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from serving.openai.errors import ApiError
from serving.translation.chat import CallPiece, ChatEvents, ChatPiece, ChatUsage
from serving.translation.responses_answer import (
    INCOMPLETE,
    make_call,
    make_id,
    make_message,
    make_reasoning,
    make_response,
    make_text_part,
)


@dataclass(slots=True)
class _Item:
    """An item under way; ``kind`` is reasoning, text, refusal or call."""

    kind: str
    id: str
    place: int
    text: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    call_id: str = ""
    name: str = ""

    def make(self, status: str) -> dict[str, Any]:
        """The item as far as it has come."""
        text = "".join(self.text)
        if self.kind == "call":
            return make_call(self.id, CallPiece(0, self.call_id, self.name, text), status)
        if self.kind == "reasoning":
            return make_reasoning(self.id, text, status)
        return make_message(self.id, [self.make_part()] if text else [], status)

    def make_part(self, *, is_empty: bool = False) -> dict[str, Any]:
        """The one part of the item."""
        text = "" if is_empty else "".join(self.text)
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": text}
        return make_text_part(text, () if is_empty else self.logprobs)


EVENTS = {"reasoning": "reasoning_text", "text": "output_text", "refusal": "refusal", "call": "function_call_arguments"}
"""How the events of a kind of item are called."""


class ResponsesStream:
    """The events of one response to the request ``sent``."""

    def __init__(self, sent: Mapping[str, Any], name: str) -> None:
        self._sent = sent
        self._name = name
        self._model = ""
        self._created = 0
        self._chat = ChatEvents()
        self._number = 0
        self._has_begun = False
        self._has_ended = False
        self._open: _Item | None = None
        """The reasoning or message under way."""
        self._calls: dict[int, _Item] = {}
        self._items: list[_Item] = []
        self._finish_reason = ""
        self._usage: ChatUsage | None = None

    def feed(self, events: bytes) -> bytes:
        """See :meth:`serving.translation.dialect.StreamTranslation.feed`."""
        try:
            written = b"".join(event for piece in self._chat.read(events) for event in self._take(piece))
        except ApiError as error:
            return self.fail(error)
        return written + (self.finish() if self._chat.is_over else b"")

    def finish(self) -> bytes:
        """See :meth:`serving.translation.dialect.StreamTranslation.finish`."""
        if self._has_ended:
            return b""
        events = list(self._begin(ChatPiece()))
        status = "incomplete" if self._finish_reason in INCOMPLETE else "completed"
        for item in ([self._open] if self._open is not None else []) + list(self._calls.values()):
            events += self._close(item, status)
        self._has_ended = True
        response = self._make_response([item.make(status) for item in self._items], self._finish_reason or "stop")
        return b"".join(events) + self._write(f"response.{status}", response=response)

    def fail(self, error: ApiError) -> bytes:
        """See :meth:`serving.translation.dialect.StreamTranslation.fail`."""
        if self._has_ended:
            return b""
        begun = b"".join(self._begin(ChatPiece()))
        self._has_ended = True
        response = self._make_response([item.make("incomplete") for item in self._items], None, error)
        said = self._write("error", code=error.code, message=error.message, param=error.param)
        return begun + said + self._write("response.failed", response=response)

    def _take(self, piece: ChatPiece) -> Iterator[bytes]:
        yield from self._begin(piece)
        if piece.reasoning:
            yield from self._extend("reasoning", piece.reasoning)
        if piece.text:
            yield from self._extend("text", piece.text, piece.logprobs)
        if piece.refusal:
            yield from self._extend("refusal", piece.refusal)
        for call in piece.calls:
            yield from self._extend_call(call)
        self._finish_reason = piece.finish_reason or self._finish_reason
        self._usage = piece.usage or self._usage

    def _begin(self, piece: ChatPiece) -> Iterator[bytes]:
        if self._has_begun:
            return
        self._has_begun = True
        self._name, self._model, self._created = piece.id or self._name, piece.model, piece.created
        response = self._make_response([], None)
        yield self._write("response.created", response=response)
        yield self._write("response.in_progress", response=response)

    def _extend(self, kind: str, text: str, logprobs: tuple[Any, ...] = ()) -> Iterator[bytes]:
        """Add to the reasoning or message under way, or begin one."""
        item = self._open
        if item is None or item.kind != kind:
            yield from self._close_open()
            prefix = "rs" if kind == "reasoning" else "msg"
            item = self._open = self._add(kind, prefix)
            yield self._write("response.output_item.added", output_index=item.place, item=item.make("in_progress"))
            part = item.make_part(is_empty=True)
            yield self._write("response.content_part.added", **self._locate(item), part=part)
        item.text.append(text)
        item.logprobs += logprobs
        more = {"logprobs": list(logprobs)} if kind == "text" else {}
        yield self._write(f"response.{EVENTS[kind]}.delta", **self._locate(item), delta=text, **more)

    def _extend_call(self, piece: CallPiece) -> Iterator[bytes]:
        item = self._calls.get(piece.index)
        if item is None:
            yield from self._close_open()
            item = self._calls[piece.index] = self._add("call", "fc")
            item.call_id, item.name = piece.id or item.id, piece.name
            yield self._write("response.output_item.added", output_index=item.place, item=item.make("in_progress"))
        elif piece.name and not item.name:
            item.name = piece.name
        if piece.arguments:
            item.text.append(piece.arguments)
            yield self._write(f"response.{EVENTS['call']}.delta", **self._locate(item), delta=piece.arguments)

    def _add(self, kind: str, prefix: str) -> _Item:
        item = _Item(kind, make_id(prefix, f"{self._name}_{len(self._items)}"), len(self._items))
        self._items.append(item)
        return item

    def _close_open(self) -> Iterator[bytes]:
        if self._open is not None:
            item, self._open = self._open, None
            yield from self._close(item, "completed")

    def _close(self, item: _Item, status: str) -> Iterator[bytes]:
        text, where = "".join(item.text), self._locate(item)
        done = f"response.{EVENTS[item.kind]}.done"
        if item.kind == "call":
            yield self._write(done, **where, name=item.name, arguments=text)
        else:
            value = {"refusal": text} if item.kind == "refusal" else {"text": text}
            more = {"logprobs": item.logprobs} if item.kind == "text" else {}
            yield self._write(done, **where, **value, **more)
            yield self._write("response.content_part.done", **where, part=item.make_part())
        yield self._write("response.output_item.done", output_index=item.place, item=item.make(status))

    def _locate(self, item: _Item) -> dict[str, Any]:
        where = {"item_id": item.id, "output_index": item.place}
        return where if item.kind == "call" else {**where, "content_index": 0}

    def _make_response(
        self, output: list[dict[str, Any]], finish_reason: str | None, error: ApiError | None = None
    ) -> dict[str, Any]:
        return make_response(
            self._sent,
            self._name,
            self._created,
            model=self._model,
            output=output,
            finish_reason=finish_reason,
            usage=self._usage,
            error=error,
        )

    def _write(self, kind: str, **fields: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return f"event: {kind}\ndata: {json.dumps(event, separators=(',', ':'))}\n\n".encode()
