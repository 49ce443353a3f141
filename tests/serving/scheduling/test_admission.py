"""Slots and queues: never more at work than there are slots, none lost, fair within a queue."""

from __future__ import annotations

from contextlib import ExitStack
from random import Random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from serving.scheduling.admission import Admission, Demand, Origin, QueueFull
from tests.serving.scheduling.simulated import simulate

OWN, DELEGATED = Origin.OWN, Origin.DELEGATED


def test_slots_go_in_the_order_of_arrival() -> None:
    async def main() -> list[int]:
        admission, order = Admission(1, 10, prioritize_own=False), []

        async def work(number: int, origin: Origin) -> None:
            async with admission.slot(Demand(origin)):
                order.append(number)
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            for number, origin in enumerate([DELEGATED, OWN, DELEGATED, OWN, DELEGATED]):
                nursery.start_soon(work, number, origin)
                await trio.sleep(0.01)
        return order

    assert simulate(main) == [0, 1, 2, 3, 4]


def test_the_owner_goes_first_if_so_wished() -> None:
    async def main() -> list[int]:
        admission, order = Admission(1, 10, prioritize_own=True), []

        async def work(number: int, origin: Origin) -> None:
            async with admission.slot(Demand(origin)):
                order.append(number)
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            for number, origin in enumerate([DELEGATED, DELEGATED, OWN, DELEGATED, OWN]):
                nursery.start_soon(work, number, origin)
                await trio.sleep(0.01)
        return order

    assert simulate(main) == [0, 2, 4, 1, 3]


def test_each_queue_has_its_own_bound() -> None:
    async def main() -> None:
        admission = Admission(1, 2, prioritize_own=True)

        async def work(origin: Origin) -> None:
            async with admission.slot(Demand(origin)):
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            for origin in (OWN, OWN, OWN, DELEGATED, DELEGATED):
                nursery.start_soon(work, origin)
                await trio.sleep(0.01)
            for origin in Origin:
                assert admission.waiting(origin) == 2
                with pytest.raises(QueueFull):
                    async with admission.slot(Demand(origin)):
                        raise AssertionError
            assert admission.total_waiting == 4 and admission.utilization == 5.0
            nursery.cancel_scope.cancel()
        assert admission.running == admission.total_waiting == 0 and admission.utilization == 0.0

    simulate(main)


def test_a_slot_handed_over_in_the_moment_of_cancellation_is_passed_on() -> None:
    async def main() -> None:
        admission = Admission(1, 10, prioritize_own=True)
        reached = []

        async def wait(name: str, scope: trio.CancelScope) -> None:
            with scope:
                async with admission.slot(Demand(OWN)):
                    reached.append(name)

        first, second = trio.CancelScope(), trio.CancelScope()
        async with trio.open_nursery() as nursery, admission.slot(Demand(OWN)):
            nursery.start_soon(wait, "first", first)
            await trio.sleep(0.01)
            nursery.start_soon(wait, "second", second)
            await trio.sleep(0.01)
            first.cancel()  # it has not run since when the slot is handed to it
        assert reached == ["second"] and admission.running == 0

    simulate(main)


def test_an_error_in_the_work_frees_the_slot() -> None:
    async def main() -> None:
        admission = Admission(1, 0, prioritize_own=True)
        with pytest.raises(ZeroDivisionError):
            async with admission.slot(Demand(OWN)):
                raise ZeroDivisionError
        async with admission.slot(Demand(OWN)):
            assert admission.running == 1

    simulate(main)


@given(
    seed=st.integers(0, 2**32),
    capacity=st.integers(1, 4),
    max_queue=st.integers(0, 4),
    prioritize_own=st.booleans(),
    count=st.integers(1, 40),
)
def test_no_slot_is_lost_or_given_twice(
    seed: int, capacity: int, max_queue: int, prioritize_own: bool, count: int
) -> None:
    """Requests that come, work, fail and leave at random moments."""
    chance = Random(seed)
    admission = Admission(capacity, max_queue, prioritize_own)
    at_work = 0
    ends = {"worked": 0, "refused": 0, "left": 0}

    async def work(origin: Origin) -> None:
        nonlocal at_work
        patience, duration = chance.choice([0.0, 0.5, 1.0, 3.0, 100.0]), chance.choice([0.0, 0.5, 1.0, 2.0])
        with trio.move_on_after(patience):
            try:
                async with admission.slot(Demand(origin)):
                    at_work += 1
                    try:
                        assert at_work <= admission.running <= capacity
                        await trio.sleep(duration)
                    finally:
                        at_work -= 1
                ends["worked"] += 1
            except QueueFull:
                assert admission.running == capacity and admission.waiting(origin) == max_queue
                ends["refused"] += 1
            return
        ends["left"] += 1

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(work, chance.choice(list(Origin)))
                if chance.random() < 0.5:
                    await trio.sleep(chance.choice([0.0, 0.5, 1.0]))
                assert 0 <= admission.running <= capacity
                assert all(admission.waiting(origin) <= max_queue for origin in Origin)
                # No request waits while a slot is free.
                assert admission.running == capacity or not admission.total_waiting

    simulate(main, seed)
    assert sum(ends.values()) == count
    assert admission.running == admission.total_waiting == at_work == 0


def test_a_quarter_of_the_slots_and_of_the_queue_is_for_what_is_not_paid() -> None:
    async def main() -> None:
        admission = Admission(8, 12, prioritize_own=True)
        with ExitStack() as unpaid:
            assert [unpaid.enter_context(admission.unpaid()) for _ in range(5)] == [True] * 2 + [False] * 3
            with pytest.raises(QueueFull):
                unpaid.enter_context(admission.unpaid())
            assert (admission.waiting(DELEGATED), admission.waiting(OWN), admission.total_waiting) == (3, 0, 3)
            assert admission.utilization == 3 / 8
        assert (admission.unpaid_running, admission.unpaid_waiting, admission.total_waiting) == (0, 0, 0)

    simulate(main)


def test_at_least_one_unpaid_request_begins_if_a_slot_is_free_and_none_if_not() -> None:
    async def main() -> None:
        admission = Admission(1, 1, prioritize_own=True)
        with admission.unpaid() as may_start:
            assert may_start
        async with admission.slot(Demand(OWN)):
            with admission.unpaid() as may_start:
                assert not may_start

    simulate(main)
