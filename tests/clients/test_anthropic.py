"""Anthropic's client for Python: messages, streams, tools and counts."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

from tests.clients.conftest import PARAMETERS, Endpoint
from tests.support.fake_backend import MODEL

FIXED: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 8,
    "extra_body": {"temperature": 0},
    "messages": [{"role": "user", "content": [{"type": "text", "text": "What is the capital of France?"}]}],
}


@pytest.fixture
def client(endpoint: Endpoint) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=endpoint.root, api_key="any", max_retries=1, timeout=120)


def create(client: anthropic.Anthropic, **fields: Any) -> anthropic.types.Message:
    message = client.messages.create(**{**FIXED, **fields})
    assert isinstance(message, anthropic.types.Message)
    return message


def test_a_message_in_one_piece_and_streamed(client: anthropic.Anthropic) -> None:
    whole = create(client, system="Be brief.")
    (block,) = whole.content
    assert block.type == "text" and block.text and whole.usage.output_tokens <= 8
    assert whole.stop_reason in ("end_turn", "max_tokens")
    with client.messages.stream(**FIXED, system="Be brief.") as events:
        assert "".join(events.text_stream) == block.text
        final = events.get_final_message()
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_used_and_its_result_taken(client: anthropic.Anthropic, stream: bool) -> None:
    tools = [{"name": "get_weather", "description": "Get the weather", "input_schema": PARAMETERS}]
    asked: dict[str, Any] = {**FIXED, "max_tokens": 60, "tools": tools, "tool_choice": {"type": "any"}}
    if stream:
        with client.messages.stream(**asked) as events:
            answer = events.get_final_message()
    else:
        answer = create(client, **asked)
    (use,) = [block for block in answer.content if block.type == "tool_use"]
    assert answer.stop_reason == "tool_use" and use.name == "get_weather" and set(use.input) == {"city"}  # type: ignore[call-overload]
    turns = [
        *FIXED["messages"],
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in answer.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}]},
    ]
    assert create(client, messages=turns, tools=tools).content


def test_tokens_are_counted(client: anthropic.Anthropic) -> None:
    few = client.messages.count_tokens(model=MODEL, messages=FIXED["messages"]).input_tokens
    more = client.messages.count_tokens(model=MODEL, messages=FIXED["messages"], system="word " * 50).input_tokens
    assert 0 < few < more


def test_errors_are_raised_as_the_client_names_them(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        create(client, model="claude-9")
    with pytest.raises(anthropic.BadRequestError, match="container"):
        create(client, extra_body={"container": "x"})
