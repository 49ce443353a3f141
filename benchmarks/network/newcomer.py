"""How soon a newcomer gets its first delegated request: whole nodes in simulation, with the public parameters.

A node with credits and a backend starts on a network of four validators. It bonds as much as each of them has, declares
its model, and waits until the lottery draws it. On the *busy* network users of the first node send a request every half
second. The *idle* network has seen nothing for minutes; its users begin once the newcomer can be drawn. On the *fresh*
one a chain of a single validator has just begun, which sends the newcomer the credits that it bonds.

Times are simulated, from the start of the newcomer until it has answered the first request of another node. The
reference is what tables that are frozen by epochs take on an idle chain, by calculation: two epochs at one block per
idle beat, at the longest. The exit code is 1 if a time is above its limit. One seed gives the same figures in every
run.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import random
from collections.abc import Callable

import structlog
import trio

from benchmarks.pictures import Chart, Series
from benchmarks.report import Figure, Option, Run
from chain.crypto import KeyPair
from chain.genesis import Genesis, GenesisAccount, make_genesis, make_validator
from chain.parameters.parameters import CREDIT, Parameters
from chain.store.kv import MemoryStore
from chain.store.writer import ChainStore
from chain.types.operations import Transfer
from consensus.voting.journal import Journal
from consensus.voting.vote_store import VoteStore
from consensus.voting.vote_support import VoteSupportStore
from node import Node
from p2p.simulation.internet import SimulatedInternet
from p2p.simulation.network import SimulatedNetwork
from p2p.simulation.runtime import SimulatedRuntime, run_simulation
from serving.openai.errors import ApiError
from serving.openai.requests import CHAT_COMPLETIONS, parse_request
from serving.scheduling.policy import PolicyParameters, ProbabilisticPolicy
from serving.simulation.gpu_curves import QWEN3_8B
from serving.simulation.modelled_backend import ModelledBackend
from tests.support.memory_file import MemoryFile

VALIDATORS = {"busy": 4, "idle": 4, "fresh": 1}
"""Validators of each network."""
LIMITS_S = {"busy": 60.0, "idle": 120.0, "fresh": 120.0}
"""Longest time that a newcomer may wait."""
QUIET_S = {"busy": 30.0, "idle": 200.0, "fresh": 1.0}
"""Simulated seconds before the newcomer starts."""
REQUEST_INTERVAL_S = 0.5
"""Between two requests of the first node's users."""
GIVE_UP_S = 600.0
"""Simulated seconds after which a newcomer counts as never drawn."""
STAKE = 1_000 * CREDIT
"""Bond of each validator, and of the newcomer."""
CAPACITY = 8
"""Requests that a backend works on at a time."""


