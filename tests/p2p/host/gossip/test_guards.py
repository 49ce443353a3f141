"""The guards of ``p2p.host.gossip``, on and off; see ``tests.p2p.host.workarounds``."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio
from libp2p import new_host
from libp2p.abc import INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.utils import encode_varint_prefixed
from multiaddr import Multiaddr
from trio.testing import wait_all_tasks_blocked

import p2p.host.gossip.pubsub
import p2p.host.gossip.rpc
import p2p.host.network
import p2p.host.workarounds.swarm
from p2p.host.gossip.pubsub import GuardedPubsub
from p2p.host.gossip.router import GuardedGossipSub
from p2p.host.gossip.rpc import BoundedQueue
from p2p.host.network import Libp2pNetwork
from p2p.host.workarounds.host import GuardedHost
from p2p.peer_id import peer_id_of
from tests.support.hosts import (
    PROBE,
    TOPIC,
    collected,
    drained,
    gossip_works,
    guard,
    library,
    muxer,
    network,
    pair,
    running,
    survives,
    swarm_of,
)
from tests.support.keys import make_key
from tests.support.waiting import PATIENCE, eventually

# What one peer sends must not end the process


async def open_gossip(attacker: Libp2pNetwork, victim: Libp2pNetwork) -> INetStream:
    await library(attacker).pubsub.wait_for_peer(
        peer_id_of(victim.me), PATIENCE
    )  # its own stream would replace this one
    return await library(attacker).host.new_stream(peer_id_of(victim.me), [PROTOCOL_ID_V11])


async def send_gossip(attacker: Libp2pNetwork, victim: Libp2pNetwork, *frames: bytes) -> None:
    stream = await open_gossip(attacker, victim)
    for frame in frames:
        await stream.write(encode_varint_prefixed(frame))


@guard
@pytest.mark.trio
async def test_gossip_that_does_not_parse(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(GuardedPubsub, "continuously_read_stream")
        monkeypatch.delattr(GuardedHost, "_swarm_stream_handler")  # the second line of defence

    async def attack(victim: Libp2pNetwork, attacker: Libp2pNetwork) -> None:
        await send_gossip(attacker, victim, b"\xff\xfe\xfd")

    assert await survives(attack) is on


def message(**fields: Any) -> bytes:
    values = {"data": b"x", "topicIDs": [TOPIC], "from_id": b"", "seqno": bytes(8), "signature": b"s"} | fields
    return rpc_pb2.RPC(publish=[rpc_pb2.Message(**values)]).SerializeToString()


@guard
@pytest.mark.trio
async def test_gossip_with_an_undecodable_key(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(GuardedPubsub, "push_msg")
        monkeypatch.delattr(GuardedPubsub, "continuously_read_stream")  # the second line of defence

    async def attack(victim: Libp2pNetwork, attacker: Libp2pNetwork) -> None:
        victim.subscribe(TOPIC)
        await eventually(lambda: TOPIC in library(victim).pubsub.topic_ids)
        await send_gossip(attacker, victim, message(from_id=b"\x12\x20" + bytes(32), key=b"\xff\xff"))

    assert await survives(attack) is on


@guard
@pytest.mark.trio
async def test_a_validator_that_raises(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(GuardedPubsub, "push_msg")
        monkeypatch.delattr(GuardedPubsub, "continuously_read_stream")  # the second line of defence

    def fail(forwarder: Any, msg: Any) -> bool:
        raise KeyError("a bug")

    async def attack(victim: Libp2pNetwork, attacker: Libp2pNetwork) -> None:
        victim.subscribe(TOPIC)
        await eventually(lambda: TOPIC in library(victim).pubsub.topic_ids)
        library(victim).pubsub.set_topic_validator(TOPIC, fail, False)
        await library(attacker).pubsub.wait_for_subscription(peer_id_of(victim.me), TOPIC, PATIENCE)
        await attacker.publish(TOPIC, b"x")

    assert await survives(attack) is on


@guard
@pytest.mark.trio
async def test_a_failing_heartbeat(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(GuardedGossipSub, "heartbeat")

    async def attack(victim: Libp2pNetwork, attacker: Libp2pNetwork) -> None:
        def fail() -> None:
            monkeypatch.undo()
            raise KeyError("a bug")

        monkeypatch.setattr(library(victim).pubsub.router, "fanout_heartbeat", fail)
        await trio.sleep(1.5)

    assert await survives(attack) is on


@pytest.mark.trio
async def test_odd_control_messages_and_senders_are_ignored() -> None:
    async def attack(victim: Libp2pNetwork, attacker: Libp2pNetwork) -> None:
        victim.subscribe(TOPIC)
        control = rpc_pb2.ControlMessage(
            prune=[rpc_pb2.ControlPrune(topicID=TOPIC, backoff=2**40, peers=[rpc_pb2.PeerInfo(peerID=b"\0")])],
            graft=[rpc_pb2.ControlGraft(topicID="other")],
            ihave=[rpc_pb2.ControlIHave(topicID=TOPIC, messageIDs=[b"\xff", b"abc"])],
            iwant=[rpc_pb2.ControlIWant(messageIDs=[b"\xff", b"abc"])],
        )
        await send_gossip(attacker, victim, rpc_pb2.RPC(control=control).SerializeToString(), message(), b"")
        await send_gossip(attacker, victim, rpc_pb2.RPC(senderRecord=b"\xffjunk").SerializeToString())
        with pytest.raises(StreamError):
            await send_gossip(attacker, victim, b"\0" * (p2p.host.gossip.pubsub.MAX_RPC_BYTES + 1))

    assert await survives(attack)


# What one RPC may cost


@guard
@pytest.mark.trio
async def test_an_rpc_starts_no_task(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(GuardedPubsub, "continuously_read_stream")
    async with pair() as (victim, attacker):
        victim.subscribe(TOPIC)
        await eventually(lambda: TOPIC in library(victim).pubsub.topic_ids)
        manager = library(victim).pubsub.manager
        started, stock = 0, manager.run_task

        def run_task(*args: Any, **options: Any) -> None:
            nonlocal started
            started += 1
            stock(*args, **options)

        rpc = rpc_pb2.RPC(publish=[rpc_pb2.Message(topicIDs=[TOPIC])] * 60)
        for number in range(20):
            rpc.subscriptions.add(subscribe=True, topicid=f"topic {number}")
        monkeypatch.setattr(manager, "run_task", run_task)
        await send_gossip(attacker, victim, rpc.SerializeToString())
        topics = library(victim).pubsub.peer_topics
        await eventually(lambda: "topic 19" in topics)
        assert (started < 5) is on
        assert on or started >= 120


@guard
@pytest.mark.trio
async def test_a_peer_has_one_gossip_stream(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(GuardedPubsub, "continuously_read_stream")
    async with pair() as (victim, attacker):
        for _ in range(20):
            stream = await open_gossip(attacker, victim)
            with suppress(StreamError):  # when the library opens its own anew
                await stream.write(encode_varint_prefixed(bytes(1 << 17))[:-1])

        def count() -> int:
            return len([one for one in muxer(victim, attacker).streams.values() if not one.is_initiator])

        await eventually(lambda: count() <= 2 if on else count() >= 20)
        if on:
            assert library(victim).pubsub._unfinished.size <= 1 << 18


@guard
@pytest.mark.trio
async def test_an_rpc_without_an_end(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.host.gossip.pubsub, "RPC_TIMEOUT_S", 0.3)
    if not on:
        monkeypatch.delattr(GuardedPubsub, "continuously_read_stream")
    async with pair() as (victim, attacker):
        stream = await open_gossip(attacker, victim)
        await stream.write(encode_varint_prefixed(bytes(1000))[:-1])
        with trio.move_on_after(PATIENCE if on else 2) as patience, suppress(StreamError):
            await stream.read(1)
        assert patience.cancelled_caught is not on
        assert bool(len(victim.gater.peers)) is on


@pytest.mark.trio
async def test_unfinished_rpcs_of_all_peers_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p2p.host.gossip.pubsub, "MAX_UNFINISHED_BYTES", 1 << 20)
    victim, *attackers = (network(number) for number in range(1, 7))
    async with running(victim, *attackers):
        for number, attacker in enumerate(attackers):
            await attacker.connect(victim.me, victim.listen_addresses)
            stream = await open_gossip(attacker, victim)
            with suppress(StreamError):
                for _ in range(4 + number):
                    await stream.write(encode_varint_prefixed(bytes(1 << 20))[: 60 << 10])
        unfinished = library(victim).pubsub._unfinished
        await eventually(lambda: 0 < unfinished.size <= 1 << 20)


@guard
@pytest.mark.trio
async def test_a_message_wanted_many_times_is_sent_once(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(GuardedGossipSub, "handle_iwant")
    async with pair() as (victim, attacker):
        inbox = attacker.subscribe(TOPIC)
        victim.subscribe(TOPIC)
        await gossip_works(victim, inbox, TOPIC)
        router = library(victim).pubsub.router
        assert isinstance(router, GuardedGossipSub)
        (name, *_) = router.mcache.msgs
        sent = 0

        def send(queue: RpcQueue, rpc: rpc_pb2.RPC, priority: bool = False) -> bool:
            nonlocal sent
            sent += len(rpc.publish)
            return True

        monkeypatch.setattr(BoundedQueue, "push", send)
        await router.handle_iwant(rpc_pb2.ControlIWant(messageIDs=[name] * 500), peer_id_of(attacker.me))
        assert sent == (1 if on else 500)


@pytest.mark.trio
async def test_who_subscribes_again_and_again_is_sent_what_is_recent_once() -> None:
    async with pair() as (victim, attacker):
        inbox = attacker.subscribe(TOPIC)
        victim.subscribe(TOPIC)
        await gossip_works(victim, inbox, TOPIC)
        pubsub, router = library(victim).pubsub, library(victim).pubsub.router
        assert isinstance(router, GuardedGossipSub)
        for number in range(20):
            await victim.publish(TOPIC, b"%d" % number)
        await drained(inbox)
        queued = 0
        send_rpc = router.send_rpc

        def count(peer: Any, rpc: rpc_pb2.RPC, priority: bool = False) -> None:
            nonlocal queued
            queued += len(rpc.publish)
            send_rpc(peer, rpc, priority)

        vars(router)["send_rpc"] = count
        rpc = rpc_pb2.RPC()
        for number in range(20):
            rpc.subscriptions.add(subscribe=number % 2 == 1, topicid=TOPIC)
        rpc.subscriptions.add(subscribe=True, topicid="last")
        await send_gossip(attacker, victim, rpc.SerializeToString())
        await eventually(lambda: "last" in pubsub.peer_topics)
        assert peer_id_of(attacker.me) in pubsub.peer_topics[TOPIC]
        assert queued <= len(router.mcache.window(TOPIC))


# Delivery


@guard
@pytest.mark.trio
async def test_leaves_of_a_star_get_what_the_mesh_does_not_bring(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(GuardedGossipSub, "gossip_heartbeat")
    monkeypatch.setattr(p2p.host.network, "GuardedGossipSub", partial(GuardedGossipSub, degree=1))
    hub, *leaves = (network(number) for number in range(1, 7))
    inboxes = [leaf.subscribe(TOPIC) for leaf in leaves]
    hub.subscribe(TOPIC)
    async with running(hub, *leaves):
        for leaf in leaves:
            await leaf.connect(hub.me, hub.listen_addresses)
        router = library(hub).pubsub.router
        assert isinstance(router, GuardedGossipSub)
        back_off = router.back_off
        await eventually(lambda: len(back_off.get(TOPIC, ())) >= 2)  # the hub has pruned the leaves it has too many of
        await trio.sleep(1.0)
        sent = {b"%d" % number for number in range(10)}
        for payload in sorted(sent):
            await hub.publish(TOPIC, payload)
        if not on:
            await trio.sleep(4)  # two heartbeats and more, less than the back-off
        complete = [
            sent == {received.payload for received in await collected(inbox, len(sent), PATIENCE if on else 0.05)}
            for inbox in inboxes
        ]
        assert all(complete) is on


@pytest.mark.trio
async def test_the_heart_beats_every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    beats = 0
    stock = GuardedGossipSub.gossip_heartbeat

    def count(self: GuardedGossipSub) -> Any:
        nonlocal beats
        beats += 1
        return stock(self)

    monkeypatch.setattr(GuardedGossipSub, "gossip_heartbeat", count)
    async with running(network(1)):
        await eventually(lambda: beats >= 3)


@guard
@pytest.mark.trio
async def test_many_messages_at_once_are_not_taken_for_spam(on: bool) -> None:
    # The receiver forwards, or does not: what it drops is missing from its message cache, not from its own inbox.
    async with pair() as (one, other):
        inbox = one.subscribe(TOPIC)
        await gossip_works(other, inbox, TOPIC)
        await drained(inbox)
        router = library(one).pubsub.router
        assert isinstance(router, GuardedGossipSub)
        if not on:
            router.spam_protection_enabled = True
        forwarded = 0
        stock = router.mcache.put

        def put(msg: rpc_pb2.Message) -> None:
            nonlocal forwarded
            forwarded += msg.data != PROBE
            stock(msg)

        vars(router.mcache)["put"] = put
        for number in range(40):
            await other.publish(TOPIC, b"%d" % number)
        await collected(inbox, 40)
        assert (forwarded == 40) is on


@guard
@pytest.mark.trio
async def test_a_burst_fits_into_the_queues(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.setattr(p2p.host.gossip.pubsub, "bounded_gossip_queues", lambda: None)
        monkeypatch.setattr("libp2p.pubsub.pubsub.RpcQueue", RpcQueue)
    async with pair() as (one, other):
        inbox = one.subscribe(TOPIC)
        await gossip_works(other, inbox, TOPIC)
        await drained(inbox)
        for number in range(300):
            await other.publish(TOPIC, b"%d" % number)
        assert (len(await collected(inbox, 300, PATIENCE if on else 1)) == 300) is on


@guard
@pytest.mark.trio
async def test_a_restarted_node_is_not_taken_for_its_past(on: bool) -> None:
    one = network(1)
    inbox = one.subscribe(TOPIC)
    heard = []
    async with running(one):
        for _ in range(2):
            restarted = network(2)
            async with running(restarted):
                if not on:
                    library(restarted).pubsub.counter = int(time.time())
                await restarted.connect(one.me, one.listen_addresses)
                await library(restarted).pubsub.wait_for_subscription(peer_id_of(one.me), TOPIC, PATIENCE)
                await trio.sleep(0.3)  # GRAFT
                for number in range(60):
                    await restarted.publish(TOPIC, b"%d" % number)
                heard.append(len(await collected(inbox, 60, PATIENCE if on or not heard else 1)))
            await eventually(lambda: not one.peers())
    assert heard[0] == 60
    assert (heard[1] == 60) is on


@guard
@pytest.mark.trio
async def test_a_message_is_delivered_once_because_no_validator_waits(on: bool) -> None:
    nodes = [network(1), network(2), network(3)]
    inboxes = [node.subscribe(TOPIC) for node in nodes]

    async def slow(forwarder: Any, msg: Any) -> bool:
        await trio.sleep(0.5)  # both copies come meanwhile, on a busy machine too
        return True

    async with running(*nodes):
        for dialler, target in ((1, 0), (2, 0), (2, 1)):
            await nodes[dialler].connect(nodes[target].me, nodes[target].listen_addresses)
        await gossip_works(nodes[0], inboxes[2], TOPIC)
        await gossip_works(nodes[1], inboxes[2], TOPIC)
        await gossip_works(nodes[0], inboxes[1], TOPIC)
        await drained(inboxes[2])
        if not on:
            library(nodes[2]).pubsub.set_topic_validator(TOPIC, slow, True)
        count = 20 if on else 5
        for number in range(count):
            await nodes[0].publish(TOPIC, b"%d" % number)
        wanted = count if on else 2 * count
        payloads = [received.payload for received in await collected(inboxes[2], wanted, PATIENCE if on else 10.0)]
        assert len(set(payloads)) == count
        assert (len(payloads) == count) is on


# Peers


@guard
@pytest.mark.trio
async def test_a_peer_that_forgot_our_topics_learns_them_again(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(GuardedPubsub, "stream_handler")
    async with pair() as (one, other):
        inbox = one.subscribe(TOPIC)
        await gossip_works(other, inbox, TOPIC)
        pubsub = library(other).pubsub
        await pubsub.peers[peer_id_of(one.me)].reset()
        pubsub._handle_dead_peer(peer_id_of(one.me))
        try:
            await pubsub.wait_for_subscription(peer_id_of(one.me), TOPIC, 3)
        except trio.TooSlowError:
            assert not on
        else:
            assert on


@guard
@pytest.mark.trio
async def test_a_stream_that_breaks_while_it_is_opened_is_opened_again(
    on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not on:
        monkeypatch.delattr(GuardedPubsub, "_handle_new_peer")
    handle, streams = GuardedHost._swarm_stream_handler, 0

    async def reset_first(host: GuardedHost, stream: INetStream) -> None:
        nonlocal streams
        streams += 1
        await (stream.reset() if streams <= 2 else handle(host, stream))  # the first one of each side

    monkeypatch.setattr(GuardedHost, "_swarm_stream_handler", reset_first)
    async with pair() as (one, other):
        inboxes = one.subscribe(TOPIC), other.subscribe(TOPIC)
        if on:
            await gossip_works(one, inboxes[1], TOPIC)
            await gossip_works(other, inboxes[0], TOPIC)
        else:
            await eventually(lambda: streams == 2)
            await trio.sleep(2)
            assert not library(one).pubsub.peers and not library(other).pubsub.peers


@pytest.mark.trio
async def test_a_peer_without_gossip_is_asked_for_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, open_stream = 0, GuardedHost.new_stream

    async def count(host: GuardedHost, peer: ID, protocols: Any) -> INetStream:
        nonlocal asked
        asked += 1
        return await open_stream(host, peer, protocols)

    monkeypatch.setattr(GuardedHost, "new_stream", count)
    one = network(1)
    async with running(one):
        stranger = new_host(key_pair=create_new_key_pair(bytes(32)))
        async with stranger.run([]):
            await stranger.connect(PeerInfo(peer_id_of(one.me), [Multiaddr(one.listen_addresses[0])]))
            await eventually(lambda: asked and not library(one).pubsub._opening)
            await trio.sleep(1)
            assert asked == 1 and one.peers()
            await stranger.close()


@guard
@pytest.mark.trio
async def test_connections_that_come_together_get_one_stream(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(GuardedPubsub, "_handle_new_peer_with_retry")
    tasks = calls = most = 0
    opened = trio.Event()

    async def open_one(pubsub: GuardedPubsub, peer: ID) -> None:
        nonlocal tasks, calls, most
        tasks, calls = tasks + 1, calls + 1
        most = max(most, tasks)
        await opened.wait()
        tasks -= 1

    one = network(1)
    async with running(one):
        monkeypatch.setattr(GuardedPubsub, "_handle_new_peer", open_one)
        pubsub, peer = library(one).pubsub, peer_id_of(make_key(2).public_key)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(pubsub._handle_new_peer_with_retry, peer)
            await wait_all_tasks_blocked(0.1)
            opened.set()
        assert (most == 1) is on
        assert calls == (2 if on else 5), "once more for those that came meanwhile"
        assert not pubsub._opening


@guard
@pytest.mark.trio
async def test_no_address_is_dialled_on_the_word_of_a_peer(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on:
        monkeypatch.delattr(GuardedGossipSub, "_do_px")
        monkeypatch.delattr(p2p.host.workarounds.swarm.GuardedSwarm, "dial_peer")
    async with pair(connected=False) as (one, other):
        router = library(one).pubsub.router
        assert isinstance(router, GuardedGossipSub)
        swarm_of(one).peerstore.add_addrs(peer_id_of(other.me), [Multiaddr(other.listen_addresses[0])], 60)
        offered = rpc_pb2.PeerInfo(peerID=peer_id_of(other.me).to_bytes())
        prune = rpc_pb2.ControlPrune(topicID=TOPIC, peers=[offered])
        await router.handle_prune(prune, peer_id_of(make_key(3).public_key))
        assert (one.peers() == frozenset()) is on
