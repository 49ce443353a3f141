"""Whether real node processes share requests as the simulation of the same nodes predicts.

Four nodes with the policy that they are shipped with, as processes: libp2p sockets, LevelDB, agreement on every
payment. Beside each is a server without a model that writes tokens at a fixed pace, twice as slow from node to node; a
node gives it four requests at a time. The users of all nodes send equally many requests, too many for the two slow
nodes. In the simulation the same code of the nodes, with the same genesis and paces, gets the same requests, over
several seeds; a process draws its beacon at random.

The paces are so slow that the work of the machine hardly shows in a latency. Compared are the share of all requests
that each node served, the mean latency of those, and the mean of all. The order of the nodes must be the predicted one
in both, and the shares and latencies those predicted, within :data:`SHARE_ERROR` and :data:`LATENCY_ERROR`. A quick run
has too few requests for that, and only shows that all are answered.
"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import structlog
import trio

from benchmarks.evaluation.harness import Task, run_all
from benchmarks.evaluation.market import Market, MarketKind
from benchmarks.evaluation.replay import REPORT_INTERVAL_S, TIMEOUT_S, Result, send_all
from benchmarks.evaluation.workloads import MAX_TOKENS, Request, Setting, Site, draw_requests
from benchmarks.network.shared_ledger import run_nodes
from benchmarks.pictures import Chart, Series
from benchmarks.report import Figure, Option, Run
from chain.crypto import KeyPair
from chain.genesis import Genesis, make_genesis, make_validator
from chain.parameters.parameters import CREDIT
from p2p.simulation.runtime import SimulatedRuntime
from serving.backends.backend import Backend, BackendError
from serving.simulation.gpu_curves import QWEN3_8B, GpuCurve
from serving.simulation.modelled_backend import ModelledBackend
from tests.support.cluster import LENIENT, Cluster, run_cluster
from tests.support.fake_backend import MODEL, FakeOptions, serve_forked
from tests.support.forked import ForkedServer

PACES_S = (0.05, 0.1, 0.2, 0.4)
"""Seconds between two tokens of an answer, by node, at a slowness of 1. At another one, all times are multiplied."""
NODES = range(len(PACES_S))
SLOTS = 4
"""Requests that a node has its server answer at a time."""
TOKENS_SCALE = 100
"""The answers are those of the other workloads, so many times shorter."""
RATE = 0.48
"""Requests per second of each node's users, at a slowness of 1: 60 % of what all nodes together can answer."""
SPEED_UP = REPORT_INTERVAL_S / 0.5
"""Bursts of tokens come so many times more often than in the other simulations."""
SHARE_ERROR = 0.08
"""Largest difference of a share from the predicted one, of all requests: three standard errors of 400 requests."""
LATENCY_ERROR = 0.25
"""Largest difference of a mean latency from the predicted one, as a share of that."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run showed, by the node that served; ``mean`` (s) is of all requests.

    ``latencies`` (s) has None for a node that served nothing.
    """

    shares: tuple[float, ...]
    latencies: tuple[float | None, ...]
    mean: float
    missed: int


def make_setting(seconds: float, slowness: float) -> Setting:
    """Four nodes whose users are equally busy. The card of a site stands for nothing here."""
    site = Site(QWEN3_8B.model, QWEN3_8B.card, ((0.0, seconds, RATE / slowness),))
    return Setting("processes", "four paces", (site,) * len(PACES_S), 0.0)


def make_names(slowness: float) -> tuple[str, ...]:
    """What the nodes are called."""
    return tuple(f"{1 / (pace * slowness):g} tokens/s" for pace in PACES_S)


