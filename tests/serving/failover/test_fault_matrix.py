"""The matrix of faults, faults in a row, a backend that flaps, and a payer that restarts in the middle of an answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from chain.types.operations import Hold
from tests.support.market.fault_matrix import (
    PLACES,
    Place,
    check_paid_at_most_once,
    find_faulty,
    find_verdict,
    play_column,
)
from tests.support.market.faulty_backend import FAULTS, Fault, FaultyBackend
from tests.support.market_world import Options, World, ask, make_request, simulate

SECOND_OF_EXECUTOR = Place("second backend of an executor", 2, False, (1, 2))
"""A few of its rows are always tested (``test_executors_second_backend``)."""


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(
    "place", [*PLACES, pytest.param(SECOND_OF_EXECUTOR, marks=pytest.mark.long)], ids=lambda place: place.name
)
def test_every_fault_is_rescued_or_a_safe_error_and_nothing_is_left(place: Place, stream: bool) -> None:
    async def play(world: World) -> None:
        rows = await play_column(world, place, stream)
        assert len(rows) == len(FAULTS) >= 32
        assert sum(row.verdict == "continued" for row in rows) >= 5 * stream

    simulate(play, place.options())


def find_fault(name: str) -> Fault:
    return next(fault for fault in FAULTS if fault.name == name)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(
    "names",
    [
        ("S04 503 for good", "S05 connection reset", "role, then a clean end"),
        pytest.param(("S12 context length", "200 with an error in it", "S06 no response"), marks=pytest.mark.long),
        ("headers, and a cut", "S02 429 for good", "a line of 30 MB"),
    ],
    ids=str,
)
def test_faults_in_a_row_are_rescued_by_the_last_that_can_be_asked(names: tuple[str, ...], stream: bool) -> None:
    async def play(world: World) -> None:
        gateway, (first, last) = world.members[0], world.drawn()
        faulty = [gateway.backend, gateway.second, first.backend]
        for backend, name in zip(faulty, names, strict=True):
            assert isinstance(backend, FaultyBackend)
            backend.fault = find_fault(name)
        result = await ask(world.gateway, make_request(stream=stream))
        assert result.executor == last.public_key
        assert find_verdict(result, find_faulty(world, PLACES[2]), world, stream) == "rescued"
        here, here_too, there = (backend.met for backend in faulty if isinstance(backend, FaultyBackend))
        assert (here, here_too) == (1, 1) and there in (1, 2), "there its own node may have checked it meanwhile"
        await world.settle(700)
        check_paid_at_most_once(world)
        assert len(world.operations(Hold)) == 2

    options = replace(PLACES[2].options(), executors=2, two_backends=(0,))
    simulate(play, replace(options, make_second=lambda number: FaultyBackend(f"m{number}b-")))


def test_one_that_flaps_loses_no_request() -> None:
    async def play(world: World) -> None:
        faulty = find_faulty(world, PLACES[0])
        for number in range(20):
            faulty.fault = find_fault("S15 503 while it flaps") if 3 <= number < 15 else None
            assert (await ask(world.gateway)).status == 200
            await trio.sleep(1.0)
        assert faulty.met < 8 and faulty.completed >= 3

    simulate(play, PLACES[0].options())


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_payer_that_restarts_in_the_middle_of_an_answer_pays_at_most_once_and_leaves_nothing(stream: bool) -> None:
    async def play(world: World) -> None:
        backend = world.members[1].backend
        assert backend is not None
        backend.script.tokens = 200
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, world.gateway, make_request(stream=stream, max_tokens=300))
            await trio.sleep(4.0)
            await world.kill(0)
            nursery.cancel_scope.cancel()
        await world.start(0)
        await world.wait_met()
        await world.settle(900)
        check_paid_at_most_once(world)
        assert len(world.operations(Hold)) == 1
        backend.script.tokens = 6
        assert (await ask(world.gateway, make_request(stream=stream))).status == 200
        await world.settle(900)
        check_paid_at_most_once(world)

    simulate(play, Options(executors=1, validators=(1,), spacing=1.0))
