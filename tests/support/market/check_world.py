"""A small market on which the model of every answer is checked: its executors run language models of thirty tokens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from chain.parameters.checks import CheckParameters
from chain.parameters.duels import DuelParameters
from chain.state.check_records import ModelCheck
from chain.transition.checks.events import CheckEvent, CheckSettled
from serving.quality.duels.runner import DuelRunner
from tests.support.market.model_backend import IDENTITY, ModelBackend
from tests.support.market_world import Member, Options, World, ask, make_request, simulate
from tests.support.servers.scripted_model import ScriptedModel
from tests.support.waiting import BLOCK_INTERVAL, eventually

DUELS = DuelParameters(
    rate=1_000,
    probation_rate=1_000,
    judges=1,
    judge=300,
    challenger=200,
    challenger_lost=100,
    executor_won=50,
    executor_lost=250,
    levy=400,
)
"""Every answer is drawn. No member judges, so that there are no duels about them."""
CHECKS = CheckParameters(levy=300, commit_ms=60_000, reveal_ms=30_000)
DECLARED_WAIT_S = 120.0
"""Simulated time in which identities are declared and a table with them is in force."""


@dataclass
class CheckOptions(Options):
    """Options of a market with checks. ``substituted`` are members that serve other weights than they declare."""

    executors: int = 5
    substituted: tuple[int, ...] = ()
    noise: float = 1.0
    """How far their log-probabilities are from the declared ones, in nats."""
    has_identities: bool = True
    checks: CheckParameters = field(default_factory=lambda: CHECKS)

    def __post_init__(self) -> None:
        first = max(self.gateways) + 1
        members = range(first, first + self.executors) if self.has_identities else ()
        self.identities = dict.fromkeys(members, IDENTITY)
        self.parameters = {
            "round_heights": 4,
            "idle_beat_ms": 1_000,
            "duels": DUELS,
            "checks": self.checks,
            **self.parameters,
        }
        self.make_backend = self._make_backend

    def _make_backend(self, number: int) -> ModelBackend:
        noise = self.noise if number in self.substituted else 0.0
        return ModelBackend(f"m{number}-", model=ScriptedModel("vllm", f"weights {number}", noise))


class CheckWitness:
    """Collects what blocks do about checks, by hold, as the first member sees it."""

    def __init__(self, world: World) -> None:
        self.events: dict[bytes, list[CheckEvent]] = {}
        self._node = world.members[0].node
        world.nursery.start_soon(self._follow)

    async def _follow(self) -> None:
        async with self._node.engine.subscribe_final() as blocks:
            async for final in blocks:
                for event in final.check_events:
                    self.events.setdefault(event.hold, []).append(event)

    @property
    def settled(self) -> list[CheckSettled]:
        return [event for events in self.events.values() for event in events if isinstance(event, CheckSettled)]

    async def wait_settled(self, count: int, timeout: float = 400.0) -> list[CheckSettled]:
        """Until so many checks are settled."""
        await eventually(lambda: len(self.settled) >= count, timeout, interval=BLOCK_INTERVAL)
        return self.settled


async def wait_for_identities(world: World) -> None:
    """Until the serving table in force has all identities."""

    def is_in_force() -> bool:
        state = world.state_node.engine.state
        table = state.serving_table(state.serving_periods.current.first_round)
        declared = 0 if table is None else sum(bool(entry.identities) for entry in table.entries)
        return declared == len(world.options.identities)

    await eventually(is_in_force, DECLARED_WAIT_S, interval=BLOCK_INTERVAL)


def simulate_checks(
    play: Callable[[World, CheckWitness], Awaitable[None]], options: CheckOptions | None = None
) -> None:
    """Run ``play`` in a market with checks, once all identities are in force."""

    async def begin(world: World) -> None:
        witness = CheckWitness(world)
        await wait_for_identities(world)
        await play(world, witness)

    simulate(begin, options or CheckOptions())


def list_checks(world: World) -> dict[bytes, ModelCheck]:
    """The open checks, by hold."""
    state = world.state_node.engine.state
    return {leaf.key[1:]: leaf.record for leaf in state.entries() if isinstance(leaf.record, ModelCheck)}


def get_model_backend(member: Member) -> ModelBackend:
    """The backend of an executor."""
    assert isinstance(member.backend, ModelBackend)
    return member.backend


def get_runner(member: Member) -> DuelRunner:
    """A member's part in duels and checks."""
    runner = member.node.duels
    assert runner is not None
    return runner


async def find_open_check(world: World, stage: int, *, payer: int = 0, slow: bool = True) -> tuple[bytes, ModelCheck]:
    """Have a member ask until a check of its answer is open and in a stage; the check, with its hold."""
    for member in world.members:
        if isinstance(member.backend, ModelBackend) and slow:
            member.backend.question_delay = 2.0
    assert (await ask(world.members[payer].node, make_request(temperature=1.0))).status == 200

    def find() -> list[tuple[bytes, ModelCheck]]:
        return [(hold, check) for hold, check in list_checks(world).items() if check.stage == stage]

    await eventually(lambda: bool(find()), 200, interval=BLOCK_INTERVAL)
    return find()[0]
