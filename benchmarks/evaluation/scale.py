"""How the market grows: 8 to 512 nodes of mixed hardware under one trace, as many requests for each node.

The nodes are whole, and all run in one process: overlay, ledger, payments, and a committee of 32 at most. A quarter of
them has most of the users. Counted while requests are under way: the share answered in time; the processor time of one
choice of an executor (``Originator.preview``, which a request makes twice: for the policy and for the offer), measured
before every request; what all nodes send; what becomes final on the ledger; and simulated by processor time.

Larger networks are run for a shorter time, which is a figure of its own. One network of each size: processor times are
of this machine. Nodes share what is the same for all (:mod:`benchmarks.network.shared_ledger`), so that the work of a
simulated second is that of messages. A size that has run is kept as :mod:`benchmarks.evaluation.harness` keeps results.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import structlog
import trio

from benchmarks.evaluation.harness import Task, keep_findings, load_findings
from benchmarks.evaluation.market import Market, MarketKind
from benchmarks.evaluation.replay import Result, meets_objective, send_all
from benchmarks.evaluation.traces import draw_from_trace, load_azure
from benchmarks.evaluation.workloads import Request, Setting, Site
from benchmarks.machine import find_commit
from benchmarks.network.shared_ledger import run_nodes
from benchmarks.pictures import Chart, Series
from benchmarks.report import Figure, Option, Run, get_percentile
from chain.crypto import KeyPair
from chain.genesis import Genesis, make_genesis, make_validator
from chain.parameters.parameters import CREDIT, Parameters
from p2p.simulation.runtime import SimulatedRuntime
from p2p.simulation.traffic import Traffic
from serving.openai.requests import CHAT_COMPLETIONS, parse_request

HARDWARE = (
    ("qwen3-8b", "RTX 3090"),
    ("qwen3-4b", "RTX 3090"),
    ("qwen3-8b", "RTX 4090"),
    ("qwen3-4b", "RTX 4090"),
    ("qwen3-8b", "L40S"),
    ("qwen3-8b", "RTX 6000 Ada"),
    ("qwen3-8b", "A100 80GB"),
    ("qwen3-8b", "H100 SXM"),
)
"""Model and card of every eighth node."""
RATE = 0.5
"""Requests per second of an average node."""
BUSY_EVERY, BUSY_WEIGHT = 4, 9.0
"""Every fourth node has nine times the users of each other: three quarters of all."""
GOAL_MS = 1.0
"""Processor time that finding the node for a request may take."""
MAX_DURATION_S = 300.0
"""Longest time of requests."""
TELL_INTERVAL_S = 60.0
"""Real seconds between two lines that say how far a run is."""
CHOICES_PER_REQUEST = 2
"""Choices of an executor for a request that is offloaded."""


def make_setting(nodes: int) -> Setting:
    """A network of ``nodes``; the trace brings the requests."""
    sites = tuple(Site(*HARDWARE[number % len(HARDWARE)], ()) for number in range(nodes))
    return Setting(f"scale {nodes}", "mixed hardware", sites, 0.0)


def draw_requests(nodes: int, duration: float, seed: int) -> list[Request]:
    """Azure's trace at ``RATE`` for each node, for ``duration`` seconds."""
    trace = load_azure()
    speed = RATE * nodes * trace[-1].time / len(trace)
    weights = [BUSY_WEIGHT if number % BUSY_EVERY == 0 else 1.0 for number in range(nodes)]
    return draw_from_trace(trace, weights, duration, speed, seed)


@dataclass(slots=True)
class Scaled:
    """What a network of one size did. Times in seconds, sizes in bytes."""

    nodes: int
    duration: float
    results: Sequence[Result] = ()
    in_time: int = 0
    """Requests that were answered as :func:`benchmarks.evaluation.replay.meets_objective` says."""
    choices: list[float] = field(default_factory=list)
    """Processor time of each choice."""
    sent: Traffic = field(default_factory=Traffic)
    """By all nodes, from the first request to the last answer."""
    window: float = 0.0
    """Simulated seconds of that."""
    operations: Counter[str] = field(default_factory=Counter)
    """Final in that time, by kind."""
    block_bytes: int = 0
    blocks: int = 0
    simulated: float = 0.0
    worked: float = 0.0
    """Seconds of the whole run, and processor seconds that it took."""

    @property
    def missed(self) -> int:
        """Requests without an answer."""
        return sum(not result.is_answered for result in self.results)

    @property
    def offloads(self) -> int:
        """Requests that another node has answered."""
        return sum(result.is_answered and result.executor != result.node for result in self.results)

    def per_node_second(self, amount: float) -> float:
        """Of the whole network."""
        return amount / self.nodes / self.window

    def to_plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"operations": dict(self.operations)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Scaled:
        """The inverse of :meth:`to_plain`."""
        read = {
            "results": tuple(Result(**result) for result in plain["results"]),
            "sent": Traffic(**plain["sent"]),
            "operations": Counter(plain["operations"]),
        }
        return cls(**{entry.name: plain[entry.name] for entry in fields(cls)} | read)

    def compute_routing_ms(self, percent: float) -> float:
        """A percentile of the processor time for both choices of a request."""
        return 1000 * CHOICES_PER_REQUEST * get_percentile(self.choices, percent)


