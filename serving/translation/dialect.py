"""What a translator is: a request in another API, and the ways back of its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from serving.openai.errors import ApiError


class StreamTranslation(Protocol):
    """Writes the events of one stream as those of another API."""

    def feed(self, events: bytes) -> bytes:
        """Take whole events of the chat completion; returns those to send."""

    def finish(self) -> bytes:
        """The chat completion is over; returns what is left to send."""

    def fail(self, error: ApiError) -> bytes:
        """It broke off; returns the events that say so."""


class Translation(Protocol):
    """One request, and how its answer is written."""

    @property
    def chat(self) -> Mapping[str, Any]:
        """The request as a chat completion."""

    def translate(self, answer: bytes, name: str) -> bytes:
        """Write a whole answer. ``name`` stands for its id if it has none.

        Raises:
            ApiError: 502, it is no chat completion.
        """

    def open_stream(self, name: str) -> StreamTranslation:
        """Write a stream; ``name`` stands for its id if it has none."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """Another API: how to read a request, and how its errors look.

    ``read`` raises ApiError, of OpenAI's shape, for what cannot be done.
    """

    read: Callable[[dict[str, Any]], Translation]
    shape: Callable[[ApiError], ApiError]