class Scenario:
    """One network and one newcomer."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.random = random.Random(f"newcomer:{name}:{seed}")
        self.questions = itertools.count()  # one that was asked before would go to where it was answered
        self.hub = SimulatedInternet(seed)
        count = VALIDATORS[name]
        secrets = [hashlib.sha256(f"{name}/{seed}/{number}".encode()).digest() for number in range(count + 1)]
        self.keys = [KeyPair(secret) for secret in secrets]
        """Of the validators, and of the newcomer."""
        self.genesis = self._make_genesis(self.random.randbytes(32))
        self.networks = [SimulatedNetwork(self.hub, key.public_key) for key in self.keys]
        self.nodes = [self._make_node(number, seed) for number in range(count + 1)]

    def _make_genesis(self, beacon: bytes) -> Genesis:
        parameters, (*validators, newcomer) = Parameters(), self.keys
        # A fresh chain begins as ``wwwserve init --new-chain`` makes it: its validator serves nothing yet.
        models = () if self.name == "fresh" else (QWEN3_8B.model,)
        accounts = [make_validator(key, beacon, parameters, 10_000 * CREDIT, STAKE, models) for key in validators]
        if self.name != "fresh":
            accounts.append(GenesisAccount(newcomer.public_key, STAKE + 10 * CREDIT, 0, (), None))
        return make_genesis("newcomer", SimulatedRuntime.EPOCH_MS, beacon, accounts, parameters)

    def _make_node(self, number: int, seed: int) -> Node:
        key, is_newcomer = self.keys[number], number == len(self.keys) - 1
        runtime, store = SimulatedRuntime(f"{seed}/{self.name}/{number}"), MemoryStore()
        blocks, backend = ChainStore(store, self.genesis), ModelledBackend(QWEN3_8B, runtime, capacity=CAPACITY)
        journal = Journal(MemoryFile(), self.genesis.chain_id, key.public_key)
        # The first node offloads what it can.
        target = 0.0 if number == 0 else 1.0
        policy = PolicyParameters(target_utilization=target, offload_frequency=1.0, accept_frequency=1.0)
        bootstrap = [(self.keys[0].public_key, address) for address in self.networks[0].listen_addresses]
        return Node(
            genesis=self.genesis,
            key=key,
            network=self.networks[number],
            blocks=blocks,
            runtime=runtime,
            policy=ProbabilisticPolicy(policy),
            backends=[(backend, CAPACITY)],
            vote_store=None if is_newcomer else VoteStore(key, journal, VoteSupportStore(store)),
            bootstrap=bootstrap if number else (),
            stake=STAKE if is_newcomer else None,
        )

    async def run(self) -> float:
        """Play it; returns the simulated seconds until the newcomer has answered a request of another node."""
        *validators, newcomer = self.nodes
        async with trio.open_nursery() as nursery:
            await nursery.start(self.hub.run)
            for node in validators:
                await nursery.start(node.run)
            if self.name == "busy":
                nursery.start_soon(self._send_requests, nursery)
            await trio.sleep(QUIET_S[self.name] + self.random.uniform(0.0, 10.0))
            started = trio.current_time()
            if self.name == "fresh":
                await validators[0].wallet.submit(
                    lambda nonce: Transfer(nonce, newcomer.key.public_key, STAKE + 10 * CREDIT)
                )
            await nursery.start(newcomer.run)
            with trio.move_on_after(GIVE_UP_S):
                if self.name != "busy":
                    await self._wait(lambda: self._is_drawn(newcomer))
                    nursery.start_soon(self._send_requests, nursery)
                await self._wait(lambda: newcomer.executor.served > 0)
            waited = trio.current_time() - started
            nursery.cancel_scope.cancel()
        return waited

    async def _wait(self, is_over: Callable[[], bool]) -> None:
        while not is_over():
            await trio.sleep(0.1)

    def _is_drawn(self, newcomer: Node) -> bool:
        """Whether the first node's lottery has the newcomer among its executors."""
        state = self.nodes[0].engine.state
        table = state.serving_table(state.serving_periods.current.first_round)
        return table is not None and any(entry.public_key == newcomer.key.public_key for entry in table.entries)

    async def _send_requests(self, nursery: trio.Nursery) -> None:
        while True:
            nursery.start_soon(self._send)
            await trio.sleep(self.random.expovariate(1 / REQUEST_INTERVAL_S))

    async def _send(self) -> None:
        body = {
            "model": QWEN3_8B.model,
            "max_tokens": 64,
            "messages": [{"role": "user", "content": f"{next(self.questions):0200}"}],
        }
        request = parse_request(CHAT_COMPLETIONS, json.dumps({**body, "stream": True}).encode(), 4_096)
        try:
            async with self.nodes[0].dispatcher.complete(request) as (answer, _):
                async for _ in answer.body:
                    pass
        except ApiError:
            return


def get_figures(waits: dict[str, list[float]]) -> list[Figure]:
    """The longest time of each network, and the shortest."""
    parameters = Parameters()
    by_epochs = 2 * parameters.epoch_heights * parameters.idle_beat_ms / 1000
    figures = []
    for name, times in waits.items():
        what = f"first request of a newcomer, {name} network"
        figures += [
            Figure(
                f"{name}: longest", max(times), "s", by_epochs, "tables by epochs, idle", LIMITS_S[name], headline=what
            ),
            Figure(f"{name}: shortest", min(times), "s"),
        ]
    return figures


def make_chart(waits: dict[str, list[float]]) -> Chart:
    """The times, in ascending order."""
    series = [
        Series(name, tuple(float(place) for place in range(1, len(times) + 1)), tuple(sorted(times)))
        for name, times in waits.items()
    ]
    return Chart("A newcomer's first request", "newcomers, by their time", "simulated seconds", tuple(series))


def main() -> None:
    """Command line."""
    run = Run("newcomer", __doc__, Option("runs", 10, 1, "newcomers of each network"), is_timed=False)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    waits = {
        name: [
            run_simulation(run.seed + number, Scenario(name, run.seed + number).run)
            for number in range(run.values["runs"])
        ]
        for name in VALIDATORS
    }
    run.finish(get_figures(waits), [make_chart(waits)])


if __name__ == "__main__":
    main()
