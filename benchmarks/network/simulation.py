"""How much faster than the clock a market runs in simulation: the node's own code, on a network in memory.

Eight nodes with modelled GPUs serve ten simulated minutes of Poisson requests; the first node gets six times as many as
each of the others. It prints how many were served by the node asked and how many offloaded, a hash of every event (the
trace), and the simulated seconds per second. The same seed gives the same trace in every process, on every machine.

Then as many seeds as there are cores run side by side, each in a process of its own, as those of an evaluation do: the
simulated seconds of all of them per second. The first of them is the seed of the run alone, and has the same trace.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import structlog
import trio

from benchmarks.network.shared_ledger import run_nodes
from benchmarks.pictures import Chart, Series, make_cumulative
from benchmarks.report import Figure, Option, Run, get_percentile
from chain.crypto import KeyPair, format_address
from chain.genesis import Genesis, make_genesis, make_validator
from chain.parameters.parameters import CREDIT, Parameters
from chain.state.state import compute_supply
from chain.store.kv import MemoryStore
from chain.store.writer import ChainStore
from consensus.engine import Settings
from consensus.voting.journal import Journal
from consensus.voting.vote_store import VoteStore
from consensus.voting.vote_support import VoteSupportStore
from node import Node
from p2p.simulation.internet import SimulatedInternet
from p2p.simulation.network import SimulatedNetwork
from p2p.simulation.runtime import SimulatedRuntime
from serving.backends.backend import Backend
from serving.offload.settings import OriginatorSettings
from serving.openai.errors import ApiError
from serving.openai.requests import CHAT_COMPLETIONS, parse_request
from serving.quality.duels.backend_work import DuelJudgeSettings
from serving.scheduling.policy import Policy, PolicyParameters, ProbabilisticPolicy
from serving.simulation.gpu_curves import QWEN3_8B
from serving.simulation.modelled_backend import ModelledBackend
from tests.support.memory_file import MemoryFile

WARM_UP_S = 15.0
"""Simulated seconds before the first request, in which the nodes meet."""
DRAIN_S = 120.0
"""Simulated seconds after the last request, in which payments become final."""


@dataclass
class Outcome:
    """What a simulation did. Times in simulated seconds."""

    seed: int
    nodes: int
    simulated: float
    trace: hashlib._Hash = field(default_factory=lambda: hashlib.sha256())
    results: Counter[str] = field(default_factory=Counter)
    latencies: dict[str, list[float]] = field(default_factory=dict)
    """By how the request was served."""
    first_tokens: dict[tuple[bytes, bytes], list[float]] = field(default_factory=dict)
    """Times to the first token of offloaded requests, by originator and executor, in the order of their starts."""
    served: Counter[str] = field(default_factory=Counter)
    height: int = 0
    state_roots: set[bytes] = field(default_factory=set)
    conserved: bool = True
    real: float = 0.0

    def note(self, *words: object) -> None:
        """Add an event to the trace."""
        self.trace.update((" ".join(map(str, words)) + "\n").encode())

    @property
    def trace_hash(self) -> str:
        return self.trace.hexdigest()[:16]


class Simulation:
    """``count`` equal nodes, each with a modelled GPU of ``capacity`` slots and its own stream of requests."""

    judge: DuelJudgeSettings | None = None
    originator_settings: OriginatorSettings | None = None
    model = QWEN3_8B.model
    warm_up_s = WARM_UP_S
    drain_s = DRAIN_S

    def __init__(
        self, seed: int, count: int, duration: float, rate: float, capacity: int, spacing: float = 1.0
    ) -> None:
        self.duration = duration
        self.rate = rate
        self.outcome = Outcome(seed, count, duration)
        self.random = random.Random(f"requests:{seed}")
        self.hub = SimulatedInternet(seed)
        keys = [KeyPair(hashlib.sha256(f"{seed}/{number}".encode()).digest()) for number in range(count)]
        genesis = self.make_genesis(keys)
        self.networks: list[SimulatedNetwork] = []
        self.nodes: list[Node] = []
        for number, key in enumerate(keys):
            runtime = SimulatedRuntime(f"{seed}/{number}")
            slots = self.get_capacity(number, capacity)
            network = SimulatedNetwork(self.hub, key.public_key)
            store = MemoryStore()
            blocks = ChainStore(store, genesis)
            vote_store = VoteStore(
                key, Journal(MemoryFile(), genesis.chain_id, key.public_key), VoteSupportStore(store)
            )
            self.networks.append(network)
            bootstrap = [(keys[0].public_key, address) for address in self.networks[0].listen_addresses]
            self.nodes.append(
                Node(
                    genesis=genesis,
                    key=key,
                    network=network,
                    blocks=blocks,
                    runtime=runtime,
                    policy=self.make_policy(number),
                    backends=[(self.make_backend(number, runtime, slots), slots)],
                    vote_store=vote_store if key.public_key in genesis.validators else None,
                    bootstrap=bootstrap if number else (),
                    settings=Settings(block_spacing_s=spacing),
                    judge=self.judge,
                    originator_settings=self.originator_settings,
                )
            )

    def make_genesis(self, keys: Sequence[KeyPair]) -> Genesis:
        """A genesis in which every node votes and serves with the same stake."""
        parameters, beacon = Parameters(epoch_heights=20, round_heights=4), bytes(32)
        accounts = [make_validator(k, beacon, parameters, 10_000 * CREDIT, 1_000 * CREDIT, (self.model,)) for k in keys]
        return make_genesis("simulation", SimulatedRuntime.EPOCH_MS, beacon, accounts, parameters)

    def make_policy(self, number: int) -> Policy:
        """The policy of a node's owner."""
        return ProbabilisticPolicy(PolicyParameters())

    def get_capacity(self, number: int, capacity: int) -> int:
        """Requests that a node runs at a time, where ``capacity`` is the common number."""
        return capacity

    def make_backend(self, number: int, runtime: SimulatedRuntime, capacity: int) -> Backend:
        """The GPU of a node."""
        return ModelledBackend(QWEN3_8B, runtime, capacity=capacity)

    async def run(self) -> Outcome:
        """Run to the end and compare the ledgers."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.hub.run)
            for node in self.nodes:
                await nursery.start(node.run)
                nursery.start_soon(self._watch, node)
            await trio.sleep(self.warm_up_s)
            async with trio.open_nursery() as users:
                for number, node in enumerate(self.nodes):
                    users.start_soon(self._send_requests, node, self.rate * (3.0 if number == 0 else 0.5), users)
            await trio.sleep(self.drain_s)
            self._compare()
            nursery.cancel_scope.cancel()
        return self.outcome

    async def _watch(self, node: Node) -> None:
        name = node.key.address[-6:]
        async with node.engine.subscribe_final() as blocks:
            async for final in blocks:
                self.outcome.note(round(trio.current_time(), 6), name, final.block.height, final.block.id.hex())

    async def _send_requests(self, node: Node, rate: float, users: trio.Nursery) -> None:
        end = trio.current_time() + self.duration
        while True:
            await trio.sleep(self.random.expovariate(rate))
            if trio.current_time() >= end:
                return
            users.start_soon(self._send, node, self.random.randint(64, 512), self.random.randint(200, 2000))

    async def _send(self, node: Node, tokens: int, prompt: int) -> None:
        body = {
            "model": self.model,
            "stream": True,
            "max_tokens": tokens,
            "messages": [{"role": "user", "content": "x" * prompt}],
        }
        request = parse_request(CHAT_COMPLETIONS, json.dumps(body).encode(), node.policy.parameters.max_tokens)
        started = trio.current_time()
        size = 0
        try:
            async with node.dispatcher.complete(request) as (answer, record):
                async for chunk in answer.body:
                    if not size and record.executor is not None:
                        times = self.outcome.first_tokens.setdefault((node.key.public_key, record.executor), [])
                        times.append(trio.current_time() - started)
                    size += len(chunk)
            executor = "local" if record.executor is None else "offloaded"
            served = node.key.public_key if record.executor is None else record.executor
            self.outcome.served[format_address(served)[-6:]] += 1
        except ApiError as error:
            executor = f"refused {error.status}"
        latency = trio.current_time() - started
        self.outcome.results[executor] += 1
        self.outcome.latencies.setdefault(executor, []).append(latency)
        self.outcome.note(round(started, 6), node.key.address[-6:], executor, size, round(latency, 6))

    def _compare(self) -> None:
        lowest = min(node.engine.header.height for node in self.nodes)
        self.outcome.height = lowest
        for node in self.nodes:
            if node.engine.header.height == lowest:
                self.outcome.state_roots.add(node.engine.state.root)
            self.outcome.conserved &= compute_supply(node.engine.state) == node.engine.state.totals.supply


def simulate(seed: int, nodes: int = 8, duration: float = 600.0, rate: float = 0.5, capacity: int = 4) -> Outcome:
    """Run one simulation. ``duration`` in simulated seconds, ``rate`` in requests per second of an average node."""
    started = time.perf_counter()
    outcome = run_nodes(seed, Simulation(seed, nodes, duration, rate, capacity).run)
    outcome.real = time.perf_counter() - started
    return outcome


@dataclass(frozen=True, slots=True)
class SeedRun:
    """One of several simulations that ran side by side. Times on the clock that all processes share, in seconds."""

    began: float
    ended: float
    trace_hash: str


def run_seed(seed: int, nodes: int, duration: float, rate: float) -> SeedRun:
    """What a process of its own does; see :func:`simulate`."""
    silence_log()
    began = time.monotonic()
    outcome = simulate(seed, nodes, duration, rate)
    check(outcome)
    return SeedRun(began, time.monotonic(), outcome.trace_hash)


def simulate_seeds(seeds: Sequence[int], nodes: int, duration: float, rate: float) -> list[SeedRun]:
    """Run a simulation of each seed, all at the same time."""
    with ProcessPoolExecutor(len(seeds), mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [pool.submit(run_seed, seed, nodes, duration, rate) for seed in seeds]
        return [run.result() for run in runs]


def silence_log() -> None:
    """Keep the nodes from logging below warnings: the log would cost time, and is not read."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


