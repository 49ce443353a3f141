"""API keys on a whole node: what their answers cost, wherever they are served, and who gets a place in the queue."""

from __future__ import annotations

import json

import trio

from serving.api import Api
from serving.keys.records import KeyLimits
from serving.keys.usage import Usage
from serving.scheduling.policy import PolicyParameters
from tests.support.api_calls import call
from tests.support.market_world import MODEL, Options, ScriptedBackend, World, make_body, simulate

FAR_ABOVE = 10**9
"""A budget that no test uses up, in micro-credits."""


async def make_key(world: World, name: str, limits: KeyLimits) -> bytes:
    secret = await world.gateway.keys.create(name, limits)
    return f"Bearer {secret}".encode()


def test_an_answer_costs_its_price_wherever_it_is_served() -> None:
    costs: list[Usage] = []

    async def play(world: World) -> None:
        key = await make_key(world, "alice", KeyLimits(budget=FAR_ABOVE))
        api = Api(world.gateway.dispatcher, world.gateway.keys)
        for stream in (False, True):
            responder, error = await call(api, body=make_body(stream=stream), authorization=key)
            assert error is None and responder.status == 200
        ((name, _, usage),) = world.gateway.keys.get_usage()
        assert (name, usage.requests, usage.refused) == ("alice", 2, 0)
        assert usage.completion_bytes > 0 and usage.completion_tokens == 12
        price = world.gateway.payments.payer.compute_price
        whole, streamed = world.gateway.dispatcher.records
        assert usage.spent >= price(MODEL, usage.prompt_bytes, usage.completion_bytes) > 0
        assert world.gateway.keys.get_left("alice") == FAR_ABOVE - usage.spent
        assert (whole.outcome, streamed.outcome) == ("completed", "completed")
        await world.settle()
        paid = [record.paid for record in world.gateway.payments.payer._records.values()]
        if paid:
            assert sum(filter(None, paid)) == usage.spent
        costs.append(usage)

    def make_backend(number: int) -> ScriptedBackend:
        return ScriptedBackend("same-")

    simulate(play, Options(make_backend=make_backend))
    here = PolicyParameters(offload_frequency=0.0)
    simulate(play, Options(make_backend=make_backend, own_backend=True, policy=here))
    assert costs[0] == costs[1]


def test_a_budget_refuses_what_it_does_not_cover_and_frees_what_failed() -> None:
    async def play(world: World) -> None:
        price = world.gateway.payments.payer.compute_price(MODEL, len(make_body()) + 100, 100 * 8)
        key = await make_key(world, "alice", KeyLimits(budget=price))
        api = Api(world.gateway.dispatcher, world.gateway.keys)
        _, error = await call(api, body=make_body(max_tokens=400), authorization=key)
        assert error is not None and (error.status, error.code) == (429, "insufficient_quota")
        assert json.loads(error.body())["error"]["type"] == "insufficient_quota"
        (record,) = world.gateway.dispatcher.records
        assert record.outcome == "refused" and record.executor is None
        _, error = await call(api, body=make_body(model="unknown"), authorization=key)
        assert error is not None and error.status == 404
        assert world.gateway.keys.get_left("alice") == price, "nothing was answered"
        backend = world.members[0].backend
        assert backend is not None
        backend.script.first_delay = 60.0
        with trio.move_on_after(5):
            await call(api, body=make_body(), authorization=key)
        assert world.gateway.keys.get_left("alice") == price and world.gateway.keys.get_running("alice") == 0
        backend.script.first_delay = 0.1
        responder, error = await call(api, body=make_body(stream=True), authorization=key)
        assert error is None and responder.status == 200
        left = world.gateway.keys.get_left("alice")
        assert left is not None and 0 <= left < price
        await world.settle()

    simulate(play, Options(own_backend=True, executors=1, policy=PolicyParameters(offload_frequency=0.0)))


def test_a_key_sees_and_uses_its_models_alone() -> None:
    async def play(world: World) -> None:
        mine = await make_key(world, "alice", KeyLimits(models=(MODEL,)))
        other = await make_key(world, "bob", KeyLimits(models=("other",)))
        api = Api(world.gateway.dispatcher, world.gateway.keys)
        for key, models in ((mine, [MODEL]), (other, [])):
            responder, error = await call(api, "/v1/models", method="GET", authorization=key)
            assert error is None and [entry["id"] for entry in json.loads(responder.body)["data"]] == models
        _, error = await call(api, "/v1/models/" + MODEL, method="GET", authorization=other)
        assert error is not None and error.status == 404
        _, error = await call(api, body=make_body(), authorization=other)
        assert error is not None and (error.status, error.code) == (403, "model_not_allowed")
        await world.gateway.keys.revoke("alice")
        _, error = await call(api, body=make_body(), authorization=mine)
        assert error is not None and error.status == 401
        await world.settle()

    simulate(play)


def test_one_key_leaves_places_in_the_queue_for_others() -> None:
    async def play(world: World) -> None:
        loud = await make_key(world, "loud", KeyLimits())
        quiet = await make_key(world, "quiet", KeyLimits())
        api = Api(world.gateway.dispatcher, world.gateway.keys)
        backend = world.members[0].backend
        assert backend is not None
        backend.script.first_delay = 5.0
        outcomes: dict[bytes, list[int]] = {loud: [], quiet: []}

        async def ask(key: bytes) -> None:
            _, error = await call(api, body=make_body(), authorization=key)
            outcomes[key].append(200 if error is None else error.status)

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(ask, loud)
            await trio.sleep(0.1)
            nursery.start_soon(ask, quiet)
        assert outcomes[quiet] == [200]
        assert outcomes[loud].count(200) == 1 + 4 and outcomes[loud].count(429) == 25, "a slot, and half of the queue"
        await world.settle()

    policy = PolicyParameters(offload_frequency=0.0, max_queue=8, max_wait_s=600)
    simulate(play, Options(own_backend=True, executors=0, capacity=1, policy=policy))
