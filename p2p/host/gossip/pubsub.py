"""Gossip over libp2p (gossipsub 1.1): messages are signed, checked and delivered, with guards.

Messages of ``/meshsub/1.1.0`` are signed. The sender is the Ed25519 key in the peer id of the publisher, and the
signature is checked against that key alone. :mod:`p2p.host.gossip.router` decides to whom a message goes.
:mod:`p2p.host.workarounds` says what a guard is.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial

import trio
from libp2p.abc import INetConn, INetStream
from libp2p.host.basic_host import BasicHost
from libp2p.host.exceptions import StreamFailure
from libp2p.network.stream.exceptions import StreamClosed, StreamError
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.pubsub import pubsub
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.stream_muxer.yamux.yamux import YamuxStream

from p2p.closing import quietly
from p2p.host.gossip.rpc import (
    MAX_RPC_BYTES,
    MAX_TOPIC_CHARS,
    RPC_TIMEOUT_S,
    BoundedQueue,
    count_items,
    is_sound,
)
from p2p.length_prefixed import READ_CHUNK_BYTES, VARINT, LengthPrefixedReader
from p2p.limits.rate_limit import Budget, Limiter, Rate
from p2p.network import ByteCount, Misbehaviour
from p2p.peer_id import peer_id_of, public_key_of

logger = logging.getLogger(__name__)

MAX_TOPICS = 64
"""Topics that a peer may subscribe to."""
MAX_UNFINISHED_BYTES = 16 << 20
"""Bytes of incomplete RPCs, of all neighbours together."""
STREAM_REOPEN_DELAY_S = 0.5
"""Time after which a stream that a neighbour has reset is opened again."""
REFUSAL = "protocols not supported"
"""Beginning of the library's error when a peer serves none of the protocols that a stream was opened for."""
NEIGHBOUR_RATE = Rate(items=200, size=4 << 20, burst=5.0)
"""New messages from one neighbour."""
GOSSIP_RATE = Rate(items=400, size=8 << 20, burst=5.0)
"""New messages from all neighbours: each costs 4 ms to verify and pass on."""
READ_RATE = Rate(items=1000, size=8 << 20, burst=5.0)
"""Messages, new or not, and subscriptions that are read from one neighbour."""
TOTAL_READ_RATE = Rate(items=4000, size=32 << 20, burst=5.0)
"""Messages, new or not, and subscriptions that are read from all neighbours."""
SUBSCRIPTION_RATE = Rate(items=16, size=math.inf, burst=16.0)
"""Subscriptions and their ends that are read from one neighbour."""
GOSSIP_RATE_POLL_S = 0.05
"""Time between checks whether a rate admits more."""


def bounded_gossip_queues() -> None:
    """The queue to a peer holds 32 RPCs and drops further ones, and RPCs above 1 MiB are dropped.

    Here it holds more RPCs, up to a number of bytes. Delete when Pubsub takes both bounds as arguments.
    """
    vars(pubsub)["RpcQueue"] = BoundedQueue


