"""A whole answer that is written as a stream says the same, in events that clients can read."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.openai.answers import MAX_EVENT_BYTES, AnswerInspector
from serving.openai.bodies import read_events
from serving.openai.content import MESSAGES, TEXTS, AnswerForm, count_completion_bytes, decode_body
from serving.openai.event_writer import (
    MAX_STREAM_BYTES,
    MAX_STREAM_EVENTS,
    PIECE_CHARS,
    PIECE_TOKENS,
    write_events,
)

USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
HEAD = {"id": "a", "object": "chat.completion", "created": 1, "model": "m"}
text = st.text(max_size=3).map(lambda piece: piece * 3_000)
"""Some are longer than one piece."""
message = st.fixed_dictionaries(
    {"content": st.none() | text},
    optional={"reasoning": text, "reasoning_content": text, "refusal": text, "annotations": st.just([])},
)


def encode(choices: Any, **fields: Any) -> bytes:
    return json.dumps({**HEAD, "choices": choices, **fields}).encode()


def write(body: bytes, form: AnswerForm = MESSAGES, choices: int = 2) -> list[dict[str, Any]]:
    """The events, without the one that closes them."""
    events = write_events(body, form, choices)
    assert events.endswith(b"data: [DONE]\n\n") and max(map(len, events.split(b"\n\n"))) < MAX_EVENT_BYTES
    return list(read_events(events))[:-1]


def join(events: list[dict[str, Any]], name: str) -> str:
    """A text of the first choice, as clients put it together."""
    deltas = [choice["delta"] for event in events for choice in event["choices"] if choice["index"] == 0]
    return "".join(delta.get(name) or "" for delta in deltas)


def test_the_role_comes_first_and_the_usage_last() -> None:
    said = {"role": "assistant", "content": "hello", "refusal": None}
    events = write(encode([{"index": 0, "message": said, "finish_reason": "stop", "stop_reason": 7}], usage=USAGE))
    head = {**HEAD, "object": "chat.completion.chunk"}
    role = {"role": "assistant", "content": ""}
    assert events == [
        {**head, "choices": [{"index": 0, "delta": role, "finish_reason": None}]},
        {**head, "choices": [{"index": 0, "delta": {"content": "hello"}, "finish_reason": None}]},
        {**head, "choices": [{"stop_reason": 7, "index": 0, "delta": {}, "finish_reason": "stop"}]},
        {**head, "choices": [], "usage": USAGE},
    ]


def test_the_older_completions() -> None:
    choices = [{"index": number, "text": "hi", "logprobs": None, "finish_reason": "length"} for number in (0, 1)]
    events = write(encode(choices, object="text_completion"), TEXTS)
    assert [event["object"] for event in events] == ["text_completion"] * 4
    assert [(each["index"], each["text"], each["finish_reason"]) for event in events for each in event["choices"]] == [
        (0, "hi", None),
        (0, "", "length"),
        (1, "hi", None),
        (1, "", "length"),
    ]


def test_calls_have_their_place_and_long_arguments_come_in_pieces() -> None:
    arguments = ["{}", json.dumps({"text": "x" * 3 * PIECE_CHARS})]
    calls = [
        {"index": 0, "id": f"call{number}", "type": "function", "function": {"name": "find", "arguments": each}}
        for number, each in enumerate(arguments)
    ]
    events = write(encode([{"message": {"content": None, "tool_calls": calls}, "finish_reason": "tool_calls"}]))
    pieces = [call for event in events for each in event["choices"] for call in each["delta"].get("tool_calls", ())]
    assert [(piece["index"], piece["id"]) for piece in pieces if "id" in piece] == [(0, "call0"), (1, "call1")]
    assert [
        "".join(piece["function"]["arguments"] for piece in pieces if piece["index"] == number) for number in (0, 1)
    ] == arguments
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": None}


@pytest.mark.parametrize("count", [1, 3 * PIECE_TOKENS + 1])
def test_log_probabilities_are_cut_and_none_is_lost(count: int) -> None:
    listed = [{"token": f"t{number}", "logprob": -1.0, "top_logprobs": []} for number in range(count)]
    choice = {"message": {"content": "t"}, "logprobs": {"content": listed, "refusal": None}, "finish_reason": "stop"}
    found = [each["logprobs"] for event in write(encode([choice])) for each in event["choices"] if "logprobs" in each]
    assert [token for each in found for token in each["content"]] == listed
    assert all(each["refusal"] is None for each in found)


@given(st.lists(message, min_size=1, max_size=2))
def test_it_says_and_costs_the_same(messages: list[dict[str, Any]]) -> None:
    choices = [{"index": at, "message": each, "finish_reason": "stop"} for at, each in enumerate(messages)]
    body = encode(choices, usage=USAGE)
    events = write(body)
    for name in ("content", "reasoning", "reasoning_content", "refusal"):
        assert join(events, name) == (messages[0].get(name) or "")
    whole = decode_body(body)
    assert whole is not None
    inspector = AnswerInspector(stream=True, choices=len(messages))
    inspector.feed(write_events(body, MESSAGES, len(messages)))
    both = [each.get("reasoning") and each.get("reasoning_content") for each in messages]
    if not any(both):  # two names of one text
        assert inspector.completion_bytes == count_completion_bytes(whole, len(messages), has_tools=False)
    assert inspector.is_complete and inspector.is_over and inspector.completion_tokens == USAGE["completion_tokens"]


def test_reasoning_under_both_of_its_names_is_paid_once() -> None:
    thought = "thinking " * PIECE_CHARS
    said = {"content": "yes", "reasoning": thought, "reasoning_content": thought}
    inspector = AnswerInspector(stream=True)
    inspector.feed(write_events(encode([{"message": said, "finish_reason": "stop"}]), MESSAGES, 1))
    assert inspector.completion_bytes == len(thought) + len("yes")


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        encode([]),
        encode(None),
        encode(["hello"]),
        encode([{"text": "hello"}]),
        encode([{"message": "hello"}]),
        encode([{"message": {"tool_calls": ["find"]}}]),
        encode([{"message": {"content": ["hello"]}}]),
        encode([{"message": {"tool_calls": [{"function": {"name": "find", "arguments": {}}}]}}]),
        encode([{"message": {"content": "half of a pair: \ud800"}}]),
        b'{"choices":[{"message":{"content":"hello"}}],"x":' + 5_000 * b"[" + 5_000 * b"]" + b"}",
        b'{"choices":[{"message":{"content":"hello"},"x":1e999}]}',
    ],
)
def test_what_is_no_answer_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        write_events(body, MESSAGES, 1)


def test_nesting_that_can_just_be_read_is_written_or_refused() -> None:
    """JSON is read to one depth and written to another, and what goes wrong is the backend's fault alone."""
    for depth in range(1, 1_000):
        nested = b'{"choices":[{"message":{"content":"hello"},"x":' + depth * b"[" + depth * b"]" + b"}]}"
        with suppress(ValueError):
            write_events(nested, MESSAGES, 1)


