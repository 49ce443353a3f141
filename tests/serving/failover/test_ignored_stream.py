"""Backends and executors that answer in one piece what was to be a stream, and the reverse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving.api import Api
from serving.offload.protocol import ResponseHead
from serving.openai.bodies import read_events
from serving.openai.endpoints import CHAT, COMPLETIONS
from tests.support.api_calls import call
from tests.support.market.cheating_executor import SALT, Deal, plant
from tests.support.market.scripted_backend import Script, compute_stream, compute_text, compute_whole
from tests.support.market_world import MODEL, Options, World, ask, get_name, get_script, make_request, simulate
from tests.support.openai_answers import DONE

OWN = pytest.mark.parametrize("own", [False, True], ids=["offloaded", "local"])
CHATS = {"messages": [{"role": "user", "content": "hi"}]}


async def stream(world: World, path: str, *, own: bool, **fields: Any) -> tuple[bytes, bytes]:
    """The body and its content type, of a backend that ignores ``stream``."""
    get_script(world.members[0] if own else world.drawn()[0]).ignores_stream = True
    body = json.dumps({"model": MODEL, "stream": True, **fields}).encode()
    responder, error = await call(Api(world.gateway.dispatcher), path, body)
    assert error is None and responder.status == 200
    await world.settle()
    return responder.body, responder.headers[b"content-type"]


@OWN
@pytest.mark.parametrize("wants_usage", [False, True])
def test_a_whole_chat_comes_as_the_stream_that_was_asked_for(own: bool, wants_usage: bool) -> None:
    async def play(world: World) -> None:
        member = world.members[0] if own else world.drawn()[0]
        text, count = compute_text(get_name(member), get_script(member).tokens), get_script(member).tokens
        options = {"stream_options": {"include_usage": True}} if wants_usage else {}
        body, kind = await stream(world, CHAT.path, own=own, **CHATS, **options)
        assert kind.startswith(b"text/event-stream") and body.endswith(DONE) and body.count(DONE) == 1
        events = list(read_events(body))[:-1]
        choices = [choice for event in events for choice in event["choices"]]
        assert choices[0]["delta"]["role"] == "assistant"
        assert "".join(choice["delta"].get("content") or "" for choice in choices) == text
        assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
        assert {event["object"] for event in events} == {"chat.completion.chunk"}
        usages = [event["usage"]["completion_tokens"] for event in events if event.get("usage")]
        assert usages == [count] * wants_usage
        if not own:
            (item,) = world.captured
            assert item.receipt is not None and item.delivery.usage.completion_bytes == len(text)

    simulate(play, Options(own_backend=own))


@OWN
def test_a_whole_completion_does_too(own: bool) -> None:
    async def play(world: World) -> None:
        member = world.members[0] if own else world.drawn()[0]
        text = compute_text(get_name(member), get_script(member).tokens)
        body, _ = await stream(world, COMPLETIONS.path, own=own, prompt=["one", "two"])
        events = list(read_events(body))[:-1]
        for index in (0, 1):
            choices = [each for event in events for each in event["choices"] if each["index"] == index]
            assert "".join(each["text"] for each in choices) == text and choices[-1]["finish_reason"] == "stop"
        assert body.endswith(DONE)

    simulate(play, Options(own_backend=own))


def test_its_time_says_nothing_of_how_fast_prompts_are_read() -> None:
    async def play(world: World) -> None:
        script = get_script(world.members[0])
        script.ignores_stream, script.tokens, script.token_delay = True, 50, 0.2
        (scheduled,) = world.gateway.dispatcher.backend_pool.order(MODEL)
        before = scheduled.meter.get(MODEL).prefill_rate
        assert (await ask(world.gateway, make_request())).status == 200
        assert scheduled.meter.get(MODEL).prefill_rate == before

    simulate(play, Options(executors=0, own_backend=True))


@pytest.mark.parametrize("streamed", [False, True])
def test_an_executor_that_does_not_answer_as_it_was_asked_is_replaced_and_not_paid(streamed: bool) -> None:
    compute, kind = (compute_whole, "application/json") if streamed else (compute_stream, "text/event-stream")
    answer = compute("liar-", Script())

    async def answer_otherwise(deal: Deal) -> None:
        await deal.send(ResponseHead(200, kind, SALT))
        await deal.send_body(answer)
        await deal.send(deal.make_completed(deal.make_delivery(answer)))

    async def play(world: World) -> None:
        liar, honest = world.drawn()
        deals = plant(world, liar, answer_otherwise)
        result = await ask(world.gateway, make_request(stream=streamed))
        assert result.executor == honest.public_key and len(deals) == 1
        payment = world.gateway.payments.payer.find(deals[0].hold_id)
        assert payment is not None and payment.max_capture == 0

    simulate(play, Options(executors=2))