class ScaledMarket(Market):
    """A market that is watched."""

    def __init__(self, nodes: int, duration: float, seed: int) -> None:
        self.scaled = Scaled(nodes, duration)
        self.answered = 0
        self._started = time.process_time()
        self._told_at = time.monotonic()
        super().__init__(make_setting(nodes), draw_requests(nodes, duration, seed), seed, MarketKind())

    def make_genesis(self, keys: Sequence[KeyPair]) -> Genesis:
        """All serve with the same stake; as many as fit into a committee vote."""
        parameters, beacon = Parameters(epoch_heights=20, round_heights=4), bytes(32)
        accounts = [make_validator(k, beacon, parameters, 10_000 * CREDIT, 1_000 * CREDIT, (self.model,)) for k in keys]
        first = accounts[: parameters.committee_size]
        others = [replace(account, commitment=None) for account in accounts[parameters.committee_size :]]
        return make_genesis("scale", SimulatedRuntime.EPOCH_MS, beacon, [*first, *others], parameters)

    async def send_requests(self) -> list[Result]:
        self._tell("have met")
        before, begun_at = self._count_traffic(), trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_ledger)
            results = await send_all(self.requests, self.handle)
            nursery.cancel_scope.cancel()
        after = self._count_traffic()
        self.scaled.window = trio.current_time() - begun_at
        self.scaled.simulated = trio.current_time()
        for name in ("messages", "stream_bytes", "connect_bytes", "gossip_bytes"):
            setattr(self.scaled.sent, name, getattr(after, name) - getattr(before, name))
        return results

    def _count_traffic(self) -> Traffic:
        traffic = [network.traffic for network in self.networks]
        return Traffic(
            sum(each.messages for each in traffic),
            sum(each.stream_bytes for each in traffic),
            sum(each.connect_bytes for each in traffic),
            sum(each.gossip_bytes for each in traffic),
        )

    async def _watch_ledger(self) -> None:
        async with self.nodes[0].engine.subscribe_final() as blocks:
            async for final in blocks:
                self.scaled.blocks += 1
                self.scaled.block_bytes += len(final.block.encoded)
                self.scaled.operations.update(type(signed.operation).__name__ for signed in final.block.body.operations)
                if time.monotonic() - self._told_at >= TELL_INTERVAL_S:
                    self._tell(f"have answered {self.answered} of {len(self.requests)} requests")

    def _tell(self, what: str) -> None:
        """Say how far the run is; how often depends on the machine, and nothing else does."""
        self._told_at, worked = time.monotonic(), time.process_time() - self._started
        print(
            f"  {self.scaled.nodes} nodes {what}: {trio.current_time():.0f} simulated s, {worked:.0f} s of work",
            flush=True,
        )

    async def handle(self, request: Request) -> int:
        node = self.nodes[request.node]
        parsed = parse_request(CHAT_COMPLETIONS, self.make_body(request), node.policy.parameters.max_tokens)
        started = time.thread_time()
        node.originator.preview(parsed, node.originator.predictor.expect(parsed))
        self.scaled.choices.append(time.thread_time() - started)
        executor = await super().handle(request)
        self.answered += 1
        return executor


