"""The network in memory keeps the promises of the seam: order, back-pressure, loss, partitions, crashes, one trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from p2p.fanout import Fanout
from p2p.network import MAX_GOSSIP_BYTES, NetworkError, RawStream
from p2p.simulation.events import TICK_S
from p2p.simulation.internet import QUEUE_ITEMS, SimulatedInternet, uniform
from p2p.simulation.network import SimulatedNetwork
from p2p.simulation.runtime import SimulatedClock
from p2p.simulation.stream import SEND_WINDOW_BYTES
from tests.support.keys import make_peer

PROTOCOL = "/test/1"


async def connected_pair(
    nursery: trio.Nursery, **options: float
) -> tuple[SimulatedInternet, SimulatedNetwork, SimulatedNetwork]:
    hub = SimulatedInternet(1, **options)
    await nursery.start(hub.run)
    a, b = SimulatedNetwork(hub, make_peer(1)), SimulatedNetwork(hub, make_peer(2))
    await a.connect(b.me, b.listen_addresses)
    return hub, a, b


async def echo(stream: RawStream) -> None:
    while data := await stream.receive():
        await stream.send(data)


async def hold(stream: RawStream) -> None:
    await trio.sleep_forever()


@pytest.mark.trio
async def test_connect_and_disconnect_are_seen_by_both(nursery: trio.Nursery, simulated_clock: SimulatedClock) -> None:
    hub = SimulatedInternet(1)
    await nursery.start(hub.run)
    a, b = SimulatedNetwork(hub, make_peer(1)), SimulatedNetwork(hub, make_peer(2))
    changes = b.peer_changes()
    await a.connect(b.me, b.listen_addresses)
    await a.connect(b.me, b.listen_addresses)
    assert a.peers() == {b.me}
    assert b.peers() == {a.me}
    assert await changes.receive() == (a.me, True)
    assert a.is_outbound(b.me) and not b.is_outbound(a.me)
    assert a.get_dialled_address(b.me) == b.listen_addresses[0] and b.get_dialled_address(a.me) is None
    assert a.get_connected_since(b.me) == b.get_connected_since(a.me) is not None
    await b.disconnect(a.me)
    assert not a.is_outbound(b.me) and a.get_dialled_address(b.me) is a.get_connected_since(b.me) is None
    assert await changes.receive() == (a.me, False)
    assert a.peers() == b.peers() == frozenset()
    with pytest.raises(trio.WouldBlock):
        changes.receive_nowait()


@pytest.mark.trio
async def test_dialling_the_wrong_peer_or_address_fails(nursery: trio.Nursery, simulated_clock: SimulatedClock) -> None:
    hub = SimulatedInternet(1)
    await nursery.start(hub.run)
    a, b, hidden = (
        SimulatedNetwork(hub, make_peer(1)),
        SimulatedNetwork(hub, make_peer(2)),
        SimulatedNetwork(hub, make_peer(3), listen=False),
    )
    assert hidden.listen_addresses == ()
    for peer, addresses in [
        (make_peer(9), b.listen_addresses),
        (b.me, ("/memory/77",)),
        (b.me, ()),
        (hidden.me, ("/memory/2",)),
    ]:
        with pytest.raises(NetworkError):
            await a.connect(peer, addresses)
    await hidden.connect(b.me, ("/memory/77", *b.listen_addresses))
    assert b.peers() == {hidden.me}


@pytest.mark.trio
async def test_a_stream_keeps_order_and_ends(nursery: trio.Nursery, simulated_clock: SimulatedClock) -> None:
    _, a, b = await connected_pair(nursery)
    b.handle(PROTOCOL, echo)
    stream = await a.open_stream(b.me, PROTOCOL)
    assert stream.peer == b.me
    sent = b"".join(number.to_bytes(4, "big") for number in range(200_000))
    nursery.start_soon(stream.send, sent)
    received = b""
    while len(received) < len(sent):
        received += await stream.receive()
    assert received == sent
    await stream.close()
    await stream.close()
    with pytest.raises(NetworkError):
        await stream.send(b"late")


@pytest.mark.trio
async def test_an_unread_stream_stalls_its_sender(nursery: trio.Nursery, simulated_clock: SimulatedClock) -> None:
    _, a, b = await connected_pair(nursery)
    b.handle(PROTOCOL, hold)
    stream = await a.open_stream(b.me, PROTOCOL)
    await stream.send(bytes(SEND_WINDOW_BYTES))
    with pytest.raises(trio.TooSlowError), trio.fail_after(60):
        await stream.send(b"one too many")


@pytest.mark.trio
async def test_where_there_is_room_no_other_task_runs_before_a_sender_goes_on(
    nursery: trio.Nursery, simulated_clock: SimulatedClock
) -> None:
    _, a, b = await connected_pair(nursery)
    b.handle(PROTOCOL, hold)
    stream = await a.open_stream(b.me, PROTOCOL)
    await trio.lowlevel.checkpoint()
    others: list[int] = []
    nursery.start_soon(_note, others)
    for _ in range(10):
        await stream.send(b"frame")
    assert not others
    with trio.CancelScope() as scope:
        scope.cancel()
        await stream.send(b"frame")
    assert scope.cancelled_caught


async def _note(others: list[int]) -> None:
    others.append(1)


@pytest.mark.trio
async def test_an_unknown_protocol_is_refused(nursery: trio.Nursery, simulated_clock: SimulatedClock) -> None:
    _, a, b = await connected_pair(nursery)
    with pytest.raises(NetworkError, match="does not speak"):
        await a.open_stream(b.me, PROTOCOL)
    with pytest.raises(NetworkError, match="not connected"):
        await a.open_stream(make_peer(9), PROTOCOL)


@pytest.mark.trio
async def test_a_raising_handler_resets_only_its_stream(nursery: trio.Nursery, simulated_clock: SimulatedClock) -> None:
    hub, a, b = await connected_pair(nursery)

    async def fail(stream: RawStream) -> None:
        raise ValueError("broken on purpose")

    b.handle(PROTOCOL, fail)
    b.handle("/echo", echo)
    healthy = await a.open_stream(b.me, "/echo")
    stream = await a.open_stream(b.me, PROTOCOL)
    with pytest.raises(NetworkError, match="reset"):
        await stream.receive()
    assert [str(error) for error in hub.errors] == ["broken on purpose"]
    await healthy.send(b"still here")
    assert await healthy.receive() == b"still here"


@pytest.mark.trio
async def test_gossip_reaches_the_component_but_not_the_sender(
    nursery: trio.Nursery, simulated_clock: SimulatedClock
) -> None:
    hub = SimulatedInternet(1)
    await nursery.start(hub.run)
    a, b, c, alone = (SimulatedNetwork(hub, make_peer(number)) for number in range(1, 5))
    await a.connect(b.me, b.listen_addresses)
    await b.connect(c.me, c.listen_addresses)
    inboxes = [network.subscribe("topic") for network in (a, b, c, alone)]
    await a.publish("topic", b"hello")
    await a.publish("other", b"not subscribed")
    await trio.sleep(1)
    assert [inbox.statistics().current_buffer_used for inbox in inboxes] == [0, 1, 1, 0]
    message = inboxes[2].receive_nowait()
    assert (message.sender, message.payload) == (a.me, b"hello")
    with pytest.raises(ValueError, match="gossip"):
        await a.publish("topic", bytes(MAX_GOSSIP_BYTES))


@pytest.mark.trio
async def test_gossip_loss_has_its_rate(nursery: trio.Nursery, simulated_clock: SimulatedClock) -> None:
    _, a, b = await connected_pair(nursery, loss=0.3)
    inbox = b.subscribe("topic")
    for _ in range(QUEUE_ITEMS):
        await a.publish("topic", b"x")
    await trio.sleep(1)
    assert 0.6 * QUEUE_ITEMS < inbox.statistics().current_buffer_used < 0.8 * QUEUE_ITEMS


@pytest.mark.trio
async def test_a_partition_cuts_and_heals(nursery: trio.Nursery, simulated_clock: SimulatedClock) -> None:
    hub = SimulatedInternet(1)
    await nursery.start(hub.run)
    a, b, c, d = (SimulatedNetwork(hub, make_peer(number)) for number in range(1, 5))
    hub.connect_all()
    assert a.peers() == {b.me, c.me, d.me}
    c.handle(PROTOCOL, hold)
    stream = await a.open_stream(c.me, PROTOCOL)
    inbox = c.subscribe("topic")
    await a.publish("topic", b"cut off on the way")
    hub.partition([[a.me, b.me]])
    await a.publish("topic", b"never leaves")
    assert (a.peers(), c.peers()) == ({b.me}, {d.me})
    with pytest.raises(NetworkError):
        await stream.receive()
    with pytest.raises(NetworkError):
        await a.connect(c.me, c.listen_addresses)
    await trio.sleep(1)
    assert inbox.statistics().current_buffer_used == 0
    hub.heal()
    await a.connect(c.me, c.listen_addresses)
    await b.publish("topic", b"through")
    assert (await inbox.receive()).payload == b"through"


@pytest.mark.trio
async def test_a_silent_cut_is_noticed_later(nursery: trio.Nursery, simulated_clock: SimulatedClock) -> None:
    hub, a, b = await connected_pair(nursery)
    b.handle(PROTOCOL, echo)
    stream = await a.open_stream(b.me, PROTOCOL)
    start = trio.current_time()
    hub.partition([[a.me]], notice=5.0)
    await stream.send(b"into the void")
    assert a.peers() == {b.me}
    with pytest.raises(NetworkError):
        await stream.receive()
    assert trio.current_time() - start == pytest.approx(5.0, abs=TICK_S)
    assert a.peers() == frozenset()


@pytest.mark.trio
async def test_kill_resets_cancels_and_a_restart_comes_back(
    nursery: trio.Nursery, simulated_clock: SimulatedClock
) -> None:
    hub, a, b = await connected_pair(nursery)
    ended = trio.Event()

    async def wait(stream: RawStream) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    b.handle(PROTOCOL, wait)
    stream = await a.open_stream(b.me, PROTOCOL)
    hub.kill(b.me)
    await ended.wait()
    with pytest.raises(NetworkError):
        await stream.receive()
    assert a.peers() == frozenset()
    for attempt in (a.connect(b.me, b.listen_addresses), b.connect(a.me, a.listen_addresses)):
        with pytest.raises(NetworkError):
            await attempt
    again = SimulatedNetwork(hub, b.me)
    assert again.listen_addresses == b.listen_addresses
    await a.connect(again.me, again.listen_addresses)
    assert again.peers() == {a.me}


@pytest.mark.trio
async def test_a_restart_replaces_a_link_whose_end_was_not_noticed(
    nursery: trio.Nursery, simulated_clock: SimulatedClock
) -> None:
    hub, a, b = await connected_pair(nursery)
    changes = a.peer_changes()
    hub.kill(b.me, notice=60.0)
    again = SimulatedNetwork(hub, b.me)
    await again.connect(a.me, a.listen_addresses)
    assert [changes.receive_nowait(), changes.receive_nowait()] == [(b.me, False), (b.me, True)]
    await trio.sleep(120)
    assert a.peers() == {b.me}


@pytest.mark.trio
async def test_run_ties_a_network_to_a_nursery(nursery: trio.Nursery, simulated_clock: SimulatedClock) -> None:
    _, a, b = await connected_pair(nursery)
    async with trio.open_nursery() as node:
        await node.start(b.run)
        node.cancel_scope.cancel()
    assert not b.alive
    assert a.peers() == frozenset()


def test_a_full_subscription_sheds_its_oldest() -> None:
    async def main() -> None:
        fanout: Fanout[int] = Fanout(2)
        slow, gone = fanout.subscribe(), fanout.subscribe()
        gone.close()
        for number in range(5):
            fanout.publish(number)
        assert [slow.receive_nowait(), slow.receive_nowait()] == [3, 4]
        assert fanout.shed == 3
        fanout.close()
        with pytest.raises(trio.EndOfChannel):
            await slow.receive()

    trio.run(main)


TRACE = """
import trio
from p2p.simulation.internet import SimulatedInternet
from p2p.simulation.network import SimulatedNetwork
from p2p.simulation.runtime import SimulatedClock, run_simulation
trace = []
async def read(network, inbox):
    async for message in inbox:
        trace.append((round(trio.current_time(), 9), network.me[-1], message.sender[-1]))
