"""What duels cost the users (Figure 7 of the paper): latencies, and requests that backends answer besides.

Whole nodes with modelled GPUs serve the same stream of requests at several rates of duels, with one judge and with
three. The paper has k = 2; a genesis with an even number of judges is refused, since half of them would be no majority,
so that the largest odd number below stands for it. Duels run in slots that no user waits for: latencies and the share
of requests within a limit must be nearly those without duels. Each duel costs one answer and k ballots. How many duels
there are is drawn: the ledger alone, with many more requests, shows that it is N · α · p_d, where α is the share that
was offloaded, and all requests are there.
"""

from __future__ import annotations

import json
import logging
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import structlog

from benchmarks.network.simulation import Simulation
from benchmarks.pictures import Chart, Series, make_cumulative
from benchmarks.report import Figure, Option, Run, get_percentile
from chain.crypto import KeyPair, hash_bytes
from chain.genesis import Genesis, make_genesis, make_validator
from chain.parameters.duels import DuelParameters
from chain.parameters.parameters import CREDIT, Parameters
from chain.transition.duels.events import DuelEvent, DuelOpened, DuelSettled, ExecutorAccused, VotesRepeated
from chain.types.duels import SECOND_PANEL
from node import Node
from p2p.runtime import Runtime
from p2p.simulation.runtime import SimulatedRuntime, run_simulation
from serving.backends.backend import Backend
from serving.openai.answers import Answer, WholeBody
from serving.quality.duels.backend_work import DuelJudgeSettings
from serving.quality.judging.ballot import ReplyForm
from serving.quality.judging.prompt import JudgePrompt, load_default_prompt
from serving.simulation.gpu_curves import QWEN3_8B
from serving.simulation.modelled_backend import ModelledBackend
from serving.simulation.modelled_requests import TOKEN
from tests.support.openai_answers import make_whole
from tests.support.servers.judging_texts import read_texts
from tests.support.strategies.ledger_market import MARKET_PARAMETERS, LedgerMarket
from tests.support.strategies.market_agents import Agent

NODES, RATE, CAPACITY, SPACING_S = 8, 1.0, 4, 1.0
"""Nodes, requests a second of an average one, slots of each, and seconds between blocks."""
NO_DUELS = DuelParameters()
DUELS = DuelParameters(
    answer_ms=60_000,
    commit_ms=60_000,
    reveal_ms=30_000,
    judge=700,
    levy=3_000,
    probation_duels=0,
    probation_rate=0,
    repeat_rate=10,
    guessing=1_000_000,
)
"""Without probation; a single judge is paid so well that it is not bought, and the levy pays from the beginning. Hardly
a vote is repeated: the paper does not do so, and its formula counts none."""
LEDGER_RATES = (50, 100, 250)
"""Rates of duels on the ledger alone."""
JUDGING_S = 30.0
"""Simulated seconds until all judges are in the table in force."""
DUELS_S = 100.0
"""Simulated seconds after the last request in which all duels end."""
HEADLINE = (0.25, 3)
"""Rate and judges of the run whose latency stands in the README."""
SLO_FACTOR = 1.5
"""The limit of a request in time, as a multiple of the median latency without duels."""
TOLERANCE = 0.02
"""By how much the extra requests may differ from one answer and k ballots for each duel, as a share."""
SLO_TOLERANCE = 0.03
"""By how much the share of requests in time may fall."""
SHORT_RUN_ERRORS = 2.5
"""Standard errors by which the extra requests may differ in a run that is too short for the tolerance."""
STANDARD_ERRORS = 4.0
"""Standard errors by which the number of duels may differ from its mean."""
SIGNIFICANCE = 1.95
"""Distance of two distributions, times the square root of half of the requests, that chance exceeds once in 1,000
times (Kolmogorov and Smirnov)."""


