"""A stream of a chat completion, written as the events of Anthropic's Messages API: a state machine, without I/O.

Blocks come one after the other: thinking, text, calls. One ends when the next begins. A call whose pieces come after
the next call has begun cannot be written so, and is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from serving.openai.errors import ApiError, bad_gateway
from serving.translation.chat import BegunText, CallPiece, ChatEvents, ChatPiece, ChatUsage
from serving.translation.messages_answer import make_end, make_message, make_usage
from serving.translation.messages_errors import shape_error

Key = tuple[str, int]
"""What a block is: its kind, and of a call the number."""


class MessagesStream:
    """The events of one message, whose text the user may have ``begun``."""

    def __init__(self, name: str, begun: str = "") -> None:
        self._name = name
        self._begun = BegunText(begun)
        self._chat = ChatEvents()
        self._has_begun = False
        self._has_ended = False
        self._open: Key | None = None
        self._blocks: dict[Key, int] = {}
        """Those so far, with their places. Text that comes after a call begins another."""
        self._has_calls = False
        self._count = 0
        self._finish_reason = ""
        self._stop: str | None = None
        self._usage: ChatUsage | None = None

    def feed(self, events: bytes) -> bytes:
        """See :meth:`serving.translation.dialect.StreamTranslation.feed`."""
        written = bytearray()
        try:
            for piece in self._chat.read(events):
                for event in self._take(piece):
                    written += event
        except ApiError as error:
            return bytes(written) + self.fail(error)
        return bytes(written) + (self.finish() if self._chat.is_over else b"")

    def finish(self) -> bytes:
        """See :meth:`serving.translation.dialect.StreamTranslation.finish`."""
        if self._has_ended:
            return b""
        events = [*self._begin(ChatPiece()), *self._extend_text(self._begun.finish()), *self._close()]
        self._has_ended = True
        delta = make_end(self._finish_reason, self._stop, has_calls=self._has_calls)
        events.append(_write("message_delta", delta=delta, usage=make_usage(self._usage)))
        return b"".join(events) + _write("message_stop")

    def fail(self, error: ApiError) -> bytes:
        """See :meth:`serving.translation.dialect.StreamTranslation.fail`."""
        if self._has_ended:
            return b""
        self._has_ended = True
        return shape_error(error).event()

    def _take(self, piece: ChatPiece) -> Iterator[bytes]:
        yield from self._begin(piece)
        if piece.reasoning:
            start = {"type": "thinking", "thinking": "", "signature": ""}
            yield from self._extend(("thinking", 0), start, {"type": "thinking_delta", "thinking": piece.reasoning})
        yield from self._extend_text(self._begun.feed(piece.text) if piece.text else piece.refusal)
        for call in piece.calls:
            yield from self._extend_call(call)
        self._finish_reason = piece.finish_reason or self._finish_reason
        self._stop = piece.stop or self._stop
        self._usage = piece.usage or self._usage

    def _begin(self, piece: ChatPiece) -> Iterator[bytes]:
        if not self._has_begun:
            self._has_begun = True
            yield _write("message_start", message=make_message(piece.id or self._name, piece.model, []))

    def _extend_text(self, text: str) -> Iterator[bytes]:
        if text:
            yield from self._extend(("text", 0), {"type": "text", "text": ""}, {"type": "text_delta", "text": text})

    def _extend_call(self, call: CallPiece) -> Iterator[bytes]:
        key = ("call", call.index)
        if key in self._blocks and key != self._open:
            raise bad_gateway("The pieces of several calls are mixed.")
        self._has_calls = True
        start = {
            "type": "tool_use",
            "id": call.id or f"toolu_{self._name}_{call.index}",
            "name": call.name,
            "input": {},
        }
        delta = {"type": "input_json_delta", "partial_json": call.arguments} if call.arguments else None
        yield from self._extend(key, start, delta)

    def _extend(self, key: Key, start: dict[str, Any], delta: dict[str, Any] | None) -> Iterator[bytes]:
        """Add to the block under way, or begin one with ``start``."""
        if key != self._open:
            yield from self._close()
            self._open, self._blocks[key] = key, self._count
            self._count += 1
            yield _write("content_block_start", index=self._blocks[key], content_block=start)
        if delta is not None:
            yield _write("content_block_delta", index=self._blocks[key], delta=delta)

    def _close(self) -> Iterator[bytes]:
        if self._open is not None:
            key, self._open = self._open, None
            yield _write("content_block_stop", index=self._blocks[key])


def _write(kind: str, **fields: Any) -> bytes:
    event = json.dumps({"type": kind, **fields}, separators=(",", ":"))
    return f"event: {kind}\ndata: {event}\n\n".encode()
