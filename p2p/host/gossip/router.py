"""The gossip mesh over libp2p: who gets which message, with the guards of the library's router.

Messages for subscribers are in :mod:`p2p.host.gossip.pubsub`; :mod:`p2p.host.workarounds` says what a guard is.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import trio
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.utils import safe_bytes_from_hex

from p2p.host.gossip.rpc import MAX_RPC_ITEMS, BoundedCache, BoundedQueue
from p2p.limits.rate_limit import Limiter, Rate
from p2p.network import Misbehaviour
from p2p.peer_id import public_key_of

logger = logging.getLogger(__name__)

GOSSIP_WINDOW_HEARTBEATS = 5
"""Heartbeats for which a message is advertised (IHAVE)."""
GOSSIP_HISTORY_HEARTBEATS = 10
"""Heartbeats for which a message is kept."""
LAZY_DEGREE = 6
"""Least number of peers outside the mesh that get an IHAVE at each heartbeat; a quarter of them if that is more."""
MAX_CONTROL_ENTRIES = 32
"""Entries of one kind (IHAVE, GRAFT, …) of one RPC that are read: one for each topic of ours, and some more."""
MAX_MESSAGE_IDS = 512
"""Message ids of one kind of one RPC that are read."""
MAX_QUEUED_TOTAL_BYTES = 32 << 20
"""Bytes that wait for all neighbours together."""
FREE_QUEUE_BYTES = 256 << 10
"""Bytes that may wait for one neighbour, however much waits for the others."""
CONTROL_RATE = Rate(items=10, size=512 << 10, burst=5.0)
"""RPCs with control entries from one neighbour; it needs one or two a second."""


class GuardedGossipSub(GossipSub):
    """The gossip mesh: /meshsub/1.1.0 only, without the library's adaptive, spam and eclipse modes.

    Adaptive mode raises the heartbeat to a minute or more, the spam mode silently drops above 10 messages/s
    per topic and forwarder. The heartbeat default is 120 s.
    """

    def __init__(
        self,
        heartbeat: float = 1.0,
        degree: int = 6,
        report_misbehaviour: Callable[[bytes, Misbehaviour], None] = lambda peer, misbehaviour: None,
    ) -> None:
        self._report_misbehaviour = report_misbehaviour
        self._limiter = Limiter(CONTROL_RATE)
        super().__init__(
            protocols=[PROTOCOL_ID_V11],
            degree=degree,
            degree_low=max(1, degree - 2),
            degree_high=2 * degree,
            heartbeat_interval=heartbeat,  # type: ignore[arg-type]  # annotated int, only ever slept
            gossip_window=GOSSIP_WINDOW_HEARTBEATS,
            gossip_history=GOSSIP_HISTORY_HEARTBEATS,
            prune_back_off=10,
            unsubscribe_back_off=2,
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
        )
        # The library bounds the number of messages, not their size. Delete when its cache is bounded by bytes.
        self.mcache = BoundedCache(GOSSIP_WINDOW_HEARTBEATS, GOSSIP_HISTORY_HEARTBEATS)

    async def handle_rpc(self, rpc: rpc_pb2.RPC, sender_peer_id: ID) -> None:
        """The times of PRUNE and IHAVE are kept for every topic that a peer makes up, and never forgotten.

        Here only entries of this node's topics are read, one for each topic, and a bounded number of message ids.
        Delete when unknown topics leave no trace, and no RPC costs its receiver more work than its sender.
        """
        peer = public_key_of(sender_peer_id) or b""
        if not self._limiter.admit(peer, rpc.control.ByteSize(), trio.current_time()):
            self._report_misbehaviour(peer, Misbehaviour.RATE)
            return
        assert self.pubsub is not None
        ours, control = self.pubsub.topic_ids, rpc.control
        lists: tuple[Any, ...] = (control.ihave, control.graft, control.prune)
        for entries in lists:
            kept = list({entry.topicID: entry for entry in entries if entry.topicID in ours}.values())
            del entries[:]
            entries.extend(kept[:MAX_CONTROL_ENTRIES])
        del control.idontwant[:]  # of later versions
        for ihave in control.ihave:
            del ihave.messageIDs[MAX_MESSAGE_IDS // len(control.ihave) :]
        wanted = [name for request in control.iwant for name in request.messageIDs][:MAX_MESSAGE_IDS]
        del control.iwant[:]
        if wanted:
            control.iwant.add(messageIDs=wanted)
        await super().handle_rpc(rpc, sender_peer_id)

    async def handle_iwant(self, iwant_msg: rpc_pb2.ControlIWant, sender_peer_id: ID) -> None:
        """A message that is asked for a thousand times in one RPC is sent a thousand times, in one RPC.

        Here it is sent once, and in RPCs no larger than a neighbour accepts. Delete when the library does that.
        """
        if not self._check_iwant_rate_limit(sender_peer_id):
            return
        names = dict.fromkeys(safe_bytes_from_hex(name) for name in iwant_msg.messageIDs)
        self._send_messages(sender_peer_id, [name for name in names if name is not None])

    async def send_recent_messages(self, peer_id: ID, topic: str) -> None:
        """Recent messages for a new neighbour are written past its queue, between two halves of an RPC of the queue.

        Here they go through the queue. Delete when the library does that.
        """
        self._send_messages(peer_id, self.mcache.window(topic)[:MAX_RPC_ITEMS])

    def _send_messages(self, peer_id: ID, names: Sequence[bytes]) -> None:
        found = [message for name in names if (message := self.mcache.get(name)) is not None]
        for start in range(0, len(found), MAX_RPC_ITEMS):
            self.send_rpc(peer_id, rpc_pb2.RPC(publish=found[start : start + MAX_RPC_ITEMS]))

    def send_rpc(self, peer_id: ID, rpc: rpc_pb2.RPC, priority: bool = False) -> None:
        """Each queue has a bound, but a thousand slow peers have a thousand queues.

        Here the longest queues lose messages first when all together are too long. Delete when there is a bound on all
        queues.
        """
        assert self.pubsub is not None
        queues = self.pubsub.peer_queues
        queue = queues.get(peer_id)
        if isinstance(queue, BoundedQueue) and queue.size > FREE_QUEUE_BYTES and not priority:
            backlog = sum(other.size for other in queues.values() if isinstance(other, BoundedQueue))
            if backlog > MAX_QUEUED_TOTAL_BYTES:
                return
        super().send_rpc(peer_id, rpc, priority)

    def _prune_pending_messages(self, peer_id: ID) -> None:
        """A hundred messages are kept for each peer that has not subscribed to their topic, in case it does later.

        Here none are kept: a new subscriber gets the recent messages anyway. Delete when only new peers get them.
        """
        self._pending_messages.pop(peer_id, None)

    async def heartbeat(self) -> None:
        """An exception in one heartbeat ends the process. Delete when the library catches it."""
        while True:
            try:
                await super().heartbeat()
            except Exception as error:
                logger.warning("gossip heartbeat failed: %r", error)
                await trio.sleep(self.heartbeat_interval)

    def gossip_heartbeat(self) -> defaultdict[ID, dict[str, list[bytes]]]:
        """IHAVE skips peers in prune back-off, so that the leaves of a star never learn which messages they miss.

        Here those peers get it too. Delete when hub and leaves all get every message. ``recent_message_deliveries`` is
        emptied because it only grows when the adaptive mode is off.
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
        """Peers named in a PRUNE are dialled, so any peer could make us dial any address. Delete when off by
        default."""
