"""A small market on which every answer is compared: its executors have backends of different quality, and judge."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from chain.parameters.checks import CheckParameters
from chain.parameters.duels import DuelParameters
from chain.state.duel_records import Duel
from chain.transition.duels.events import DuelEvent, DuelSettled
from serving.openai.answers import Answer
from serving.quality.duels.runner import DuelRunner
from tests.support.market.scripted_backend import Pieces, ScriptedBackend
from tests.support.market_world import MODEL, Member, Options, World, ask, simulate
from tests.support.openai_answers import make_whole
from tests.support.servers.judging_texts import read_texts
from tests.support.waiting import BLOCK_INTERVAL, eventually

NO_CHECKS = CheckParameters(checkers=0)
"""For worlds in which the levy for duels takes all of a capture."""
DUELS = DuelParameters(
    rate=1_000,
    probation_rate=1_000,
    answer_ms=30_000,
    commit_ms=30_000,
    reveal_ms=20_000,
    challenger=300,
    challenger_lost=200,
    judge=300,
    executor_won=100,
    executor_lost=500,
    levy=1_000,
)
"""Every answer becomes a duel; the shares are such that the levy can pay for that."""
SEATS_WAIT_S = 120.0
"""Simulated time in which judges have declared themselves and a table with them is in force."""

_QUALITY = re.compile(r"q(\d+)-")


def read_quality(text: str) -> int:
    """The quality of the backend that has written a text; 0 if none has."""
    found = _QUALITY.search(text)
    return int(found[1]) if found else 0


def judge_by_quality(texts: Mapping[str, str]) -> str:
    """The letter of an honest judge: the better backend wins, and quality 0 is of no use."""
    if "ANSWER" in texts:
        return "U" if read_quality(texts["ANSWER"]) else "X"
    a, b = read_quality(texts["ANSWER A"]), read_quality(texts["ANSWER B"])
    if a == b:
        return "C" if a else "Z"
    if not min(a, b):
        return "Y" if a else "X"
    return "A" if a > b else "B"


@dataclass
class JudgingBackend(ScriptedBackend):
    """A scripted backend that is asked for ballots too; what it was asked for is counted apart."""

    judge: Callable[[Mapping[str, str]], str] = judge_by_quality
    ballots: int = 0
    judge_delay: float = 0.5

    @asynccontextmanager
    async def complete(self, path: str, body: bytes, *, stream: bool) -> AsyncIterator[Answer]:
        texts = read_texts(json.loads(body)["messages"])
        if not texts:
            async with super().complete(path, body, stream=stream) as answer:
                yield answer
            return
        self.ballots += 1
        self.running += 1
        try:
            await trio.sleep(self.judge_delay)
            yield Answer(200, "application/json", Pieces([make_whole(MODEL, self.judge(texts), 1, "stop")]))
        finally:
            self.running -= 1


@dataclass
class DuelOptions(Options):
    """Options of a market with duels; ``qualities`` are those of the executors, in their order."""

    qualities: tuple[int, ...] = (9, 8, 7, 6, 5, 4)
    duels: DuelParameters = field(default_factory=lambda: DUELS)

    def __post_init__(self) -> None:
        self.executors = len(self.qualities)
        first = max(self.gateways) + 1
        self.judges = self.judges or tuple(range(first, first + self.executors))
        self.parameters = {
            "round_heights": 4,
            "idle_beat_ms": 1_000,
            "duels": self.duels,
            "checks": NO_CHECKS,
            **self.parameters,
        }
        self.make_backend = lambda number: JudgingBackend(f"q{self.qualities[number - first]}-")


def list_duels(world: World) -> dict[bytes, Duel]:
    """The open duels, by hold."""
    state = world.state_node.engine.state
    return {leaf.key[1:]: leaf.record for leaf in state.entries() if isinstance(leaf.record, Duel)}


async def wait_for_judges(world: World) -> None:
    """Until the serving table in force has all judges."""

    def is_in_force() -> bool:
        state = world.state_node.engine.state
        table = state.serving_table(state.serving_periods.current.first_round)
        judges = 0 if table is None else sum(entry.judge is not None for entry in table.entries)
        return judges == len(world.options.judges)

    await eventually(is_in_force, SEATS_WAIT_S, interval=BLOCK_INTERVAL)


class Witness:
    """Collects what blocks do about duels, by hold, as one member sees it."""

    def __init__(self, world: World, number: int = 0) -> None:
        self.events: dict[bytes, list[DuelEvent]] = {}
        self._node = world.members[number].node
        world.nursery.start_soon(self._follow)

    async def _follow(self) -> None:
        async with self._node.engine.subscribe_final() as blocks:
            async for final in blocks:
                for event in final.duel_events:
                    self.events.setdefault(event.hold, []).append(event)

    @property
    def settled(self) -> list[DuelSettled]:
        return [event for events in self.events.values() for event in events if isinstance(event, DuelSettled)]

    async def wait_settled(self, count: int, timeout: float = 300.0) -> list[DuelSettled]:
        """Until so many duels are settled."""
        await eventually(lambda: len(self.settled) >= count, timeout, interval=BLOCK_INTERVAL)
        return self.settled


def simulate_duels(
    play: Callable[[World, Witness], Awaitable[None]], options: DuelOptions | None = None, with_judges: bool = True
) -> None:
    """Run ``play`` in a market with duels, once all judges are in force."""

    async def begin(world: World) -> None:
        witness = Witness(world)
        if with_judges:
            await wait_for_judges(world)
        await play(world, witness)

    simulate(begin, options or DuelOptions())


def get_judging_backend(member: Member) -> JudgingBackend:
    """The backend of an executor."""
    assert isinstance(member.backend, JudgingBackend)
    return member.backend


def get_runner(member: Member) -> DuelRunner:
    """A member's part in duels."""
    runner = member.node.duels
    assert runner is not None
    return runner


async def find_open_duel(
    world: World, stage: int, *, payer: int, with_challenger: bool, slow_judges: bool = False
) -> tuple[bytes, Duel]:
    """Have a member ask until a duel about its answer is open and in a stage; the duel, with its hold.

    Whoever is drawn takes its time, so that the stage can be seen.
    """
    for member in world.members:
        if isinstance(member.backend, JudgingBackend):
            member.backend.judge_delay = 10.0 if slow_judges else 2.0
            member.backend.script.first_delay = 3.0

    def find() -> list[tuple[bytes, Duel]]:
        return [
            (hold, duel)
            for hold, duel in list_duels(world).items()
            if duel.stage == stage and (duel.challenger is not None or not with_challenger)
        ]

    for _ in range(10):
        assert (await ask(world.members[payer].node)).status == 200
        with trio.move_on_after(60):
            await eventually(lambda: bool(find()), 61, interval=BLOCK_INTERVAL)
        if found := find():
            await trio.sleep(1.0)  # until all have seen that block
            return found[0]
    raise AssertionError("no such duel was opened")
