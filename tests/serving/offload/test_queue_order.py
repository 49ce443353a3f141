"""Predicted service times in the queues of whole nodes: the shortest request first, and none is starved."""

from __future__ import annotations

import json

import pytest
import trio

from tests.support.market.scripted_backend import Script
from tests.support.market_world import Options, World, ask, make_request, simulate

LONG, SHORT = 100, 2
"""Tokens that a request allows."""


def get_lengths(world: World, number: int) -> list[int]:
    """The lengths that requests allowed, in the order in which a member's backend began them."""
    backend = world.members[number].backend
    assert backend is not None
    return [json.loads(body)["max_tokens"] for body in backend.bodies]


@pytest.mark.parametrize("is_own", [True, False], ids=["own", "delegated"])
def test_the_shortest_goes_first_for_a_while(is_own: bool) -> None:
    async def play(world: World) -> None:
        world.introduce(paid=10**9)  # so that requests queue in the order in which they come
        server = world.members[0 if is_own else 1].backend
        assert server is not None
        server.script = Script(first_delay=1.0)  # an answer takes 1.3 s

        async def send(tokens: int) -> None:
            assert (await ask(world.gateway, make_request(local_only=is_own, max_tokens=tokens))).status == 200

        async with trio.open_nursery() as nursery:
            for tokens in (LONG, LONG, *[SHORT] * 20):
                nursery.start_soon(send, tokens)
                await trio.sleep(0.5)
        order = get_lengths(world, 0 if is_own else 1)
        assert order[:2] == [LONG, SHORT] and order.count(SHORT) == 20
        # It is passed by those alone that come in the 3.4 s for which it is predicted to be served itself.
        assert 5 <= order.index(LONG, 1) <= 8

    simulate(play, Options(executors=1, capacity=1, own_backend=is_own))