def run_scaled(nodes: int, duration: float, seed: int) -> Scaled:
    """Run a network of one size."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    started = time.process_time()
    market = ScaledMarket(nodes, duration, seed)
    run = run_nodes(f"scale:{nodes}:{seed}", market.run_market)
    market.scaled.results = run.results
    market.scaled.in_time = sum(map(meets_objective, run.results, market.requests))
    market.scaled.worked = time.process_time() - started
    return market.scaled


Curves = Mapping[str, Callable[[Scaled], float]]
"""What is drawn over the nodes, by name."""
GROWTH: Sequence[tuple[str, str, Callable[[Scaled], float]]] = (
    ("gossip sent, per node", "kB/s", lambda run: run.per_node_second(run.sent.gossip_bytes) / 1000),
    ("all that is sent, per node", "kB/s", lambda run: run.per_node_second(run.sent.bytes) / 1000),
    ("all that is sent, per request", "kB", lambda run: run.sent.bytes / len(run.results) / 1000),
    ("ledger operations, per request", "operations", lambda run: run.operations.total() / len(run.results)),
    ("ledger operations, per offload", "operations", lambda run: run.operations.total() / max(1, run.offloads)),
    ("bytes of blocks, per request", "bytes", lambda run: run.block_bytes / len(run.results)),
    ("bytes of blocks, per offload", "bytes", lambda run: run.block_bytes / max(1, run.offloads)),
    ("simulated by processor time", "×", lambda run: run.simulated / run.worked),
    ("work for a simulated second of a node", "ms", lambda run: 1000 * run.worked / run.simulated / run.nodes),
)
"""What is compared with the smallest network: name, unit, value."""


def make_figures(runs: Sequence[Scaled]) -> list[Figure]:
    """What each size did."""
    figures, first = [], runs[0]
    for run in runs:
        name, requests = f"{run.nodes} nodes", len(run.results)
        figures += [
            Figure(f"{name}: seconds of requests", run.duration, "s"),
            Figure(f"{name}: requests", requests, "requests"),
            Figure(f"{name}: in time", 100 * run.in_time / requests, "%"),
            Figure(f"{name}: missed", run.missed, "requests", requests, "of all"),
            Figure(f"{name}: offloaded", 100 * run.offloads / requests, "%"),
        ]
        for percent in (50, 99):
            routing = run.compute_routing_ms(percent)
            figures.append(Figure(f"{name}: routing of a request p{percent}", routing, "ms", GOAL_MS, "the goal"))
        for what, unit, measure in GROWTH:
            reference = None if run is first else measure(first)
            against = "" if run is first else f"{first.nodes} nodes"
            figures.append(Figure(f"{name}: {what}", measure(run), unit, reference, against))
    return figures


def make_charts(runs: Sequence[Scaled]) -> list[Chart]:
    """How routing, traffic and the work of the simulation grow with the nodes."""
    nodes = tuple(float(run.nodes) for run in runs)

    def draw(
        title: str, unit: str, curves: Mapping[str, Callable[[Scaled], float]], goal: float | None = None
    ) -> Chart:
        series = [Series(name, nodes, tuple(map(measure, runs))) for name, measure in curves.items()]
        if goal is not None:
            series.append(Series("goal", nodes, (goal,) * len(nodes), is_limit=True))
        return Chart(title, "nodes", unit, tuple(series), x_scale="log", y_scale="log")

    growth = {name: measure for name, _, measure in GROWTH}
    routing: Curves = {"p50": lambda run: run.compute_routing_ms(50), "p99": lambda run: run.compute_routing_ms(99)}
    sent = {name: growth[f"{name}, per node"] for name in ("gossip sent", "all that is sent")}
    return [
        draw("Routing of a request", "ms of processor", routing, GOAL_MS),
        draw("Traffic of a node", "kB/s", sent),
        draw("Simulation", "simulated by processor time", {"": growth["simulated by processor time"]}),
    ]


def run_or_load(nodes: int, duration: float, seed: int, folder: Path) -> Scaled:
    """What a network of one size did: as it was kept, else from a run in a process of its own, which is kept then.

    With uncommitted changes nothing is kept or taken.
    """
    commit, task = find_commit(), Task("ours", f"scale {nodes}", seed, json.dumps({"seconds": duration}))
    kept = None if commit.is_dirty else load_findings(folder, commit.id, task)
    if kept is not None:
        return Scaled.from_plain(kept)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        scaled = pool.submit(run_scaled, nodes, duration, seed).result()
    if not commit.is_dirty:
        keep_findings(folder, commit.id, task, scaled.to_plain())
    return scaled


def main() -> None:
    """Command line."""
    run = Run(
        "scale",
        __doc__,
        Option("nodes", (8, 32, 128, 512), (8, 16), "sizes of networks"),
        Option("budget", 5120.0, 160.0, "seconds of requests, shared by the nodes of a network"),
    )
    runs = []
    for nodes in run.values["nodes"]:
        scaled = run_or_load(nodes, min(MAX_DURATION_S, run.values["budget"] / nodes), run.seed, run.results)
        print(f"{nodes} nodes, {scaled.duration:.0f} s: {len(scaled.results)} requests in {scaled.worked:.0f} s")
        runs.append(scaled)
    run.finish(make_figures(runs), make_charts(runs))


if __name__ == "__main__":
    main()
