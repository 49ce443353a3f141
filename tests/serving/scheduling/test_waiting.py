"""Waiting for a slot: who goes first, who is told at once that it is too late, and limits of single models."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from serving.scheduling.admission import MIN_RETRY_AFTER_S, Admission, Demand, NotAdmitted, Origin, QueueFull, TooLate
from serving.scheduling.policy import ModelQuota, PolicyParameters
from tests.serving.scheduling.simulated import simulate, wait_all_blocked

OWN, DELEGATED = Origin.OWN, Origin.DELEGATED


class Work:
    """Requests to one admission; each is served for as long as was predicted."""

    def __init__(self, admission: Admission, nursery: trio.Nursery) -> None:
        self.admission = admission
        self.started: list[str] = []
        self.refused: list[str] = []
        self._nursery = nursery

    async def add(self, name: str, demand: Demand) -> None:
        """Let a request come, and wait until it has a slot or a place in the queue."""
        self._nursery.start_soon(self._work, name, demand)
        await wait_all_blocked()

    async def _work(self, name: str, demand: Demand) -> None:
        try:
            async with self.admission.slot(demand):
                self.started.append(name)
                await trio.sleep(demand.predicted_s)
        except NotAdmitted:
            self.refused.append(name)


@pytest.mark.parametrize("prioritize_own", [True, False])
def test_the_shortest_goes_first_within_a_class(prioritize_own: bool) -> None:
    async def main() -> list[str]:
        async with trio.open_nursery() as nursery:
            work = Work(Admission(1, 10, prioritize_own), nursery)
            await work.add("first", Demand(OWN, predicted_s=5))
            for name, origin, predicted_s in [
                ("d30", DELEGATED, 30),
                ("o20", OWN, 20),
                ("d5", DELEGATED, 5),
                ("o10", OWN, 10),
            ]:
                await work.add(name, Demand(origin, predicted_s=predicted_s))
        return work.started[1:]

    assert simulate(main) == (["o10", "o20", "d5", "d30"] if prioritize_own else ["d5", "o10", "o20", "d30"])


def test_a_stream_of_short_requests_cannot_starve_a_long_one() -> None:
    """A stranger keeps the queue full of requests of a second; one of 60 s gets its slot a minute later, not never."""

    async def main() -> float:
        waited = math.inf

        async def flood(work: Work) -> None:
            for number in range(400):
                await work.add(f"short {number}", Demand(DELEGATED, predicted_s=1))
                await trio.sleep(0.9)  # faster than they are served

        async with trio.open_nursery() as nursery:
            work = Work(Admission(1, 500, prioritize_own=True), nursery)
            nursery.start_soon(flood, work)
            await trio.sleep(5)
            came_at = trio.current_time()
            async with work.admission.slot(Demand(DELEGATED, predicted_s=60)):
                waited = trio.current_time() - came_at
                work.started.append("long")
            behind = [int(name.split()[1]) for name in work.started if name != "long"]
        assert behind == sorted(behind)  # they themselves go in order of arrival
        return waited

    # Those that came in the 59 s after it go first: 66 of a second each, as the queue had one before.
    assert 60 < simulate(main) < 75


def test_strangers_wait_for_owners_and_owners_for_no_stranger_that_waits() -> None:
    async def main() -> list[str]:
        async with trio.open_nursery() as nursery:
            work = Work(Admission(1, 50, prioritize_own=True), nursery)
            for number in range(20):
                await work.add(f"stranger {number}", Demand(DELEGATED, predicted_s=1))
            await trio.sleep(0.5)
            for number in range(3):
                await work.add(f"own {number}", Demand(OWN, predicted_s=100))
        return work.started

    started = simulate(main)
    assert started[:4] == ["stranger 0", "own 0", "own 1", "own 2"] and len(started) == 23


def test_a_request_that_would_be_too_late_is_told_so_at_once() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            work = Work(Admission(2, 10, prioritize_own=True), nursery)
            for name in "abcd":  # two run, two wait: slots are free after 20 s
                await work.add(name, Demand(DELEGATED, predicted_s=10))
            before = trio.current_time()
            with pytest.raises(TooLate, match="expected in 20 s, and the request can wait for 15 s") as late:
                async with work.admission.slot(Demand(DELEGATED, predicted_s=10, max_wait_s=15)):
                    raise AssertionError
            assert trio.current_time() == before and late.value.retry_after_s == 20
            # An own request goes first, and a short one before those that came at the same time.
            assert work.admission.predict_wait(Demand(OWN, predicted_s=10)) == 10
            assert work.admission.predict_wait(Demand(DELEGATED, predicted_s=1)) == 10
            assert work.admission.counters[DELEGATED].late == 1
            await work.add("in time", Demand(DELEGATED, predicted_s=10, max_wait_s=21))
        assert work.started == ["a", "b", "c", "d", "in time"]
        assert work.admission.counters[DELEGATED].waits.sum == 40

    simulate(main)


def test_a_request_leaves_the_queue_when_its_time_is_over() -> None:
    async def main() -> None:
        admission = Admission(1, 10, prioritize_own=True)
        async with admission.slot(Demand(OWN)):  # of unknown length
            before = trio.current_time()
            with pytest.raises(TooLate, match="no slot was free in 7 s"):
                async with admission.slot(Demand(OWN, max_wait_s=7)):
                    raise AssertionError
            assert trio.current_time() == before + 7 and admission.total_waiting == 0
        assert admission.running == 0

    simulate(main)


def test_a_full_queue_says_when_it_will_have_drained() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            work = Work(Admission(1, 2, prioritize_own=True), nursery)
            for name in "abc":
                await work.add(name, Demand(OWN, predicted_s=10))
            await trio.sleep(4)
            with pytest.raises(QueueFull) as full:
                async with work.admission.slot(Demand(OWN)):
                    raise AssertionError
            assert full.value.retry_after_s == 26
            nursery.cancel_scope.cancel()
        assert work.admission.predict_drained() == MIN_RETRY_AFTER_S

    simulate(main)


def test_a_payer_has_no_more_places_of_the_queue_than_it_leaves_free() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            admission = Admission(1, 12, prioritize_own=True)
            work = Work(admission, nursery)

            async def fill(payer: bytes) -> int:
                demand, before = Demand(DELEGATED, predicted_s=1, payer=payer), admission.waiting(DELEGATED)
                while admission.has_room(demand):
                    await work.add("", demand)
                return admission.waiting(DELEGATED) - before

            assert await fill(b"1") == 6 and admission.running == 1, "besides the slot, half of the queue"
            assert [await fill(payer) for payer in (b"2", b"1", b"3", b"4")] == [3, 0, 2, 1]
            assert admission.waiting(DELEGATED) == 12
            nursery.cancel_scope.cancel()
        assert admission.has_room(Demand(DELEGATED, payer=b"4"))
        assert Admission(1, 0, prioritize_own=True).has_room(Demand(DELEGATED, payer=b"4")), "a free slot"

    simulate(main)


def test_a_model_at_its_limit_lets_others_pass() -> None:
    async def main() -> list[str]:
        async with trio.open_nursery() as nursery:
            quotas = {"big": ModelQuota(max_delegated=1)}
            work = Work(Admission(3, 10, prioritize_own=True, quotas=quotas), nursery)
            for number in range(3):
                await work.add(f"big {number}", Demand(DELEGATED, "big", predicted_s=10))
            assert work.admission.running == 1 and work.admission.waiting(DELEGATED) == 2
            assert work.admission.predict_wait(Demand(DELEGATED, "big", predicted_s=10)) == 30
            assert work.admission.predict_wait(Demand(DELEGATED, "small", predicted_s=10)) == 0
            await work.add("small", Demand(DELEGATED, "small", predicted_s=1))
            await work.add("own", Demand(OWN, "big", predicted_s=1))  # has no limit
            assert work.admission.running == 3
            await trio.sleep(25)
        assert work.admission.running == work.admission.total_waiting == 0
        return work.started

    assert simulate(main) == ["big 0", "small", "own", "big 1", "big 2"]


def test_a_limit_that_is_raised_lets_those_in_that_wait() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            parameters = PolicyParameters(models={"m": ModelQuota(max_own=1)})
            admission = Admission(3, 10, prioritize_own=True, quotas=parameters.models)
            work = Work(admission, nursery)
            for number in range(4):
                await work.add(str(number), Demand(OWN, "m", predicted_s=10))
            admission.apply(replace(parameters, models={"m": ModelQuota(max_own=2)}))
            await wait_all_blocked()
            assert work.started == ["0", "1"]
            admission.apply(replace(parameters, models={}))
            await wait_all_blocked()
            assert work.started == ["0", "1", "2"] and admission.running == 3
            admission.apply(parameters)  # who runs goes on
            assert admission.running == 3
        assert admission.running == admission.total_waiting == 0

    simulate(main)


@given(seed=st.integers(0, 2**32), capacity=st.integers(1, 3), prioritize_own=st.booleans())
def test_limits_deadlines_and_departures_lose_no_slot(seed: int, capacity: int, prioritize_own: bool) -> None:
    """Random requests that run, leave and are too late, under limits that change."""
    parameters = PolicyParameters(max_queue=4, prioritize_own=prioritize_own)
    admission = Admission(capacity, 4, prioritize_own)

    async def main() -> None:
        chance, at_work = Random(seed), dict.fromkeys(["a", "b"], 0)
        limit = None

        async def request() -> None:
            demand = Demand(
                chance.choice(list(Origin)),
                chance.choice(["a", "b"]),
                predicted_s=chance.choice([0.0, 1.0, 3.0]),
                max_wait_s=chance.choice([0.5, 2.0, math.inf]),
            )
            came_at = trio.current_time()
            with trio.move_on_after(chance.choice([0.5, 2.0, 100.0])):
                try:
                    async with admission.slot(demand):
                        assert trio.current_time() - came_at <= demand.max_wait_s
                        at_work[demand.model] += 1
                        try:
                            assert sum(at_work.values()) <= admission.running <= capacity
                            await trio.sleep(chance.choice([0.0, 1.0, 2.0]))
                        finally:
                            at_work[demand.model] -= 1
                except NotAdmitted:
                    pass

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(request)
                if chance.random() < 0.2:
                    limit = chance.choice([None, 1, 2])
                    admission.apply(replace(parameters, models={"a": ModelQuota(max_own=limit, max_delegated=limit)}))
                await trio.sleep(chance.choice([0.0, 0.5, 1.0]))
                await wait_all_blocked()
                if limit is None:
                    assert admission.running == capacity or not admission.total_waiting

    simulate(main, seed)
    assert admission.running == admission.total_waiting == 0
