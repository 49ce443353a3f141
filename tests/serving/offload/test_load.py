"""Which of the candidates is asked first: what they announce, corrected by what this node has measured of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import trio

from serving.offload.originator.choice import Reason
from serving.offload.settings import OriginatorSettings
from tests.support.market.announced_loads import LIE, announce, make_load
from tests.support.market.scripted_backend import Script
from tests.support.market_world import Options, World, ask, get_script, make_request, simulate

NUMBERS = 300
CHOICE = OriginatorSettings(exploration=0.0, keeps_conversations=False)


def order(world: World, seq: int = 0, **fields: Any) -> list[int]:
    """The numbers of the members in the order in which they are asked."""
    originator, request = world.gateway.originator, make_request(**fields)
    expected = originator.predictor.expect(request)
    found = originator._order(request, expected, originator._context.first_round, seq, 0)
    return [world.find(candidate.executor) for candidate, _ in found]


def test_the_one_of_the_least_predicted_time_is_asked_first() -> None:
    async def play(world: World) -> None:
        loads = {"m1": make_load(rate=10.0), "m2": make_load(4, 8), "m3": make_load(rate=90.0), "m4": make_load()}
        announce(world, **loads)
        assert all(order(world, seq)[:2] == [3, 4] for seq in range(20))
        assert len({tuple(order(world, seq)) for seq in range(20)}) == 1, "all four are in the choice"
        announce(world, m1=None, m2=None, m3=None, m4=None)
        firsts = Counter(order(world, seq)[0] for seq in range(NUMBERS))
        assert set(firsts) == {1, 2, 3, 4} and max(firsts.values()) < NUMBERS / 2, "equals keep the order of the draw"

    simulate(play, Options(executors=4, originator=CHOICE))


def test_newcomers_are_tried_and_are_no_reason_to_serve_here() -> None:
    async def play(world: World) -> None:
        originator, request = world.gateway.originator, make_request()
        announce(world, m1=None, m2=make_load(rate=500.0))
        assert {order(world, seq)[0] for seq in range(20)} == {1, 2}
        found = originator.preview(request, originator.predictor.expect(request))
        assert found is not None and world.find(found[0].node) == 2

    simulate(play, Options(executors=2, originator=CHOICE))


def test_one_choice_is_the_draw_alone() -> None:
    async def play(world: World) -> None:
        before = [order(world, seq) for seq in range(50)]
        announce(world, m1=make_load(rate=1.0), m2=make_load(4, 99), m3=make_load(rate=900.0))
        assert [order(world, seq) for seq in range(50)] == before
        assert {each[0] for each in before} == {1, 2, 3}

    simulate(play, Options(executors=3, originator=replace(CHOICE, choices=1)))


def test_one_that_cannot_take_the_request_is_not_asked_at_all() -> None:
    async def play(world: World) -> None:
        tools = {"tools": [{"type": "function", "function": {"name": "f"}}]}
        image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
        announce(world, m1=make_load(features=0), m2=make_load(features=1, context_length=150), m3=None)
        assert set(order(world)) == {1, 3}, "the prompt and 100 tokens are more than 150"
        assert set(order(world, max_tokens=5)) == {1, 2, 3}
        assert set(order(world, max_tokens=5, **tools)) == {2, 3}
        assert set(order(world, messages=image)) == set(order(world, logprobs=True)) == {3}
        announce(world, m3=make_load(features=0))
        result = await ask(world.gateway, make_request(logprobs=True))
        assert result.error is not None and "that can serve it" in str(result.error)

    simulate(play, Options(executors=3, originator=CHOICE))


def test_a_liar_gets_a_few_requests_more_than_an_honest_one() -> None:
    """Each request takes 10 s with the liar, which announces that it has nothing to do and writes without end."""

    async def play(world: World) -> None:
        get_script(world.members[1]).token_delay = 1.6
        announce(world, m1=LIE, m2=make_load(1), m3=make_load(1), m4=make_load(1))
        served = Counter[int]()
        for _ in range(40):
            result = await ask(world.gateway, make_request())
            assert result.executor is not None
            served[world.find(result.executor)] += 1
        assert 1 <= served[1] <= 3 and sum(served.values()) == 40

    simulate(play, Options(executors=4, originator=CHOICE))


def test_requests_that_were_just_sent_count_before_they_are_announced() -> None:
    async def play(world: World) -> None:
        for member in world.members[1:]:
            assert member.backend is not None
            member.backend.script = Script(first_delay=5.0)
        announce(world, m1=make_load(3, rate=31.0), m2=make_load(3), m3=make_load(3), m4=make_load(3))
        served = Counter[int]()

        async def ask_one() -> None:
            result = await ask(world.gateway, make_request())
            assert result.executor is not None
            served[world.find(result.executor)] += 1

        async with trio.open_nursery() as nursery:
            for _ in range(4):  # before any announcement could come
                nursery.start_soon(ask_one)
                await trio.sleep(0.05)
        assert served == {1: 1, 2: 1, 3: 1, 4: 1}

    simulate(play, Options(executors=4, originator=CHOICE))


def test_a_conversation_stays_with_its_executor_while_that_is_not_much_slower() -> None:
    async def play(world: World) -> None:
        first = make_request(messages=[{"role": "user", "content": "hello"}])
        turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "x"}]
        answered = await ask(world.gateway, first)
        assert answered.executor is not None
        number = world.find(answered.executor)
        loads = {f"m{each}": make_load(rate=40.0) for each in range(1, 5)}
        announce(world, **{**loads, f"m{number}": make_load(rate=30.0)})
        for _ in range(3):
            turns = [*turns, {"role": "user", "content": "and"}, {"role": "assistant", "content": "y"}]
            result = await ask(world.gateway, make_request(messages=turns[:-1]))
            assert result.executor == answered.executor
            assert result.record is not None and result.record.reason == Reason.CONVERSATION.value
        announce(world, **{**loads, f"m{number}": make_load(rate=30.0, waiting=50)})
        turns = [*turns, {"role": "user", "content": "and"}]
        result = await ask(world.gateway, make_request(messages=turns))
        assert result.executor != answered.executor

    simulate(play, Options(executors=4, originator=replace(CHOICE, keeps_conversations=True)))
