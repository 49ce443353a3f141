"""OpenAI's client for Python: chats, streams, tools, structured output, completions, embeddings and responses."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pydantic
import pytest
import trio
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.clients.conftest import PARAMETERS, Endpoint
from tests.support.fake_backend import MODEL

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]
TOOL: ChatCompletionToolParam = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
VOLATILE = ("id", "created", "timings", "usage")
"""Fields that differ from one answer to the next; of the usage it is what was cached."""


class City(pydantic.BaseModel):
    """What a structured answer says."""

    city: str = pydantic.Field(max_length=12)


@pytest.fixture
def client(endpoint: Endpoint) -> openai.OpenAI:
    return openai.OpenAI(base_url=endpoint.url, api_key="any", max_retries=1, timeout=120)


def test_a_request_is_served_where_it_should_be(endpoint: Endpoint, client: openai.OpenAI) -> None:
    answer = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES, max_tokens=4)
    assert (answer.headers["x-wwwserve-executor"] == "local") != endpoint.is_offloaded


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError, match=MODEL):
        client.models.retrieve("fake-modell")


def test_a_chat_in_one_piece_and_streamed(client: openai.OpenAI) -> None:
    fixed: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "max_tokens": 8, "temperature": 0}
    whole = client.chat.completions.create(**fixed)
    assert whole.choices[0].message.content and whole.usage and whole.usage.completion_tokens <= 8
    chunks = list(client.chat.completions.create(**fixed, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_log_probabilities_several_choices_stop_and_seed(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=6, n=2, seed=1, stop=["\n"], logprobs=True, top_logprobs=2
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content and len(logprobs.content[0].top_logprobs) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_tool_call(client: openai.OpenAI, stream: bool) -> None:
    with (
        client.chat.completions.stream(
            model=MODEL, messages=MESSAGES, tools=[TOOL], tool_choice="required", max_tokens=60, temperature=0
        )
        if stream
        else _NoStream(client) as events
    ):
        answer = events.get_final_completion()
    (call,) = answer.choices[0].message.tool_calls or ()
    assert call.type == "function" and call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city"}


class _NoStream:
    """The same call in one piece, with the interface of a stream."""

    def __init__(self, client: openai.OpenAI) -> None:
        self._client = client

    def __enter__(self) -> _NoStream:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def get_final_completion(self) -> Any:
        return self._client.chat.completions.create(
            model=MODEL, messages=MESSAGES, tools=[TOOL], tool_choice="required", max_tokens=60, temperature=0
        )


def test_structured_output(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=MESSAGES, response_format=City, max_tokens=60, temperature=0
    )
    assert isinstance(answer.choices[0].message.parsed, City)


def test_a_completion_in_one_piece_and_streamed(client: openai.OpenAI) -> None:
    fixed: dict[str, Any] = {"model": MODEL, "prompt": "One, two, three,", "max_tokens": 6, "temperature": 0}
    whole = client.completions.create(**fixed)
    assert whole.choices[0].text
    assert "".join(chunk.choices[0].text for chunk in client.completions.create(**fixed, stream=True)) == (
        whole.choices[0].text
    )


def test_embeddings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input=["cat", "dog", "cat"])
    cat, dog, again = (entry.embedding for entry in answer.data)
    assert cat == again != dog
    plain = client.embeddings.create(model=MODEL, input="cat", encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(cat, abs=1e-6)


def test_a_response_in_one_piece_and_streamed(client: openai.OpenAI) -> None:
    fixed: dict[str, Any] = {"model": MODEL, "input": "What is 1 + 1?", "max_output_tokens": 8, "temperature": 0}
    whole = client.responses.create(**fixed, instructions="Be brief.")
    assert whole.output_text and whole.usage and whole.usage.output_tokens <= 8
    with client.responses.stream(**fixed, instructions="Be brief.") as events:
        kinds = [event.type for event in events]
        streamed = events.get_final_response() if kinds[-1] == "response.completed" else None
    assert kinds[0] == "response.created" and "response.output_text.delta" in kinds
    assert streamed is None or streamed.output_text == whole.output_text
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        client.responses.create(**fixed, previous_response_id="resp_1")


def test_a_response_that_calls_a_tool(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model=MODEL,
        input="What is the weather in Paris?",
        tools=[{"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": True}],
        tool_choice="required",
        max_output_tokens=60,
        temperature=0,
    )
    (call,) = [item for item in answer.output if item.type == "function_call"]
    assert call.name == "get_weather" and set(json.loads(call.arguments)) == {"city"}


def test_errors_are_raised_as_the_client_names_them(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-9", messages=MESSAGES)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 3000}])


def test_a_client_that_leaves_ends_the_answer(endpoint: Endpoint) -> None:
    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=endpoint.url, api_key="any", max_retries=0, timeout=120) as client:
            stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=400, stream=True)
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    break
            await stream.close()
            with trio.fail_after(120):  # and there is a slot for the next
                answer = await client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=2)
            assert answer.choices

    trio.run(main)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 6, "temperature": 0, "seed": 1}),
        ("/v1/completions", {"prompt": "One, two,", "max_tokens": 6, "temperature": 0}),
        ("/v1/embeddings", {"input": "cat"}),
    ],
)
def test_a_body_is_what_the_backend_says_when_it_is_asked_directly(
    endpoint: Endpoint, path: str, fields: dict[str, Any]
) -> None:
    bodies = []
    for root in (endpoint.root, endpoint.direct):
        answer = httpx.post(root + path, json={"model": MODEL, **fields}, timeout=120)
        answer.raise_for_status()
        bodies.append({name: value for name, value in answer.json().items() if name not in VOLATILE})
    assert json.dumps(bodies[0]) == json.dumps(bodies[1])
