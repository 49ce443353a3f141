"""Requests wait here, where the owner's order holds, and not in the queue of a backend whose cache is full."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from serving.backends.backend import Load
from serving.backends.load_metrics import MetricsPage, compute_load
from serving.scheduling.admission import Admission, Demand, Origin
from serving.scheduling.backend_pool import find_room
from tests.serving.scheduling.simulated import simulate, wait_all_blocked

OWN, DELEGATED = Origin.OWN, Origin.DELEGATED
CAPACITY = 8


class Bench:
    """An admission in front of a backend with room for ``room`` requests."""

    def __init__(self, nursery: trio.Nursery, room: int) -> None:
        self.room = room
        self.admission = Admission(CAPACITY, 10, prioritize_own=True, find_room=lambda: self.room)
        self.begun: list[str] = []
        self._ends: dict[str, trio.Event] = {}
        self._nursery = nursery

    async def ask(self, name: str, origin: Origin = DELEGATED) -> None:
        self._ends[name] = trio.Event()
        self._nursery.start_soon(self._work, name, origin)
        await wait_all_blocked()

    async def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()
        await wait_all_blocked()

    async def _work(self, name: str, origin: Origin) -> None:
        async with self.admission.slot(Demand(origin, predicted_s=10.0)):
            self.begun.append(name)
            await self._ends[name].wait()


def play(room: int, script: Any) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await script(Bench(nursery, room))
            nursery.cancel_scope.cancel()

    simulate(main)


def test_no_more_begin_than_there_is_room_for_and_the_owner_is_still_first() -> None:
    async def script(bench: Bench) -> None:
        admission = bench.admission
        for name in ("a", "b", "c"):
            await bench.ask(name)
        await bench.ask("own", OWN)
        assert bench.begun == ["a", "b"] and admission.slots == 2
        assert admission.predict_wait(Demand(DELEGATED)) > 0
        await bench.end("a")
        assert bench.begun == ["a", "b", "own"], "one for one"
        bench.room = 1
        await bench.end("b")
        assert admission.running == 1 and not admission.refill(), "it has put one back into its queue"
        bench.room = 4
        assert admission.refill() and not admission.refill()
        await wait_all_blocked()
        assert bench.begun == ["a", "b", "own", "c"]

    play(2, script)


def test_what_comes_when_there_is_room_again_does_not_pass_what_waits() -> None:
    async def script(bench: Bench) -> None:
        await bench.ask("a")
        await bench.ask("b")
        bench.room = CAPACITY
        await bench.ask("c")
        assert bench.begun == ["a"]
        while bench.admission.refill():
            await wait_all_blocked()
        assert bench.begun == ["a", "b", "c"]
        await bench.ask("d")
        assert bench.begun[-1] == "d", "nothing waits any more"

    play(1, script)


def test_there_is_always_room_for_one() -> None:
    async def script(bench: Bench) -> None:
        await bench.ask("a")
        await bench.ask("b")
        assert bench.begun == ["a"]

    play(0, script)


def test_a_slot_is_lent_once_there_is_room_again() -> None:
    async def script(bench: Bench) -> None:
        lent = trio.Event()

        async def borrow() -> None:
            async with bench.admission.lend_slot():
                lent.set()
                await trio.sleep_forever()

        await bench.ask("a")
        bench._nursery.start_soon(borrow)
        await wait_all_blocked()
        assert not lent.is_set()
        bench.room = 2
        assert not bench.admission.refill()
        await wait_all_blocked()
        assert lent.is_set()

    play(1, script)


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (compute_load(MetricsPage(5, 0, 0.9), 5, 5, CAPACITY), CAPACITY),
        (compute_load(MetricsPage(5, 2, 1.0), 7, 7, CAPACITY), 5),
        (compute_load(None, 0, 12, CAPACITY), CAPACITY),
        (Load(3, 0, 1.0, known=False), CAPACITY),
    ],
)
def test_it_has_room_for_what_it_runs_while_it_is_seen_to_keep_others_waiting(load: Load, expected: int) -> None:
    assert find_room(load, CAPACITY) == expected


def test_requests_of_other_users_of_the_backend_keep_none_of_ours_out() -> None:
    """Three of ours run among thirty, and five of the others wait: ours may queue up there as theirs do."""
    assert find_room(compute_load(MetricsPage(30, 5, 1.0), 3, 3, CAPACITY), CAPACITY) == CAPACITY
