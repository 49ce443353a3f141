"""Slots that are lent to what nobody waits for: only free ones, and given back to the first request that finds none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import trio

from p2p.simulation.runtime import run_simulation
from serving.scheduling.admission import Admission, Demand, Origin, QueueFull, SlotLost

OWN, DELEGATED = Origin.OWN, Origin.DELEGATED

T = TypeVar("T")

SIMULATED_TIME_S = 1_000.0
"""After which a request that waits for a slot waits for ever."""


def simulate(main: Callable[[], Awaitable[T]]) -> T:
    """What ``main`` returns in simulated time."""

    async def end_in_time() -> T:
        with trio.fail_after(SIMULATED_TIME_S):
            return await main()

    return run_simulation(1, end_in_time)


def test_a_slot_is_lent_only_when_no_request_has_or_awaits_it() -> None:
    async def main() -> list[str]:
        admission, order = Admission(1, 10, prioritize_own=True), []

        async def request(name: str) -> None:
            async with admission.slot(Demand(DELEGATED)):
                await trio.sleep(1)
                order.append(name)

        async def borrow() -> None:
            async with admission.lend_slot():
                order.append("lent")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(request, "first")
            await trio.sleep(0.1)
            nursery.start_soon(borrow)
            await trio.sleep(0.1)
            nursery.start_soon(request, "second")
        assert admission.running == 0
        return order

    assert simulate(main) == ["first", "second", "lent"]


@pytest.mark.parametrize("origin", Origin)
@pytest.mark.parametrize("max_queue", [0, 4])
def test_a_request_takes_a_lent_slot_at_once(origin: Origin, max_queue: int) -> None:
    async def main() -> None:
        admission = Admission(2, max_queue, prioritize_own=True)
        lost = []

        async def borrow(number: int) -> None:
            try:
                async with admission.lend_slot():
                    await trio.sleep_forever()
            except SlotLost:
                lost.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(borrow, number)
                await trio.sleep(0.1)
            started = trio.current_time()
            async with admission.slot(Demand(origin)):
                assert trio.current_time() == started
                assert lost == [1], "the one that has done least"
                async with admission.slot(Demand(origin)):
                    assert trio.current_time() == started
                    assert sorted(lost) == [0, 1]
        assert admission.running == 0

    simulate(main)


def test_lent_slots_count_as_free() -> None:
    async def main() -> None:
        admission = Admission(1, 0, prioritize_own=True)
        async with trio.open_nursery() as nursery:

            async def borrow() -> None:
                async with admission.lend_slot():
                    await trio.sleep_forever()

            nursery.start_soon(borrow)
            await trio.sleep(0.1)
            assert admission.running == 1 and admission.utilization == 0
            with admission.unpaid() as may_start:
                assert may_start
            nursery.cancel_scope.cancel()
        assert admission.running == 0

    simulate(main)


def test_a_lent_slot_that_is_asked_back_goes_to_one_request() -> None:
    async def main() -> None:
        admission = Admission(1, 0, prioritize_own=True)
        refused = []

        async def borrow() -> None:
            with pytest.raises(SlotLost):
                async with admission.lend_slot():
                    await trio.sleep_forever()

        async def request(number: int) -> None:
            try:
                async with admission.slot(Demand(OWN)):
                    await trio.sleep(1)
            except QueueFull:
                refused.append(number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(borrow)
            await trio.sleep(0.1)
            nursery.start_soon(request, 1)
            nursery.start_soon(request, 2)
        assert len(refused) == 1 and admission.running == 0

    simulate(main)
