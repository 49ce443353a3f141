"""Anthropic's Messages API: requests become chats, and answers messages, whole and in events."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.openai.errors import (
    ApiError,
    bad_gateway,
    bad_request,
    method_not_allowed,
    quota_exceeded,
    too_many_requests,
    unavailable,
)
from serving.translation.messages import MessagesTranslation
from serving.translation.messages_errors import shape_error
from serving.translation.messages_request import REFUSED, read_messages_request
from tests.serving.translation.chats import Chat, chats, read_events
from tests.support.openai_answers import make_event

USER = {"role": "user", "content": "hi"}
SENT = {"model": "m", "max_tokens": 9, "messages": [USER]}
TOOL = {"name": "f", "description": "does", "input_schema": {"type": "object"}}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}


def read(**fields: Any) -> dict[str, Any]:
    return read_messages_request({**SENT, **fields})


def test_a_message_becomes_a_chat_and_unknown_fields_pass() -> None:
    chat = read(
        system=[{"type": "text", "text": "be", "cache_control": {}}, {"type": "text", "text": "brief"}],
        stop_sequences=["x"],
        top_k=3,
        metadata={"user_id": "u"},
        thinking={"type": "enabled", "budget_tokens": 1024},
        service_tier="auto",
    )
    assert chat == {
        "model": "m",
        "max_tokens": 9,
        "messages": [{"role": "system", "content": "be\n\nbrief"}, USER],
        "stop": ["x"],
        "top_k": 3,
        "user": "u",
    }


def test_blocks_become_parts_calls_and_results() -> None:
    use = {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    result = {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "1"}]}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "look"}, IMAGE]},
        {"role": "assistant", "content": [thought, {"type": "text", "text": "wait"}, use]},
        {"role": "user", "content": [result, {"type": "text", "text": "and?"}]},
    ]
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    assert read(messages=turns)["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "look"}, url]},
        {"role": "assistant", "content": "wait", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "user", "content": "and?"},
    ]


def test_a_turn_that_the_assistant_has_begun_is_gone_on_with() -> None:
    chat = read(messages=[USER, {"role": "assistant", "content": "The answer is ("}])
    assert chat["continue_final_message"] is True and chat["add_generation_prompt"] is False
    assert "continue_final_message" not in read()


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_tools_are_called_as_chats_call_them(choice: dict[str, Any], expected: Any) -> None:
    chat = read(tools=[TOOL], tool_choice={**choice, "disable_parallel_tool_use": True}, stream=True)
    function = {"name": "f", "description": "does", "parameters": {"type": "object"}}
    assert chat["tools"] == [{"type": "function", "function": function}]
    assert chat["tool_choice"] == expected and chat["parallel_tool_calls"] is False
    assert chat["stream_options"] == {"include_usage": True}


def test_a_schema_is_a_response_format() -> None:
    schema = {"type": "object"}
    chat = read(output_config={"format": {"type": "json_schema", "schema": schema}, "effort": "low"})
    assert chat["response_format"]["json_schema"]["schema"] == schema and chat["reasoning_effort"] == "low"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        *(({name: ["x"]}, name) for name in REFUSED),
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "hi"}]}, "messages[0].role"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tool_choice": {"type": ["any"]}}, "tool_choice.type"),
        ({"stop_sequences": 0}, "stop_sequences"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}]},
            "messages[0].content[0].source.type",
        ),
        ({"messages": [{"role": "assistant", "content": [IMAGE]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "search_result"}]}]}, "messages[0].content[0].type"),
        ({"system": 5}, "system"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        read(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert param in caught.value.message
    assert json.loads(shape_error(caught.value).body())["error"]["type"] == "invalid_request_error"


def test_errors_have_the_types_of_the_api() -> None:
    assert json.loads(shape_error(unavailable("busy", 3)).body()) == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "busy"},
    }
    assert shape_error(unavailable("busy", 3)).headers() == [(b"retry-after", b"3")]
    assert json.loads(shape_error(bad_gateway("x")).body())["error"]["type"] == "api_error"
    once = shape_error(bad_request("x"))
    assert shape_error(once) is once


STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


def make_blocks(chat: Chat) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if chat.reasoning:
        blocks.append({"type": "thinking", "thinking": "".join(chat.reasoning), "signature": ""})
    if chat.text:
        blocks.append({"type": "text", "text": "".join(chat.text)})
    blocks += [
        {"type": "tool_use", "id": id, "name": name, "input": json.loads("".join(pieces))}
        for id, name, pieces in chat.calls
    ]
    return blocks


def make_stop(chat: Chat) -> str:
    return "tool_use" if chat.calls and chat.finish_reason == "stop" else STOPS[chat.finish_reason]


@given(chats)
def test_a_whole_answer_is_a_message(chat: Chat) -> None:
    message = json.loads(MessagesTranslation(SENT).translate(chat.make_whole(), "x"))
    usage = {"input_tokens": 5, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4, "output_tokens": 5}
    assert message == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": make_blocks(chat),
        "stop_reason": make_stop(chat),
        "stop_sequence": None,
        "usage": usage,
    }


@given(chats, st.integers(1, 4))
def test_a_stream_says_the_same_in_events(chat: Chat, together: int) -> None:
    stream, events = MessagesTranslation(SENT).open_stream("x"), chat.make_events()
    written = b"".join(stream.feed(b"".join(events[at : at + together])) for at in range(0, len(events), together))
    assert stream.finish() == b"" == stream.fail(bad_gateway("too late"))
    start, *inner, delta, stop = read_events(written)
    assert start["type"] == "message_start" and start["message"]["content"] == []
    assert delta["type"] == "message_delta" and delta["delta"]["stop_reason"] == make_stop(chat)
    assert delta["usage"]["output_tokens"] == 5 and stop == {"type": "message_stop"}
    assert read_blocks(inner) == make_blocks(chat)


def read_blocks(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks of a message, each of which must end before the next begins."""
    blocks: list[dict[str, Any]] = []
    is_open = False
    for event in events:
        assert event["index"] == len(blocks) - is_open
        if event["type"] == "content_block_start":
            assert not is_open
            blocks.append(event["content_block"])
            is_open, written = True, ""
        elif event["type"] == "content_block_delta":
            assert is_open
            delta, block = event["delta"], blocks[-1]
            if delta["type"] == "input_json_delta":
                written += delta["partial_json"]
                continue
            name = delta["type"].removesuffix("_delta")
            block[name] += delta[name]
        else:
            assert event["type"] == "content_block_stop" and is_open
            if blocks[-1]["type"] == "tool_use":
                blocks[-1]["input"] = json.loads(written)
            is_open = False
    assert not is_open
    return blocks


