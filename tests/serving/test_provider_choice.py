"""Requests that say who may answer them, or leave their model open, on whole nodes."""

from __future__ import annotations

import json
from typing import Any

from chain.crypto import format_address
from serving.api import Api
from serving.backends.backend import ModelLimits
from serving.keys.records import KeyLimits
from serving.scheduling.policy import PolicyParameters
from tests.support.api_calls import FakeResponder, call
from tests.support.market.scripted_backend import ScriptedBackend
from tests.support.market_world import MODEL, Options, World, make_body, simulate

HERE = b"local"


async def ask(world: World, status: int = 200, **fields: Any) -> FakeResponder:
    responder, error = await call(Api(world.gateway.dispatcher), body=make_body(**fields))
    assert (responder.status if error is None else error.status) == status
    return responder


def test_only_nodes_that_are_allowed_answer() -> None:
    async def play(world: World) -> None:
        first, second = world.drawn()[:2]
        for named in (first, second):
            for rules in (
                {"only": [format_address(named.public_key)]},
                {"ignore": [format_address(other.public_key) for other in (first, second) if other is not named]},
            ):
                responder = await ask(world, provider={**rules, "ignore": [*rules.get("ignore", []), "local"]})
                assert responder.headers[b"x-wwwserve-executor"].decode() == format_address(named.public_key)
                assert named.backend is not None and b"provider" not in named.backend.bodies[-1]
        assert (await ask(world, provider={"only": ["local"]})).headers[b"x-wwwserve-executor"] == HERE
        everybody = [format_address(member.public_key) for member in (first, second)]
        await ask(world, 404, provider={"ignore": ["local", *everybody]})
        await world.settle()

    simulate(play, Options(own_backend=True))


def test_only_weights_of_a_format_that_is_wanted_answer_and_the_answer_names_it() -> None:
    labels = ["Q4_K_M", "fp8", ""]

    def make_backend(number: int) -> ScriptedBackend:
        return ScriptedBackend(f"m{number}-", limits=ModelLimits(quantization=labels[number]))

    async def play(world: World) -> None:
        for wanted, number in (("int4", 0), *2 * (("fp8", 1), ("unknown", 2))):
            headers = (await ask(world, provider={"quantizations": [wanted]})).headers
            address = format_address(world.members[number].public_key) if number else "local"
            assert headers[b"x-wwwserve-executor"].decode() == address
            assert headers.get(b"x-wwwserve-quantization", b"unknown").decode() == wanted
        await ask(world, 404, provider={"quantizations": ["bf16"]})
        await ask(world, 404, provider={"quantizations": ["int4"], "ignore": ["local"]})
        await world.settle()

    simulate(play, Options(own_backend=True, make_backend=make_backend))


