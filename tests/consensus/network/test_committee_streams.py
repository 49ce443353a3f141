"""Links inside the committee: order, bounds, reconnection, and that a slow member holds up no other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio
import trio.testing

from consensus.network.committee_streams import (
    BULKY_BYTES,
    COMMITTEE_PROTOCOL,
    MAX_QUEUED_MESSAGE_BYTES,
    MAX_QUEUED_MESSAGES,
    MESSAGE_WRITE_TIMEOUT_S,
    CommitteeStreams,
)
from consensus.network.gossip import Batch
from p2p.network import NetworkError
from p2p.simulation.internet import SimulatedInternet
from p2p.simulation.network import SimulatedNetwork
from p2p.streams.exchange import Exchange
from p2p.streams.exchanges import Streams
from p2p.streams.frames import WINDOW_BYTES
from tests.support.keys import make_key

ONE, TWO, THREE = (make_key(number).public_key for number in (1, 2, 3))


class End:
    """One member: what it received, and what it does with each message."""

    def __init__(self, hub: SimulatedInternet, me: bytes) -> None:
        self.received: list[bytes] = []
        self.gate = trio.Event()
        self.gate.set()
        self.network = SimulatedNetwork(hub, me)
        self.streams = Streams(self.network)
        self.links = CommitteeStreams(self.streams, self.take, self.find_addresses)
        self.addresses: dict[bytes, Sequence[str]] = {}

    def find_addresses(self, peer: bytes) -> Sequence[str]:
        return self.addresses.get(peer, ())

    async def take(self, peer: bytes, payload: bytes) -> None:
        await self.gate.wait()
        self.received.append(payload)

    async def run(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self.streams.run)
        await nursery.start(self.links.run)


def send(end: End, peer: bytes, payload: bytes) -> None:
    end.links.send(peer, payload)
    end.links.flush()


def play(script: Callable[[SimulatedInternet, trio.Nursery], Awaitable[None]]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            hub = SimulatedInternet(1)
            await nursery.start(hub.run)
            await script(hub, nursery)
            assert not hub.errors
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def make_ends(hub: SimulatedInternet, nursery: trio.Nursery, *keys: bytes) -> list[End]:
    ends = [End(hub, key) for key in keys]
    for end in ends:
        await end.run(nursery)
        end.links.set_members(keys, [key for key in keys if key != end.network.me])
    hub.connect_all()
    return ends


def test_messages_arrive_in_order_and_survive_a_lost_link() -> None:
    async def script(hub: SimulatedInternet, nursery: trio.Nursery) -> None:
        one, two = await make_ends(hub, nursery, ONE, TWO)
        sent = [bytes([number]) for number in range(20)]
        for payload in sent[:10]:
            send(one, TWO, payload)
        await trio.sleep(1.0)
        hub.partition([[ONE], [TWO]])
        await trio.sleep(1.0)
        send(one, TWO, b"lost")  # what is being written when the link is found dead may be lost
        await trio.sleep(1.0)
        for payload in sent[10:]:
            send(one, TWO, payload)
        hub.heal()
        hub.connect_all()
        await trio.sleep(10.0)
        assert [payload for payload in two.received if payload != b"lost"] == sent

    play(script)


def test_a_member_that_is_no_neighbour_is_dialled_by_one_of_the_two() -> None:
    async def script(hub: SimulatedInternet, nursery: trio.Nursery) -> None:
        one, two = await make_ends(hub, nursery, ONE, TWO)
        for here, there in ((one, two), (two, one)):
            await here.network.disconnect(there.network.me)
            here.addresses = {there.network.me: there.network.listen_addresses}
        send(one, TWO, b"from one")
        send(two, ONE, b"from two")
        await trio.sleep(2.0)
        assert (one.received, two.received) == ([b"from two"], [b"from one"])
        dialled = [end.network.is_outbound(other.network.me) for end, other in ((one, two), (two, one))]
        assert dialled == [ONE < TWO, TWO < ONE]

    play(script)


def test_a_slow_member_holds_up_no_other_and_its_queue_is_bounded() -> None:
    async def script(hub: SimulatedInternet, nursery: trio.Nursery) -> None:
        one, two, three = await make_ends(hub, nursery, ONE, TWO, THREE)
        two.gate = trio.Event()
        messages = [number.to_bytes(4, "big") + bytes(4_000) for number in range(3 * MAX_QUEUED_MESSAGES)]
        for payload in messages:
            one.links.broadcast(payload)
            one.links.flush()
            await trio.sleep(0.005)
        await trio.sleep(5.0)
        assert three.received == messages
        assert one.links.dropped > 0
        two.gate.set()
        await trio.sleep(5.0)
        assert two.received[-1] == messages[-1] and two.received == sorted(two.received)
        for _ in range(20):
            send(one, TWO, bytes(900_000))
        assert one.links._queues[TWO].size <= MAX_QUEUED_MESSAGE_BYTES

    play(script)


def test_a_link_that_takes_nothing_for_long_is_opened_anew() -> None:
    opened: list[float] = []
    received: list[bytes] = []

    async def script(hub: SimulatedInternet, nursery: trio.Nursery) -> None:
        one, two = await make_ends(hub, nursery, ONE, TWO)

        async def stall_once(exchange: Exchange) -> None:
            opened.append(trio.current_time())
            if len(opened) == 1:
                await trio.sleep_forever()
            while (frame := await exchange.receive()) is not None:
                received.extend(Batch.decode(frame).items)

        two.streams.handle(COMMITTEE_PROTOCOL, stall_once)
        messages = [bytes([number]) * (WINDOW_BYTES // 4) for number in range(8)]
        for payload in messages:
            send(one, TWO, payload)
            await trio.sleep(0.1)
        await trio.sleep(MESSAGE_WRITE_TIMEOUT_S - 1.0)
        assert len(opened) == 1
        await trio.sleep(2.0)
        assert len(opened) == 2 and received and received == messages[-len(received) :]

    play(script)


def test_strangers_are_not_heard() -> None:
    async def script(hub: SimulatedInternet, nursery: trio.Nursery) -> None:
        one, two = await make_ends(hub, nursery, ONE, TWO)
        stranger = Streams(SimulatedNetwork(hub, THREE))
        nursery.start_soon(stranger.run)
        hub.connect_all()
        await trio.sleep(0)
        try:
            async with stranger.open(TWO, COMMITTEE_PROTOCOL) as exchange:
                await exchange.send(b"hello")
                assert await exchange.receive() is None
        except NetworkError as error:
            assert "only validators" in str(error)
        send(one, THREE, b"not a member")
        await trio.sleep(1.0)
        assert two.received == []

    play(script)


def test_no_stream_is_opened_to_a_member_without_messages() -> None:
    opened: list[bytes] = []

    async def script(hub: SimulatedInternet, nursery: trio.Nursery) -> None:
        one, two = await make_ends(hub, nursery, ONE, TWO)

        async def count(exchange: Exchange) -> None:
            opened.append(exchange.peer)
            while await exchange.receive() is not None:
                pass

        two.streams.handle(COMMITTEE_PROTOCOL, count)
        await trio.sleep(30.0)
        assert opened == []
        send(one, TWO, b"x")
        send(one, TWO, b"y")
        await trio.sleep(1.0)
        assert opened == [ONE]  # one exchange for both

    play(script)


def test_what_gathers_before_a_flush_travels_in_one_frame() -> None:
    frames: list[bytes] = []

    async def script(hub: SimulatedInternet, nursery: trio.Nursery) -> None:
        one, two = await make_ends(hub, nursery, ONE, TWO)

        async def collect(exchange: Exchange) -> None:
            while (frame := await exchange.receive()) is not None:
                frames.append(frame)

        two.streams.handle(COMMITTEE_PROTOCOL, collect)
        for number in range(5):
            one.links.send(TWO, bytes([number]))
            await trio.sleep(0.1)
        assert frames == []
        one.links.flush()
        await trio.sleep(1.0)
        assert [Batch.decode(frame).items for frame in frames] == [tuple(bytes([number]) for number in range(5))]

    play(script)


def test_hints_go_before_blocks_and_blocks_before_votes() -> None:
    async def script(hub: SimulatedInternet, nursery: trio.Nursery) -> None:
        one, two = await make_ends(hub, nursery, ONE, TWO)
        two.gate = trio.Event()
        hub.partition([[ONE], [TWO]])
        await trio.sleep(1.0)
        votes = [b"vote" + number.to_bytes(4, "big") for number in range(MAX_QUEUED_MESSAGES // 2)]
        for number, vote in enumerate(votes):
            one.links.send(TWO, vote)
            one.links.send(TWO, b"block" + bytes(BULKY_BYTES))
            for _ in range(3):
                one.links.send(TWO, b"hint" + number.to_bytes(4, "big"), is_hint=True)
        for _ in range(10):
            one.links.send(TWO, b"hint" + bytes(900_000), is_hint=True)
        assert one.links.dropped >= 3 * len(votes)
        hub.heal()
        hub.connect_all()
        two.gate.set()
        one.links.flush()
        await trio.sleep(30.0)
        assert [payload for payload in two.received if payload.startswith(b"vote")] == votes
        assert not [payload for payload in two.received if payload.startswith(b"hint")]

    play(script)
