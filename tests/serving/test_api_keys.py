"""API keys on a whole node: what their answers cost, wherever they are served, and who gets a place in the queue."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import trio

from serving.api import Api
from serving.keys.charged_request import Work
from serving.keys.records import KeyLimits
from serving.keys.usage import Usage
from serving.prediction.predicted_time import UNKNOWN_SPEED, PredictedTime, RequestSize
from serving.prediction.predictor import Prediction
from serving.request_records import RequestRecord
from serving.scheduling.policy import PolicyParameters
from tests.support.api_calls import call
from tests.support.market.scripted_backend import ScriptedBackend
from tests.support.market_world import MODEL, Options, World, ask, get_script, make_body, make_request, simulate

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
        budget = 2 * world.gateway.payments.payer.compute_price(MODEL, len(make_body()) + 100, 100 * 8)
        key = await make_key(world, "alice", KeyLimits(budget=budget))
        api = Api(world.gateway.dispatcher, world.gateway.keys)
        _, error = await call(api, body=make_body(max_tokens=400), authorization=key)
        assert error is not None and (error.status, error.code) == (429, "insufficient_quota")
        assert json.loads(error.body())["error"]["type"] == "insufficient_quota"
        (record,) = world.gateway.dispatcher.records
        assert record.outcome == "refused" and record.executor is None
        _, error = await call(api, body=make_body(model="unknown"), authorization=key)
        assert error is not None and error.status == 404
        assert world.gateway.keys.get_left("alice") == budget, "nothing was answered"
        responder, error = await call(api, body=make_body(stream=True), authorization=key)
        assert error is None and responder.status == 200
        left = world.gateway.keys.get_left("alice")
        assert left is not None and 0 <= left < budget
        await world.settle()

    simulate(play, Options(own_backend=True, executors=1, policy=PolicyParameters(offload_frequency=0.0)))


@pytest.mark.parametrize("is_here", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_before_the_answer_pays_for_what_was_made_of_it(is_here: bool, stream: bool) -> None:
    async def play(world: World) -> None:
        gateway, price = world.gateway, world.gateway.payments.payer.compute_price
        world.introduce()
        executor = world.members[0 if is_here else 1]
        get_script(executor).first_delay = 60.0
        key = await make_key(world, "alice", KeyLimits(budget=FAR_ABOVE))
        api, spent = Api(gateway.dispatcher, gateway.keys), []
        for seconds in (10.0, 20.0, 30.0):
            before = gateway.keys.get_left("alice") or 0
            with trio.move_on_after(seconds):
                await call(api, body=make_body(stream=stream, max_tokens=4_000), authorization=key)
            spent.append(before - (gateway.keys.get_left("alice") or 0))
        assert gateway.keys.get_running("alice") == 0
        prompt = gateway.keys.get_usage()[0][2].prompt_bytes // 3
        if stream:
            assert set(spent) == {price(MODEL, prompt, 0)}, "the prompt was read"
        else:
            first, second = (later - earlier for earlier, later in pairwise(spent))
            assert first > 0 and abs(first - second) < first / 4, "by the time that was spent on it"
            assert spent[0] > price(MODEL, prompt, 0)
        await world.settle()

    here = PolicyParameters(offload_frequency=0.0) if is_here else PolicyParameters(offload_frequency=1.0)
    simulate(play, Options(own_backend=is_here, executors=1, policy=replace(here, accept_frequency=1.0)))


@pytest.mark.parametrize("begun", [(1.0, 2.0), (2.0, 1.0)])
def test_who_leaves_two_executors_at_work_pays_for_the_one_that_began_first(begun: tuple[float, float]) -> None:
    prediction = Prediction(
        bytes(32), MODEL, RequestSize(1, 1.0), UNKNOWN_SPEED, 0, 0.0, 1.0, PredictedTime(1.0, 2.0), 2.0
    )
    record = RequestRecord("1", MODEL, 0.0)
    for since in begun:
        record.note_left(Work(since, prediction))
    assert record.work == Work(1.0, prediction)


def test_who_leaves_the_queue_or_a_node_that_ends_pays_nothing() -> None:
    async def play(world: World) -> None:
        gateway = world.gateway
        get_script(world.members[0]).first_delay = 60.0
        key = await make_key(world, "alice", KeyLimits(budget=FAR_ABOVE))
        api = Api(gateway.dispatcher, gateway.keys)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, gateway, make_request(stream=False))  # it has the slot
            await trio.sleep(1.0)
            with trio.move_on_after(20.0):
                await call(api, body=make_body(), authorization=key)
            assert gateway.keys.get_left("alice") == FAR_ABOVE, "it was in the queue"
            nursery.cancel_scope.cancel()
        with trio.move_on_after(20.0):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(call, api, body=make_body(), authorization=key))
                await trio.sleep(10.0)
                gateway.take_nothing_new(5.0)
        assert gateway.keys.get_left("alice") == FAR_ABOVE, "the node left"

    policy = PolicyParameters(offload_frequency=0.0)
    simulate(play, Options(own_backend=True, executors=0, capacity=1, policy=policy))


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
