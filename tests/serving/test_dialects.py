"""The Responses API and the Messages API of a node: served here and offloaded, as chat completions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import Response

from serving.api import Api
from serving.openapi import make_document
from serving.routes import COUNT_TOKENS, DOCUMENT, MESSAGES, RESPONSES, ROUTES
from tests.serving.translation.chats import read_events
from tests.support.api_calls import FakeResponder, call
from tests.support.market.scripted_backend import compute_text
from tests.support.market_world import MODEL, Options, World, get_name, get_script, simulate

NODES = pytest.mark.parametrize("own_backend", [False, True], ids=["offloaded", "local"])
STREAMED = pytest.mark.parametrize("stream", [False, True])
TURNS = [{"role": "user", "content": "hi"}]


async def ask(world: World, path: str, own_backend: bool, **fields: Any) -> FakeResponder:
    headers = {"x_wwwserve_local_only": b"1"} if own_backend else {}
    body = json.dumps({"model": MODEL, **fields}).encode()
    responder, error = await call(Api(world.gateway.dispatcher), path, body, **headers)
    assert error is None and responder.status == 200
    await world.settle()
    return responder


def get_text(world: World, own_backend: bool) -> str:
    member = world.members[0] if own_backend else world.drawn()[0]
    return compute_text(get_name(member), get_script(member).tokens)


@NODES
@STREAMED
def test_a_response(own_backend: bool, stream: bool) -> None:
    async def play(world: World) -> None:
        text = get_text(world, own_backend)
        responder = await ask(world, RESPONSES, own_backend, input="hi", stream=stream, max_output_tokens=50)
        if stream:
            events = read_events(responder.body)
            assert responder.headers[b"content-type"] == b"text/event-stream" and len(responder.pieces) > 2
            assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
            deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
            assert "".join(deltas) == text
            response = Response.model_validate(events[-1]["response"])
        else:
            response = Response.model_validate_json(responder.body)
        assert response.status == "completed" and response.output_text == text
        assert response.usage is not None and response.usage.output_tokens > 0
        (record,) = world.gateway.dispatcher.records
        assert record.outcome == "completed"
        assert len(world.captured) == (0 if own_backend else 1)

    simulate(play, Options(own_backend=own_backend))


@NODES
@STREAMED
def test_a_message(own_backend: bool, stream: bool) -> None:
    async def play(world: World) -> None:
        text = get_text(world, own_backend)
        responder = await ask(world, MESSAGES, own_backend, messages=TURNS, stream=stream, max_tokens=50)
        if stream:
            events = read_events(responder.body)
            assert [event["type"] for event in events[:2]] == ["message_start", "content_block_start"]
            deltas = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
            assert "".join(deltas) == text
            assert events[-2]["delta"]["stop_reason"] == "end_turn" and events[-2]["usage"]["output_tokens"] > 0
        else:
            message = json.loads(responder.body)
            assert message["content"] == [{"type": "text", "text": text}] and message["stop_reason"] == "end_turn"
        assert responder.headers[b"request-id"] == responder.headers[b"x-request-id"]

    simulate(play, Options(own_backend=own_backend))


@NODES
@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
def test_a_stream_that_breaks_off_ends_in_an_error_event(own_backend: bool, path: str) -> None:
    async def play(world: World) -> None:
        member = world.members[0] if own_backend else world.drawn()[0]
        get_script(member).break_after = 2
        fields = {"input": "hi"} if path == RESPONSES else {"messages": TURNS, "max_tokens": 50}
        responder = await ask(world, path, own_backend, stream=True, **fields)
        kinds = [event["type"] for event in read_events(responder.body)]
        assert kinds.count("error") == 1
        assert kinds[-1] == ("response.failed" if path == RESPONSES else "error")

    simulate(play, Options(own_backend=own_backend))


def test_errors_have_the_shape_of_the_api_that_was_asked() -> None:
    async def play(world: World) -> None:
        api = Api(world.gateway.dispatcher)
        for path, fields in ((RESPONSES, {"input": "hi"}), (MESSAGES, {"messages": TURNS, "max_tokens": 5})):
            for body, status in (
                (b"{", 400),
                (json.dumps({"model": MODEL}).encode(), 400),
                (json.dumps({"model": "other", **fields}).encode(), 404),
            ):
                _, error = await call(api, path, body)
                assert error is not None and error.status == status
                content = json.loads(error.body())
                assert (content.get("type") == "error") == (path == MESSAGES)
                assert content["error"]["message"]
            _, error = await call(api, path, method="GET")
            assert error is not None and error.status == 405 and (b"allow", b"POST") in error.headers()
            assert (json.loads(error.body()).get("type") == "error") == (path == MESSAGES)
        _, error = await call(api, RESPONSES, json.dumps({"model": MODEL, "input": "x", "background": True}).encode())
        assert error is not None and (error.status, error.param) == (400, "background")

    simulate(play, Options(executors=1))


def test_a_refusal_of_the_backend_is_told_in_the_shape_of_the_api_that_was_asked() -> None:
    async def play(world: World) -> None:
        get_script(world.members[0]).status = 400
        api = Api(world.gateway.dispatcher)
        body = json.dumps({"model": MODEL, "messages": TURNS, "max_tokens": 5}).encode()
        _, error = await call(api, MESSAGES, body, x_wwwserve_local_only=b"1")
        assert error is not None and error.status == 400
        said = {"type": "invalid_request_error", "message": "not like this"}
        assert json.loads(error.body()) == {"type": "error", "error": said}
        (record,) = world.gateway.dispatcher.records
        assert record.outcome == "error"

    simulate(play, Options(own_backend=True))


def test_tokens_are_counted_by_a_backend_that_can() -> None:
    async def play(world: World) -> None:
        api, backend = Api(world.gateway.dispatcher), world.members[0].backend
        assert backend is not None
        body = json.dumps({"model": MODEL, "messages": TURNS}).encode()
        _, error = await call(api, COUNT_TOKENS, body)
        assert error is not None and (error.status, error.code) == (400, "unsupported_endpoint")
        assert backend.paths == [COUNT_TOKENS, "/tokenize"]
        for path, answer in (("/tokenize", b'{"count": 5}'), (COUNT_TOKENS, b'{"input_tokens": 7}')):
            backend.others[path] = answer
            responder, _ = await call(api, COUNT_TOKENS, body)
            assert json.loads(responder.body)["input_tokens"] in json.loads(answer).values()
        _, error = await call(api, COUNT_TOKENS, json.dumps({"model": "other", "messages": TURNS}).encode())
        assert error is not None and error.status == 404

    simulate(play, Options(own_backend=True, executors=1))


def test_the_document_describes_every_route_and_no_other() -> None:
    async def play(world: World) -> None:
        responder, error = await call(Api(world.gateway.dispatcher), DOCUMENT, method="GET")
        assert error is None and json.loads(responder.body) == make_document()

    simulate(play, Options(executors=1))
    document = make_document()
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert described == {(route.method, route.path) for route in ROUTES}
    names = [item["operationId"] for path in document["paths"].values() for item in path.values()]
    assert len(names) == len(set(names))
    for reference in find_references(document):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def find_references(content: Any) -> list[str]:
    if isinstance(content, list):
        return [found for entry in content for found in find_references(entry)]
    if not isinstance(content, dict):
        return []
    own = [content["$ref"]] if isinstance(content.get("$ref"), str) else []
    return own + [found for entry in content.values() for found in find_references(entry)]