async def main():
    hub = SimulatedInternet(7, loss=0.1)
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        networks = [SimulatedNetwork(hub, bytes(31) + bytes([number])) for number in range(12)]
        hub.connect_all()
        for network in networks:
            nursery.start_soon(read, network, network.subscribe("t"))
        for network in networks:
            await network.publish("t", b"x")
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
run_simulation(0, main)
print(trace)
"""


def test_the_trace_depends_on_the_seed_alone() -> None:
    root = Path(__file__).parents[3]
    traces = {
        subprocess.run(
            [sys.executable, "-c", TRACE],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=root,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(traces) == 1
    assert len(traces.pop()) > 1000


def test_uniform_latency_stays_in_its_range() -> None:
    hub = SimulatedInternet(1, latency=uniform(0.2, 0.3))
    assert all(0.2 <= hub.latency(hub.random, b"a", b"b") <= 0.3 for _ in range(100))


@pytest.mark.trio
async def test_an_isolated_stream_makes_no_peer_and_ends_with_either_node(
    nursery: trio.Nursery, simulated_clock: SimulatedClock
) -> None:
    hub = SimulatedInternet(1)
    await nursery.start(hub.run)
    a, b, c = (SimulatedNetwork(hub, make_peer(number)) for number in (1, 2, 3))
    for one in (b, c):
        one.handle(PROTOCOL, echo)
        one.handle("/hold", hold)
    async with a.open_isolated_stream(b.me, ("/memory/99", *b.listen_addresses), PROTOCOL) as stream:
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"
        assert a.peers() == b.peers() == frozenset()
    assert not a._isolated and not b._isolated
    with pytest.raises(NetworkError):
        async with a.open_isolated_stream(b.me, c.listen_addresses, PROTOCOL):
            pass
    async with a.open_isolated_stream(b.me, b.listen_addresses, "/hold") as stream:
        hub.partition([[a.me], [b.me]])
        with pytest.raises(NetworkError):
            await stream.receive()
        with pytest.raises(NetworkError):
            async with a.open_isolated_stream(b.me, b.listen_addresses, PROTOCOL):
                pass
    hub.heal()
    async with a.open_isolated_stream(c.me, c.listen_addresses, "/hold") as stream:
        hub.kill(c.me)
        with pytest.raises(NetworkError):
            await stream.receive()
    with pytest.raises(NetworkError):
        async with a.open_isolated_stream(c.me, ("/memory/2",), PROTOCOL):
            pass
    assert not a._isolated and not hub.errors
