"""The network over real libp2p hosts on loopback, two or three of them in this process."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import p2p.host.workarounds.yamux
from p2p.host.network import MAX_GOSSIP_BYTES, Libp2pNetwork
from p2p.network import NetworkError, RawStream
from p2p.runtime import RealRuntime
from tests.support.hosts import LOOPBACK, collected, drained, echo, gossip_works, library, network, running
from tests.support.keys import make_key
from tests.support.waiting import PATIENCE, eventually

ECHO = "/test/echo/1"
TOPIC = "test"


@pytest.mark.trio
async def test_streams_carry_bytes_both_ways_whichever_side_dialled() -> None:
    one, other = network(1), network(2, listen=())
    for host in (one, other):
        host.handle(ECHO, echo)
    async with running(one, other):
        assert one.listen_addresses[0].startswith("/ip4/127.0.0.1/tcp/")
        assert not one.listen_addresses[0].endswith("/tcp/0")
        assert other.listen_addresses == ()
        await other.connect(one.me, one.listen_addresses)
        await eventually(lambda: one.peers() == {other.me} and other.peers() == {one.me})
        await other.connect(one.me, ())  # connected already: nothing to do
        assert other.is_outbound(one.me) and not one.is_outbound(other.me)
        assert other.get_dialled_address(one.me) == one.listen_addresses[0]
        assert one.get_dialled_address(other.me) is None
        assert one.get_remote_host(other.me) == other.get_remote_host(one.me) == "127.0.0.1"
        payload = bytes(range(256)) * 4096  # 1 MiB, four times the window
        for source, target in ((one, other), (other, one)):
            stream = await source.open_stream(target.me, ECHO)
            assert stream.peer == target.me
            received = bytearray()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send, payload)
                while len(received) < len(payload):
                    chunk = await stream.receive(10_000)
                    assert 0 < len(chunk) <= 10_000
                    received += chunk
            assert received == payload
            await stream.close()
            await stream.close()
            with pytest.raises(NetworkError):
                await stream.receive()
        for host in (one, other):  # each has sent it once and sent it back once
            count = host.byte_counts()[ECHO]
            assert (count.sent, count.received) == (2 * len(payload), 2 * len(payload))


@pytest.mark.trio
async def test_end_and_reset_of_a_stream_are_told_apart() -> None:
    one, other = network(1), network(2)
    release = trio.Event()

    async def part_then_end(stream: RawStream) -> None:
        await stream.send(b"all")

    async def part_then_reset(stream: RawStream) -> None:
        await stream.send(b"part")
        await release.wait()
        await stream.reset()
        await stream.reset()

    one.handle("/test/end/1", part_then_end)
    one.handle("/test/reset/1", part_then_reset)
    async with running(one, other):
        await other.connect(one.me, one.listen_addresses)
        stream = await other.open_stream(one.me, "/test/end/1")
        assert [await stream.receive(), await stream.receive(), await stream.receive()] == [b"all", b"", b""]
        await stream.close()
        stream = await other.open_stream(one.me, "/test/reset/1")
        assert await stream.receive() == b"part"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0)
            release.set()
            with pytest.raises(NetworkError):
                await stream.receive()
        with pytest.raises(NetworkError):
            await stream.send(b"x")


@pytest.mark.trio
async def test_gossip_reaches_the_far_end_of_a_line_once_with_its_publisher_s_name() -> None:
    nodes = [network(1), network(2), network(3)]
    inboxes = [node.subscribe(TOPIC) for node in nodes]
    async with running(*nodes):
        await nodes[0].connect(nodes[1].me, nodes[1].listen_addresses)
        await nodes[2].connect(nodes[1].me, nodes[1].listen_addresses)
        for source, target in ((0, 2), (2, 0), (1, 0)):
            await gossip_works(nodes[source], inboxes[target], TOPIC)
        for inbox in inboxes:
            await drained(inbox)
        sent = [b"%d" % number for number in range(50)]
        for payload in sent:
            await nodes[0].publish(TOPIC, payload)
        assert nodes[2].me not in nodes[0].peers()
        for receiver in (1, 2):
            messages = await collected(inboxes[receiver], len(sent))
            assert sorted(message.payload for message in messages) == sorted(sent)
            assert {(message.sender, message.topic) for message in messages} == {(nodes[0].me, TOPIC)}
        assert await drained(inboxes[0]) == [], "a node does not hear itself"


@pytest.mark.trio
async def test_large_gossip_arrives_and_too_large_gossip_is_refused() -> None:
    one, other = network(1), network(2)
    inbox = other.subscribe(TOPIC)
    async with running(one, other):
        await one.connect(other.me, other.listen_addresses)
        await gossip_works(one, inbox, TOPIC)
        await drained(inbox)
        await one.publish(TOPIC, bytes(MAX_GOSSIP_BYTES - 1))
        assert [len(message.payload) for message in await collected(inbox, 1)] == [MAX_GOSSIP_BYTES - 1]
        with pytest.raises(ValueError, match="not below"):
            await one.publish(TOPIC, bytes(MAX_GOSSIP_BYTES))
        await library(one).pubsub.publish(TOPIC, bytes(2 * MAX_GOSSIP_BYTES))
        assert await drained(inbox) == []  # the library says nothing and loses it


@pytest.mark.trio
async def test_a_connection_knows_its_beginning_and_its_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.host.workarounds.yamux, "KEEPALIVE_INTERVAL_S", 0.01)
    monkeypatch.setattr(p2p.host.workarounds.yamux, "KEEPALIVE_TIMEOUT_S", PATIENCE)
    one, other = network(1), network(2, listen=())
    async with running(one, other):
        before = trio.current_time()
        assert one.get_connected_since(other.me) is None and one.get_round_trip(other.me) is None
        await other.connect(one.me, one.listen_addresses)
        await eventually(lambda: one.get_round_trip(other.me) is not None and other.get_round_trip(one.me) is not None)
        for host, peer in ((one, other.me), (other, one.me)):
            since, took, now = host.get_connected_since(peer), host.get_round_trip(peer), trio.current_time()
            assert since is not None and took is not None
            assert before <= since <= now and 0 < took <= now - before
        await other.disconnect(one.me)
        await eventually(lambda: not one.peers())
        for host, peer in ((one, other.me), (other, one.me)):
            assert host.get_connected_since(peer) is None and host.get_round_trip(peer) is None


@pytest.mark.trio
async def test_refusals_are_network_errors_that_say_why() -> None:
    one, other = network(1), network(2)
    with pytest.raises(NetworkError, match="not on the network"):
        await one.connect(other.me, LOOPBACK)
    async with running(one, other):
        with pytest.raises(NetworkError, match="itself"):
            await one.connect(one.me, one.listen_addresses)
        with pytest.raises(NetworkError, match="no address is known"):
            await one.connect(other.me, ())
        with pytest.raises(NetworkError, match="does not correspond"):
            await one.connect(make_key(9).public_key, other.listen_addresses)
        for address in ("/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/udp/1", "nonsense", ""):
            with pytest.raises(NetworkError, match="cannot reach"):
                await one.connect(other.me, [address])
        with pytest.raises(NetworkError, match="not connected"):
            await one.open_stream(other.me, ECHO)
        assert one.peers() == frozenset()
        await one.disconnect(other.me)
        # A failed dial does not get in the way of the next, and one good address among bad ones is enough.
        await one.connect(other.me, ["/ip4/127.0.0.1/tcp/1", *other.listen_addresses])
        with pytest.raises(NetworkError, match="protocol not supported"):
            await one.open_stream(other.me, "/test/unknown/1")
        await one.disconnect(other.me)
        await eventually(lambda: not one.peers() and not other.peers())


@pytest.mark.trio
async def test_a_wildcard_is_announced_as_the_addresses_it_stands_for() -> None:
    one, other = network(1, listen=("/ip4/0.0.0.0/tcp/0",)), network(2, listen=())
    behind = Libp2pNetwork(make_key(3), LOOPBACK, RealRuntime(), announce=["/dns4/node.example/tcp/4001"])
    async with running(one, other, behind):
        assert one.listen_addresses and not any("0.0.0.0" in address for address in one.listen_addresses)
        port = one.listen_addresses[0].rsplit("/", 1)[1]
        assert all(address.endswith(f"/tcp/{port}") and port != "0" for address in one.listen_addresses)
        await other.connect(one.me, [f"/ip4/127.0.0.1/tcp/{port}"])
        assert behind.listen_addresses == ("/dns4/node.example/tcp/4001",)


@pytest.mark.trio
async def test_listening_on_a_foreign_address_is_one_plain_error() -> None:
    with pytest.raises(NetworkError, match="cannot listen"):
        await network(1, listen=("/ip4/192.0.2.1/tcp/0",)).run()


@pytest.mark.trio
async def test_a_failing_handler_resets_its_stream_and_ends_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    one, other = network(1), network(2)

    async def fail(stream: RawStream) -> None:
        await stream.receive()
        raise KeyError("a bug")

    one.handle(ECHO, echo)
    one.handle("/test/fail/1", fail)
    async with running(one, other):
        await other.connect(one.me, one.listen_addresses)
        stream = await other.open_stream(one.me, "/test/fail/1")
        await stream.send(b"x")
        with pytest.raises(NetworkError):
            await stream.receive()
        assert "the handler of /test/fail/1 failed" in caplog.text
        stream = await other.open_stream(one.me, ECHO)
        await stream.send(b"still here")
        assert await stream.receive() == b"still here"


@pytest.mark.trio
async def test_garbage_on_the_port_disturbs_no_peer(capfd: pytest.CaptureFixture[str]) -> None:
    one, other = network(1), network(2)
    one.handle(ECHO, echo)
    noise = b"\x13/multistream/1.0.0\n\x07/noise\n"
    async with running(one, other):
        port = int(one.listen_addresses[0].rsplit("/", 1)[1])
        for garbage in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\xff" * 100_000,
            noise + bytes(range(256)),
            noise + b"\xff" * 70_000,
        ):
            client = await trio.open_tcp_stream("127.0.0.1", port)
            try:
                await client.send_all(garbage)
            except trio.BrokenResourceError:
                pass
            finally:
                await client.aclose()
        await other.connect(one.me, one.listen_addresses)
        stream = await other.open_stream(one.me, ECHO)
        await stream.send(b"served")
        assert await stream.receive() == b"served"
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.trio
async def test_peers_and_changes_follow_connections() -> None:
    one, other = network(1), network(2)
    changes = one.peer_changes()
    async with running(one):
        async with running(other):
            await other.connect(one.me, one.listen_addresses)
            assert await changes.receive() == (other.me, True)
            stream = await other.open_stream(one.me, "/ipfs/ping/1.0.0")
            assert one.peers() == {other.me}
        with trio.fail_after(AT_ONCE_S):
            assert await changes.receive() == (other.me, False)
        assert one.peers() == other.peers() == frozenset()
        with pytest.raises(NetworkError):
            await stream.receive()
        with pytest.raises(NetworkError, match="not on the network"):
            await other.connect(one.me, one.listen_addresses)


AT_ONCE_S = 20.0
"""Less than any patience that the library has with a peer of which nothing comes."""

CHILD = """
import sys, trio
from tests.support.hosts import network, running
async def main():
    me = network(7)
    async with running(me):
        print(me.listen_addresses[0], flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


@pytest.mark.trio
async def test_a_killed_process_is_noticed_at_once() -> None:
    one = network(1)
    changes = one.peer_changes()
    peer = make_key(7).public_key
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    )
    assert process.stdout is not None
    try:
        address = (await trio.to_thread.run_sync(process.stdout.readline)).strip()
        async with running(one):
            await one.connect(peer, [address])
            assert await changes.receive() == (peer, True)
            process.send_signal(signal.SIGKILL)
            with trio.fail_after(AT_ONCE_S):
                assert await changes.receive() == (peer, False)
            assert one.peers() == frozenset()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.trio
