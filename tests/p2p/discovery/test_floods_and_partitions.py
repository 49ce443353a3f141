"""Real hosts: a neighbour's gossip has a rate, and a host can be cut off from peers by itself."""

from __future__ import annotations

import contextlib

import pytest
import trio

from p2p.limits.rate_limit import Rate
from p2p.network import GossipMessage, NetworkError
from tests.support.hosts import ECHO, TOPIC, collected, drained, echo, gossip_works, network, running
from tests.support.waiting import PATIENCE, eventually


@pytest.mark.trio
async def test_gossip_says_which_neighbour_brought_it() -> None:
    one, middle, other = network(1), network(2), network(3)
    inbox = other.subscribe(TOPIC)
    middle.subscribe(TOPIC)
    async with running(one, middle, other):
        await one.connect(middle.me, middle.listen_addresses)
        await other.connect(middle.me, middle.listen_addresses)
        await gossip_works(one, inbox, TOPIC)
        await drained(inbox)
        await one.publish(TOPIC, b"from afar")
        await middle.publish(TOPIC, b"from near")
        messages = await collected(inbox, 2)
        assert {(m.payload, m.sender, m.neighbour) for m in messages} == {
            (b"from afar", one.me, middle.me),
            (b"from near", middle.me, middle.me),
        }


@pytest.mark.trio
async def test_a_flood_ends_at_the_first_honest_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a neighbour sends beyond its rate is neither delivered nor passed on; others are heard meanwhile."""
    monkeypatch.setattr("p2p.host.gossip.pubsub.NEIGHBOUR_RATE", Rate(items=10, size=1 << 20, burst=5.0))
    flooder, honest, middle, other = network(1), network(2), network(3), network(4)
    inboxes = [node.subscribe(TOPIC) for node in (middle, other)]
    async with running(flooder, honest, middle, other):
        for node in (flooder, honest, other):
            await node.connect(middle.me, middle.listen_addresses)
        for node in (flooder, honest):
            await gossip_works(node, inboxes[1], TOPIC)
        start = trio.current_time()
        for number in range(400):
            await flooder.publish(TOPIC, number.to_bytes(4, "big"))
        await honest.publish(TOPIC, b"honest")
        for inbox in inboxes:
            messages: list[GossipMessage] = []
            with trio.fail_after(PATIENCE):  # what a stall of this process keeps back comes too
                while not {flooder.me, honest.me} <= {message.sender for message in messages}:
                    messages += await drained(inbox, 1.0)
            flood = [message for message in messages if message.sender == flooder.me]
            elapsed = trio.current_time() - start
            assert 0 < len(flood) <= 10 * (5 + elapsed) + 30  # and what showed before that gossip works
            assert b"honest" in [message.payload for message in messages]


@pytest.mark.trio
async def test_a_partition_cuts_connections_and_lets_none_be_made_until_it_ends() -> None:
    one, other, third = network(1), network(2), network(3)
    other.handle(ECHO, echo)
    async with running(one, other, third):
        for node in (other, third):
            await one.connect(node.me, node.listen_addresses)
        stream = await one.open_stream(other.me, ECHO)
        await stream.send(b"x")
        assert await stream.receive() == b"x"
        await one.partition([other.me])
        await eventually(lambda: one.peers() == {third.me} and other.peers() == set())
        with pytest.raises(NetworkError):
            await stream.send(b"x")
            await stream.receive()
        with pytest.raises(NetworkError, match="other side of a partition"):
            await one.connect(other.me, other.listen_addresses)
        # The other side does not know of it: it finds no peer there.
        with contextlib.suppress(NetworkError):
            await other.connect(one.me, one.listen_addresses)
        await eventually(lambda: other.peers() == set())
        assert one.peers() == {third.me}
        await one.partition([])
        await other.connect(one.me, one.listen_addresses)
        await eventually(lambda: one.peers() == {other.me, third.me})