@pytest.mark.parametrize(
    "body",
    [
        encode([{"message": {"tool_calls": [{}] * (MAX_STREAM_EVENTS + 1)}}]),
        encode([{"message": {"content": ""}, "logprobs": {"content": [1] * PIECE_TOKENS * (MAX_STREAM_EVENTS + 1)}}]),
        encode([{"message": {"tool_calls": [{}] * 1_000}}], id="x" * (MAX_STREAM_BYTES // 1_000)),
    ],
    ids=["calls", "log probabilities", "what all events repeat"],
)
def test_an_answer_of_many_small_parts_is_no_work_without_end(body: bytes) -> None:
    with pytest.raises(ValueError, match="too many parts"):
        write_events(body, MESSAGES, 1)


@pytest.mark.parametrize("size", [1, 60])
def test_the_longest_answer_has_a_stream(size: int) -> None:
    """With as many log probabilities as it can have, too."""
    count = (MESSAGES.max_bytes - 1_000) // (size + 48)
    listed = [{"token": "x" * size, "logprob": -1.0, "bytes": None}] * count
    body = encode([{"message": {"content": "x" * size * count}, "logprobs": {"content": listed}}])
    assert len(write(body)) > count // PIECE_TOKENS


def test_choices_that_nobody_asked_for_are_left_out() -> None:
    """They are not paid in one piece, and would be in events of their own."""
    choices = [{"index": at, "message": {"content": "hello"}, "finish_reason": "stop"} for at in range(3)]
    events = write(encode(choices), choices=2)
    assert {each["index"] for event in events for each in event["choices"]} == {0, 1}


def test_a_chat_is_no_completion() -> None:
    with pytest.raises(ValueError):
        write_events(encode([{"message": {"content": "hello"}}]), TEXTS, 1)
