"""An owner's hours and limits: a closed node is asked for nothing, and loses nothing by it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from chain.types.operations import Hold, Serve
from serving.offload.protocol import OFFLOAD_PROTOCOL, Accepted, Declined, Message
from serving.scheduling.policy import ModelQuota, PolicyParameters
from tests.support.market.cheating_payer import SALT, CheatingPayer
from tests.support.market.offers_by_hand import send_offer
from tests.support.market.scripted_backend import Script
from tests.support.market_world import MODEL, Options, World, ask, make_request, simulate
from tests.support.waiting import eventually

REQUEST = make_request()
BODY = REQUEST.body
PRICE = 1_000 + 3 * len(BODY) + 5 * REQUEST.max_completion_bytes
"""The most that a request may cost, in micro-credits."""
OPEN = PolicyParameters(offload_frequency=1.0, accept_frequency=1.0, queue_frequency=1.0)


def apply(world: World, number: int, parameters: PolicyParameters) -> None:
    world.members[number].node.backend_pool.apply(parameters)


async def offer(payer: CheatingPayer) -> Message:
    """The answer to an offer that is not paid."""
    hold = payer.make_hold(0, BODY, PRICE)
    async with payer.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
        return await send_offer(exchange, hold, BODY, SALT)


def is_announced(world: World, number: int) -> bool:
    found = world.gateway.discovery.find(world.members[number].public_key)
    return found is not None and MODEL in found.models


@pytest.mark.parametrize(
    "closed",
    [replace(OPEN, serve_others="never"), replace(OPEN, schedule=("Mon",)), replace(OPEN, serve_others="idle")],
    ids=["never", "schedule", "idle"],
)
def test_a_closed_node_is_not_announced_and_not_asked_and_keeps_its_place(closed: PolicyParameters) -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0].number
        apply(world, first, closed)  # on a Tuesday
        await eventually(lambda: not is_announced(world, first), 5)
        result = await ask(world.gateway)
        assert result.status == 200 and result.executor == world.members[3 - first].public_key
        assert world.members[first].node.executor.declined == 0
        assert world.account(first).models == (MODEL,) and world.operations(Serve) == []
        apply(world, first, OPEN)
        await eventually(lambda: is_announced(world, first), 5)
        score = world.gateway.originator.scores.find(world.members[first].public_key, MODEL, trio.current_time())
        assert score is None or not score.failed

    simulate(play)


def test_an_offer_to_a_closed_node_is_declined_with_the_time_until_it_opens() -> None:
    async def play(world: World) -> None:
        payer = CheatingPayer.of_gateway(world)
        apply(world, 1, replace(OPEN, schedule=("Tue 22:30-23:00",)))  # it is 22:13:20 when the simulation begins
        declined = await offer(payer)
        assert isinstance(declined, Declined) and declined.reason == "closed"
        assert 900_000 < declined.retry_after <= 1_000_000
        apply(world, 1, replace(OPEN, serve_others="never"))
        declined = await offer(payer)
        assert isinstance(declined, Declined) and (declined.reason, declined.retry_after) == ("closed", 60_000)
        apply(world, 1, replace(OPEN, models={MODEL: ModelQuota(accept=False)}))
        declined = await offer(payer)
        assert isinstance(declined, Declined) and declined.retry_after == 0
        assert declined.reason == "the model is not served to other nodes"
        apply(world, 1, OPEN)
        assert isinstance(await offer(payer), Accepted)

    simulate(play, Options(executors=1))


def test_what_was_accepted_is_finished_after_the_hours() -> None:
    async def play(world: World) -> None:
        (only,) = world.drawn()
        assert only.backend is not None
        only.backend.script = Script(first_delay=20.0)
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                result = await ask(world.gateway)
                assert result.status == 200 and result.executor == only.public_key

            nursery.start_soon(run)
            await eventually(lambda: len(world.operations(Hold)) == 1, 5)
            apply(world, only.number, replace(OPEN, serve_others="never"))
        await world.settle()
        assert len(world.captured) == 1

    simulate(play, Options(executors=1))


def test_a_node_closes_while_its_own_users_are_here() -> None:
    """An executor with users of its own: its announcement leaves with the first, and is back when they were quiet."""

    async def play(world: World) -> None:
        first = world.members[1]
        apply(world, 1, replace(OPEN, serve_others="idle", idle_after_minutes=1, offload_frequency=0.0))
        await eventually(lambda: is_announced(world, 1), 70)
        result = await ask(first.node, make_request(local_only=True))
        assert result.status == 200
        await eventually(lambda: not is_announced(world, 1), 5)
        await eventually(lambda: is_announced(world, 1), 70)

    simulate(play, Options(executors=1))


def test_limits_of_a_model_bind_other_nodes() -> None:
    async def play(world: World) -> None:
        (only,) = world.drawn()
        assert only.backend is not None
        only.backend.script = Script(first_delay=10.0)
        apply(world, 1, replace(OPEN, models={MODEL: ModelQuota(max_delegated=1, max_tokens=100)}))
        refused = await ask(world.gateway, make_request(max_tokens=101))
        assert refused.error is not None and "at most 100 tokens" in refused.error.message
        async with trio.open_nursery() as nursery:
            for number in range(2):
                await eventually(lambda: len(world.operations(Hold)) == number, 5)  # noqa: B023
                nursery.start_soon(ask, world.gateway, make_request())
            await trio.sleep(5)
            (admission,) = only.node.backend_pool.admissions
            assert (admission.running, admission.total_waiting) == (1, 1)

    simulate(play, Options(executors=1))
