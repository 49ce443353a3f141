"""Peers that answer sync requests from a chain that a test made, and a node that asks them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

import trio

from chain.genesis import Genesis
from chain.light.client import Checkpoint
from chain.state.state import State
from chain.store.kv import MemoryStore, Store
from chain.store.writer import ChainStore
from chain.transition.block import apply_block
from consensus.sync.messages import SYNC_PROTOCOL, Question, Request
from consensus.sync.server import SyncServer
from consensus.voting.vote_store import VoteStore
from p2p.simulation.network import SimulatedNetwork
from p2p.simulation.runtime import SimulatedRuntime, run_simulation
from p2p.streams.exchange import Exchange
from p2p.streams.exchanges import Streams
from tests.support.chain_builder import Chain
from tests.support.consensus_world import Node, World
from tests.support.keys import make_key

Answers = Sequence[bytes] | None
Lie = Callable[[Question], Answers]
"""The frames to answer a question with, or None for the honest ones."""


def fill_store(
    chain: Chain,
    upto: int | None = None,
    *,
    keep_epochs: int = 0,
    store: Store | None = None,
    blocks: ChainStore | None = None,
) -> ChainStore:
    """A store with the blocks of ``chain``, each with its finality certificate; a new one unless given."""
    blocks = blocks or ChainStore(store or MemoryStore(), chain.genesis, keep_epochs)
    parent, state = blocks.header, blocks.state
    for block in chain.blocks[blocks.height : upto]:
        transition = apply_block(chain.genesis, parent, state, block)
        blocks.append([(block, transition)], chain.finality(block))
        parent, state = block.header, transition.state
    return blocks


def get_checkpoint(chain: Chain, height: int) -> Checkpoint:
    """The block of that height as a checkpoint."""
    return Checkpoint(height, chain.blocks[height - 1].id)


class SyncWorld(World):
    """A world whose own nodes only ask; ``keep_epochs`` is their setting."""

    keep_epochs = 0

    def _open(self, node: Node, number: int) -> tuple[ChainStore, VoteStore]:
        _, vote_store = super()._open(node, number)
        return ChainStore(node.store, self.genesis, self.keep_epochs), vote_store

    def trust(self, checkpoint: Checkpoint | None) -> None:
        """Give the nodes to come a checkpoint."""
        self.settings = replace(self.settings, checkpoint=checkpoint)

    async def serve(self, number: int, store: ChainStore, lie: Lie = lambda _: None) -> None:
        """A peer that answers from ``store``, except where it lies."""
        server = make_server(store)

        async def handle(exchange: Exchange) -> None:
            raw = await exchange.receive()
            assert raw is not None
            answers = lie(Request.decode(raw).question)
            if answers is None:
                await server.handle(_Read(exchange, raw))  # type: ignore[arg-type]
            for answer in answers or ():
                await exchange.send(answer)

        await self.serve_with(number, handle)

    async def serve_with(self, number: int, handle: Callable[[Exchange], Awaitable[None]]) -> Streams:
        """A peer with a handler of the test's."""
        streams = Streams(SimulatedNetwork(self.hub, make_key(number).public_key))
        self.nursery.start_soon(streams.run)
        streams.handle(SYNC_PROTOCOL, handle, 8)
        await trio.sleep(0)
        self.hub.connect_all()
        return streams


class _Read:
    """An exchange whose first frame was read already."""

    def __init__(self, exchange: Exchange, raw: bytes) -> None:
        self._raw = raw
        self.peer, self.send, self.abort, self.end = exchange.peer, exchange.send, exchange.abort, exchange.end

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._raw


def play_sync(genesis: Genesis, play: Callable[[SyncWorld], Awaitable[None]], seed: int = 1) -> None:
    """Run ``play`` in a new world; it ends when ``play`` does."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = SyncWorld(genesis, nursery, seed)
            await nursery.start(world.hub.run)
            await play(world)
            assert not world.hub.errors, list(world.hub.errors)
            nursery.cancel_scope.cancel()

    run_simulation(seed, main)


def make_server(store: ChainStore) -> SyncServer:
    """The honest server of a store."""
    return SyncServer(store, lambda _: None, lambda _: None, SimulatedRuntime(0))


def get_state_entries(state: State) -> list[tuple[bytes, bytes]]:
    """Everything in a state, in the order of its tree."""
    return [(leaf.key, leaf.encoded) for leaf in state.entries()]


def encode_all(records: Iterable[object]) -> list[bytes]:
    """The encodings of records."""
    return [record.encode() for record in records]  # type: ignore[attr-defined]