@given(st.text("ab", max_size=4), st.text("ab", max_size=6), st.integers(1, 3))
def test_the_beginning_of_a_turn_is_not_repeated(begun: str, text: str, size: int) -> None:
    sent = {**SENT, "messages": [USER, {"role": "assistant", "content": begun}]}
    pieces = tuple(text[at : at + size] for at in range(0, len(text), size))
    new = text.removeprefix(begun)
    chat, translation = Chat(text=pieces), MessagesTranslation(sent)
    message = json.loads(translation.translate(chat.make_whole(), "x"))
    assert message["content"] == ([{"type": "text", "text": new}] if new else [])
    stream = translation.open_stream("x")
    _, *inner, _, _ = read_events(b"".join(map(stream.feed, chat.make_events())))
    assert read_blocks(inner) == message["content"]


def test_a_stop_sequence_is_named_where_the_backend_tells() -> None:
    answer = json.loads(Chat(text=("a",)).make_whole())
    answer["choices"][0]["stop_reason"] = "x"
    message = json.loads(MessagesTranslation(SENT).translate(json.dumps(answer).encode(), "x"))
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "x")


def test_a_stream_that_breaks_off_ends_in_an_error() -> None:
    stream = MessagesTranslation(SENT).open_stream("x")
    written = stream.feed(Chat(text=("one",)).make_events()[1]) + stream.fail(bad_gateway("broken"))
    assert read_events(written)[-1] == {"type": "error", "error": {"type": "api_error", "message": "broken"}}
    assert stream.finish() == b""


def test_mixed_calls_are_an_error_and_never_wrong_arguments() -> None:
    stream = MessagesTranslation(SENT).open_stream("x")
    written = b""
    for index in (0, 1, 0):
        call = {"index": index, "id": "a", "function": {"name": "f", "arguments": "{"}}
        written += stream.feed(make_event({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}))
    assert read_events(written)[-1]["type"] == "error"


@given(st.binary(max_size=60))
def test_whatever_a_backend_says_nothing_raises(noise: bytes) -> None:
    stream = MessagesTranslation(SENT).open_stream("x")
    written = stream.feed(b"data: " + noise + b"\n\n") + stream.finish()
    assert read_events(written)[-1]["type"] in ("message_stop", "error")


def test_an_error_keeps_its_headers_in_either_shape() -> None:
    errors = quota_exceeded("no budget"), too_many_requests("slowly", 3.0), method_not_allowed("GET", "POST")
    for error in errors:
        assert shape_error(error).headers() == error.headers() != []
