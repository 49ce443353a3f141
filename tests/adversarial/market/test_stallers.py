"""Executors that fall silent on purpose after one token of a long prompt: they are paid for it, and save the work.

What a payer does about it is to ask them last (:mod:`serving.offload.originator.executor_scores`). Here they are
counted out against honest ones, by how often the payer asks.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import trio

from chain.parameters.parameters import CREDIT
from chain.types.operations import Dispute
from serving.offload.originator.executor_scores import ExecutorScores
from tests.support.keys import make_peer
from tests.support.market.begun_backend import BegunBackend
from tests.support.market.fault_matrix import CONTINUING
from tests.support.market_world import MODEL, Options, World, ask, get_script, make_request, simulate

EXECUTORS = [make_peer(number) for number in range(1, 4)]
STALLER, *HONEST = EXECUTORS
DAY_S = 86_400.0
PAUSE_S = 60.0
"""How long a payer waits for the next token."""
CHEAP, DEAR = 2_000, 40_000
"""Prices of a short and of a long request, in micro-credits."""


@dataclass
class Day:
    """A day of one payer that asks every ``interval_s`` whom it is drawn, those last that it thinks ill of.

    The staller answers as ``stalls`` says of a request: its price, and how many it has been asked. ``worked`` is how
    much of what it was paid was for whole answers.
    """

    interval_s: float
    stalls: Callable[[int, int], bool]
    dear: float = 1.0
    """Share of the requests that are long."""
    worked: int = 0

    def play(self) -> dict[bytes, int]:
        """What each executor is paid."""
        scores, chance = ExecutorScores(), random.Random(1)
        paid, now, asked = dict.fromkeys(EXECUTORS, 0), 0.0, 0
        while now < DAY_S:
            price = DEAR if chance.random() < self.dear else CHEAP
            drawn = sorted(chance.sample(EXECUTORS, 3), key=lambda each: scores.rank(each, MODEL, now))
            for executor in drawn:
                scores.note_asked(executor, MODEL, now)
                asked += executor is STALLER
                paid[executor] += price
                if executor is STALLER and self.stalls(price, asked):
                    scores.note_stalled(executor, MODEL, now + PAUSE_S, price)
                    continue
                self.worked += price * (executor is STALLER)
                scores.note_delivered(executor, MODEL, now, price)
                break
            now += self.interval_s
        return paid


@pytest.mark.parametrize(("interval_s", "share"), [(60.0, 0.02), (180.0, 0.04), (600.0, 0.1), (3_600.0, 0.4)])
def test_who_always_stalls_earns_a_small_part_of_what_an_honest_one_does(interval_s: float, share: float) -> None:
    paid = Day(interval_s, lambda price, asked: True).play()
    assert 0 < paid[STALLER] <= share * min(paid[each] for each in HONEST)


@pytest.mark.parametrize("interval_s", [60.0, 600.0])
@pytest.mark.parametrize(
    "stalls",
    [
        lambda price, asked: price == DEAR,
        lambda price, asked: price == DEAR and asked % 8 == 0,
        lambda price, asked: asked % 2 == 0,
        lambda price, asked: asked % 8 == 0,
    ],
    ids=["all long ones", "a long one of eight", "every second", "every eighth"],
)
def test_who_stalls_now_and_then_is_paid_little_without_work(
    interval_s: float, stalls: Callable[[int, int], bool]
) -> None:
    day = Day(interval_s, stalls, dear=0.25)
    paid = day.play()
    honest = sum(paid[each] for each in HONEST) / 2
    assert paid[STALLER] - day.worked <= 0.25 * honest


def test_one_that_works_and_stalls_by_chance_keeps_its_share() -> None:
    chance = random.Random(2)
    paid = Day(60.0, lambda price, asked: chance.random() < 0.01).play()
    assert paid[STALLER] > 0.9 * sum(paid[each] for each in HONEST) / 2


@pytest.mark.long
def test_a_staller_of_long_prompts_earns_less_than_a_quarter_on_whole_nodes() -> None:
    async def play(world: World) -> None:
        get_script(world.members[1]).stall_after = 1
        prompt = [{"role": "user", "content": "x" * 8_000}]
        for _ in range(20):
            began = trio.current_time()
            result = await ask(world.gateway, make_request(messages=prompt, max_tokens=50))
            assert result.broken is None and result.error is None, "no user is cut off"
            await trio.sleep(began + 180.0 - trio.current_time())
        await world.settle(150)
        gains = [world.account(member.number).available - 1_000 * CREDIT for member in world.members[1:]]
        assert world.operations(Dispute) == [] and 0 < gains[0] < min(gains[1:]) / 4

    def build(number: int) -> BegunBackend:
        return BegunBackend(f"m{number}-", limits=CONTINUING)

    simulate(play, Options(executors=3, make_backend=build, parameters={"capture_grace_ms": 5_000}, spacing=5.0))