class GuardedPubsub(Pubsub):
    """Signing, checking and local delivery of gossip.

    ``deliver(topic, sender, payload, neighbour)`` is called with every message of a subscribed topic that another peer
    published; ``neighbour`` is the connected peer that brought it. ``count`` counts the bytes of all RPCs.
    """

    def __init__(
        self,
        host: BasicHost,
        router: GossipSub,
        first_sequence: int,
        deliver: Callable[..., None],
        report_misbehaviour: Callable[[bytes, Misbehaviour], None],
        count: ByteCount,
    ) -> None:
        bounded_gossip_queues()
        super().__init__(
            host, router, strict_signing=True, max_inbound_rpc_size=MAX_RPC_BYTES, max_subscriptions_per_peer=MAX_TOPICS
        )
        self._report_misbehaviour = report_misbehaviour
        self._deliver = deliver
        self._count = count
        self._limiter = Limiter(NEIGHBOUR_RATE, GOSSIP_RATE)
        self._reads = Limiter(READ_RATE, TOTAL_READ_RATE)
        self._subscribes = Limiter(SUBSCRIPTION_RATE)
        # The stream on which each peer sends, and the scope of its reader: resetting a stream does not wake the reader.
        self._inbound: dict[ID, tuple[INetStream, trio.CancelScope]] = {}
        self._unfinished = Budget(2 * (MAX_RPC_BYTES + READ_CHUNK_BYTES), MAX_UNFINISHED_BYTES)
        self._neighbours: dict[int, bytes] = {}  # of the messages being handled, by id()
        self._opening: dict[ID, bool] = {}  # peers to which a stream is being opened, and whether to look again then
        # The library starts sequence numbers at the clock's seconds. After a quick restart, a node's first messages
        # then look old and are dropped. Delete when they cannot repeat after a restart within a second.
        self.counter = first_sequence

    async def continuously_read_stream(self, stream: INetStream) -> None:
        """Reads RPCs until the stream ends. Faults of the library's own loop; one RPC is enough for the first two:

        - One that does not parse, or whose handling fails, ends the process.
        - A task is started for each message and three for each subscription. At each start the library walks through
          all its tasks: 20 KiB stop the loop for seconds, 70 KiB for a minute.
        - Streams are read without a deadline, and a peer may have any number of them, with a megabyte in each.
        - A record of the sender's addresses is verified and kept each time, which nothing here needs.

        Here a peer has one stream, an RPC has few items and a deadline, and each item is handled before the next one.
        From a faster sender this node reads more slowly, so that nothing is lost. Delete when all four are gone.
        """
        peer_id = stream.muxed_conn.peer_id
        peer = public_key_of(peer_id) or b""
        former = self._inbound.get(peer_id)
        if former is not None and _is_older(stream, former[0]):  # they are agreed on side by side
            await quietly(stream.reset)
            return
        scope = trio.CancelScope()
        self._inbound[peer_id] = stream, scope
        if former is not None:
            former[1].cancel()
        reader = LengthPrefixedReader(
            partial(_read, stream), VARINT, MAX_RPC_BYTES, RPC_TIMEOUT_S, partial(self._hold, peer)
        )
        try:
            with scope:
                while self.manager.is_running and (raw := await reader.receive()) is not None:
                    await self._take_in(peer_id, peer, raw)
        except Exception as error:
            logger.debug("gossip RPC: %r", error)
            self._report_misbehaviour(peer, Misbehaviour.GARBAGE)
        finally:
            reader.close()
            if self._inbound.get(peer_id) == (stream, scope):
                del self._inbound[peer_id]
            with trio.CancelScope(shield=True):
                await quietly(stream.reset)

    def _hold(self, peer: bytes, change: int) -> None:
        """Count bytes of incomplete RPCs. When there are too many, the peer with most of them loses its stream."""
        largest = self._unfinished.hold(peer, change)
        if largest is not None and peer_id_of(largest) in self._inbound:
            self._inbound[peer_id_of(largest)][1].cancel()

    async def write_msg(self, stream: INetStream, rpc_msg: rpc_pb2.RPC) -> bool:
        is_written = await super().write_msg(stream, rpc_msg)
        self._count.sent += rpc_msg.ByteSize() if is_written else 0
        return is_written

    async def _take_in(self, peer_id: ID, peer: bytes, raw: bytes) -> None:
        self._count.received += len(raw)
        messages, subscriptions = count_items(raw)
        await self._wait(self._reads, peer, 1 + messages, len(raw))
        if subscriptions and await self._wait(self._subscribes, peer, subscriptions, 0):
            self._report_misbehaviour(peer, Misbehaviour.RATE)
        rpc = rpc_pb2.RPC.FromString(raw)
        for message in rpc.publish:
            if self._is_subscribed_to_msg(message):
                alone = rpc_pb2.Message()  # a part of an RPC keeps the memory of the whole
                alone.CopyFrom(message)
                await self.push_msg(peer_id, alone)
                await trio.lowlevel.checkpoint()
        for subscription in rpc.subscriptions:
            await self._note_subscription(peer_id, subscription)
            await trio.lowlevel.checkpoint()
        if rpc.HasField("control"):
            await self.router.handle_rpc(rpc_pb2.RPC(control=rpc.control), peer_id)
            await trio.lowlevel.checkpoint()

    async def _wait(self, limiter: Limiter, peer: bytes, items: int, size: int) -> bool:
        """Wait until the limiter admits these. Returns whether there was a wait."""
        waited = False
        while not limiter.admit(peer, size, trio.current_time(), items):
            waited = True
            await trio.sleep(GOSSIP_RATE_POLL_S)
        return waited

    async def _note_subscription(self, peer_id: ID, change: rpc_pb2.RPC.SubOpts) -> None:
        """Like the library's ``handle_subscription``, but without its three tasks.

        A peer that unsubscribes and subscribes again does not get all recent messages again.
        """
        topic = change.topicid
        present = peer_id in self.peer_topics.get(topic, ())
        if not change.subscribe:
            if present:
                replayed = self._replayed_recent_topics.get(peer_id)
                kept = set() if replayed is None else set(replayed)
                self._forget_subscription(peer_id, topic)
                if kept:
                    self._replayed_recent_topics[peer_id] = kept
            return
        count = self._peer_subscription_count.get(peer_id, 0)
        if present or count >= self.max_subscriptions_per_peer or len(topic) > MAX_TOPIC_CHARS:
            return
        self.peer_topics.setdefault(topic, set()).add(peer_id)
        self._peer_subscription_count[peer_id] = count + 1
        waiting = self._subscription_events.pop((peer_id, topic), None)
        if waiting is not None:
            waiting.set()
        await self._replay_recent_messages(peer_id, topic)
        await self.router.on_peer_subscribed(peer_id, topic)

    async def _handle_new_peer(self, peer_id: ID) -> None:
        """A stream that breaks while it is opened, or whose protocol is agreed on too slowly, is never opened again
        while the peer stays connected. It may have used a surplus connection that was then closed.

        Here it is opened again, unless the peer says that it does not serve gossip. Delete when the library does so.
        """
        try:
            await super()._handle_new_peer(peer_id)
        except (StreamFailure, StreamError) as error:
            if REFUSAL in str(error.__cause__):
                raise
            raise StreamClosed from error

    async def _handle_new_peer_with_retry(self, peer_id: ID, timeout: float | None = None) -> None:
        """A peer gets a stream, and a task that tries to open it, for each connection that it makes.

        Here one task opens one stream. Delete when the library has only one.
        """
        if peer_id in self._opening:
            self._opening[peer_id] = True
            return
        self._opening[peer_id] = True
        try:
            while self._opening[peer_id]:
                self._opening[peer_id] = False
                await super()._handle_new_peer_with_retry(peer_id, timeout)
        finally:
            del self._opening[peer_id]

    async def _peer_stream_retry_task(self, peer_id: ID) -> None:
        """If a peer resets each stream to it, the next is opened at once, for ever, at 4 ms each.

        Delete when there is a pause in between.
        """
        await trio.sleep(STREAM_REOPEN_DELAY_S)
        await super()._peer_stream_retry_task(peer_id)

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """A message whose key does not decode, or that fails a validator, ends the process.

        The sender's key is the one inside its peer id and no other. Delete when bad messages are only dropped.

        A neighbour's rate is our own rule. Messages beyond it are neither verified nor passed on; they can still come
        from another neighbour.
        """
        if public_key_of(msg.from_id) is None or not is_sound(msg):
            return
        if msg_forwarder != self.my_id:
            if self._is_msg_seen(msg):
                return
            neighbour = public_key_of(msg_forwarder) or b""
            if not self._limiter.admit(neighbour, msg.ByteSize(), trio.current_time()):
                return
            self._neighbours[id(msg)] = neighbour
        try:
            await super().push_msg(msg_forwarder, msg)
        except Exception as error:
            logger.debug("gossip message: %r", error)
        finally:
            self._neighbours.pop(id(msg), None)

    def notify_subscriptions(self, publish_message: rpc_pb2.Message) -> None:
        """The queue of a slow subscriber holds 32 messages, and the newest are dropped; ours is longer, and drops the
        oldest.

        Delete when the library's subscription takes a size and drops the oldest.
        """
        sender = public_key_of(publish_message.from_id)
        if publish_message.from_id != self.my_id.to_bytes():
            for topic in publish_message.topicIDs:
                if topic in self.topic_ids:
                    self._deliver(topic, sender, publish_message.data, self._neighbours.get(id(publish_message), b""))

    async def stream_handler(self, stream: INetStream) -> None:
        """A peer that lost a connection to this node forgets its subscriptions, and does not learn them again if this
        node did not notice the loss.

        Here a new gossip stream from a peer gets the subscriptions again. Delete when closing one of two
        connections to a peer leaves gossip working in both directions.
        """
        queue = self.peer_queues.get(stream.muxed_conn.peer_id)
        if queue is not None:
            queue.push(self.get_hello_packet(), priority=True)
        await super().stream_handler(stream)

    def connection_lost(self, connection: INetConn) -> None:
        """A dead gossip stream over ``connection`` is noticed only at the next write. Here it is ended at once."""
        peer = connection.muxed_conn.peer_id
        stream = self.peers.get(peer)
        if stream is not None and stream.muxed_conn is connection.muxed_conn:
            self._handle_dead_peer(peer)


async def _read(stream: INetStream, max_bytes: int) -> bytes:
    """Some bytes of a stream, none if it has ended, however."""
    try:
        return await stream.read(max_bytes)
    except Exception as error:
        logger.debug("gossip stream: %r", error)
        return b""


def _is_older(stream: INetStream, other: INetStream) -> bool:
    """Whether ``stream`` was surely opened before ``other``."""
    assert isinstance(stream, NetStream) and isinstance(other, NetStream)
    one, two = stream.muxed_stream, other.muxed_stream
    if not isinstance(one, YamuxStream) or not isinstance(two, YamuxStream) or one.conn is not two.conn:
        return False
    return one.stream_id < two.stream_id
