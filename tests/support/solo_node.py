"""A whole node that is alone in the world: its own only validator, on a network in memory, with real time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from chain.crypto import KeyPair
from chain.genesis import GenesisAccount, make_genesis, make_validator
from chain.parameters.duels import DuelParameters
from chain.parameters.parameters import CREDIT, Parameters
from chain.store.kv import MemoryStore
from chain.store.writer import ChainStore
from consensus.engine import Settings
from consensus.voting.journal import Journal
from consensus.voting.vote_store import VoteStore
from consensus.voting.vote_support import VoteSupportStore
from node import Node
from p2p.runtime import RealRuntime
from p2p.simulation.internet import SimulatedInternet
from p2p.simulation.network import SimulatedNetwork
from serving.backends.backend import BackendError, Load, ModelLimits
from serving.openai.answers import Answer
from serving.scheduling.policy import PolicyParameters, ProbabilisticPolicy
from tests.support.memory_file import MemoryFile

MODEL = "parrot"
CAPACITY = 2
KEY = KeyPair(b"1" * 32)
OTHER = KeyPair(b"2" * 32)


class Parrot:
    """A backend that is there and answers nothing."""

    models = (MODEL,)

    @asynccontextmanager
    async def complete(self, path: str, body: bytes, *, stream: bool) -> AsyncIterator[Answer]:
        raise BackendError("parrots only repeat")
        yield

    def get_load(self) -> Load:
        return Load(0, 0, 0.0, True)

    def get_limits(self, model: str) -> ModelLimits:
        return ModelLimits()

    def is_alive(self) -> bool:
        return True

    async def wait_alive(self) -> None:
        pass

    async def run(self) -> None:
        await trio.sleep_forever()


def make_node(*others: GenesisAccount) -> tuple[Node, SimulatedInternet]:
    """A node that can be looked at without running it, and the hub of its network; ``others`` have accounts too."""
    parameters = Parameters(epoch_heights=1_024, min_validator_bond=100 * CREDIT, duels=DuelParameters(rate=100))
    accounts = [
        make_validator(KEY, bytes(32), parameters, 1_000 * CREDIT, 100 * CREDIT),
        GenesisAccount(OTHER.public_key, 1_000 * CREDIT, 100 * CREDIT, (), None),
        *others,
    ]
    genesis = make_genesis("test", RealRuntime().now() - 1, bytes(32), accounts, parameters)
    hub = SimulatedInternet(1)
    store = MemoryStore()
    node = Node(
        genesis=genesis,
        key=KEY,
        network=SimulatedNetwork(hub, KEY.public_key),
        blocks=ChainStore(store, genesis),
        runtime=RealRuntime(),
        policy=ProbabilisticPolicy(PolicyParameters(max_queue=3)),
        backends=[(Parrot(), CAPACITY)],
        vote_store=VoteStore(KEY, Journal(MemoryFile(), genesis.chain_id, KEY.public_key), VoteSupportStore(store)),
        settings=Settings(block_spacing_s=0.01),
    )
    return node, hub


@asynccontextmanager
async def run_node() -> AsyncIterator[Node]:
    """A node while it runs, all but its advertiser, which would change the account by itself."""
    node, hub = make_node()
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        nursery.start_soon(node.backend_pool.run)
        await nursery.start(node.streams.run)
        await nursery.start(node.engine.run)
        nursery.start_soon(node.payments.run)
        await nursery.start(node.discovery.run)
        yield node
        nursery.cancel_scope.cancel()
