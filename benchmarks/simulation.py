"""A market in simulation: the very node code, on a network in memory, under a clock that jumps.

``python -m benchmarks.simulation --seed 7`` runs eight nodes with modelled GPUs for ten simulated minutes of Poisson
requests, and prints what was served by whom, a hash of everything that happened, and how much faster than the clock it
ran. The same seed gives the same hash in every process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import structlog
import trio
from rich.console import Console
from rich.table import Table

from chain.crypto import KeyPair, format_address
from chain.genesis import CREDIT, Parameters, make_genesis, make_validator
from chain.state.state import compute_supply
from chain.store.kv import MemoryStore
from chain.store.writer import BlockStore
from consensus.engine import Settings
from consensus.voting.journal import Journal, MemoryFile
from consensus.voting.vote_store import Voting
from consensus.voting.vote_support import EvidenceStore
from node import Node
from p2p.runtime import SimulatedRuntime, run_simulation
from p2p.simulation.network import MemoryHub, MemoryNetwork
from serving.openai.errors import ApiError
from serving.openai.requests import CHAT_COMPLETIONS, parse_request
from serving.scheduling.policy import DefaultPolicy, PolicyParameters
from serving.simulation.gpu_curves import QWEN3_8B
from serving.simulation.modelled_backend import ModelledBackend

WARM_UP = 15.0
"""Simulated seconds before the first request, in which the nodes meet."""
DRAIN = 120.0
"""Simulated seconds after the last request, in which payments become final."""


@dataclass
class Outcome:
    """What a simulation did. Times in simulated seconds."""

    seed: int
    nodes: int
    simulated: float
    trace: hashlib._Hash = field(default_factory=lambda: hashlib.sha256())
    results: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
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

    def __init__(self, seed: int, count: int, duration: float, rate: float, capacity: int) -> None:
        self.duration = duration
        self.rate = rate
        self.outcome = Outcome(seed, count, duration)
        self.random = random.Random(f"requests:{seed}")
        self.hub = MemoryHub(seed)
        self.model = QWEN3_8B.model
        keys = [KeyPair(hashlib.sha256(f"{seed}/{number}".encode()).digest()) for number in range(count)]
        parameters, beacon = Parameters(epoch_heights=20), bytes(32)
        accounts = [make_validator(k, beacon, parameters, 10_000 * CREDIT, 1_000 * CREDIT, (self.model,)) for k in keys]
        genesis = make_genesis("simulation", SimulatedRuntime.EPOCH, beacon, accounts, parameters)
        self.networks: list[MemoryNetwork] = []
        self.nodes: list[Node] = []
        for number, key in enumerate(keys):
            runtime = SimulatedRuntime(f"{seed}/{number}")
            network = MemoryNetwork(self.hub, key.public_key)
            store = MemoryStore()
            blocks = BlockStore(store, genesis)
            voting = Voting(key, Journal(MemoryFile(), genesis.chain_id, key.public_key), EvidenceStore(store))
            self.networks.append(network)
            bootstrap = [(keys[0].public_key, address) for address in self.networks[0].listen_addresses]
            self.nodes.append(
                Node(
                    genesis=genesis,
                    key=key,
                    network=network,
                    blocks=blocks,
                    runtime=runtime,
                    policy=DefaultPolicy(PolicyParameters()),
                    backends=[(ModelledBackend(QWEN3_8B, runtime, capacity=capacity), capacity)],
                    voting=voting,
                    bootstrap=bootstrap if number else (),
                    settings=Settings(block_spacing=1.0),
                )
            )

    async def run(self) -> Outcome:
        """Run to the end and compare the ledgers."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.hub.run)
            for node in self.nodes:
                await nursery.start(node.run)
                nursery.start_soon(self._watch, node)
            await trio.sleep(WARM_UP)
            async with trio.open_nursery() as users:
                for number, node in enumerate(self.nodes):
                    users.start_soon(self._send_requests, node, self.rate * (3.0 if number == 0 else 0.5), users)
            await trio.sleep(DRAIN)
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
            async with node.dispatcher.complete(request) as reply:
                async for chunk in reply.body:
                    size += len(chunk)
            executor = "local" if reply.record.executor is None else "offloaded"
            served = node.key.public_key if reply.record.executor is None else reply.record.executor
            self.outcome.served[format_address(served)[-6:]] += 1
        except ApiError as error:
            executor = f"refused {error.status}"
        latency = trio.current_time() - started
        self.outcome.results[executor] += 1
        self.outcome.latencies.append(latency)
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
    outcome = run_simulation(seed, Simulation(seed, nodes, duration, rate, capacity).run)
    outcome.real = time.perf_counter() - started
    return outcome


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=10.0, help="simulated minutes of requests")
    parser.add_argument("--rate", type=float, default=0.5, help="requests per second of an average node")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    outcome = simulate(arguments.seed, arguments.nodes, 60 * arguments.minutes, arguments.rate)
    console = Console()
    table = Table(title=f"{outcome.nodes} nodes, {arguments.minutes:g} simulated minutes")
    table.add_column("what")
    table.add_column("", justify="right")
    for name, count in sorted(outcome.results.items()):
        table.add_row(f"requests {name}", str(count))
    latencies = sorted(outcome.latencies)
    for share in (50, 99):
        table.add_row(f"latency p{share}", f"{latencies[(len(latencies) - 1) * share // 100]:.2f} s")
    table.add_row("blocks final everywhere", str(outcome.height))
    table.add_row("credits conserved", "yes" if outcome.conserved else "NO")
    console.print(table)
    simulated = outcome.simulated + WARM_UP + DRAIN
    print(f"seed {outcome.seed}  trace {outcome.trace_hash}  simulated/real {simulated / outcome.real:.1f}")
    if not outcome.conserved or len(outcome.state_roots) != 1:
        raise SystemExit("the ledgers disagree")


if __name__ == "__main__":
    main()