async def test_a_restarted_node_is_reached_and_heard_again() -> None:
    one = network(1)
    inbox = one.subscribe(TOPIC)
    one.handle(ECHO, echo)
    async with running(one):
        for life in (b"first", b"second"):
            restarted = Libp2pNetwork(make_key(2), LOOPBACK, RealRuntime())
            async with running(restarted):
                await restarted.connect(one.me, one.listen_addresses)
                await gossip_works(restarted, inbox, TOPIC)
                await drained(inbox)
                for number in range(30):
                    await restarted.publish(TOPIC, life + b"%d" % number)
                assert len(await collected(inbox, 30)) == 30
                stream = await restarted.open_stream(one.me, ECHO)
                await stream.send(life)
                assert await stream.receive() == life
            await eventually(lambda: not one.peers())


@pytest.mark.trio
async def test_opening_and_closing_leaks_no_task_and_no_descriptor() -> None:
    def resources() -> list[int]:
        return [trio.lowlevel.current_statistics().tasks_living, len(list(Path("/proc/self/fd").iterdir()))]

    one = network(1)
    one.handle(ECHO, echo)
    async with running(one):
        await wait_all_tasks_blocked(0.1)
        before = resources()
        for _ in range(5):
            other = network(2)
            async with running(other):
                await other.connect(one.me, one.listen_addresses)
                stream = await other.open_stream(one.me, ECHO)
                await stream.send(b"x")
                await stream.receive()
                await stream.close()
        await eventually(lambda: all(now <= then for now, then in zip(resources(), before, strict=True)))


@pytest.mark.trio
async def test_a_slow_reader_loses_the_oldest_gossip_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2p.host.network.MAX_QUEUED_GOSSIP", 4)
    one, other = network(1), network(2)
    inbox, watcher = other.subscribe(TOPIC), other.subscribe(TOPIC)
    async with running(one, other):
        await one.connect(other.me, other.listen_addresses)
        await gossip_works(one, inbox, TOPIC)
        for number in range(20):
            await one.publish(TOPIC, b"%d" % number)
            while (await watcher.receive()).payload != b"%d" % number:
                pass
        assert [message.payload for message in await drained(inbox, 0.1)] == [b"16", b"17", b"18", b"19"]
