"""Liars about load and speed. What they gain is a request or two."""

from __future__ import annotations

import pytest
import trio

from serving.offload.settings import OriginatorSettings
from tests.support.announced_loads import LIE, announce, make_load
from tests.support.market_world import (
    Options,
    Script,
    World,
    ask,
    get_script,
    make_request,
    simulate,
)

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
