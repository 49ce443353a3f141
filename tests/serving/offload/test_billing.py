"""What an offloaded answer is billed by: its content, up to what its hold covers."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import pytest

from chain.types.operations import Dispute, Hold
from serving.offload.executor.session import MAX_UNPAID_BYTES
from serving.offload.protocol import MAX_ANSWER_BYTES
from serving.openai import answers
from serving.openai.answers import MAX_EVENT_BYTES
from serving.openai.content import AnswerForm
from serving.openai.requests import HELD_BYTES_PER_TOKEN
from tests.support.market.scripted_backend import compute_stream, compute_text, compute_whole
from tests.support.market_world import Member, Options, World, ask, get_name, get_script, make_request, simulate
from tests.support.openai_answers import DONE
from tests.support.waiting import eventually

MAX_TOKENS = 100
"""What :func:`make_request` allows."""


def read_text(body: bytes) -> str:
    """What a user reads of a stream."""
    *events, done = body.removesuffix(b"\n\n").split(b"\n\n")
    assert done + b"\n\n" == DONE
    choices = [choice for event in events for choice in json.loads(event.removeprefix(b"data: "))["choices"]]
    reasons = [choice["finish_reason"] for choice in choices]
    assert reasons[:-1] == [None] * (len(reasons) - 1) and reasons[-1] == "length"
    return "".join(choice["delta"].get("content", "") for choice in choices)


def get_amount(world: World) -> int:
    (hold,) = world.operations(Hold)
    return hold.amount


def test_a_stream_without_end_is_ended_for_its_length_and_costs_the_hold() -> None:
    async def play(world: World) -> None:
        first: Member = world.drawn()[0]
        script = get_script(first)
        script.tokens, script.token_delay = 100_000, 0.001  # whatever the request allows
        result = await ask(world.gateway)
        assert (result.broken, result.error, result.status) == (None, None, 200)
        text = read_text(result.body)
        limit = MAX_TOKENS * HELD_BYTES_PER_TOKEN + MAX_UNPAID_BYTES
        assert limit < len(text) < limit + 1_000
        assert compute_text(get_name(first), 1_000).startswith(text)
        backend = first.backend
        assert backend is not None
        await eventually(lambda: backend.running == 0, 1)
        await world.settle()
        (item,) = world.captured
        assert item.receipt is not None and item.delivery.finish_reason == "length"
        assert item.delivery.amount == get_amount(world)
        assert item.delivery.usage.completion_bytes == len(text)
        assert world.operations(Dispute) == []

    simulate(play)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("local", [True, False])
def test_each_node_decodes_an_answer_once_but_for_what_an_executor_holds_back(
    local: bool, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []

    def watch(decode: Callable[[bytes, AnswerForm], object], data: bytes, form: AnswerForm) -> object:
        decoded.append(data.strip())
        return decode(data, form)

    for name in ("decode_body", "decode_event"):
        monkeypatch.setattr(answers, name, partial(watch, getattr(answers, name)))

    async def play(world: World) -> None:
        result = await ask(world.gateway, make_request(stream=stream, local_only=local))
        nodes = 1 if local else 2
        events = result.body.removesuffix(b"\n\n").split(b"\n\n") if stream else [result.body]
        events = [event.removeprefix(b"data: ") for event in events]
        held = events[:1] if stream and not local else []
        assert sorted(decoded) == sorted(nodes * events + held)
        await world.settle()

    simulate(play, Options(own_backend=local))


@pytest.mark.parametrize("stream", [True, False])
def test_long_tokens_cost_no_more_than_the_hold_and_are_not_cut(stream: bool) -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]
        assert first.backend is not None
        first.backend.name = "interdisciplinary-"
        get_script(first).tokens = MAX_TOKENS
        result = await ask(world.gateway, make_request(stream=stream))
        compute = compute_stream if stream else compute_whole
        assert result.body == compute(get_name(first), get_script(first))
        await world.settle()
        (item,) = world.captured
        assert item.delivery.amount == get_amount(world) and item.receipt is not None
        assert item.delivery.usage.completion_bytes == len(compute_text(get_name(first), MAX_TOKENS)) > 1_800

    simulate(play)


def test_a_whole_answer_of_more_than_is_paid_is_not_sent() -> None:
    async def play(world: World) -> None:
        first, second = world.drawn()
        get_script(first).tokens, get_script(first).token_delay = 5_000, 0.0
        result = await ask(world.gateway, make_request(stream=False))
        assert result.body == compute_whole(get_name(second), get_script(second))
        await world.settle(80)
        assert sorted(item.delivery.amount > 0 for item in world.captured) == [False, True]

    simulate(play)


@pytest.mark.parametrize(("padding", "whole"), [(MAX_EVENT_BYTES, False), (200_000, True)])
def test_a_stream_beyond_a_limit_is_ended_and_what_was_sent_is_paid(padding: int, whole: bool) -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]
        script = get_script(first)
        script.tokens, script.padding, script.padding_after = 200, padding, 4
        result = await ask(world.gateway, make_request(max_tokens=200))
        assert (result.broken, result.error, result.status) == (None, None, 200)
        text = read_text(result.body)
        assert text == compute_text(get_name(first), 4) or whole
        assert len(result.body) <= MAX_ANSWER_BYTES and len(text) < 2_000
        await world.settle()
        (item,) = world.captured
        assert item.receipt is not None and item.delivery.usage.completion_bytes == len(text)

    simulate(play)