class _Renamed:
    """The body of an answer in words of its author: else all answers would be the same text."""

    def __init__(self, body: AsyncIterator[bytes], word: bytes) -> None:
        self._body = body
        self._word = word

    def __aiter__(self) -> _Renamed:
        return self

    async def __anext__(self) -> bytes:
        return (await anext(self._body)).replace(TOKEN.encode(), self._word)


class JudgingGpu(ModelledBackend):
    """A modelled GPU whose answers have a text of their own, and that gives ballots, in the time of their prompts.

    ``finished`` counts answers and ballots.
    """

    def __init__(self, runtime: Runtime, number: int, capacity: int) -> None:
        super().__init__(QWEN3_8B, runtime, capacity=capacity)
        self._word = f"n{number:04} ".encode()
        self.finished: Counter[str] = Counter()

    @asynccontextmanager
    async def complete(self, path: str, body: bytes, *, stream: bool) -> AsyncIterator[Answer]:
        """See :meth:`serving.backends.backend.Backend.complete`."""
        texts = read_texts(json.loads(body)["messages"])
        async with super().complete(path, body, stream=stream) as answer:
            if texts:
                yield Answer(200, "application/json", WholeBody(make_whole(self.models[0], choose(texts), 1, "stop")))
            else:
                yield Answer(answer.status, answer.content_type, _Renamed(aiter(answer.body), self._word))
        self.finished["ballots" if texts else "answers"] += 1


def choose(texts: Mapping[str, str]) -> str:
    """The letter of a ballot: a single answer is of use, and of two the one is better that a hash says."""
    if "ANSWER A" not in texts:
        return "X"
    first, second = texts["ANSWER A"], texts["ANSWER B"]
    is_ordered = hash_bytes("ballot", first.encode()) < hash_bytes("ballot", second.encode())
    return "A" if is_ordered else "B"


class DuelSimulation(Simulation):
    """A market of whole nodes that all serve and judge; the first one makes the blocks."""

    judge = DuelJudgeSettings(JudgePrompt.parse(load_default_prompt()), form=ReplyForm.LETTER)
    warm_up_s = JUDGING_S
    drain_s = DUELS_S

    def __init__(self, seed: int, duration: float, duels: DuelParameters) -> None:
        self.duels = duels
        self.gpus: list[JudgingGpu] = []
        self.events: list[DuelEvent] = []
        super().__init__(seed, NODES, duration, RATE, CAPACITY, SPACING_S)

    def make_genesis(self, keys: Sequence[KeyPair]) -> Genesis:
        parameters = Parameters(epoch_heights=1_024, round_heights=4, idle_beat_ms=1_000, duels=self.duels)
        accounts = [
            make_validator(key, bytes(32), parameters, 10_000 * CREDIT, 1_000 * CREDIT, (self.model,)) for key in keys
        ]
        accounts = [accounts[0], *(replace(account, commitment=None) for account in accounts[1:])]
        return make_genesis("duel overhead", SimulatedRuntime.EPOCH_MS, bytes(32), accounts, parameters)

    def make_backend(self, number: int, runtime: SimulatedRuntime, capacity: int) -> Backend:
        gpu = JudgingGpu(runtime, number, capacity)
        self.gpus.append(gpu)
        return gpu

    async def _watch(self, node: Node) -> None:
        if node is not self.nodes[0]:
            return
        async with node.engine.subscribe_final() as blocks:
            async for final in blocks:
                self.events += final.duel_events


@dataclass(frozen=True, slots=True)
class Work:
    """What one run of whole nodes did: ``latencies`` of users in seconds, and requests by kind.

    ``extra`` are answers to challengers and ballots of first panels, ``second`` the ballots of second ones.
    ``repeated`` are those of repeated votes. ``owed`` is one answer and k ballots for each duel,
    fewer for a solo check.
    """

    latencies: list[float]
    offloaded: int
    duels: int
    owed: int
    extra: int
    second: int
    repeated: int
    unfinished: int


