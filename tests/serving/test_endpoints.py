"""Completions and embeddings, through a node that serves them itself and one that offloads them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chain.types.operations import Dispute, Hold, Usage
from serving.api import Api
from serving.backends.backend import ModelLimits
from serving.openai.endpoints import CHAT, COMPLETIONS, EMBEDDINGS
from serving.openai.requests import ECHOED_PER_BYTE, HELD_BYTES_PER_TOKEN
from tests.support.api_calls import call
from tests.support.market.scripted_backend import ScriptedBackend, compute_text
from tests.support.market_world import MODEL, Options, World, get_name, get_script, make_body, simulate
from tests.support.openai_answers import DONE, make_text_chunk, make_text_usage, make_texts, make_vectors

NODES = pytest.mark.parametrize("own_backend", [False, True], ids=["offloaded", "local"])


def make_options(own_backend: bool) -> Options:
    return Options(own_backend=own_backend)


def encode(**fields: Any) -> bytes:
    return json.dumps({"model": MODEL, **fields}).encode()


async def ask_somebody(world: World, path: str, body: bytes, local_only: bool) -> tuple[bytes, bytes]:
    """The answer, and the body that the backend got."""
    member = world.members[0] if local_only else world.drawn()[0]
    headers = {"x_wwwserve_local_only": b"1"} if local_only else {}
    responder, error = await call(Api(world.gateway.dispatcher), path, body, **headers)
    assert error is None and responder.status == 200
    assert member.backend is not None and member.backend.paths == [path]
    await world.settle()
    return responder.body, member.backend.bodies[0]


@NODES
def test_a_completion_is_passed_on_and_paid_by_its_text(own_backend: bool) -> None:
    async def play(world: World) -> None:
        member = world.members[0] if own_backend else world.drawn()[0]
        script, name = get_script(member), get_name(member)
        body = encode(prompt=["one", "two"], n=2, temperature=0.5, unknown=[1])
        answer, got = await ask_somebody(world, COMPLETIONS.path, body, own_backend)
        text = compute_text(name, script.tokens)
        assert answer == make_texts(MODEL, [text] * 4, script.tokens, "stop")
        assert json.loads(got) == {**json.loads(body), "max_tokens": 16}, "as OpenAI's, unless told otherwise"
        if not own_backend:
            (item,) = world.captured
            assert item.receipt is not None
            assert item.delivery.usage == Usage(len(got), 4 * len(text))
            (hold,) = world.operations(Hold)
            price = world.genesis.parameters.get_price(MODEL)
            assert hold.amount == price.compute(Usage(len(got), 4 * 16 * HELD_BYTES_PER_TOKEN))
            assert item.delivery.amount == price.compute(item.delivery.usage)

    simulate(play, make_options(own_backend))


@NODES
@pytest.mark.parametrize("wants_usage", [False, True])
def test_a_completion_is_streamed(own_backend: bool, wants_usage: bool) -> None:
    async def play(world: World) -> None:
        member = world.members[0] if own_backend else world.drawn()[0]
        script, name = get_script(member), get_name(member)
        options = {"stream_options": {"include_usage": True}} if wants_usage else {}
        body = encode(prompt="one", stream=True, max_tokens=50, **options)
        answer, _ = await ask_somebody(world, COMPLETIONS.path, body, own_backend)
        pieces = [make_text_chunk(MODEL, f"{name}{number} ") for number in range(script.tokens)]
        usage = make_text_usage(MODEL, script.tokens) if wants_usage else b""
        assert answer == b"".join(pieces) + make_text_chunk(MODEL, "", "stop") + usage + DONE
        (record,) = world.gateway.dispatcher.records
        assert (record.outcome, record.completion_tokens) == ("completed", script.tokens)
        if not own_backend:
            (item,) = world.captured
            assert item.delivery.usage.completion_bytes == len(compute_text(name, script.tokens))

    simulate(play, make_options(own_backend))


@NODES
def test_embeddings_are_passed_on_and_paid_by_their_prompt(own_backend: bool) -> None:
    async def play(world: World) -> None:
        body = encode(input=["one", "two", "three"], encoding_format="float", dimensions=3)
        answer, got = await ask_somebody(world, EMBEDDINGS.path, body, own_backend)
        assert answer == make_vectors(MODEL, 3) and got == body
        (record,) = world.gateway.dispatcher.records
        assert record.outcome == "completed"
        if not own_backend:
            (item,) = world.captured
            (hold,) = world.operations(Hold)
            assert item.receipt is not None and item.delivery.usage == Usage(len(body), 0)
            assert (
                item.delivery.amount
                == hold.amount
                == world.genesis.parameters.get_price(MODEL).compute(Usage(len(body), 0))
            )

    simulate(play, make_options(own_backend))


def test_an_executor_that_leaves_out_an_embedding_is_not_paid_and_another_is_asked() -> None:
    async def play(world: World) -> None:
        liar, honest = world.drawn()[:2]
        assert liar.backend is not None and honest.backend is not None
        body = encode(input=["one", "two"])
        complete = liar.backend.complete

        def complete_less(path: str, body: bytes, *, stream: bool) -> Any:
            return complete(path, encode(input=["one"]), stream=stream)

        liar.backend.complete = complete_less  # type: ignore[method-assign]
        responder, error = await call(Api(world.gateway.dispatcher), EMBEDDINGS.path, body)
        assert error is None and responder.body == make_vectors(MODEL, 2)
        assert honest.backend.requests == 1
        await world.settle()
        (item,) = [item for item in world.captured if item.delivery.amount]
        assert item.receipt is not None
        assert world.operations(Dispute) == []

    simulate(play)


def test_one_that_announces_no_embeddings_is_not_asked_for_them() -> None:
    def make_backend(number: int) -> ScriptedBackend:
        features = frozenset({"tools", "completions"}) if number == 1 else frozenset({"embeddings"})
        return ScriptedBackend(f"m{number}-", limits=ModelLimits(features=features))

    async def play(world: World) -> None:
        api, (one, two) = Api(world.gateway.dispatcher), world.members[1:]
        assert one.backend is not None and two.backend is not None
        for path, body in (
            (EMBEDDINGS.path, encode(input="one")),
            (COMPLETIONS.path, encode(prompt="one")),
            (EMBEDDINGS.path, encode(input="two")),
        ):
            _, error = await call(api, path, body)
            assert error is None
        assert one.backend.paths == [COMPLETIONS.path] and two.backend.paths == [EMBEDDINGS.path] * 2
        await world.settle()

    simulate(play, Options(make_backend=make_backend))


def test_an_echoed_prompt_is_held_for() -> None:
    async def play(world: World) -> None:
        body = encode(prompt="one", echo=True, n=2, max_tokens=5)
        await ask_somebody(world, COMPLETIONS.path, body, local_only=False)
        (hold,) = world.operations(Hold)
        covered = 2 * 5 * HELD_BYTES_PER_TOKEN + 2 * ECHOED_PER_BYTE * len(body)
        assert hold.amount == world.genesis.parameters.get_price(MODEL).compute(Usage(len(body), covered))

    simulate(play)


@pytest.mark.parametrize(
    ("path", "fields", "param", "message"),
    [
        (COMPLETIONS.path, {}, "prompt", "must be a text"),
        (COMPLETIONS.path, {"prompt": []}, "prompt", "must be a text"),
        (COMPLETIONS.path, {"prompt": ["x"] * 9, "n": 16}, "prompt", "more than 128"),
        (COMPLETIONS.path, {"prompt": "x", "best_of": 2}, "best_of", "not supported"),
        (COMPLETIONS.path, {"prompt": "x", "echo": 1}, "echo", "true or false"),
        (COMPLETIONS.path, {"prompt": "x", "Echo": True}, "echo", "small letters"),
        (COMPLETIONS.path, {"prompt": "x", "messages": []}, "messages", "not for"),
        (EMBEDDINGS.path, {}, "input", "must be a text"),
        (EMBEDDINGS.path, {"input": "x", "stream": True}, "stream", "not streamed"),
        (EMBEDDINGS.path, {"input": ["x"] * 2049}, "input", "at most 2048"),
        (EMBEDDINGS.path, {"input": "x", "prompt": "y"}, "prompt", "not for"),
    ],
)
def test_what_is_refused_is_named(path: str, fields: dict[str, Any], param: str, message: str) -> None:
    async def play(world: World) -> None:
        _, error = await call(Api(world.gateway.dispatcher), path, encode(**fields))
        assert error is not None and (error.status, error.param) == (400, param)
        assert message in error.message

    simulate(play, Options(executors=1))


def test_the_list_of_models_says_what_each_can_do_and_costs() -> None:
    def make_backend(number: int) -> ScriptedBackend:
        features = frozenset({"tools"}) if number == 1 else frozenset({"embeddings", "vision"})
        return ScriptedBackend(f"m{number}-", limits=ModelLimits(1024 * number, features, "Q4_K_M"))

    async def play(world: World) -> None:
        api = Api(world.gateway.dispatcher)
        responder, _ = await call(api, "/v1/models", method="GET")
        (entry,) = json.loads(responder.body)["data"]
        assert entry["context_length"] == 2048 and entry["nodes"] == 2
        assert entry["quantization"] == "int4" and entry["quantizations"] == ["int4"]
        assert entry["endpoints"] == [CHAT.path, EMBEDDINGS.path]
        assert entry["architecture"]["input_modalities"] == ["text", "image"]
        assert {"tools", "tool_choice", "temperature"} <= set(entry["supported_parameters"])
        assert "logprobs" not in entry["supported_parameters"]
        price = world.genesis.parameters.get_price(MODEL)
        assert float(entry["pricing"]["prompt_byte"]) == pytest.approx(price.per_prompt_byte / 1e6)
        assert entry["pricing"]["request"] == "0.001"
        name, _ = await call(api, f"/v1/models/{MODEL.replace('-', '%2D')}", method="GET")
        assert json.loads(name.body) == entry

    simulate(play, Options(make_backend=make_backend))


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_error_about_an_unknown_model_lists_the_nearest(method: str) -> None:
    async def play(world: World) -> None:
        wrong = MODEL.upper().replace("-", "_")
        api = Api(world.gateway.dispatcher)
        path = f"/v1/models/{wrong}" if method == "GET" else CHAT.path
        _, error = await call(api, path, make_body(model=wrong), method)
        assert error is not None and (error.status, error.code, error.param) == (404, "model_not_found", "model")
        assert error.message.endswith(f"Did you mean: {MODEL}?")
        _, error = await call(api, CHAT.path, make_body(model="x" * 5000))
        assert error is not None and error.status == 404 and len(error.message) < 300

    simulate(play, Options(executors=1))
