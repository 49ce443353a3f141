"""Gossip over libp2p, with the workarounds that it needs; ``p2p.hardening`` says how guards and their tests work.

gossipsub ``/meshsub/1.1.0`` with signed messages. A sender is the Ed25519 key in the peer id of whoever published the
message, and the signature is checked against that key alone.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import trio
from libp2p.abc import INetConn, INetStream
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue

from p2p.bans import Fault
from p2p.hardening import public_key_of, quietly
from p2p.limits import Limiter, Rate

logger = logging.getLogger(__name__)

GOSSIP_QUEUE = 1024
"""RPCs waiting for one peer."""
LAZY_DEGREE = 6
"""Peers outside the mesh that are told each second what there is to fetch (at least; a quarter if that is more)."""
MAX_RPC = (1 << 20) + (64 << 10)
"""Largest gossip RPC in bytes: a payload just under 1 MiB with its envelope."""
MAX_TOPICS = 64
"""Topics that a peer may subscribe to."""
MAX_CONTROL = 32
"""Entries of one kind (IHAVE, GRAFT, …) of one RPC that are looked at: one for each topic of ours, and some."""
CONTROL_RATE = Rate(items=50, size=1 << 20, burst=5.0)
"""RPCs with such entries a second that one neighbour may send; it needs one or two."""
NEIGHBOUR_RATE = Rate(items=200, size=4 << 20, burst=5.0)
GOSSIP_RATE = Rate(items=400, size=8 << 20, burst=5.0)
"""New messages a second that one neighbour may bring, and all of them: a message costs 4 ms to take in and pass on."""


def long_gossip_queues() -> None:
    """The queue to a peer holds 32 RPCs and drops what exceeds it, and RPCs above 1 MiB are dropped (items 6 and 8).

    Delete when Pubsub takes both as arguments.
    """
    RpcQueue.__init__.__defaults__ = (GOSSIP_QUEUE, MAX_RPC)


class GuardedPubsub(Pubsub):
    """Signing, checking and local delivery of gossip.

    ``deliver(topic, sender, payload, neighbour)`` gets every message of a subscribed topic that another peer published,
    and the neighbour that brought it.
    """

    def __init__(
        self,
        host: BasicHost,
        router: GossipSub,
        first_sequence: int,
        deliver: Callable[..., None],
        blame: Callable[[bytes, Fault], None],
    ) -> None:
        long_gossip_queues()
        super().__init__(
            host, router, strict_signing=True, max_inbound_rpc_size=MAX_RPC, max_subscriptions_per_peer=MAX_TOPICS
        )
        self._blame = blame
        self._deliver = deliver
        self._limiter = Limiter(NEIGHBOUR_RATE, GOSSIP_RATE)
        self._neighbours: dict[int, bytes] = {}  # of the messages being handled, by id()
        # Sequence numbers start at the clock's seconds, so that a restarted node's first messages pass for old ones
        # and are dropped (item 7). Delete when they cannot repeat after a restart within a second.
        self.counter = first_sequence

    async def continuously_read_stream(self, stream: INetStream) -> None:
        """An RPC that does not parse, or whose handling fails, ends the process (item 1). Delete when it does not."""
        try:
            await super().continuously_read_stream(stream)
        except Exception as error:
            logger.debug("gossip RPC: %r", error)
            self._blame(public_key_of(stream.muxed_conn.peer_id) or b"", Fault.GARBAGE)
            await quietly(stream.reset)

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """A message whose key does not decode, or that fails a validator, ends the process (item 1).

        The sender's key is the one inside its peer id and no other. Delete when bad messages are only dropped.

        A neighbour's rate is our own rule. What exceeds it is not even verified, let alone passed on; it can still come
        from another neighbour.
        """
        if public_key_of(msg.from_id) is None:
            return
        if msg_forwarder != self.my_id:
            if self._is_msg_seen(msg):
                return
            neighbour = public_key_of(msg_forwarder) or b""
            if not self._limiter.admit(neighbour, len(msg.data), trio.current_time()):
                return
            self._neighbours[id(msg)] = neighbour
        try:
            await super().push_msg(msg_forwarder, msg)
        except Exception as error:
            logger.debug("gossip message: %r", error)
        finally:
            self._neighbours.pop(id(msg), None)

    def notify_subscriptions(self, publish_message: rpc_pb2.Message) -> None:
        """A slow subscriber loses the newest messages beyond 32 (item 6); ours lose the oldest beyond a longer queue.

        Delete when the library's subscription takes a size and sheds the oldest.
        """
        sender = public_key_of(publish_message.from_id)
        if publish_message.from_id != self.my_id.to_bytes():
            for topic in publish_message.topicIDs:
                if topic in self.topic_ids:
                    self._deliver(topic, sender, publish_message.data, self._neighbours.get(id(publish_message), b""))

    async def stream_handler(self, stream: INetStream) -> None:
        """A peer that lost our connection forgets our subscriptions, and nothing tells it again if we did not lose its.

        A new gossip stream from a peer therefore gets our subscriptions anew. Delete when closing one of two
        connections to a peer leaves gossip working in both directions.
        """
        queue = self.peer_queues.get(stream.muxed_conn.peer_id)
        if queue is not None:
            queue.push(self.get_hello_packet(), priority=True)
        await super().stream_handler(stream)

    def connection_lost(self, connection: INetConn) -> None:
        """A gossip stream that ran over ``connection`` is noticed to be dead only when it is next written to."""
        peer = connection.muxed_conn.peer_id
        stream = self.peers.get(peer)
        if stream is not None and stream.muxed_conn is connection.muxed_conn:
            self._handle_dead_peer(peer)


class GuardedGossipSub(GossipSub):
    """The gossip mesh: /meshsub/1.1.0 only, without the library's adaptive, spam and eclipse modes.

    Adaptive mode raises the heartbeat to a minute or more (item 5), the spam mode silently drops above 10 messages/s
    per topic and forwarder (item 6). The heartbeat default is 120 s (item 5).
    """

    def __init__(
        self, heartbeat: float = 1.0, degree: int = 6, blame: Callable[[bytes, Fault], None] = lambda peer, fault: None
    ) -> None:
        self._blame = blame
        self._limiter = Limiter(CONTROL_RATE)
        super().__init__(
            protocols=[PROTOCOL_ID_V11],
            degree=degree,
            degree_low=max(1, degree - 2),
            degree_high=2 * degree,
            heartbeat_interval=heartbeat,  # type: ignore[arg-type]  # annotated int, only ever slept
            gossip_window=5,
            gossip_history=10,
            prune_back_off=10,
            unsubscribe_back_off=2,
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
        )

    async def handle_rpc(self, rpc: rpc_pb2.RPC, sender_peer_id: ID) -> None:
        """The times of what was pruned and offered are noted for every topic that a peer makes up, and never forgotten.

        Only entries of topics of ours are looked at, and not too many. Delete when strange topics leave no trace.
        """
        peer = public_key_of(sender_peer_id) or b""
        if not self._limiter.admit(peer, rpc.control.ByteSize(), trio.current_time()):
            self._blame(peer, Fault.RATE)
            return
        assert self.pubsub is not None
        ours, control = self.pubsub.topic_ids, rpc.control
        lists: tuple[Any, ...] = (control.ihave, control.graft, control.prune)
        for entries in lists:
            kept = [entry for entry in entries if entry.topicID in ours][:MAX_CONTROL]
            del entries[:]
            entries.extend(kept)
        del control.iwant[MAX_CONTROL:]
        await super().handle_rpc(rpc, sender_peer_id)

    async def heartbeat(self) -> None:
        """An exception in one heartbeat ends the process. Delete when the library catches it."""
        while True:
            try:
                await super().heartbeat()
            except Exception as error:
                logger.warning("gossip heartbeat failed: %r", error)
                await trio.sleep(self.heartbeat_interval)

    def gossip_heartbeat(self) -> defaultdict[ID, dict[str, list[bytes]]]:
        """IHAVE skips peers in prune back-off, so that the leaves of a star never learn of what they miss (item 4).

        Delete when hub and leaves all get every message. The list emptied here only ever grows when the adaptive mode
        is off.
        """
        self.recent_message_deliveries.clear()
        lazy: defaultdict[ID, dict[str, list[bytes]]] = defaultdict(dict)
        assert self.pubsub is not None
        for topic in {**self.mesh, **self.fanout}:
            message_ids = list(self.mcache.window(topic))
            if not message_ids:
                continue
            eager = self.mesh.get(topic) or self.fanout.get(topic) or set()
            in_topic = self.pubsub.peer_topics.get(topic, set())
            others = [peer for peer in in_topic if peer not in eager and peer in self.peer_protocol]
            for peer in self.select_from_minus(max(LAZY_DEGREE, len(others) // 4), others, ()):
                lazy[peer][topic] = message_ids
        return lazy

    async def _do_px(self, px_peers: list[Any]) -> None:
        """Peers offered in a PRUNE are dialled unchecked: anyone makes us dial anyone. Delete when off by default."""
