"""What a strategy is, how it is played on the ledger, and what it gains over honesty on the same requests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from statistics import fmean, stdev

from chain.parameters.checks import CheckParameters
from chain.parameters.duels import DEFAULT_RATE, DuelParameters
from chain.parameters.parameters import CREDIT, Parameters, choose_parameters
from tests.support.strategies.check_market import CheckedAgent, CheckMarket
from tests.support.strategies.ledger_market import AVERAGE_USAGE, MARKET_PARAMETERS, SHORT_STAGES, LedgerMarket
from tests.support.strategies.market_agents import Agent, Payer

ATTACKER = "attacker"
"""The owner of all accounts that follow a strategy."""
STAKE = 1_000 * CREDIT
"""Bond of an honest agent."""
TREASURY = 1_000 * CREDIT
"""What the treasury begins with: enough for every duel."""
PRICE = MARKET_PARAMETERS.price.compute(AVERAGE_USAGE)
"""Micro-credits of the average answer."""
USERS = 12
"""Honest payers."""
OFTEN = replace(MARKET_PARAMETERS.duels, rate=500)
"""Every second answer becomes a duel: where only what duels pay is counted, it is known sooner."""
SOONER = choose_parameters(DEFAULT_RATE, Parameters(duels=SHORT_STAGES)).duels
"""For short tests: duels twice as frequent, with half of the fines."""

ERRORS = 2.0
"""Standard errors by which a mean may be wrong."""


class Per(StrEnum):
    """What gains are counted by."""

    ANSWER = "answer"
    """An answer that the attacker gave as executor."""
    SHARE = "request due"
    """One of its share of all requests by its stake, whether it got it or not."""
    VOTE = "vote"
    """A seat of the attacker as judge. Only what it gets, pays and works as judge is counted."""
    DUEL = "duel"
    """A duel in which it is executor or challenger. Only what that moves is counted."""
    CHECK = "check"
    """A seat of the attacker as checker. Only what it gets, pays and works as checker is counted."""
    OWN_REQUEST = "own request"
    """A request that a payer of the attacker sent."""


def leave(market: LedgerMarket) -> None:
    """Begin as it is."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A market with an attacker in it: ``accounts`` of the kind ``agent`` and payers of the kind ``payer``, if any.

    The attacker has ``share`` of the stake of all, in equal parts. Each of its agents is made with ``options``.
    The other agents are honest, or of the kind ``others``. With ``only_own_requests`` no one else pays for any. An
    attacker that is honest is of the kind ``honest_agent``; a market with ``checks`` has those of
    :mod:`tests.support.strategies.check_market`.
    """

    agent: type[Agent] = Agent
    payer: type[Payer] | None = None
    accounts: int = 1
    share: float = 1 / 3
    options: tuple[tuple[str, object], ...] = ()
    payer_options: tuple[tuple[str, object], ...] = ()
    others: type[Agent] = Agent
    other_accounts: int = 10
    only_own_requests: bool = False
    duels: DuelParameters = MARKET_PARAMETERS.duels
    unused_number_fee: int = MARKET_PARAMETERS.unused_number_fee
    missed_lead_fee: int = MARKET_PARAMETERS.missed_lead_fee
    checks: CheckParameters = MARKET_PARAMETERS.checks
    honest_agent: type[Agent] = Agent
    with_validators: bool = False
    treasury: int = TREASURY
    per_block: int = 8
    prepare: Callable[[LedgerMarket], None] = leave

    def play(self, requests: int, seed: int) -> LedgerMarket:
        """A market in which this number of requests was served."""
        bonded = round(STAKE * self.other_accounts * self.share / (1 - self.share) / self.accounts)
        fields = {"bonded": bonded, "is_validator": self.with_validators, **dict(self.options)}
        agents = [
            self.agent(f"{ATTACKER} {number}", owner=ATTACKER, **fields)  # type: ignore[arg-type]
            for number in range(self.accounts)
        ]
        agents += [
            self.others(f"other {number}", bonded=STAKE, is_validator=self.with_validators)
            for number in range(self.other_accounts)
        ]
        payers = [] if self.only_own_requests else [Payer(f"user {number}") for number in range(USERS)]
        if self.payer is not None:
            payers.append(self.payer(f"{ATTACKER}'s user", owner=ATTACKER, **dict(self.payer_options)))  # type: ignore[arg-type]
        parameters = replace(
            MARKET_PARAMETERS,
            duels=self.duels,
            checks=self.checks,
            unused_number_fee=self.unused_number_fee,
            missed_lead_fee=self.missed_lead_fee,
        )
        kind = CheckMarket if self.checks.checkers else LedgerMarket
        market = kind(agents, payers, seed=seed, parameters=parameters, treasury=self.treasury)  # type: ignore[arg-type]
        self.prepare(market)
        # The attacker's payer is the last one: in each block all ask, or it never would.
        market.run(requests, self.per_block if self.payer is None else max(self.per_block, len(payers)))
        return market

    @property
    def sooner(self) -> Scene:
        """The same, for a short test."""
        return replace(self, duels=SOONER) if self.duels == MARKET_PARAMETERS.duels else self

    @property
    def honest(self) -> Scene:
        """The same market where the attacker is honest."""
        return replace(self, agent=self.honest_agent, payer=self.payer and Payer)


@dataclass(frozen=True, slots=True)
class Size:
    """A number of requests, played from each of a number of seeds."""

    requests: int
    seeds: int


FULL, WIDE, QUICK = Size(1_200, 4), Size(3_000, 5), Size(300, 3)
"""For the table: what shows a strategy that moves much, and one that moves little. The last is for a short test."""
LONG = Size(2_500, 4)
"""For the table: what shows a strategy that only few answers in a hundred cost something."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """One strategy.

    ``simulation`` is what it gained over honesty by the simulation, in prices per 1,000 of what is counted; None if it
    was not simulated. ``against`` is the scene of those who do not follow it: by default the same with an honest
    attacker. One that ``stays_away`` otherwise gains nothing then. ``quick`` shows the same in a short test; None if
    that takes more, or others show it too. ``accepted`` says why a gain
    is accepted, of ``limit`` prices per 1,000 at most.
    """

    title: str
    scene: Scene
    simulation: float | None = None
    per: Per = Per.ANSWER
    against: Scene | None = None
    stays_away: bool = False
    owner: str = ATTACKER
    size: Size = FULL
    quick: Size | None = None
    accepted: str = ""
    limit: float = 0.0


@dataclass(frozen=True, slots=True)
class Gain:
    """Prices gained over honesty per 1,000 of what is counted, with its standard error."""

    mean: float
    error: float

    def is_below(self, limit: float) -> bool:
        """Whether it is no more than a limit, beyond what chance may bring."""
        return self.mean + ERRORS * self.error <= limit


def in_prices(micro_credits: float) -> float:
    """Gains in micro-credits as prices per 1,000."""
    return 1_000 * micro_credits / PRICE


def measure(strategy: Strategy, size: Size | None = None) -> Gain:
    """Play a strategy, at its full size by default; at another one with duels that are more frequent."""
    scene, against = strategy.scene, strategy.against or strategy.scene.honest
    if size is None:
        size = strategy.size
    else:
        scene, against = scene.sooner, against.sooner
    values = []
    for seed in range(size.seeds):
        value = _play(scene, strategy.per, size.requests, seed, strategy.owner)
        if not strategy.stays_away:
            value -= _play(against, strategy.per, size.requests, seed, strategy.owner)
        values.append(value)
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return Gain(fmean(values), error)


@cache
def _play(scene: Scene, per: Per, requests: int, seed: int, owner: str) -> float:
    """What an owner gains in a scene, in prices per 1,000 of what is counted."""
    market = scene.play(requests, seed)
    agents = [agent for agent in market.agents.values() if agent.owner == owner]
    gained = market.gain(owner)
    if per is Per.ANSWER:
        count: float = sum(agent.counts["served"] for agent in agents)
    elif per is Per.SHARE:
        count = requests * scene.share
    elif per is Per.OWN_REQUEST:
        count = requests if scene.only_own_requests else requests / (USERS + 1)
    elif per is Per.DUEL:
        gained, count = _count_duels(market, agents)
    elif per is Per.CHECK:
        gained, count = _count_checks(market, agents)
    else:
        gained, count = _count_votes(market, agents)
    assert count, "the attacker did nothing"
    return in_prices(gained / count)


def _count_votes(market: LedgerMarket, agents: Sequence[Agent]) -> tuple[float, int]:
    """What agents got for judging, less its cost, and how many seats they had.

    They have worked for nothing else: see :class:`~tests.adversarial.duels.judges.JudgeAlone`.
    """
    keys, gained, seats = {agent.public_key for agent in agents}, 0, 0
    ended = [(event.duel.all_seats, event.movements) for event in market.settled]
    ended += [(event.first_seats, event.movements) for event in market.accused]
    for panel, movements in ended:
        judges = {seat.public_key for seat in panel} & keys
        seats += len(judges)
        gained += sum(each.amount for each in movements if each.public_key in judges)
    return gained - sum(agent.spent for agent in agents), seats


def _count_duels(market: LedgerMarket, agents: Sequence[Agent]) -> tuple[float, int]:
    """What duels moved for agents that were compared in them, and how many these were."""
    keys, gained = {agent.public_key for agent in agents}, 0
    parties = {event.hold: {event.duel.executor, event.duel.challenger} & keys for event in market.settled}
    for event in (*market.settled, *market.accused):
        gained += sum(each.amount for each in event.movements if each.public_key in parties[event.hold])
    return gained, sum(map(bool, parties.values()))


def _count_checks(market: LedgerMarket, agents: Sequence[Agent]) -> tuple[float, int]:
    """What agents got for checking, less what it cost them, and how many seats they had."""
    assert isinstance(market, CheckMarket)
    keys, gained, seats = {agent.public_key for agent in agents}, 0, 0
    for event in market.checked:
        checkers = {seat.public_key for seat in event.check.seats} & keys
        seats += len(checkers)
        gained += sum(each.amount for each in event.movements if each.public_key in checkers)
    return gained - sum(agent.spent_on_checks for agent in agents if isinstance(agent, CheckedAgent)), seats


def is_answered(strategy: Strategy, gain: Gain) -> bool:
    """Whether a strategy gains no more than is accepted of it."""
    return gain.is_below(strategy.limit)
