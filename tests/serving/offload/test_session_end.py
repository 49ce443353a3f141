"""What both sides hold of an offload ends with it, however it ends, without the collector of cyclic garbage.

A session holds the body of its request, up to 4 MiB. In a cycle it would stay until the collector comes by. Errors make
such cycles: their tracebacks hold frames, which hold what is in their variables.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import trio

from chain.parameters.parameters import CREDIT
from p2p.network import NetworkError
from serving.backends.backend import BackendError
from serving.failover.continued_answer import ContinuedAnswer
from serving.offload.executor.executor_answer import ExecutorAnswer
from serving.offload.executor.session import OffloadSession
from serving.offload.originator.attempt import OffloadAttempt
from serving.offload.protocol import OFFLOAD_PROTOCOL
from serving.offload.settings import ExecutorSettings
from serving.openai.errors import ApiError
from tests.support.market.cheating_payer import SALT, CheatingPayer
from tests.support.market.offers_by_hand import receive, send_offer
from tests.support.market.scripted_backend import Script
from tests.support.market_world import Options, World, get_script, make_request, simulate
from tests.support.waiting import eventually

Watched = list[weakref.ref[Any]]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """All sessions, attempts and answers, while no garbage is collected."""
    found: Watched = []

    def watch(kind: type[Any]) -> None:
        construct = kind.__init__

        def note(self: Any, *arguments: Any, **named: Any) -> None:
            found.append(weakref.ref(self))
            construct(self, *arguments, **named)

        monkeypatch.setattr(kind, "__init__", note)

    for kind in (OffloadSession, ExecutorAnswer, ContinuedAnswer, OffloadAttempt):
        watch(kind)
    gc.disable()
    yield found
    gc.enable()


async def ask(world: World, stream: bool, leave_after: int | None = None) -> None:
    """Ask, and keep nothing of what comes of it: an error that a variable holds would hold the request."""
    received = 0
    with suppress(ApiError, BackendError):
        async with world.gateway.dispatcher.complete(make_request(stream=stream)) as (answer, _):
            async for chunk in answer.body:
                received += len(chunk)
                if leave_after is not None and received > leave_after:
                    return


async def wait_until_gone(made: Watched, count: int) -> None:
    await eventually(lambda: all(each() is None for each in made), 120)
    assert len(made) == count


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_nothing_of_a_session_stays(stream: bool, made: Watched) -> None:
    async def play(world: World) -> None:
        await ask(world, stream)
        # An attempt, a session, its answer, and what is continued of it, of a stream on both sides.
        await wait_until_gone(made, 5 if stream else 4)
        await world.settle()

    simulate(play)


@pytest.mark.parametrize(
    ("script", "stream"),
    [
        (Script(break_after=2), True),
        (Script(refuses=True), False),
        (Script(break_after=0), True),
        (Script(error_after=2), True),
        (Script(stall_after=2), True),
        (Script(status=500), False),
        (Script(status=400), True),
        (Script(tokens=5_000), False),
    ],
)
def test_nothing_stays_of_a_session_that_fails(script: Script, stream: bool, made: Watched) -> None:
    async def play(world: World) -> None:
        world.members[1].backend.script = script  # type: ignore[union-attr]
        await ask(world, stream)
        assert made
        await wait_until_gone(made, len(made))
        await world.settle(1_000)

    simulate(play, Options(executors=1))


@pytest.mark.parametrize(("stream", "in_the_middle"), [(True, True), (False, False), (True, False)])
def test_nothing_stays_of_a_session_whose_user_leaves(stream: bool, in_the_middle: bool, made: Watched) -> None:
    async def play(world: World) -> None:
        script = get_script(world.members[1])
        script.first_delay, script.tokens = (0.1, 50) if in_the_middle else (5.0, 6)
        with trio.move_on_after(2.0):
            await ask(world, stream, leave_after=200 if in_the_middle else None)
        await wait_until_gone(made, 5 if in_the_middle else 3)
        await world.settle(1_000)

    simulate(play, Options(executors=1))


def test_nothing_stays_of_a_session_that_is_not_paid(made: Watched) -> None:
    async def offer(payer: CheatingPayer, world: World) -> None:
        body = make_request().body
        hold = payer.make_hold(0, body, payer.compute_price(body, 100), world.members[1])
        async with payer.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
            await send_offer(exchange, hold, body, SALT)
            with trio.move_on_after(2 * ExecutorSettings().payment_timeout_s):
                while True:
                    await receive(exchange)

    async def play(world: World) -> None:
        payer = await CheatingPayer.join(world, 1, 20 * CREDIT)
        get_script(world.members[1]).first_delay = 30.0
        with suppress(NetworkError):
            await offer(payer, world)
        await wait_until_gone(made, 2)

    simulate(play, Options(executors=1))
