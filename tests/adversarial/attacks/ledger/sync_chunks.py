"""Strangers ask for chunks of the state at places that they make up: how much is done for them on the event loop?"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import trio

from consensus.sync.messages import ChunkResponse, GetChunk, Request
from consensus.sync.server import CHUNK_RATE
from p2p.simulation.runtime import SimulatedRuntime, run_simulation
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.agreement.sync_world import fill_store, make_server
from tests.support.chain_builder import Chain

STRANGERS, SECONDS = 4, 60
PAUSE_S = 0.02


class _Exchange:
    """One question of a stranger, who does not read the answer."""

    def __init__(self, peer: bytes, question: GetChunk) -> None:
        self.peer = peer
        self._raw = Request(question).encode()

    async def receive(self) -> bytes:
        return self._raw

    async def send(self, payload: bytes) -> None:
        await trio.lowlevel.checkpoint()


class _Work:
    """Counts the chunks that are encoded, and those of them that are on the event loop."""

    def __init__(self) -> None:
        self.made = self.on_loop = 0
        self._is_in_thread = False

    async def run_sync(self, function: Any, *args: Any) -> Any:
        await trio.lowlevel.checkpoint()
        self._is_in_thread = True
        try:
            return function(*args)
        finally:
            self._is_in_thread = False

    def encode(self, response: ChunkResponse) -> bytes:
        self.made += 1
        self.on_loop += not self._is_in_thread
        return b""


async def ask_all(work: _Work) -> int:
    """How often they asked."""
    chain = Chain()
    chain.append_epochs(3)
    server = make_server(fill_store(chain))
    height = chain.genesis.parameters.epoch_heights * 3
    asked = 0

    async def ask(name: int) -> None:
        nonlocal asked
        while True:
            asked += 1
            question = GetChunk(height, name.to_bytes(2) + asked.to_bytes(30))
            exchange: Any = _Exchange(bytes([name]) * 32, question)
            await server.handle(exchange)
            await trio.sleep(PAUSE_S)

    with trio.move_on_after(SECONDS):
        async with trio.open_nursery() as nursery:
            for name in range(1, 1 + STRANGERS):
                nursery.start_soon(ask, name)
    return asked


def run() -> Outcome:
    work = _Work()
    with (
        patch.object(SimulatedRuntime, "run_sync", lambda _, *args: work.run_sync(*args)),
        patch.object(ChunkResponse, "encode", lambda response: work.encode(response)),
    ):
        asked = run_simulation(1, lambda: ask_all(work))
    assert 0 < work.made <= CHUNK_RATE.items * (CHUNK_RATE.burst + 2 * SECONDS) + STRANGERS
    detail = f"{work.made} of {asked} made in {SECONDS} s, in a thread"
    return Outcome(0, work.on_loop, work.on_loop, detail, "chunks encoded on the loop")


ATTACK = Attack(
    "chunks of the state at made-up places",
    Outcome(0, 12_000, 12_000, "every one, 15 ms each; 38 bytes a request", "chunks encoded on the loop"),
    run,
)
