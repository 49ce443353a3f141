"""A small world of engines on a network in memory, under trio's mock clock."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from chain.crypto import KeyPair
from chain.genesis import Genesis, GenesisAccount
from chain.parameters.parameters import CREDIT, Parameters
from chain.store.kv import MemoryStore, Store
from chain.store.writer import ChainStore
from chain.types.operations import NoncedOperation, SignedOperation, Transfer, sign_operation
from consensus.engine import Engine, Settings
from consensus.validator_tasks import ValidatorTasks
from consensus.voting.journal import Journal
from consensus.voting.vote_store import VoteStore
from consensus.voting.vote_support import VoteSupportStore
from p2p.simulation.internet import SimulatedInternet
from p2p.simulation.network import SimulatedNetwork
from p2p.simulation.runtime import SimulatedRuntime, run_simulation
from p2p.streams.exchanges import Streams
from tests.support.chain_builder import make_test_genesis
from tests.support.keys import make_key
from tests.support.memory_file import MemoryFile


def make_equal_genesis(
    validators: int, others: int = 0, epoch_heights: int = 1_000, beacon: bytes = bytes(32), **parameters: Any
) -> Genesis:
    """Equal accounts 1 ... of 1000 credits; the first ``validators`` of them vote."""
    keys = [make_key(number) for number in range(1, validators + others + 1)]
    round_heights = math.gcd(epoch_heights, Parameters().round_heights)
    defaults = {
        "epoch_heights": epoch_heights, "round_heights": round_heights, "min_validator_bond": 100 * CREDIT,
    }  # fmt: skip
    return make_test_genesis(
        keys[:validators],
        stakes=[100 * CREDIT] * validators,
        available=1_000 * CREDIT,
        models=(),
        others=[GenesisAccount(key.public_key, 1_000 * CREDIT, 100 * CREDIT, (), None) for key in keys[validators:]],
        parameters=Parameters(**{**defaults, **parameters}),
        beacon=beacon,
        timestamp=SimulatedRuntime.EPOCH_MS,
    )


@dataclass
class Node:
    """One engine and what it stands on; ``store`` and ``journal_file`` survive a crash."""

    key: KeyPair
    store: Store = field(default_factory=MemoryStore)
    journal_file: MemoryFile = field(default_factory=MemoryFile)
    runtime: SimulatedRuntime | None = None
    network: SimulatedNetwork | None = None
    scope: trio.CancelScope | None = None
    stopped: trio.Event | None = None
    starts: int = 0
    _engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        assert self._engine is not None
        return self._engine

    @property
    def is_alive(self) -> bool:
        return self._engine is not None


class World:
    """Engines that share a genesis, a hub and a nursery."""

    def __init__(self, genesis: Genesis, nursery: trio.Nursery, seed: int = 1, loss: float = 0.0) -> None:
        self.genesis = genesis
        self.hub = SimulatedInternet(seed, loss=loss)
        self.nursery = nursery
        self.seed = seed
        self.nodes: dict[int, Node] = {}
        self.settings = Settings()
        self.nonces: dict[int, int] = {}
        self.skews: dict[int, int] = {}
        """How far a node's wall clock is ahead, in ms."""

    async def start(self, *numbers: int, stores: Sequence[Store] = ()) -> list[Engine]:
        """Start (or start again) the nodes of these keys, connected with all that are alive."""
        for index, number in enumerate(numbers):
            node = self.nodes.setdefault(number, Node(make_key(number)))
            if stores:
                node.store = stores[index]
            await self.nursery.start(self._run, node, number)
        self.hub.connect_all()
        return [self.nodes[number].engine for number in numbers]

    def _open(self, node: Node, number: int) -> tuple[ChainStore, VoteStore]:
        """What a node finds on its disk; for a subclass to replace."""
        blocks = ChainStore(node.store, self.genesis)
        journal = Journal(node.journal_file, self.genesis.chain_id, node.key.public_key)
        return blocks, VoteStore(node.key, journal, VoteSupportStore(node.store))

    def _watch(self, engine: Engine, number: int) -> None:
        """Look at an engine before it runs; for a subclass to replace."""

    async def _run(self, node: Node, number: int, task_status: Any) -> None:
        node.starts += 1
        node.runtime = SimulatedRuntime(f"{self.seed}/{number}/{node.starts}", self.skews.get(number, 0))
        node.network = SimulatedNetwork(self.hub, node.key.public_key)
        node.stopped = trio.Event()
        streams = Streams(node.network)
        blocks, vote_store = self._open(node, number)
        engine = Engine(self.genesis, vote_store, node.network, streams, node.runtime, blocks, self.settings)
        self._watch(engine, number)
        try:
            async with trio.open_nursery() as nursery:
                node.scope = nursery.cancel_scope
                nursery.start_soon(streams.run)
                await nursery.start(engine.run)
                node._engine = engine
                nursery.start_soon(ValidatorTasks(node.key, engine, partial(self.submit, number), node.runtime).run)
                task_status.started()
        finally:
            node._engine = None
            if node.network.alive:
                self.hub.kill(node.key.public_key)
            node.stopped.set()

    async def kill(self, number: int) -> None:
        """Crash a node: it is off the network and its tasks end where they are."""
        node = self.nodes[number]
        assert node.scope is not None and node.stopped is not None
        node.scope.cancel()
        await node.stopped.wait()
        node.journal_file.crash()

    def engine(self, number: int) -> Engine:
        return self.nodes[number].engine

    @property
    def engines(self) -> list[Engine]:
        return [node.engine for node in self.nodes.values() if node.is_alive]

    def transfer(self, sender: int, recipient: int, amount: int, memo: bytes = b"") -> SignedOperation:
        """The sender's next transfer."""
        nonce = self.nonces.get(sender, 0)
        self.nonces[sender] = nonce + 1
        operation = Transfer(nonce, make_key(recipient).public_key, amount, memo)
        return sign_operation(make_key(sender), self.genesis.chain_id, operation)

    async def submit(self, number: int, make: Callable[[int], NoncedOperation]) -> SignedOperation:
        """Sign the operation made with the account's next nonce, and submit it through the account's own node."""
        engine = self.engine(number)
        nonce = max(self.nonces.get(number, 0), engine.state.account(make_key(number).public_key).nonce)
        self.nonces[number] = nonce + 1
        operation = sign_operation(make_key(number), self.genesis.chain_id, make(nonce))
        await engine.submit(operation)
        return operation

    async def wait_height(self, height: int, *numbers: int, timeout: float = 120.0) -> None:
        """Until these nodes (all that are alive if none is named) have a final block of ``height``."""
        with trio.fail_after(timeout):
            while any(
                node.engine.header.height < height
                for number, node in self.nodes.items()
                if node.is_alive and (not numbers or number in numbers)
            ):
                await trio.sleep(0.1)

    def check_same_chain(self) -> None:
        """No two nodes disagree about any block that both have final, and every state is that of its header."""
        stores = [engine._store for engine in self.engines]
        for store in stores:
            assert store.state.root == store.header.state_root
        for height in range(1, max(store.height for store in stores) + 1):
            ids = {block.id for store in stores if (block := store.block(height)) is not None}
            assert len(ids) == 1, f"forked at height {height}"


def simulate(genesis: Genesis, play: Callable[[World], Awaitable[None]], seed: int = 1, loss: float = 0.0) -> None:
    """Run ``play`` in a new world; it ends when ``play`` does."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = World(genesis, nursery, seed, loss)
            await nursery.start(world.hub.run)
            await play(world)
            assert not world.hub.errors, list(world.hub.errors)
            nursery.cancel_scope.cancel()

    run_simulation(seed, main)
