"""Anthropic's Messages API as a dialect. Pure."""

from __future__ import annotations

from typing import Any

from serving.translation.chat import read_answer
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

    def translate(self, answer: bytes, name: str) -> bytes:
        """The message."""
        return encode(make_whole(read_answer(answer), name))

    def open_stream(self, name: str) -> StreamTranslation:
        """The message in events."""
        return MessagesStream(name)


MESSAGES = Dialect(MessagesTranslation, shape_error)
