"""LiteLLM as a client: chats, streams, tools, completions, embeddings, responses, Anthropic's messages, errors.

Runs in the environment of the clients, not in the node's: ``tests/clients/test_litellm.py`` starts it.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it looks prices up on the web

import litellm
import pytest

ROOT, MODEL = os.environ["ROOT_URL"], os.environ["MODEL"]
FIXED: dict[str, Any] = {
    "model": f"openai/{MODEL}",
    "api_base": f"{ROOT}/v1",
    "api_key": "any",
    "max_tokens": 8,
    "temperature": 0,
    "timeout": 120,
    "num_retries": 0,
}
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}]


def test_a_chat_in_one_piece_and_streamed() -> None:
    whole = litellm.completion(**FIXED, messages=MESSAGES)
    assert whole.choices[0].message.content and whole.usage.completion_tokens <= 8
    chunks = list(litellm.completion(**FIXED, messages=MESSAGES, stream=True, stream_options={"include_usage": True}))
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        == whole.choices[0].message.content
    )
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    rebuilt = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert rebuilt.choices[0].message.content == whole.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called(stream: bool) -> None:
    fixed = {**FIXED, "max_tokens": 60, "messages": MESSAGES, "tools": TOOLS, "tool_choice": "required"}
    answer = litellm.completion(**fixed, stream=stream)
    if stream:
        answer = litellm.stream_chunk_builder(list(answer), messages=MESSAGES)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather" and set(json.loads(call.function.arguments)) == {"city"}


def test_a_structured_answer() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": PARAMETERS}}
    answer = litellm.completion(**{**FIXED, "max_tokens": 60}, messages=MESSAGES, response_format=form)
    assert set(json.loads(answer.choices[0].message.content)) == {"city"}


def test_a_completion() -> None:
    fixed = {**FIXED, "model": f"text-completion-openai/{MODEL}"}
    assert litellm.text_completion(**fixed, prompt="One, two,").choices[0].text


def test_embeddings() -> None:
    fixed = {name: FIXED[name] for name in ("model", "api_base", "api_key", "timeout")}
    one, two = litellm.embedding(**fixed, input=["cat", "cat"]).data
    assert one["embedding"] == two["embedding"]


def test_a_response() -> None:
    fixed = {name: FIXED[name] for name in ("model", "api_base", "api_key", "timeout", "temperature")}
    answer = litellm.responses(**fixed, input="What is 1 + 1?", max_output_tokens=8, store=False)
    assert any(item.type == "message" for item in answer.output)


def test_a_message() -> None:
    fixed = {"model": f"anthropic/{MODEL}", "api_base": ROOT, "api_key": "any", "max_tokens": 8, "temperature": 0}
    whole = litellm.completion(**fixed, messages=MESSAGES)
    assert whole.choices[0].message.content
    chunks = list(litellm.completion(**fixed, messages=MESSAGES, stream=True))
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        == whole.choices[0].message.content
    )


def test_several_at_a_time() -> None:
    async def ask_all() -> list[Any]:
        return await asyncio.gather(*(litellm.acompletion(**FIXED, messages=MESSAGES) for _ in range(6)))

    answers = asyncio.run(ask_all())
    assert len({answer.choices[0].message.content for answer in answers}) == 1


def test_errors_are_of_the_classes_that_the_client_has_for_them() -> None:
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**{**FIXED, "model": "openai/gpt-9"}, messages=MESSAGES)
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(**FIXED, messages=MESSAGES, n=99)
