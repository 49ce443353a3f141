"""Twins: no schedule makes two finals, a slashable pair of an honest validator, or a stall; and the harness can see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice

import pytest

from consensus.simplex.core import Simplex
from tests.adversarial.voters.flip_flopper import FlipFlopper, Gateless, Gullible
from tests.simulation.twins import Schedule, ScriptedMajority, check, make_schedule, run_all

pytestmark = pytest.mark.double_spend

PARTS = 30
SCHEDULES = 3000
THIRDS = 750
LEAST = {
    "a twin signed a slashable pair": 1500,
    "honest nodes backed two blocks in one view": 750,
    "a twin proposed below a tip": 200,
    "a twin proposed below a tip that one node alone knew": 60,
    "a last block that was not final was shown to the next committee": 150,
    "a node died after it sent finalize": 80,
}
"""In how many schedules of all each of these has to happen, or they are harmless."""


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.long) for part in range(1, PARTS))])
def test_less_than_a_third_runs_twice(part: int) -> None:
    """Committees of 4, 5 and 7, equal and unequal stakes, within an epoch and over hand-overs to other committees."""
    seen: Counter[str] = Counter()
    assert not run_all(range(part, SCHEDULES, PARTS), lambda seed: check(make_schedule(seed), seen=seen))
    assert {name: seen[name] for name, least in LEAST.items() if seen[name] * PARTS < least} == {}


def test_the_schedules_are_what_they_should_be() -> None:
    schedules = [make_schedule(seed) for seed in range(SCHEDULES)]

    def count(*properties: bool) -> int:
        return sum(properties)

    for size in (4, 5, 7):
        sized = [schedule for schedule in schedules if len(schedule.committees[0]) == size]
        assert count(*(len(set(schedule.stakes)) == 1 for schedule in sized)) > 100
        assert count(*(len(set(schedule.stakes)) > 1 for schedule in sized)) > 100
        assert count(*(len(schedule.committees) > 1 for schedule in sized)) > 100
    for schedule in schedules:
        assert schedule.twins
        for members in schedule.committees:
            faulty = sum(schedule.stakes[member] for member in members if member in schedule.twins)
            assert 3 * faulty < sum(schedule.stakes[member] for member in members)
    assert len({repr(schedule.cuts) for schedule in schedules if schedule.cuts}) > SCHEDULES // 2


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.long) for part in range(1, 10))])
def test_exactly_a_third_is_harmless(part: int) -> None:
    """One chain and no slashable pair of anyone honest; only progress is not promised."""

    def make(seed: int) -> Schedule:
        schedule = make_schedule(seed, third=True)
        assert 3 * sum(schedule.stakes[twin] for twin in schedule.twins) == sum(schedule.stakes)
        return schedule

    assert not run_all(range(part, THIRDS, 10), lambda seed: check(make(seed), live=False), " ARGS=--third")


def is_caught(seeds: Iterable[int], run: Callable[[int], list[str]], fault: str, least: int = 5) -> bool:
    """Whether ``fault`` shows in as many of the schedules; those after that are not run."""
    faults = (what for seed in seeds for what in run_all([seed], run) if fault in what)
    return len(list(islice(faults, least))) == least


def test_a_bare_majority_is_broken() -> None:
    """The same harness with a quorum of more than half, at five validators: it is not blind."""
    assert is_caught(range(100), lambda seed: check(make_schedule(seed, [5]), ScriptedMajority, live=False), "others")


@pytest.mark.parametrize(
    ("core", "twist", "fault"),
    [
        (FlipFlopper, None, "nullify and finalize"),
        (Gullible, "finalization known to one", "others"),
        pytest.param(Gullible, "finalization known to one later", "others", marks=pytest.mark.long),
        (Gateless, "last block withheld", "others"),
    ],
)
def test_a_core_without_a_rule_is_caught(core: type[Simplex], twist: str | None, fault: str) -> None:
    """By what is among the first schedules."""
    chosen = [seed for seed in range(SCHEDULES) if twist in (None, make_schedule(seed).twist)]
    assert is_caught(chosen[:60], lambda seed: check(make_schedule(seed), core=core, live=False), fault)


def test_a_core_that_believes_the_body_alone_is_caught() -> None:
    """One alone learns that the block of view 1 is final; the leader of view 2 builds as if there were no such block.

    Bodies prove nothing here, as in earnest after a long halt: who does not look at what it holds itself forks.
    """
    alone = (frozenset[int](),)
    to_one = tuple(frozenset({node, 3}) for node in (0, 1, 2, 4))
    cuts = {
        (0, 1, "finalize"): to_one,
        (0, 1, "certificate"): alone,
        (0, 2, "proposal"): (frozenset(range(4)),),  # of one of the two leaders only
    }
    schedule = Schedule(
        seed=1,
        stakes=(1000,) * 4,
        twins=(0,),
        views=2,
        epoch_heights=1000,
        committees=((0, 1, 2, 3),),
        leaders=((1, 0),),
        cuts=cuts,
        phases=(),
        crash=None,
        are_strangers=True,
        proven=0,
        are_rewinders=True,
    )
    assert [fault for fault in check(schedule, core=Gullible) if "others" in fault]
    assert not check(schedule)
