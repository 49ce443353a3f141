"""Liars about load and speed, and payers that want the queue for themselves: what they gain is a request or two."""

from __future__ import annotations

from collections import Counter

import pytest
import trio

from serving.offload.settings import OriginatorSettings
from serving.scheduling.admission import Origin
from serving.scheduling.policy import PolicyParameters
from tests.support.market.announced_loads import LIE, announce, make_load
from tests.support.market.scripted_backend import Script
from tests.support.market_world import Options, Result, World, ask, get_script, make_request, simulate

CHOICE = OriginatorSettings(exploration=0.0, keeps_conversations=False)
LIAR = 1
"""The member that lies."""


@pytest.mark.parametrize(
    ("script", "stream"),
    [
        (Script(first_delay=1000.0), True),
        (Script(first_delay=1000.0), False),
        (Script(token_delay=10.0), True),
    ],
    ids=["no first token", "no answer", "no second token"],
)
def test_one_so_slow_that_users_give_up_is_found_out_all_the_same(script: Script, stream: bool) -> None:
    """It accepts at once and sends signs of life; no answer of it ever ends, so that none is measured to its end."""

    async def play(world: World) -> None:
        world.introduce()
        backend = world.members[LIAR].backend
        assert backend is not None
        backend.script = script
        announce(world, m1=LIE, m2=make_load(), m3=make_load(), m4=make_load())
        answered = 0
        for _ in range(10):
            with trio.move_on_after(5.0):
                answered += (await ask(world.gateway, make_request(stream=stream))).status == 200
        assert 1 <= backend.requests <= 2 and answered == 10 - backend.requests

    simulate(play, Options(executors=4, originator=CHOICE))


def test_one_that_claims_features_that_it_lacks_is_found_out_and_no_user_suffers() -> None:
    async def play(world: World) -> None:
        world.introduce()
        get_script(world.members[LIAR]).status = 400
        announce(world, m1=LIE, m2=make_load(), m3=make_load(), m4=make_load())
        image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
        for _ in range(10):
            result = await ask(world.gateway, make_request(messages=image))
            assert result.status == 200 and result.executor != world.members[LIAR].public_key
        backend = world.members[LIAR].backend
        assert backend is not None and 1 <= backend.requests <= 2

    simulate(play, Options(executors=4, originator=CHOICE))


def test_one_that_claims_an_endless_context_is_found_out() -> None:
    """Others say truly that the request does not fit, so that none can confirm the error: the user gets it, unpaid."""

    async def play(world: World) -> None:
        get_script(world.members[LIAR]).status = 400
        announce(world, m1=LIE, **{f"m{number}": make_load(context_length=1000) for number in (2, 3, 4)})
        result = await ask(world.gateway, make_request(max_tokens=2000))
        assert (result.status, result.executor) == (400, world.members[LIAR].public_key)
        assert (await ask(world.gateway, make_request(max_tokens=500))).status == 200, "it fits elsewhere"
        await world.settle()
        assert world.members[LIAR].node.payments.payee.earned == 0

    simulate(play, Options(executors=4, originator=CHOICE))


def test_a_payer_with_many_requests_leaves_room_in_the_queue_for_others() -> None:
    async def play(world: World) -> None:
        world.introduce(paid=10**9)
        executor = world.members[2]
        get_script(executor).first_delay = 3.0
        (admission,) = executor.node.backend_pool.admissions
        results = Counter[int]()

        async def flood() -> None:
            result: Result = await ask(world.members[0].node)
            results[result.status if result.error is None else result.error.status] += 1

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(flood)
            await trio.sleep(2)
            assert (admission.running, admission.waiting(Origin.DELEGATED)) == (1, 4), "half of the queue"
            assert (await ask(world.members[1].node)).status == 200
        assert results == {200: 5, 503: 15}

    policy = PolicyParameters(accept_frequency=1.0, queue_frequency=1.0, max_queue=8)
    simulate(play, Options(executors=1, gateways=(0, 1), capacity=1, policy=policy))
