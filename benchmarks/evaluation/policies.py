"""What owners' choices do: stake, acceptance and offload frequency beside what is expected (the paper's Figure 8).

- **Stake** 1 : 2 : 3 : 4 of four executors: a node that delegates everything draws them by stake. Beside it the choice
  of four, which asks the one with the least predicted time.
- **Acceptance** frequency 0.25 to 1.0 of four executors with equal stakes: the share of offers that each accepts.
- **Offload** frequency 0.25 to 1.0 of four nodes above their target utilization: the share that each delegates.

Whole nodes with the policy ``paper``, at a load at which nobody is ever full. A share of independent decisions deviates
from its expectation by chance; more than four standard errors are a fault.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from benchmarks.evaluation.harness import Task, estimate, map_tasks
from benchmarks.evaluation.market import Market, MarketKind
from benchmarks.evaluation.workloads import PROMPT_TOKENS, Request, Setting, Site
from benchmarks.network.shared_ledger import run_nodes
from benchmarks.pictures import Chart, Series
from benchmarks.report import Figure, Option, Run
from chain.crypto import KeyPair
from chain.genesis import Genesis, make_genesis, make_validator
from chain.parameters.parameters import CREDIT, Parameters
from p2p.simulation.runtime import SimulatedRuntime
from serving.offload.settings import OriginatorSettings
from serving.scheduling.policy import Decision, LoadSnapshot, Policy, PolicyParameters, ProbabilisticPolicy

RATE = 2.0
"""Requests per second of a node with users."""
OUTPUT_TOKENS = (20, 100)
"""Least and most tokens of an answer: short, so that nobody is ever full."""
SITE = Site("qwen3-4b", "H100 SXM", ())
DRAWN = OriginatorSettings(choices=1, exploration=0.0)
"""Executors are asked as the lottery draws them."""
CHOSEN = OriginatorSettings()
MAX_DEVIATION = 4.0
"""Standard errors; of twenty shares one deviates further by chance once in 800 runs."""


ALWAYS = PolicyParameters(accept_frequency=1.0, target_utilization=1.0)
"""Of an owner who takes what comes."""


@dataclass(frozen=True, slots=True)
class Owner:
    """What the owner of a node chooses: its bond in credits, and its policy. ``has_users``: whether requests come."""

    bond: int = 1_000
    parameters: PolicyParameters = ALWAYS
    has_users: bool = False


def make_user(offload_frequency: float) -> Owner:
    """An owner whose node is always above its target, and has users."""
    parameters = PolicyParameters(offload_frequency=offload_frequency, target_utilization=0.0, queue_frequency=1.0)
    return Owner(parameters=parameters, has_users=True)


def make_executor(accept_frequency: float) -> Owner:
    """An owner whose node is never above its target."""
    return Owner(parameters=PolicyParameters(accept_frequency=accept_frequency, target_utilization=1.0))


FREQUENCIES = (0.25, 0.5, 0.75, 1.0)
STAKES = (1, 2, 3, 4)
EXPERIMENTS = {
    "stake": (make_user(1.0), *(Owner(1_000 * stake) for stake in STAKES)),
    "stake, choice of four": (make_user(1.0), *(Owner(1_000 * stake) for stake in STAKES)),
    "acceptance": (make_user(1.0), *map(make_executor, FREQUENCIES)),
    "offload": (Owner(), *map(make_user, FREQUENCIES)),
}
"""By what is compared: a node 0, and the four owners who differ."""


@dataclass(frozen=True, slots=True)
class Count:
    """So many ``hits`` of ``trials``."""

    hits: int
    trials: int

    @property
    def share(self) -> float:
        return self.hits / self.trials if self.trials else math.nan


class CountingPolicy(ProbabilisticPolicy):
    """Counts what it decides on offers: a node also declines for other reasons, as a payer with too much unpaid."""

    def __init__(self, parameters: PolicyParameters) -> None:
        super().__init__(parameters)
        self.asked = self.accepted = 0

    def decide_offer(self, load: LoadSnapshot, chance: random.Random) -> Decision:
        decision = super().decide_offer(load, chance)
        self.asked += 1
        self.accepted += decision is not Decision.DECLINE
        return decision


class OwnersMarket(Market):
    """Equal nodes whose owners differ."""

    def __init__(
        self, name: str, owners: Sequence[Owner], requests: Sequence[Request], seed: int, originator: OriginatorSettings
    ) -> None:
        self.owners = owners
        self.policies: list[CountingPolicy] = []
        setting = Setting(name, "equal nodes", (SITE,) * len(owners), 0.0)
        super().__init__(setting, requests, seed, MarketKind("paper", originator))

    def make_genesis(self, keys: Sequence[KeyPair]) -> Genesis:
        """Every node votes and serves with the bond that its owner chose."""
        parameters, beacon = Parameters(epoch_heights=20, round_heights=4), bytes(32)
        accounts = [
            make_validator(key, beacon, parameters, 10_000 * CREDIT, owner.bond * CREDIT, (self.model,))
            for key, owner in zip(keys, self.owners, strict=True)
        ]
        return make_genesis("simulation", SimulatedRuntime.EPOCH_MS, beacon, accounts, parameters)

    def make_policy(self, number: int) -> Policy:
        """The one that its owner chose, for answers as long as the workload's."""
        self.policies.append(CountingPolicy(self.owners[number].parameters))
        return self.policies[number]