def draw_scaled(setting: Setting, seed: int) -> list[Request]:
    """The requests, with answers cut at the limit and scaled."""
    requests = draw_requests(setting, seed)
    return [replace(each, output=max(1, min(each.output, MAX_TOKENS) // TOKENS_SCALE)) for each in requests]


def make_paced_body(request: Request) -> bytes:
    """A request whose limit is its length, which the server without a model fills."""
    content = f"request {request.id} ".ljust(4 * request.prompt, "x")
    messages = [{"role": "user", "content": content}]
    return json.dumps({"model": MODEL, "stream": True, "max_tokens": request.output, "messages": messages}).encode()


def make_paced_curve(pace: float) -> GpuCurve:
    """A card that makes a token of every request it runs in a step of ``pace`` seconds, and reads prompts at once.

    A request that comes during a step waits for its end.
    """
    return replace(
        QWEN3_8B,
        model=MODEL,
        weights=0.0,
        kv_bytes=0.0,
        overhead=pace,
        stream_cost=0.0,
        prefill_rate=1e12,
        host_rate=1e12,
        request_seconds=0.0,
        arrival_seconds=0.0,
    )


class PacedMarket(Market):
    """The four nodes in simulation."""

    model = MODEL

    def __init__(self, setting: Setting, requests: Sequence[Request], seed: int, slowness: float) -> None:
        self.slowness = slowness
        super().__init__(setting, requests, seed, MarketKind())

    def make_genesis(self, keys: Sequence[KeyPair]) -> Genesis:
        """That of the processes."""
        beacon = bytes(32)
        accounts = [make_validator(k, beacon, LENIENT, 10_000 * CREDIT, 1_000 * CREDIT, (MODEL,)) for k in keys]
        return make_genesis("simulation", SimulatedRuntime.EPOCH_MS, beacon, accounts, LENIENT)

    def get_capacity(self, number: int, capacity: int) -> int:
        return SLOTS

    def make_backend(self, number: int, runtime: SimulatedRuntime, capacity: int) -> Backend:
        return ModelledBackend(
            make_paced_curve(PACES_S[number] * self.slowness),
            runtime,
            capacity=capacity,
            report_interval=REPORT_INTERVAL_S / SPEED_UP,
        )

    def make_body(self, request: Request) -> bytes:
        return make_paced_body(request)


def work(task: Task) -> Sequence[Result]:
    """One run of the simulation."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    parameters = json.loads(task.parameters)
    setting = make_setting(parameters["seconds"], parameters["slowness"])
    requests = draw_scaled(setting, parameters["workload"])
    market = PacedMarket(setting, requests, task.seed, parameters["slowness"])
    return run_nodes(f"processes:{task.seed}", market.run_market).results


def run_processes(requests: Sequence[Request], slowness: float) -> list[Result]:
    """Send all requests to real nodes, at their times."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = []
        for pace in PACES_S:
            servers.append(ForkedServer(serve_forked, FakeOptions(token_delay=pace * slowness)))
            stack.callback(servers[-1].kill)

        def configure(number: int) -> dict[str, Any]:
            model = {"kind": "openai", "base_url": servers[number].told, "load": "none", "capacity": SLOTS}
            return {"models": [model]}

        cluster = stack.enter_context(run_cluster(directory, len(PACES_S), parameters=LENIENT, config=configure))
        return trio.run(send_to, cluster, requests)


async def send_to(cluster: Cluster, requests: Sequence[Request]) -> list[Result]:
    """Users of a cluster; see :func:`benchmarks.evaluation.replay.send_all`."""
    numbers = {node.address: number for number, node in enumerate(cluster.nodes)}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits, trust_env=False) as client:

        async def handle(request: Request) -> int:
            url, body = cluster.nodes[request.node].completions_url, make_paced_body(request)
            headers = {"content-type": "application/json"}
            try:
                async with client.stream("POST", url, content=body, headers=headers) as answer:
                    text = await answer.aread()
            except httpx.HTTPError as error:
                raise BackendError(str(error)) from error
            if answer.status_code != httpx.codes.OK or not text.endswith(b"data: [DONE]\n\n"):
                raise BackendError(f"answered with {answer.status_code}")
            executor = answer.headers["x-wwwserve-executor"]
            return request.node if executor == "local" else numbers[executor]

        return await send_all(requests, handle)


def summarize(results: Sequence[Result]) -> Outcome:
    """Shares and latencies of one run."""
    served = [[result.latency for result in results if result.executor == node] for node in NODES]
    return Outcome(
        tuple(len(latencies) / len(results) for latencies in served),
        tuple(statistics.mean(latencies) if latencies else None for latencies in served),
        statistics.mean(result.latency for result in results),
        sum(not result.is_answered for result in results),
    )


def average(outcomes: Sequence[Outcome]) -> Outcome:
    """The mean over seeds; of latencies, over those in which the node served."""
    latencies = [[value for value in of_node if value is not None] for of_node in _get_columns(outcomes)]
    return Outcome(
        tuple(map(statistics.mean, zip(*(each.shares for each in outcomes), strict=True))),
        tuple(statistics.mean(of_node) if of_node else None for of_node in latencies),
        statistics.mean(each.mean for each in outcomes),
        sum(each.missed for each in outcomes),
    )


def _get_columns(outcomes: Sequence[Outcome]) -> list[tuple[float | None, ...]]:
    return list(zip(*(each.latencies for each in outcomes), strict=True))


def count_inversions(values: Sequence[float | None], predicted: Sequence[float | None]) -> int:
    """Pairs of nodes that are in another order than predicted, where all four values are known."""
    known = [(value, at) for value, at in zip(values, predicted, strict=True) if value is not None and at is not None]
    return sum((a - b) * (at_a - at_b) < 0 for (a, at_a), (b, at_b) in combinations(known, 2))


def make_figures(names: Sequence[str], real: Outcome, predictions: Sequence[Outcome], is_judged: bool) -> list[Figure]:
    """What the processes did, beside what was predicted; ``is_judged``: there are limits on the difference."""
    predicted = average(predictions)
    against = f"simulated, {len(predictions)} seeds"
    figures = [
        *(
            Figure(f"{name}: share served", value, "of all", expected, against)
            for name, value, expected in zip(names, real.shares, predicted.shares, strict=True)
        ),
        *(
            Figure(f"{name}: mean latency", value, "s", expected, against)
            for name, value, expected in zip(names, real.latencies, predicted.latencies, strict=True)
            if value is not None
        ),
        Figure("all: mean latency", real.mean, "s", predicted.mean, against),
        Figure("missed", real.missed, "requests", limit=0),
        Figure("missed in simulation", predicted.missed, "requests", limit=0),
    ]
    wrong = count_inversions(real.shares, predicted.shares) + count_inversions(real.latencies, predicted.latencies)
    judged = (
        ("pairs of nodes in another order than predicted", wrong, "of 12", 0),
        ("largest difference of a share", compute_share_error(real, predicted), "of all", SHARE_ERROR),
        ("largest difference of a latency", compute_latency_error(real, predicted), "of it", LATENCY_ERROR),
    )
    figures += [Figure(name, value, unit, limit=limit if is_judged else None) for name, value, unit, limit in judged]
    spreads = [compute_share_error(each, predicted) for each in predictions]
    return [*figures, Figure("the same of one seed of the simulation: share, at most", max(spreads), "of all")]


def compute_share_error(outcome: Outcome, predicted: Outcome) -> float:
    """The largest difference of a share."""
    return max(abs(value - expected) for value, expected in zip(outcome.shares, predicted.shares, strict=True))


def compute_latency_error(outcome: Outcome, predicted: Outcome) -> float:
    """The largest relative difference of a mean latency, of a node or of all."""
    pairs = zip((*outcome.latencies, outcome.mean), (*predicted.latencies, predicted.mean), strict=True)
    return max(abs(value / expected - 1) for value, expected in pairs if value is not None and expected is not None)


def make_charts(names: tuple[str, ...], real: Outcome, predicted: Outcome) -> list[Chart]:
    """Bars side by side."""
    kinds = {"processes": real, "simulated": predicted}
    shares = [Series(name, (), outcome.shares) for name, outcome in kinds.items()]
    latencies = [
        Series(name, (), tuple(value or 0.0 for value in outcome.latencies)) for name, outcome in kinds.items()
    ]
    return [
        Chart("Share of the requests served", "", "of all", tuple(shares), names),
        Chart("Mean latency of the requests served", "", "seconds", tuple(latencies), names),
    ]


def main() -> None:
    """Command line."""
    run = Run(
        "processes",
        __doc__,
        Option("seconds", 480.0, 5.0, "seconds of requests"),
        Option("slowness", 2.0, 0.5, "factor on the paces, and on the time between two requests"),
        Option("seeds", 4, 2, "simulations of the same requests"),
        is_timed=False,
    )
    slowness = run.values["slowness"]
    setting = make_setting(run.values["seconds"], slowness)
    parameters = json.dumps({"seconds": run.values["seconds"], "slowness": slowness, "workload": run.seed})
    tasks = [Task("simulated", setting.name, run.seed + number, parameters) for number in range(run.values["seeds"])]
    done = run_all(tasks, work, run.results)
    predictions = [summarize(done[task]) for task in tasks]
    real = summarize(run_processes(draw_scaled(setting, run.seed), slowness))
    names = make_names(slowness)
    run.finish(make_figures(names, real, predictions, not run.quick), make_charts(names, real, average(predictions)))


if __name__ == "__main__":
    main()