def check(outcome: Outcome) -> None:
    """Raise RuntimeError unless all nodes have one ledger, in which no credit came or went."""
    if not outcome.conserved or len(outcome.state_roots) != 1:
        raise RuntimeError(f"seed {outcome.seed}: the ledgers disagree")


def get_simulated_s(duration: float) -> float:
    """Simulated seconds of a run with ``duration`` seconds of requests."""
    return WARM_UP_S + duration + DRAIN_S


def make_figure_of_seeds(runs: Sequence[SeedRun], duration: float) -> Figure:
    """How fast several simulations were together, from when the first began until the last had ended."""
    real = max(run.ended for run in runs) - min(run.began for run in runs)
    simulated = len(runs) * get_simulated_s(duration)
    return Figure("simulated time, seeds side by side", simulated, "s", real, f"real time, {len(runs)} processes")


def get_figures(outcome: Outcome) -> list[Figure]:
    """What a simulation found; times are simulated but for its speed."""
    simulated = get_simulated_s(outcome.simulated)
    everything = [latency for latencies in outcome.latencies.values() for latency in latencies]
    what = f"{outcome.nodes} simulated nodes, {outcome.simulated / 60:g} minutes of requests"
    return [
        Figure("simulated time", simulated, "s", outcome.real, "real time", headline=what),
        *(Figure(f"requests {name}", count, "requests") for name, count in sorted(outcome.results.items())),
        Figure("latency p50", get_percentile(everything, 50), "s"),
        Figure("latency p99", get_percentile(everything, 99), "s"),
        Figure("blocks final everywhere", outcome.height, "blocks"),
    ]


