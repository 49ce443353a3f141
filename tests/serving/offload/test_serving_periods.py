"""Serving periods that end while a request looks for an executor."""

from __future__ import annotations

import pytest
import trio

from chain.types.operations import Bond, Hold
from serving.offload.originator.attempt import OffloadAttempt
from tests.support.market_world import Options, World, ask, get_script, make_request, simulate
from tests.support.waiting import eventually

SHORT = Options(executors=3, parameters={"round_heights": 4})


async def begin_another_period(world: World) -> None:
    """Have a member change its bond, and wait until that counts in the draws."""
    context, before = world.gateway.originator._context, world.gateway.originator._context.first_round
    await world.members[1].node.wallet.submit(lambda nonce: Bond(nonce, 1))
    await eventually(lambda: context.first_round != before)


def test_after_the_end_of_a_period_candidates_are_drawn_anew() -> None:
    """Under another number, since the holds of the first are of no use in the next; none is asked twice."""

    async def play(world: World) -> None:
        first = world.drawn()[0]
        get_script(first).first_delay = 100.0  # it is given up after 30 s
        async with trio.open_nursery() as nursery:
            nursery.start_soon(begin_another_period, world)
            result = await ask(world.gateway, make_request())
        assert result.status == 200 and result.executor != first.public_key
        before, after = world.operations(Hold)
        assert before.payee == first.public_key and before.round < after.round and before.seq < after.seq
        assert after.payee == result.executor

    simulate(play, SHORT)


def test_nothing_is_signed_in_a_period_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hold that comes too late would count as a lie of the payer."""
    offer, late = OffloadAttempt._offer, [True]

    async def play(world: World) -> None:
        async def offer_slowly(attempt: OffloadAttempt) -> None:
            await offer(attempt)
            if late:
                late.pop()
                await begin_another_period(world)

        monkeypatch.setattr(OffloadAttempt, "_offer", offer_slowly)
        first = world.drawn()[0]
        result = await ask(world.gateway, make_request())
        assert result.status == 200 and not late
        (hold,) = world.operations(Hold)
        assert hold.payee == result.executor != first.public_key
        await world.settle()

    simulate(play, SHORT)