def test_each_part_of_the_number_formats_can_be_asked_for_and_an_error_says_what_is_served() -> None:
    labels = ["w4a16-kvfp8", "fp8-a16-kv16", "w4a16-kv16"]

    def make_backend(number: int) -> ScriptedBackend:
        return ScriptedBackend(f"m{number}-", limits=ModelLimits(quantization=labels[number]))

    async def play(world: World) -> None:
        wide = {"kv_cache_quantizations": ["fp16", "bf16"]}
        for rules, number in (
            ({"quantizations": ["int4"], "kv_cache_quantizations": ["fp8"]}, 0),
            ({"quantizations": ["fp8", "bf16"], **wide}, 1),
            ({"quantizations": ["int4"], "activation_quantizations": "auto", **wide}, 2),
            ({"quantizations": ["auto"], "kv_cache_quantizations": ["fp8", "int8"]}, 0),
        ):
            for model in (MODEL, "auto"):
                headers = (await ask(world, model=model, provider=rules)).headers
                address = format_address(world.members[number].public_key) if number else "local"
                assert headers[b"x-wwwserve-executor"].decode() == address
            assert headers[b"x-wwwserve-activation-quantization"] == b"bf16, fp16"
            assert headers[b"x-wwwserve-kv-cache-quantization"] == (b"bf16, fp16" if number else b"fp8")
        for rules, param in (
            ({"activation_quantizations": ["fp8"], **wide}, "provider.activation_quantizations"),
            ({"quantizations": ["fp8"], "kv_cache_quantizations": ["fp8"]}, "provider"),
        ):
            for model in (MODEL, "auto"):
                _, error = await call(Api(world.gateway.dispatcher), body=make_body(model=model, provider=rules))
                assert error is not None and (error.status, error.param) == (404, param)
                assert "weights: fp8, activations: bf16/fp16, KV cache: bf16/fp16" in error.message
        responder, _ = await call(Api(world.gateway.dispatcher), "/v1/models", method="GET")
        (entry,) = json.loads(responder.body)["data"]
        assert entry["quantization"] == labels[0] and entry["quantizations"] == ["fp8", "int4"]
        assert entry["activation_quantizations"] == ["bf16", "fp16"]
        assert entry["kv_cache_quantizations"] == ["bf16", "fp16", "fp8"]
        await world.settle()

    simulate(play, Options(own_backend=True, make_backend=make_backend))


def test_a_rule_for_a_part_that_a_node_leaves_open_is_not_met_there() -> None:
    labels = ["Q4_K_M", "Q4_K_M-kv16", "w4a16"]

    def make_backend(number: int) -> ScriptedBackend:
        return ScriptedBackend(f"m{number}-", limits=ModelLimits(quantization=labels[number]))

    async def play(world: World) -> None:
        wide = ["fp16", "bf16"]
        for rules, number in (
            ({"activation_quantizations": wide}, 2),
            ({"kv_cache_quantizations": wide}, 1),
            ({"activation_quantizations": ["fp8", "unknown"], "kv_cache_quantizations": ["unknown"]}, 0),
            ({"quantizations": ["int4"], "activation_quantizations": ["unknown"], "ignore": ["local"]}, 1),
        ):
            headers = (await ask(world, provider=rules)).headers
            address = format_address(world.members[number].public_key) if number else "local"
            assert headers[b"x-wwwserve-executor"].decode() == address, rules
        await ask(world, 404, provider={"activation_quantizations": wide, "kv_cache_quantizations": wide})
        await ask(world, 404, model="auto", provider={"activation_quantizations": ["fp8"]})
        await world.settle()

    simulate(play, Options(own_backend=True, make_backend=make_backend))


def test_a_price_that_could_be_exceeded_is_refused_before_anything_is_paid() -> None:
    async def play(world: World) -> None:
        body = make_body(max_tokens=50)
        price = world.gateway.payments.payer.compute_price(MODEL, len(body), 50 * 8) / 10**6
        await ask(world, 400, max_tokens=50, provider={"max_price": price / 2})
        assert world.gateway.payments.payer.spendable == 1_000 * 10**6
        await ask(world, max_tokens=50, provider={"max_price": price * 2})
        await world.settle()

    simulate(play)


def test_a_model_that_is_left_open_is_one_that_the_key_may_use() -> None:
    async def play(world: World) -> None:
        responder = await ask(world, model="auto")
        assert responder.headers[b"x-wwwserve-executor"] == HERE
        assert world.gateway.dispatcher.records[-1].model == MODEL
        api = Api(world.gateway.dispatcher, world.gateway.keys)
        secret = await world.gateway.keys.create("other", KeyLimits(models=("other",)))
        headers = {"authorization": b"Bearer " + secret.encode()}
        _, error = await call(api, body=make_body(model="auto"), **headers)
        assert error is not None and error.status == 404 and json.loads(error.body())["error"]["param"] == "model"
        await world.settle()

    simulate(play, Options(own_backend=True, policy=PolicyParameters(offload_frequency=0.0)))
