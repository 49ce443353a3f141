"""What each idea of the scheduling is worth: all of them on, and each switched off alone, on the same requests.

Conversations (see ``conversations``) come to six nodes of mixed hardware, most of them to the slowest, and the server
of one node without users fails half of what it has accepted. Switched off are: the choice of four (executors are asked
as they were drawn), corrections by own measurements, affinity, the adaptive policy (the paper's instead), and failover
(one executor is asked; what fails there is served by the node that was asked first). The offer in one round trip is
the protocol, and cannot be switched off.

A ratio above 1 of the mean latency, or below 1 of the share in time, is what the idea brings here. In time: the first
token within 2 s, then 10 tokens/s.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import structlog
import trio

from benchmarks.evaluation.conversations import compute_first_token, draw_conversations
from benchmarks.evaluation.harness import Task, estimate, run_all
from benchmarks.evaluation.market import Market, MarketKind
from benchmarks.evaluation.replay import Result, meets_objective
from benchmarks.evaluation.slo import describe
from benchmarks.evaluation.workloads import Request, Setting, Site
from benchmarks.network.shared_ledger import run_nodes
from benchmarks.pictures import Chart, Series
from benchmarks.report import Figure, Option, Run
from p2p.simulation.runtime import SimulatedRuntime
from serving.backends.backend import Backend, BackendError, Load, ModelLimits
from serving.offload.settings import OriginatorSettings
from serving.openai.answers import Answer
from serving.simulation.modelled_backend import ModelledBackend


def users(rate: float) -> tuple[tuple[float, float, float], ...]:
    """Conversations that begin per second."""
    return ((0.0, 3600.0, rate),)


SETTING = Setting(
    "ablation",
    "six nodes, most users at the slowest, one node fails",
    (
        Site("qwen3-4b", "RTX 4090", users(0.16)),
        Site("qwen3-8b", "L40S", users(0.04)),
        Site("qwen3-8b", "RTX 6000 Ada", users(0.02)),
        Site("qwen3-8b", "A100 80GB", users(0.02)),
        Site("qwen3-8b", "H100 SXM", ()),
        Site("qwen3-8b", "A100 80GB", ()),
    ),
    0.0,
)
FAULTY = 5
"""The node whose server fails."""
FAULT_AFTER_S = 1.0
"""Until it fails."""
FAULT_SHARE = 0.5
"""Of the requests that it has accepted."""
ALL_ON = MarketKind()
ALL = "all on"
MARKETS = {
    ALL: ALL_ON,
    "no choice of four": MarketKind(originator=OriginatorSettings(choices=1)),
    "no own measurements": MarketKind(originator=OriginatorSettings(corrects=False)),
    "no affinity": MarketKind(originator=OriginatorSettings(keeps_conversations=False)),
    "no adaptive policy": MarketKind(policy="paper"),
    "no failover": MarketKind(originator=OriginatorSettings(attempts=1)),
}


class FaultyBackend:
    """A backend that fails some requests, after :data:`FAULT_AFTER_S` and before their first token."""

    def __init__(self, backend: ModelledBackend, chance: random.Random) -> None:
        self._backend = backend
        self._chance = chance

    @property
    def models(self) -> tuple[str, ...]:
        """Names of its models."""
        return self._backend.models

    @asynccontextmanager
    async def complete(self, path: str, body: bytes, *, stream: bool) -> AsyncIterator[Answer]:
        """See :meth:`serving.backends.backend.Backend.complete`."""
        if self._chance.random() < FAULT_SHARE:
            await trio.sleep(FAULT_AFTER_S)
            raise BackendError("out of memory")
        async with self._backend.complete(path, body, stream=stream) as answer:
            yield answer

    def get_load(self) -> Load:
        """See :meth:`serving.backends.backend.Backend.get_load`."""
        return self._backend.get_load()

    def get_limits(self, model: str) -> ModelLimits:
        """See :meth:`serving.backends.backend.Backend.get_limits`."""
        return self._backend.get_limits(model)

    def is_alive(self) -> bool:
        """Always."""
        return self._backend.is_alive()

    async def wait_alive(self) -> None:
        """Return at once."""
        await self._backend.wait_alive()

    async def run(self) -> None:
        """Run the backend behind it."""
        await self._backend.run()


class AblationMarket(Market):
    """A market with a faulty node."""

    def make_backend(self, number: int, runtime: SimulatedRuntime, capacity: int) -> Backend:
        backend = self.servers.make_backend(number, runtime, capacity)
        return FaultyBackend(backend, runtime.random) if number == FAULTY else backend


def work(task: Task) -> Sequence[Result]:
    """One run."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    requests = draw_conversations(SETTING, json.loads(task.parameters)["minutes"] * 60, task.seed)
    market = AblationMarket(SETTING, requests, task.seed, MARKETS[task.scheduler])
    return run_nodes(f"{SETTING.name}:{task.seed}", market.run_market).results