def make_chart(outcome: Outcome) -> Chart:
    """The distribution of latencies."""
    curves: list[Series] = [
        make_cumulative(name, latencies)
        for name, latencies in sorted(outcome.latencies.items())
        if name in ("local", "offloaded")
    ]
    return Chart("Simulated requests", "simulated seconds until the whole answer", "share of requests", tuple(curves))


def main() -> None:
    """Command line."""
    cores = len(os.sched_getaffinity(0))
    run = Run(
        "simulation",
        __doc__,
        Option("nodes", 8, 8, "nodes"),
        Option("minutes", 10.0, 1.0, "simulated minutes of requests"),
        Option("rate", 0.5, 0.5, "requests per second of an average node"),
        Option("seeds", cores, cores, "simulations side by side afterwards, one for each core; 0 for none"),
    )
    nodes, duration, rate = run.values["nodes"], 60 * run.values["minutes"], run.values["rate"]
    silence_log()
    outcome = simulate(run.seed, nodes, duration, rate)
    check(outcome)
    speed = get_simulated_s(duration) / outcome.real
    print(f"seed {outcome.seed}  trace {outcome.trace_hash}  simulated/real {speed:.1f}", flush=True)
    figures = get_figures(outcome)
    if run.values["seeds"]:
        runs = simulate_seeds(range(run.seed, run.seed + run.values["seeds"]), nodes, duration, rate)
        if runs[0].trace_hash != outcome.trace_hash:
            raise SystemExit(f"seed {run.seed} has the trace {runs[0].trace_hash} in another process")
        figures.insert(1, make_figure_of_seeds(runs, duration))
    run.finish(figures, [make_chart(outcome)], {"trace": outcome.trace_hash})


if __name__ == "__main__":
    main()
