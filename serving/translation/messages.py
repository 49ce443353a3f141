"""Anthropic's Messages API as a dialect. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from serving.translation.chat import BegunText, read_answer
from serving.translation.dialect import Dialect, StreamTranslation
from serving.translation.messages_answer import make_whole
from serving.translation.messages_errors import shape_error
from serving.translation.messages_request import read_messages_request
from serving.translation.messages_stream import MessagesStream
from serving.translation.responses_answer import encode


class MessagesTranslation:
    """One request; see :class:`serving.translation.dialect.Translation`."""

    def __init__(self, sent: dict[str, Any]) -> None:
        self.chat = read_messages_request(sent)
        last = self.chat["messages"][-1]
        self._begun = last["content"] or "" if last["role"] == "assistant" else ""
        """The beginning of the answer, if the user has sent it."""

    def translate(self, answer: bytes, name: str) -> bytes:
        """The message."""
        piece, begun = read_answer(answer), BegunText(self._begun)
        return encode(make_whole(replace(piece, text=begun.feed(piece.text) + begun.finish()), name))

    def open_stream(self, name: str) -> StreamTranslation:
        """The message in events."""
        return MessagesStream(name, self._begun)


MESSAGES = Dialect(MessagesTranslation, shape_error)