def compute_share(run: Sequence[Result], requests: Sequence[Request]) -> float:
    """The share of all requests that were answered in time."""
    return sum(map(meets_objective, run, requests)) / len(run)


def make_figures(
    runs: Mapping[str, Sequence[Sequence[Result]]], requests: Sequence[Sequence[Request]]
) -> tuple[list[Figure], Chart]:
    """Of each kind the mean latency, the times to first token and the share in time, and their ratios to all on."""
    measures: Mapping[str, tuple[str, Callable[[Sequence[Result], Sequence[Request]], float]]] = {
        "mean latency": ("s", lambda run, _: sum(result.latency for result in run) / len(run)),
        "time to first token p50": ("s", lambda run, _: compute_first_token(run, 50)),
        "time to first token p99": ("s", lambda run, _: compute_first_token(run, 99)),
        "in time": ("%", lambda run, sent: 100 * compute_share(run, sent)),
    }
    figures, ratios = [], dict[str, list[float]]()
    for measure, (unit, compute) in measures.items():
        values = {name: list(map(compute, each, requests)) for name, each in runs.items()}
        for name, each in values.items():
            interval = estimate(each)
            against = describe(interval.half, unit, None)
            figures.append(Figure(f"{name}: {measure}", interval.mean, unit, None, against))
            if name != ALL:
                ratio = estimate([one / other for one, other in zip(each, values[ALL], strict=True)])
                against = describe(ratio.half, "×", None)
                figures.append(Figure(f"{name}: {measure}, over all on", ratio.mean, "×", None, against))
                ratios.setdefault(measure, []).append(ratio.mean)
    for name, each_run in runs.items():
        missed = sum(not result.is_answered for run in each_run for result in run)
        figures.append(Figure(f"{name}: missed", missed, "requests", sum(map(len, each_run)), "of all"))
    series = tuple(Series(measure, (), tuple(values)) for measure, values in ratios.items())
    names = tuple(name for name in runs if name != ALL)
    return figures, Chart("One idea switched off", "", "ratio to all on", series, categories=names)


def main() -> None:
    """Command line."""
    run = Run(
        "ablation",
        __doc__,
        Option("seeds", 10, 1, "sets of conversations"),
        Option("minutes", 10.0, 0.5, "minutes of requests"),
        is_timed=False,
    )
    minutes = run.values["minutes"]
    seeds = [run.seed + number for number in range(run.values["seeds"])]
    tasks = [Task(name, SETTING.name, seed, json.dumps({"minutes": minutes})) for name in MARKETS for seed in seeds]
    done = run_all(tasks, work, run.results)
    runs = {name: [done[task] for task in tasks if task.scheduler == name] for name in MARKETS}
    figures, chart = make_figures(runs, [draw_conversations(SETTING, 60 * minutes, seed) for seed in seeds])
    run.finish(figures, [chart])


if __name__ == "__main__":
    main()
