"""While no block becomes final, others cannot be paid: what can be answered here is not offered to them."""

from __future__ import annotations

import pytest
import trio

from consensus.stall import LATE_BLOCK_S, compute_stall
from serving.offload.executor.executor import STALLED_RETRY_MS, DeclineReason
from serving.offload.originator.choice import Reason
from tests.support.market_world import Options, World, ask, get_script, make_request, simulate

VOTERS = (2, 3)
"""Members that only vote."""
OPTIONS = Options(executors=3, own_backend=True, validators=(0, *VOTERS))
"""Member 1 is the executor."""
IDLE_BEAT_S = 10.0


async def start_busy(world: World) -> None:
    """The gateway is so busy that its policy offloads all, and one executor is left to do so."""
    for voter in VOTERS:
        get_script(world.members[voter]).is_alive = False
    own = world.members[0].backend
    assert own is not None
    own.utilization = 0.9
    await world.wait_met()
    world.introduce()
    assert (await ask(world.gateway)).executor == world.members[1].public_key
    await world.settle()


async def halt(world: World) -> None:
    for voter in VOTERS:
        await world.kill(voter)
    await trio.sleep(1.0)


def count_offers(world: World) -> int:
    executor = world.members[1].node.executor
    return executor.served + executor.declined


def test_one_request_finds_out_that_blocks_are_overdue_and_the_next_are_served_here() -> None:
    async def play(world: World) -> None:
        await start_busy(world)
        await halt(world)
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, world.gateway)  # its payment waits for a block
            await trio.sleep(2 * LATE_BLOCK_S)
            second = await ask(world.gateway)
            assert second.executor is None and second.record is not None
            assert second.record.reason == Reason.UNPAID.value
            assert trio.current_time() - begun < 6.0, "it did not wait for a payment"
        offers = count_offers(world)
        await trio.sleep(compute_stall(IDLE_BEAT_S))
        assert world.gateway.engine.is_stalled
        third = await ask(world.gateway)
        assert third.executor is None and third.record is not None and third.record.reason == Reason.UNPAID.value
        assert count_offers(world) == offers
        await world.start(*VOTERS)
        await world.settle()
        assert (await ask(world.gateway)).executor == world.members[1].public_key
        await world.settle()

    simulate(play, OPTIONS)


@pytest.mark.parametrize("has_credit", [True, False])
def test_what_only_others_serve_is_answered_on_credit_or_refused_at_once(has_credit: bool) -> None:
    async def play(world: World) -> None:
        await start_busy(world)
        if has_credit:
            world.introduce(paid=320_000)
        await halt(world)
        await trio.sleep(compute_stall(IDLE_BEAT_S))
        get_script(world.members[0]).is_alive = False
        begun, declines = trio.current_time(), world.members[1].node.executor.declines
        result = await ask(world.gateway, make_request(max_tokens=50))
        if has_credit:
            assert result.executor == world.members[1].public_key and result.broken is None
        else:
            assert result.error is not None and "the ledger is stalled" in str(result.error)
            assert (result.error.status, result.error.retry_after_s) == (503, STALLED_RETRY_MS / 1000)
            assert trio.current_time() - begun < 1.0
            assert declines[DeclineReason.STALLED] == 1
            assert not world.gateway.payments.payer._unconfirmed_holds, "nothing was signed in vain"
        await world.start(*VOTERS)
        await world.settle()

    simulate(play, OPTIONS)