def run_nodes(seed: int, duration: float, duels: DuelParameters) -> Work:
    """Run one simulation of whole nodes, for some seconds of requests."""
    simulation = DuelSimulation(seed, duration, duels)
    outcome = run_simulation(seed, simulation.run)
    refused = [name for name in outcome.results if name.startswith("refused")]
    if refused or not outcome.conserved or len(outcome.state_roots) != 1:
        raise SystemExit(f"the market failed: {dict(outcome.results)}")
    finished: Counter[str] = sum((gpu.finished for gpu in simulation.gpus), Counter())
    opened = [event.duel for event in simulation.events if isinstance(event, DuelOpened)]
    accused = sum(isinstance(event, ExecutorAccused) for event in simulation.events)
    settled = sum(isinstance(event, DuelSettled) for event in simulation.events)
    second = SECOND_PANEL * accused
    repeated = sum(len(event.duel.repeats) for event in simulation.events if isinstance(event, VotesRepeated))
    return Work(
        latencies=[latency for latencies in outcome.latencies.values() for latency in latencies],
        offloaded=outcome.results["offloaded"],
        duels=len(opened),
        owed=sum((duel.challenger is not None) + len(duel.seats) for duel in opened),
        extra=finished["answers"] - sum(outcome.results.values()) + finished["ballots"] - second - repeated,
        second=second,
        repeated=repeated,
        unfinished=len(opened) - settled,
    )


