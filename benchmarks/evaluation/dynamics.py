"""Nodes that join and leave a running network: latency over time, and how soon it is noticed (the paper's Figure 5).

Users are at two nodes that stay, so that the same requests can be sent with and without an event:

- **join**: a network of two, and two more later, each of them with credits and without stake: it bonds, declares its
  model, and is drawn from the next serving period on.
- **leave**, **crash**, **silence**: a network of four. One node says goodbye and ends, or its process dies and
  connections to it are refused, or its host is off and dials to it time out.

Mean latency is by the time of arrival, in windows; a miss counts with 600 s. An answer that was under way on a node
that ends is a miss: another node's text would contradict what its user has seen.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog
import trio

from benchmarks.evaluation.attempts import AttemptLog
from benchmarks.evaluation.harness import Task, estimate, map_tasks
from benchmarks.evaluation.market import Market, MarketKind
from benchmarks.evaluation.replay import Result, send_all
from benchmarks.evaluation.workloads import DURATION_S, Request, Setting, Site, draw_requests
from benchmarks.network.shared_ledger import run_nodes
from benchmarks.pictures import Chart, Series
from benchmarks.report import Figure, Option, Run
from chain.crypto import KeyPair
from chain.genesis import Genesis, GenesisAccount, make_genesis, make_validator
from chain.parameters.parameters import CREDIT, Parameters
from p2p.simulation.runtime import SimulatedRuntime

STAYING = 2
"""Nodes with users, which are there all the time."""
RATE = 0.1
"""Requests per second at each of them: as many as one card can answer."""
WINDOW_S = 75.0
BOND = 1_000 * CREDIT
NOTICE_S = {"crash": 0.2, "silence": 6.0}
"""Until the connections of a node that ended are lost: of a process that died, and of a host that is off."""
USERS = Site("qwen3-8b", "RTX 4090", ((0.0, DURATION_S, RATE),))
SPARE = replace(USERS, rates=())
SETTING = Setting("dynamics", "users at two nodes", (USERS, USERS, SPARE, SPARE), 0.0)
EVENTS = {
    "two": (),
    "join": ((1 / 3, 2), (2 / 3, 3)),
    "four": (),
    "leave": ((1 / 2, 3),),
    "crash": ((1 / 2, 3),),
    "silence": ((1 / 2, 3),),
}
"""By scenario: when, as a share of the time, and which node."""
WITHOUT = {"join": "two", "leave": "four", "crash": "four", "silence": "four"}
"""The same without the event."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run: results, and for each event the seconds from it to the first or the last offer to its node (None:
    there was none after it).
    """

    results: tuple[Result, ...]
    delays: tuple[float | None, ...]


class ChangingMarket(Market):
    """Four nodes. Some join later, some end before the others."""

    def __init__(self, scenario: str, requests: Sequence[Request], seed: int, duration: float) -> None:
        self.scenario = scenario
        self.events = [(duration * share, number) for share, number in EVENTS[scenario]]
        self.is_growing = scenario in ("two", "join")
        super().__init__(SETTING, requests, seed, MarketKind())
        for node in self.nodes[STAYING if self.is_growing else len(self.nodes) :]:
            node.stake_keeper.stake = BOND
        self.log = AttemptLog(self.nodes)
        self._scopes = [trio.CancelScope() for _ in self.nodes]

    def make_genesis(self, keys: Sequence[KeyPair]) -> Genesis:
        """Those that are there from the beginning vote and serve; the others have credits only."""
        parameters, beacon = Parameters(epoch_heights=20, round_heights=4), bytes(32)
        founders = STAYING if self.is_growing else len(keys)
        accounts = [
            make_validator(key, beacon, parameters, 10_000 * CREDIT, BOND, (self.model,)) for key in keys[:founders]
        ]
        accounts += [GenesisAccount(key.public_key, 10_000 * CREDIT, 0, (), None) for key in keys[founders:]]
        return make_genesis("simulation", SimulatedRuntime.EPOCH_MS, beacon, accounts, parameters)

    async def run_changing(self) -> Outcome:
        """Let the nodes meet, then send all requests while the events happen."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.hub.run)
            for number in range(STAYING if self.is_growing else len(self.nodes)):
                await nursery.start(self._run_node, number)
            await trio.sleep(self.warm_up_s)
            start = trio.current_time()
            nursery.start_soon(self._change, start, nursery)
            results = await send_all(self.requests, self.handle)
            delays = tuple(self._find_delay(start + at, number) for at, number in self.events)
            nursery.cancel_scope.cancel()
        return Outcome(tuple(results), delays)

    async def _run_node(self, number: int, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        with self._scopes[number]:
            await self.nodes[number].run(task_status=task_status)

    async def _change(self, start: float, nursery: trio.Nursery) -> None:
        for at, number in self.events:
            await trio.sleep_until(start + at)
            if self.scenario == "join":
                await nursery.start(self._run_node, number)
                continue
            if self.scenario == "leave":
                await self.nodes[number].discovery.leave()
            key = self.nodes[number].key.public_key
            self.hub.kill(key, NOTICE_S.get(self.scenario, 0.0), silent=self.scenario == "silence")
            self._scopes[number].cancel()

    def _find_delay(self, since: float, number: int) -> float | None:
        offers = [each.begun_at - since for each in self.log.find_offers(number, since)]
        if self.scenario == "join":
            return min(offers, default=None)
        return max(offers, default=None)


def work(task: Task) -> Outcome:
    """One run; ``parameters`` is the time in which requests arrive, in seconds."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    duration = float(task.parameters)
    requests = [request for request in draw_requests(SETTING, task.seed) if request.time < duration]
    market = ChangingMarket(task.setting, requests, task.seed, duration)
    return run_nodes(f"{task.setting}:{task.seed}", market.run_changing)


def compute_windows(outcomes: Sequence[Outcome], duration: float, windows: int) -> list[float]:
    """The mean latency of the requests that arrived in each window, over all seeds; NaN where none did."""
    found: list[list[float]] = [[] for _ in range(windows)]
    for outcome in outcomes:
        for result in outcome.results:
            found[min(windows - 1, int(result.time / duration * windows))].append(result.latency)
    return [sum(each) / len(each) if each else math.nan for each in found]


def compute_mean_after(outcome: Outcome, since: float) -> float:
    """The mean latency of requests that arrived after ``since``."""
    found = [result.latency for result in outcome.results if result.time >= since]
    return sum(found) / len(found) if found else math.nan


def make_figures(outcomes: dict[str, list[Outcome]], duration: float) -> list[Figure]:
    """For each scenario with an event: latency after it beside that without, misses, and delays."""
    figures = []
    for scenario, reference in WITHOUT.items():
        runs, others = outcomes[scenario], outcomes[reference]
        since = EVENTS[scenario][0][0] * duration
        mean = estimate([compute_mean_after(run, since) for run in runs])
        other = estimate([compute_mean_after(run, since) for run in others])
        name = f"{scenario}: mean latency of what arrives after it"
        figures.append(Figure(name, mean.mean, "s", other.mean, describe(mean.half, "s", "without it")))
        missed = sum(not result.is_answered for run in runs for result in run.results)
        figures.append(
            Figure(f"{scenario}: missed", missed, "requests", sum(len(run.results) for run in runs), "of all")
        )
        delays = [delay for run in runs for delay in run.delays]
        if scenario == "join":
            known = [delay for delay in delays if delay is not None]
            first = estimate(known) if known else None
            value, half = (math.nan, math.nan) if first is None else (first.mean, first.half)
            figures.append(Figure("join: until the first delegated request", value, "s", None, describe(half, "s")))
            figures.append(
                Figure("join: nodes that got none", len(delays) - len(known), "nodes", len(delays), "of all")
            )
        else:
            last = max((delay for delay in delays if delay is not None), default=0.0)
            figures.append(Figure(f"{scenario}: until the last offer to the node, longest", last, "s"))
    return figures


def describe(half: float, unit: str, against: str = "") -> str:
    """An interval, and what a value is compared with."""
    return "; ".join([*([] if math.isnan(half) else [f"± {half:.2g} {unit} at 95 %"]), *([against] if against else [])])


def make_charts(outcomes: dict[str, list[Outcome]], duration: float, windows: int) -> list[Chart]:
    """Latency over time of each scenario, beside that without its events, which are dashed lines."""
    charts = []
    middles = [(window + 0.5) * duration / windows for window in range(windows)]
    for scenario, reference in WITHOUT.items():
        series, top = [], 0.0
        for name in (scenario, reference):
            values = compute_windows(outcomes[name], duration, windows)
            points = [(x, y) for x, y in zip(middles, values, strict=True) if not math.isnan(y)]
            top = max([top, *(y for _, y in points)])
            label = scenario if name == scenario else f"without ({name})"
            series.append(Series(label, tuple(x for x, _ in points), tuple(y for _, y in points)))
        for place, (share, _) in enumerate(EVENTS[scenario]):
            at = share * duration
            label = f"{scenario} {place + 1}" if len(EVENTS[scenario]) > 1 else f"the {scenario}"
            series.append(Series(label, (at, at), (0.0, top), is_limit=True))
        charts.append(Chart(scenario.capitalize(), "arrival, s", "mean latency, s", tuple(series)))
    return charts


def main() -> None:
    """Command line."""
    run = Run(
        "dynamics",
        __doc__,
        Option("seeds", 10, 1, "workloads of each scenario"),
        Option("minutes", DURATION_S / 60, 2.0, "minutes of requests"),
        is_timed=False,
    )
    duration = run.values["minutes"] * 60
    seeds = [run.seed + number for number in range(run.values["seeds"])]
    tasks = [Task("market", scenario, seed, str(duration)) for scenario in EVENTS for seed in seeds]
    done = map_tasks(tasks, work)
    outcomes = {scenario: [done[task] for task in tasks if task.setting == scenario] for scenario in EVENTS}
    windows = max(2, round(duration / WINDOW_S))
    run.finish(make_figures(outcomes, duration), make_charts(outcomes, duration, windows))


if __name__ == "__main__":
    main()