def draw_short_requests(owners: Sequence[Owner], count: int, seed: int) -> list[Request]:
    """``count`` requests at each node with users, as a Poisson process."""
    drawn = []
    for node, owner in enumerate(owners):
        chance, time = random.Random(f"short:{node}:{seed}"), 0.0
        for _ in range(count if owner.has_users else 0):
            time += chance.expovariate(RATE)
            drawn.append((time, node, chance.randint(*PROMPT_TOKENS), chance.randint(*OUTPUT_TOKENS)))
    return [Request(id, node, time, prompt, output) for id, (time, node, prompt, output) in enumerate(sorted(drawn))]


def work(task: Task) -> list[Count]:
    """One run: the counts of the four owners. ``parameters`` is the number of requests."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    owners = EXPERIMENTS[task.setting]
    requests = draw_short_requests(owners, int(task.parameters), task.seed)
    originator = CHOSEN if task.setting == "stake, choice of four" else DRAWN
    market = OwnersMarket(task.setting, owners, requests, task.seed, originator)
    results = run_nodes(f"{task.setting}:{task.seed}", market.run_market).results
    numbers = range(1, len(owners))
    if task.setting == "acceptance":
        return [Count(market.policies[number].accepted, market.policies[number].asked) for number in numbers]
    if task.setting == "offload":
        counters = [market.nodes[number].dispatcher.counters for number in numbers]
        return [Count(each.offloaded, each.offloaded + each.local) for each in counters]
    delegated = [result.executor for result in results if result.executor]
    return [Count(delegated.count(number), len(delegated)) for number in numbers]


def get_expected(experiment: str) -> Sequence[float]:
    """The shares of the four owners."""
    return [stake / sum(STAKES) for stake in STAKES] if experiment.startswith("stake") else FREQUENCIES


def compute_deviation(count: Count, expected: float) -> float:
    """How far a share is off its expectation, in standard errors of independent decisions."""
    error = math.sqrt(count.trials * expected * (1 - expected))
    off = abs(count.hits - count.trials * expected)
    return off / error if error else (0.0 if off < 0.5 else math.inf)


def make_figures(counts: dict[str, list[list[Count]]]) -> list[Figure]:
    """The four shares of each experiment, and how far they are off. ``counts``: for each seed, by experiment."""
    figures = []
    for experiment, runs in counts.items():
        deviations = []
        for owner, expected in enumerate(get_expected(experiment)):
            each = [run[owner] for run in runs]
            share = estimate([count.share for count in each])
            half = "" if math.isnan(share.half) else f"± {share.half:.2g} at 95 %; "
            what = f"owner with {STAKES[owner]}" if experiment.startswith("stake") else f"owner with {expected:g}"
            name = f"{experiment}, {what}: share"
            figures.append(Figure(name, share.mean, "", expected, f"{half}expected"))
            total = Count(sum(count.hits for count in each), sum(count.trials for count in each))
            deviations.append(compute_deviation(total, expected))
        if experiment != "stake, choice of four":  # it is compared with the draw, and follows no stake
            worst = max(deviations)
            figures.append(
                Figure(f"{experiment}: largest deviation", worst, "standard errors", None, "", MAX_DEVIATION)
            )
    return figures


def make_charts(counts: dict[str, list[list[Count]]]) -> list[Chart]:
    """Measured beside expected shares."""
    labels = {"stake": "stake", "acceptance": "acceptance frequency", "offload": "offload frequency"}
    charts = []
    for experiment, label in labels.items():
        shown = {"expected": tuple(get_expected(experiment))}
        for name in counts:
            if name.startswith(experiment):
                columns = zip(*counts[name], strict=True)
                shown[name] = tuple(estimate([count.share for count in column]).mean for column in columns)
        values = STAKES if experiment == "stake" else FREQUENCIES
        series = tuple(Series(name, (), shares) for name, shares in shown.items())
        y_label = {"stake": "of delegated requests", "acceptance": "of offers", "offload": "of own requests"}[
            experiment
        ]
        charts.append(Chart(f"Share by {label}", label, f"share {y_label}", series, tuple(map(str, values))))
    return charts


def main() -> None:
    """Command line."""
    run = Run(
        "policies",
        __doc__,
        Option("seeds", 10, 2, "runs of each experiment"),
        Option("requests", 200, 40, "requests of each node with users"),
        is_timed=False,
    )
    seeds = [run.seed + number for number in range(run.values["seeds"])]
    tasks = [Task("market", name, seed, str(run.values["requests"])) for name in EXPERIMENTS for seed in seeds]
    done = map_tasks(tasks, work)
    counts = {name: [done[task] for task in tasks if task.setting == name] for name in EXPERIMENTS}
    run.finish(make_figures(counts), make_charts(counts))


if __name__ == "__main__":
    main()
