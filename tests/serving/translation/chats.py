"""Chat completions of every kind, whole and cut into the events of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.support.openai_answers import DONE, make_event

HEAD = {"id": "chatcmpl-1", "created": 7, "model": "m"}
USAGE = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14, "prompt_tokens_details": {"cached_tokens": 4}}


@dataclass(frozen=True)
class Chat:
    """What a model said: pieces of its reasoning and its text, and of each call an id, a name and pieces."""

    reasoning: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    calls: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    finish_reason: str = "stop"

    def make_whole(self) -> bytes:
        """As an answer in one piece."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self.text) or None}
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.calls:
            message["tool_calls"] = [
                {"id": id, "type": "function", "function": {"name": name, "arguments": "".join(pieces)}}
                for id, name, pieces in self.calls
            ]
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        return json.dumps({**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()

    def make_events(self) -> list[bytes]:
        """As the events of a stream."""
        return [make_event(event) for event in self._list_events()] + [DONE]

    def _list_events(self) -> Iterator[dict[str, Any]]:
        yield _make_event({"role": "assistant", "content": ""})
        for piece in self.reasoning:
            yield _make_event({"reasoning": piece, "reasoning_content": piece})
        for piece in self.text:
            yield _make_event({"content": piece})
        for index, (id, name, pieces) in enumerate(self.calls):
            function = {"name": name, "arguments": ""}
            yield _make_event({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]})
            for piece in pieces:
                yield _make_event({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield _make_event({}, self.finish_reason)
        yield {**HEAD, "object": "chat.completion.chunk", "choices": [], "usage": USAGE}


def _make_event(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {**HEAD, "object": "chat.completion.chunk", "choices": [choice]}


pieces = st.lists(st.sampled_from(["a", "é", "😀 ", '"', "\n\n", "\r", "data: "]), max_size=3).map(tuple)
arguments = st.sampled_from([("{", '"a":', "1}"), ("{}",), ('{"text": "\\u00e9"}',)])
calls = st.lists(st.tuples(st.sampled_from(["call_a", "call_b"]), st.sampled_from(["f", "g"]), arguments), max_size=2)
chats = st.builds(
    Chat, pieces, pieces, calls.map(tuple), st.sampled_from(["stop", "length", "tool_calls", "content_filter"])
)


def read_events(stream: bytes) -> list[dict[str, Any]]:
    """The events of a stream, each of whose names is its type."""
    found = []
    for event in stream.decode().removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        content = json.loads(data.removeprefix("data: "))
        assert name == f"event: {content['type']}"
        found.append(content)
    return found
