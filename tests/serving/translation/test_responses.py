"""OpenAI's Responses API: requests become chats, and answers are what OpenAI's own types describe."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from serving.openai.errors import ApiError, bad_gateway
from serving.translation.responses import ResponsesTranslation
from serving.translation.responses_request import REFUSED, read_responses_request
from tests.serving.translation.chats import Chat, chats, read_events
from tests.support.openai_answers import make_event

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
SENT = {"model": "m", "input": "hi"}
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True, "description": "does"}


def read(**fields: Any) -> dict[str, Any]:
    return read_responses_request({**SENT, **fields}).chat


def test_a_text_becomes_a_message_and_unknown_fields_pass() -> None:
    chat = read(instructions="be brief", temperature=0.5, seed=1, top_k=3, max_output_tokens=9, user=None)
    assert chat == {
        "model": "m",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        "temperature": 0.5,
        "seed": 1,
        "top_k": 3,
        "max_tokens": 9,
    }


def test_items_become_a_conversation() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"}
    given = [
        {"role": "developer", "content": "be brief"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "look"}, image]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "wait"}],
        },
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "1"},
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "2"}]},
    ]
    calls = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}}
        for id, name in (("a", "f"), ("b", "g"))
    ]
    assert read(input=given)["messages"] == [
        {"role": "system", "content": "be brief"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
            ],
        },
        {"role": "assistant", "content": "wait", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
    ]


def test_tools_formats_and_efforts_are_called_as_chats_call_them() -> None:
    chat = read(
        tools=[TOOL],
        tool_choice={"type": "function", "name": "f"},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}, "strict": True}},
        reasoning={"effort": "low", "summary": "auto"},
        stream=True,
        include=["message.output_text.logprobs"],
        top_logprobs=2,
    )
    function = {"name": "f", "parameters": {"type": "object"}, "strict": True, "description": "does"}
    assert chat["tools"] == [{"type": "function", "function": function}]
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    schema = {"name": "s", "schema": {"type": "object"}, "strict": True}
    assert chat["response_format"] == {"type": "json_schema", "json_schema": schema}
    assert (chat["reasoning_effort"], chat["logprobs"], chat["top_logprobs"]) == ("low", True, 2)
    assert chat["stream_options"] == {"include_usage": True} and chat["parallel_tool_calls"] is False
    named = [{"type": "function", "name": "f"}, {"type": "function", "name": ["f"]}]
    allowed = {"type": "allowed_tools", "mode": "required", "tools": named}
    chat = read(tools=[{**TOOL, "name": "g"}, TOOL], tool_choice=allowed)
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["f"] and chat["tool_choice"] == "required"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        *(({name: "x"}, name) for name in REFUSED),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [TOOL, {"type": "function"}]}, "tools[1].name"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type"),
        ({"input": [{"role": "king", "content": "hi"}]}, "input[0].role"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
            "input[0].content[0].type",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].file_id",
        ),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"text": 5}, "text"),
        ({"include": 5}, "include"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        read(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert param in caught.value.message


@given(chats)
def test_a_whole_answer_is_a_response(chat: Chat) -> None:
    response = Response.model_validate_json(
        ResponsesTranslation({**SENT, "tools": [TOOL]}).translate(chat.make_whole(), "x")
    )
    assert response.output_text == "".join(chat.text)
    calls = [item for item in response.output if item.type == "function_call"]
    assert [(call.call_id, call.name, call.arguments) for call in calls] == [
        (id, name, "".join(pieces)) for id, name, pieces in chat.calls
    ]
    is_whole = chat.finish_reason in ("stop", "tool_calls")
    assert response.status == ("completed" if is_whole else "incomplete")
    assert (response.incomplete_details is None) == is_whole
    assert response.usage is not None and response.usage.input_tokens_details.cached_tokens == 4
    assert (response.id, response.model, response.created_at) == ("resp_1", "m", 7)


@given(chats, st.integers(1, 4))
def test_a_stream_says_the_same_in_events(chat: Chat, together: int) -> None:
    translation = ResponsesTranslation({**SENT, "stream": True})
    stream, events = translation.open_stream("x"), chat.make_events()
    written = b"".join(stream.feed(b"".join(events[at : at + together])) for at in range(0, len(events), together))
    assert stream.finish() == b"" == stream.fail(bad_gateway("too late"))
    found = read_events(written)
    for event in found:
        EVENT.validate_python(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert [event["type"] for event in found[:2]] == ["response.created", "response.in_progress"]
    end = found[-1]
    assert end["type"] == f"response.{end['response']['status']}"
    whole = json.loads(translation.translate(chat.make_whole(), "x"))
    named = ("type", "text", "content", "call_id", "name", "arguments", "summary", "role", "status")

    def strip(response: dict[str, Any]) -> list[dict[str, Any]]:
        items = [{name: item[name] for name in named if name in item} for item in response["output"]]
        return [item for item in items if item.get("content") != [] and item.get("content", [{}])[0].get("text") != ""]

    def ignore_status(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**item, "status": ""} for item in items]

    assert ignore_status(strip(end["response"])) == ignore_status(strip(whole))
    assert end["response"]["usage"] == whole["usage"]
    opened = [event["item"]["id"] for event in found if event["type"] == "response.output_item.added"]
    closed = [event["item"]["id"] for event in found if event["type"] == "response.output_item.done"]
    assert opened == closed == [item["id"] for item in end["response"]["output"]]
    text = "".join(event["delta"] for event in found if event["type"] == "response.output_text.delta")
    assert text == "".join(chat.text)


def test_a_stream_that_breaks_off_ends_in_an_error_and_a_failed_response() -> None:
    stream = ResponsesTranslation(SENT).open_stream("x")
    written = stream.feed(Chat(text=("one",)).make_events()[1]) + stream.fail(bad_gateway("broken"))
    found = read_events(written)
    assert [event["type"] for event in found[-2:]] == ["error", "response.failed"]
    assert found[-2]["message"] == "broken" and found[-1]["response"]["error"]["message"] == "broken"
    for event in found:
        EVENT.validate_python(event)
    assert stream.feed(b"data: [DONE]\n\n") == b""


def test_an_error_event_of_the_backend_is_an_error() -> None:
    stream = ResponsesTranslation(SENT).open_stream("x")
    found = read_events(stream.feed(make_event({"error": {"message": "no", "code": 500}})))
    assert found[-1]["type"] == "response.failed" and found[-2]["message"] == "no" and found[-2]["code"] == "500"


@given(st.binary(max_size=60))
def test_whatever_a_backend_says_nothing_raises(noise: bytes) -> None:
    stream = ResponsesTranslation(SENT).open_stream("x")
    written = stream.feed(b"data: " + noise + b"\n\n") + stream.finish()
    assert read_events(written)[-1]["type"] in ("response.completed", "response.failed")
    try:
        ResponsesTranslation(SENT).translate(noise, "x")
    except ApiError as error:
        assert error.status == 502
