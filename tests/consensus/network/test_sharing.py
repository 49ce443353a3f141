"""How operations get around: what goes to the leader at once, what gossip gathers, and what is left to its author."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import trio

from chain.types.operations import SignedOperation, Transfer, sign_operation
from consensus.mempool.pool import Mempool
from consensus.network.committee_streams import CommitteeStreams
from consensus.network.forwarding import FORWARD_INTERVAL_S, MAX_FORWARD_BYTES, Forwarder
from consensus.network.gossip import GOSSIP_BATCH_BYTES, Batch, GossipPublisher
from consensus.rebroadcast import PERIOD_S, REGOSSIP_S, SHARED_DELAY_S, Rebroadcaster
from consensus.simplex.messages import FORWARDED_KIND
from p2p.network import Network
from p2p.simulation.runtime import SimulatedClock, SimulatedRuntime, simulate_with
from tests.support.keys import make_key, make_peer

pytestmark = pytest.mark.trio
LEADER = make_peer(1)


@pytest.fixture
def simulated_clock() -> Iterator[SimulatedClock]:
    """The clock of these tests: pytest-trio runs a test by the clock that it asks for."""
    clock = SimulatedClock()
    with simulate_with(clock):
        yield clock


class Recorder:
    """Stands for committee, network and mempool: keeps what is sent, and when."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, tuple[bytes, ...]]] = []

    def send(self, peer: bytes, payload: bytes, is_hint: bool) -> None:
        assert peer == LEADER and is_hint and payload[:1] == FORWARDED_KIND
        self._note(payload[1:])

    def flush(self) -> None:
        pass

    async def publish(self, topic: str, payload: bytes) -> None:
        self._note(payload)

    def _note(self, payload: bytes) -> None:
        self.sent.append((round(trio.current_time(), 3), Batch.decode(payload).items))


async def test_the_first_is_forwarded_at_once_and_those_after_it_together(simulated_clock: SimulatedClock) -> None:
    recorder = Recorder()
    forwarder = Forwarder(cast(CommitteeStreams, recorder), lambda: LEADER)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(forwarder.run)
        start = trio.current_time()
        for number in range(6):
            forwarder.put(bytes([number]))
            await trio.sleep(FORWARD_INTERVAL_S / 6)
        await trio.sleep(1)
        forwarder.put(b"later")
        forwarder.put(bytes(MAX_FORWARD_BYTES - 5))
        forwarder.put(b"too much")
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    times = [round(at - start, 3) for at, _ in recorder.sent]
    assert times[:2] == [0, FORWARD_INTERVAL_S] and len(times) == 3
    assert [items for _, items in recorder.sent] == [
        (b"\0",),
        tuple(bytes([number]) for number in range(1, 6)),
        (b"later", bytes(MAX_FORWARD_BYTES - 5)),
    ]


async def test_a_batch_keeps_its_distance_from_the_one_before_unless_it_is_full(
    simulated_clock: SimulatedClock,
) -> None:
    recorder = Recorder()
    publisher = GossipPublisher(cast(Network, recorder), "ops", delay=0.1, interval=0.3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publisher.run)
        start = trio.current_time()
        for _ in range(8):
            publisher.put(b"x")
            await trio.sleep(0.09)  # never at the moment of a batch: either would come first
        await trio.sleep(1)
        publisher.put(b"y")
        await trio.sleep(0.15)
        publisher.put(bytes(GOSSIP_BATCH_BYTES))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert [at - start for at, _ in recorder.sent] == pytest.approx([0.1, 0.4, 0.7, 1.82, 1.87], abs=0.002)
    assert sum(len(items) for _, items in recorder.sent) == 10


async def test_what_its_author_gossips_is_gossiped_here_only_if_it_is_not_final_in_time(
    simulated_clock: SimulatedClock,
) -> None:
    recorder = Recorder()
    publisher = GossipPublisher(cast(Network, recorder), "ops", delay=0.0)
    mine, shared = make_transfer(1), make_transfer(2)
    pending = {each.id: each for each in (mine, shared)}
    mempool: Any = Pending(pending)
    rebroadcaster = Rebroadcaster(LEADER, cast(Mempool, mempool), {"ops": publisher}, SimulatedRuntime(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publisher.run)
        nursery.start_soon(rebroadcaster.run)
        start = trio.current_time()
        rebroadcaster.add(mine)
        rebroadcaster.add(shared, is_shared=True)
        await trio.sleep(REGOSSIP_S + 2 * PERIOD_S)
        pending.clear()
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    told = {
        each.encoded: [at - start for at, items in recorder.sent if each.encoded in items] for each in (mine, shared)
    }
    assert told[mine.encoded][0] == 0 and len(told[mine.encoded]) == 2
    assert len(told[shared.encoded]) == 1 and SHARED_DELAY_S <= told[shared.encoded][0] <= SHARED_DELAY_S + 4 * PERIOD_S


def make_transfer(number: int) -> SignedOperation:
    return sign_operation(make_key(number), bytes(32), Transfer(0, LEADER, 1))


class Pending:
    """A mempool of given operations."""

    def __init__(self, operations: dict[bytes, Any]) -> None:
        self.get = operations.get

    def expire(self, now: float) -> None:
        pass
