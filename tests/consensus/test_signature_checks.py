"""What signatures cost a running network: each is checked once on a node, and none on its event loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from chain import crypto
from consensus import verifier
from consensus.engine import Engine
from p2p.simulation.runtime import SimulatedRuntime, run_simulation
from tests.support.consensus_world import World, make_equal_genesis

NODE: ContextVar[int] = ContextVar("NODE", default=0)
VALIDATORS, FOLLOWER = (1, 2, 3, 4), 5
GENESIS = make_equal_genesis(len(VALIDATORS), others=1, epoch_heights=5)


@dataclass
class Checks:
    """Signature checks of one node."""

    times: Counter[tuple[object, ...]] = field(default_factory=Counter)
    on_loop: Counter[str] = field(default_factory=Counter)
    """Those that the event loop waited for, by domain."""


class CountingWorld(World):
    """Knows which node is running at any moment."""

    def _watch(self, engine: Engine, number: int) -> None:
        NODE.set(number)
        take = engine._committee._on_message

        async def take_here(peer: bytes, payload: bytes) -> None:  # called in a task of the sender's network
            NODE.set(number)
            await take(peer, payload)

        engine._committee._on_message = take_here


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> dict[int, Checks]:
    """By node, filled while the test runs."""
    found: dict[int, Checks] = {number: Checks() for number in (*VALIDATORS, FOLLOWER)}
    verify, is_in_thread = crypto.verify, False

    def count(public_key: bytes, domain: str, chain_id: bytes, message: bytes, signature: bytes) -> bool:
        here = found[NODE.get()]
        here.times[public_key, domain, chain_id, message, signature] += 1
        here.on_loop[domain] += not is_in_thread
        return verify(public_key, domain, chain_id, message, signature)

    async def run_sync(self: SimulatedRuntime, function: Callable[..., Any], *args: Any) -> Any:
        nonlocal is_in_thread
        await trio.lowlevel.checkpoint()
        is_in_thread = True
        try:
            return function(*args)
        finally:
            is_in_thread = False

    monkeypatch.setattr(verifier, "LOOP_SIGNATURES", 0)  # the one or two that are quicker checked than handed over
    monkeypatch.setattr(crypto, "verify", count)
    monkeypatch.setattr(SimulatedRuntime, "run_sync", run_sync)
    return found


def run(play: Callable[[CountingWorld], Any]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = CountingWorld(GENESIS, nursery)
            await nursery.start(world.hub.run)
            await play(world)
            nursery.cancel_scope.cancel()

    run_simulation(1, main)


def test_no_node_checks_a_signature_twice_or_on_its_loop(checks: dict[int, Checks]) -> None:
    """Four validators and a follower, over the border of an epoch, with an operation in each block."""

    async def play(world: CountingWorld) -> None:
        await world.start(*VALIDATORS, FOLLOWER)
        for number in range(12):
            sender = 1 + number % 4
            operation = world.transfer(sender, FOLLOWER, 1)
            NODE.set(sender)
            await world.engine(sender).submit(operation)
            await world.engine(FOLLOWER).wait_final(operation.id, 60.0)
        await world.wait_height(12)

    run(play)
    for number, here in checks.items():
        repeated = Counter(str(check[1]) for check, times in here.times.items() if times > 1)
        del repeated["operation"]  # one may come in a block while it is being checked on its own
        assert len(here.times) > 50, f"node {number} checked too few signatures for this to mean anything"
        assert not repeated, f"node {number} checked signatures again: {dict(repeated)} of {len(here.times)}"
        assert not +here.on_loop, f"node {number} checked signatures on its loop: {dict(here.on_loop)}"
