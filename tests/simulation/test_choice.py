"""The choice of four in a market whose nodes differ tenfold in speed."""

from __future__ import annotations

import random
from collections import Counter
from statistics import mean

import trio

from serving.offload.settings import OriginatorSettings
from tests.support.market.scripted_backend import Script, ScriptedBackend
from tests.support.market_world import Options, World, ask, make_request, simulate

FAST, SLOW = Script(tokens=20, first_delay=0.05, token_delay=0.02), Script(tokens=20, first_delay=0.5, token_delay=0.2)
REQUESTS, INTERVAL_S = 32, 0.5
"""One fast node could serve four times as much; a slow one half of it."""


def make_backend(number: int) -> ScriptedBackend:
    """Member 1 is ten times as fast as the others."""
    return ScriptedBackend(f"m{number}-", FAST if number == 1 else SLOW)


def measure(choices: int) -> tuple[Counter[int], float, float]:
    """Requests by the member that answered, and the mean times to the first and the last token, of the latter half."""
    served, first_token_s, total_s = Counter[int](), list[float](), list[float]()

    async def play(world: World) -> None:
        arrivals = random.Random("arrivals")

        async def ask_one(number: int) -> None:
            conversation = [{"role": "user", "content": f"question {number}"}]
            result = await ask(world.gateway, make_request(messages=conversation))
            assert result.record is not None and result.executor is not None and result.broken is None
            if number >= REQUESTS / 2:
                assert result.record.first_byte is not None
                served[world.find(result.executor)] += 1
                first_token_s.append(result.record.first_byte - result.record.started)
                total_s.append(trio.current_time() - result.record.started)

        async with trio.open_nursery() as nursery:
            for number in range(REQUESTS):
                nursery.start_soon(ask_one, number)
                await trio.sleep(arrivals.expovariate(1 / INTERVAL_S))

    originator = OriginatorSettings(choices=choices)
    simulate(play, Options(executors=4, make_backend=make_backend, originator=originator, spacing=1.0))
    return served, mean(first_token_s), mean(total_s)


def test_the_fast_node_is_found_out_and_first_tokens_come_sooner_than_by_the_draw_alone() -> None:
    drawn, drawn_first_s, drawn_total_s = measure(choices=1)
    chosen, chosen_first_s, chosen_total_s = measure(choices=4)
    assert sum(drawn.values()) == sum(chosen.values()) == REQUESTS / 2
    assert drawn[1] <= REQUESTS / 4, "the draw is by stake, which all have the same of"
    assert chosen[1] >= 0.8 * REQUESTS / 2, "all but what explores"
    assert chosen_first_s < drawn_first_s, "most of either is the payment"
    assert chosen_total_s < 0.5 * drawn_total_s