def compute_distance(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest difference of two empirical distributions (Kolmogorov and Smirnov)."""
    first, second = sorted(one), sorted(other)
    return max(
        abs(bisect_right(first, value) / len(first) - bisect_right(second, value) / len(second))
        for value in (*first, *second)
    )


def compute_share(latencies: Sequence[float], limit: float) -> float:
    """The share of requests that were in time."""
    return sum(latency <= limit for latency in latencies) / len(latencies)


def compare(name: str, rate: float, judges: int, work: Work, plain: Work) -> Iterator[Figure]:
    """The figures of one run with duels, against the one without."""
    for percent in (50, 99):
        value, reference = (1_000 * get_percentile(each.latencies, percent) for each in (work, plain))
        is_shown = percent == 50 and (rate, judges) == HEADLINE
        headline = "latency p50, every fourth offloaded answer compared" if is_shown else ""
        yield Figure(f"{name}: latency p{percent}", value, "ms", reference, "without duels", headline=headline)
    chance = SIGNIFICANCE / math.sqrt(len(work.latencies) / 2)
    distance = compute_distance(work.latencies, plain.latencies)
    yield Figure(f"{name}: largest difference of the distributions", distance, "", limit=TOLERANCE + chance)
    limit = SLO_FACTOR * get_percentile(plain.latencies, 50)
    before, after = compute_share(plain.latencies, limit), compute_share(work.latencies, limit)
    yield Figure(f"{name}: requests in time", after, "", before, "without duels")
    # By how much it fell, as a share, beside what chance does in as many requests.
    chance = STANDARD_ERRORS * math.sqrt(2 * before * (1 - before) / len(work.latencies))
    yield Figure(f"{name}: fewer of them", before - after, "", limit=SLO_TOLERANCE + chance)
    mean = work.offloaded * rate
    yield Figure(f"{name}: duels", work.duels, "", mean, "N · α · p_d")
    off = abs(work.duels - mean) / math.sqrt(mean * (1 - rate))
    yield Figure(f"{name}: error of that, in standard errors", off, "", limit=STANDARD_ERRORS)
    yield Figure(f"{name}: extra requests", work.extra, "", work.duels * (1 + judges), "duels · (1 + k)")
    missed = abs(work.extra - work.owed) / max(1, work.owed)
    yield Figure(f"{name}: missing or too many, as a share", missed, "", limit=TOLERANCE)
    yield Figure(f"{name}: requests to second panels", work.second, "")
    yield Figure(f"{name}: votes run again", work.repeated, "")
    yield Figure(f"{name}: duels without an end", work.unfinished, "", limit=0)


def count_on_ledger(rates: Sequence[int], judges: int, requests: int, seed: int) -> Iterator[Figure]:
    """Extra requests for many more duels, on the ledger alone, against N · α · p_d · (1 + k): all are offloaded."""
    extra = expected = second = repeated = 0.0
    for rate in rates:
        duels = replace(DUELS, rate=rate, judges=judges)
        agents = [Agent(f"node {number}") for number in range(12)]
        parameters = replace(MARKET_PARAMETERS, duels=replace(duels, answer_ms=1_000, commit_ms=1_000, reveal_ms=1_000))
        market = LedgerMarket(agents, seed=seed, parameters=parameters, treasury=1_000 * CREDIT)
        market.run(requests)
        panels = SECOND_PANEL * len(market.accused)
        again = sum(len(event.duel.repeats) for event in market.repeated)
        extra += sum(agent.counts["challenges"] + agent.counts["ballots"] for agent in agents) - panels - again
        second += panels
        repeated += again
        expected += requests * rate / 1_000 * (1 + judges)
    name = f"ledger, k = {judges}: extra requests"
    yield Figure(name, extra, "", expected, "N · α · p_d · (1 + k)")
    chance = SHORT_RUN_ERRORS / math.sqrt(expected / (1 + judges))
    yield Figure(f"{name}, error as a share", abs(extra / expected - 1), "", limit=max(TOLERANCE, chance))
    yield Figure(f"ledger, k = {judges}: requests to second panels", second, "")
    yield Figure(f"ledger, k = {judges}: votes run again", repeated, "")


def make_charts(plain: Work, works: Mapping[str, Work]) -> list[Chart]:
    """Latencies, and the share of requests in time by the limit."""
    all_works = {"no duels": plain, **works}
    curves = [make_cumulative(name, work.latencies) for name, work in all_works.items()]
    median = get_percentile(plain.latencies, 50)
    factors = tuple(number / 10 for number in range(5, 31))
    times = [
        Series(name, factors, tuple(compute_share(work.latencies, factor * median) for factor in factors))
        for name, work in all_works.items()
    ]
    return [
        Chart("Latency", "simulated seconds until the whole answer", "share of requests", tuple(curves)),
        Chart("Requests in time", "limit, medians without duels", "share of requests", tuple(times)),
    ]


def main() -> None:
    """Command line."""
    run = Run(
        "duel_overhead",
        __doc__,
        Option("rates", (50, 100, 250), (250,), "rates of duels, in 1,000"),
        Option("judges", (1, 3), (3,), "judges of a duel: one stands for the two of the paper"),
        Option("minutes", 4.0, 0.5, "simulated minutes of requests in each run"),
        Option("requests", 40_000, 1_500, "requests on the ledger, at each rate"),
        is_timed=False,
    )
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    rates, duration = run.values["rates"], 60 * run.values["minutes"]
    plain = run_nodes(run.seed, duration, NO_DUELS)
    figures = [
        Figure("requests", len(plain.latencies), ""),
        Figure("offloaded", plain.offloaded / len(plain.latencies), "of them"),
    ]
    works: dict[str, dict[str, Work]] = {}
    for judges in run.values["judges"]:
        for rate in rates:
            work = run_nodes(run.seed, duration, replace(DUELS, rate=rate, judges=judges))
            name = f"k = {judges}, p_d {rate / 1_000:g}"
            figures += compare(name, rate / 1_000, judges, work, plain)
            works.setdefault(f"k = {judges}", {})[f"p_d {rate / 1_000:g}"] = work
        figures += count_on_ledger(LEDGER_RATES, judges, run.values["requests"], run.seed)
    charts = []
    for name, each in works.items():
        charts += [replace(chart, title=f"{chart.title}, {name}") for chart in make_charts(plain, each)]
    run.finish(figures, charts)


if __name__ == "__main__":
    main()
