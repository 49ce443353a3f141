"""Validators whose clock runs fast, slow, or not at all: agreement rests on no clock, only its pace does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from chain.state.state import State, compute_supply
from chain.transition.validators.jailing import get_standing
from chain.types.blocks import Header
from chain.types.votes import VoteKind
from consensus.simplex.core import Simplex
from consensus.simplex.messages import Effect, Message
from consensus.simplex.view_timer import Timeouts
from p2p.simulation.runtime import SimulatedRuntime
from tests.support.agreement.agreement import Network, Simulation
from tests.support.agreement.scenarios import always, assert_recovers, disturb, heal, make_keys, make_set
from tests.support.consensus_world import World, make_equal_genesis, simulate
from tests.support.keys import make_key


class Hasty(Simplex):
    """Times out before anything can arrive."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{**arguments, "timeouts": Timeouts(0.01, 0.05)})


class Sluggish(Simplex):
    """Waits for minutes."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{**arguments, "timeouts": Timeouts(100.0, 1000.0)})


class Timeless(Simplex):
    """Its timer never rings."""

    def on_timeout(self, view: int) -> list[Effect]:
        return []


class Nervous(Simplex):
    """Its timer rings with every message."""

    def on_message(self, message: Message) -> list[Effect]:
        return super().on_message(message) + self.on_timeout(self.view)


@pytest.mark.parametrize(
    ("clock", "seeds"),
    [
        (Hasty, range(1, 3)),
        (Timeless, range(3, 5)),
        *(pytest.param(clock, range(5), marks=pytest.mark.long) for clock in (Hasty, Timeless, Sluggish, Nervous)),
    ],
)
def test_one_wrong_clock_does_not_stop_the_chain(clock: type[Simplex], seeds: Sequence[int]) -> None:
    """Its owner is honest: no vote of it contradicts another, and no validator accuses it."""
    for seed in seeds:
        keys = make_keys(4 + seed % 4)
        simulation = Simulation(
            seed,
            keys,
            always(make_set(keys)),
            epoch_heights=(3, 1000)[seed % 2],
            network=Network(delay=(0.005, 0.5), loss=0.1),
            cores={0: clock},
        )
        disturb(simulation, crash_rate=0.0, phases=4)
        heal(simulation)
        assert_recovers(simulation, seconds=400.0)
        assert not simulation.conflicts


@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(1, 5), marks=pytest.mark.long)])
def test_clocks_of_all_kinds_together_are_safe(seeds: Sequence[int]) -> None:
    """With no honest clock left progress may be slow, but nothing contradicts itself."""
    for seed in seeds:
        keys = make_keys(4)
        cores: dict[int, type[Simplex]] = {0: Hasty, 1: Sluggish, 2: Timeless, 3: Hasty}
        simulation = Simulation(seed, keys, always(make_set(keys)), cores=cores)
        disturb(simulation, crash_rate=0.0, phases=3)
        heal(simulation)
        simulation.run(10)
        assert not simulation.violations
        assert not simulation.conflicts


# Wall clocks, in real engines on a real ledger. (Above it was how fast time passes.)

VALIDATORS = (1, 2, 3, 4)
PAYER = 5
GENESIS = make_equal_genesis(4, others=1, epoch_heights=10)


@dataclass
class Course:
    """What became of a chain whose validators had wrong clocks."""

    elapsed: int
    """ms of real time."""
    head: Header
    proposed: Counter[int] = field(default_factory=Counter)
    """Final blocks by proposer."""
    backed: dict[int, Counter[int]] = field(default_factory=dict)
    """Final blocks that each signed notarize for, by proposer."""
    missed: dict[int, int] = field(default_factory=dict)
    """Fees for missed leads, for those who paid any."""
    absent: set[int] = field(default_factory=set)
    """Those that had voted for less than half of the counted blocks, at any time after the first few."""


def run_engines(skews: dict[int, int], height: int = 30) -> Course:
    """Pay until the chain has a height. Everybody has the same, and no credit was made or lost."""
    courses: list[Course] = []
    absent: set[int] = set()

    def look(state: State) -> None:
        standings = {number: get_standing(state, make_key(number).public_key) for number in VALIDATORS}
        absent.update(
            number for number, standing in standings.items() if standing and standing.votes < standing.needed > 4
        )

    async def play(world: World) -> None:
        world.skews = skews
        await world.start(*VALIDATORS)
        engine, began = world.engine(1), trio.current_time()
        with trio.fail_after(3_600):
            while engine.header.height < height:
                operation = world.transfer(PAYER, 2, 5)
                await engine.submit(operation)
                await engine.wait_final(operation.id, 900.0)
                look(engine.state)
        course = Course(round((trio.current_time() - began) * 1000), engine.header, absent=absent)
        await world.wait_height(engine.header.height)
        world.check_same_chain()
        note_course(course, world)
        courses.append(course)

    simulate(GENESIS, play)
    return courses[0]


def note_course(course: Course, world: World) -> None:
    engine, fee = world.engine(1), GENESIS.parameters.missed_lead_fee
    assert compute_supply(engine.state) == GENESIS.supply
    blocks = [engine._store.block(height) for height in range(1, course.head.height + 1)]
    numbers = {make_key(number).public_key: number for number in VALIDATORS}
    proposers = {block.id: numbers[block.header.proposer] for block in blocks if block is not None}
    course.proposed.update(proposers.values())
    for number in VALIDATORS:
        vote_store, key = world.engine(number)._vote_store, make_key(number).public_key
        assert vote_store is not None
        votes = [vote for epoch in range(course.head.epoch + 1) for vote in vote_store.journal.votes(epoch)]
        backed = {vote.block_id for vote in votes if vote.kind == VoteKind.NOTARIZE}
        course.backed[number] = Counter(proposers[block_id] for block_id in backed & proposers.keys())
        lost = GENESIS.state.account(key).available - engine.state.account(key).available
        if number != 2 and lost >= fee:  # number 2 is paid all the time
            course.missed[number] = lost // fee


@pytest.mark.parametrize(
    "skews",
    [{3: 450, 4: -450}, *(pytest.param(skews, marks=pytest.mark.long) for skews in ({}, {4: 900}, {4: -900}))],
    ids=str,
)
def test_clocks_within_a_second_of_one_another_are_right(skews: dict[int, int]) -> None:
    """Every validator leads, votes for all, pays nothing and stays."""
    course = run_engines(skews)
    assert set(course.proposed) == set(VALIDATORS)
    assert all(backed.total() > 20 and set(backed) == set(VALIDATORS) for backed in course.backed.values())
    assert course.missed == {} and course.absent == set()
    assert abs(course.head.chain_time - course.elapsed) < 1_500


def test_a_clock_that_is_as_fast_as_allowed_makes_one_wrong_that_is_as_slow() -> None:
    """Timestamps never go back: after a block that is 0.9 s ahead those of all leaders are, for as long. A node
    that is slow by 0.9 s votes for none of them, although it would for those of all but the fast one without it.
    """
    course = run_engines({3: 900, 4: -900})
    assert set(course.proposed) == set(VALIDATORS), "a quorum has no quarrel with any of them"
    assert 3 not in course.backed[4]
    assert all(course.backed[number].total() > 20 for number in (1, 2, 3))
    assert course.missed == {} and course.absent == {4}


def test_who_is_a_minute_behind_votes_for_nothing_and_counts_as_absent() -> None:
    """For its clock every block but its own is of the future. Nodes with the right time are not held up by it."""
    course = run_engines({4: -60_000})
    assert set(course.backed[4]) <= {4}
    assert course.absent == {4}
    assert course.missed == {}
    assert all(course.backed[number].total() > 20 for number in (1, 2, 3))
    assert abs(course.head.chain_time - course.elapsed) < 1_500


@pytest.mark.parametrize("skew", [5_000, pytest.param(60_000, marks=pytest.mark.long)])
def test_who_is_ahead_votes_but_leads_in_vain_and_pays_for_it(skew: int) -> None:
    """When the time of its blocks has come for the others, they have given its view up (or nearly always)."""
    course = run_engines({4: skew})
    assert set(course.proposed) >= {1, 2, 3}
    assert course.proposed[4] <= (3 if skew < 10_000 else 0) < course.missed[4]  # of 30 blocks
    assert course.backed[4].total() > 20
    assert course.absent == set()
    assert list(course.missed) == [4] and course.missed[4] > 3
    assert course.head.chain_time <= course.elapsed, "and time does not run ahead with it"


def test_two_wrong_clocks_of_four() -> None:
    """One ahead and one behind: both get what each gets alone, and the two others with the one ahead are a quorum."""
    course = run_engines({3: -60_000, 4: 60_000})
    assert 4 not in course.proposed and set(course.backed[3]) <= {3}
    assert course.absent == {3} and list(course.missed) == [4]
    assert course.head.chain_time <= course.elapsed


def test_more_than_a_third_behind_set_the_pace() -> None:
    """Without them there is no quorum, and they vote for blocks of their own time alone: the chain goes on, slowly, and
    those whose clocks are right pay for views in which they led in vain. No clock makes two chains.
    """
    course = run_engines({3: -60_000, 4: -60_000}, height=20)
    assert set(course.proposed) == {3, 4}
    assert 1 in course.missed
    assert course.head.chain_time < course.elapsed / 2
    assert course.head.timestamp < SimulatedRuntime.EPOCH_MS + course.elapsed - 59_000
