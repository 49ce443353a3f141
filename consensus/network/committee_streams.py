"""Direct streams inside the committee, for what must not wait for gossip: proposals, votes, certificates.

Protocol ``/wwwserve/vote/1``: one long-lived exchange to each other member, each frame a :class:`Batch` of messages,
nothing in return. In a larger network most members are not neighbours in the overlay: the link dials those. Sending
only puts a message into that member's queue, so a slow or dead member delays no other. Messages that come while a frame
is written go into the next one. A full queue drops the oldest message of the least important kind: first hints
(operations, which gossip brings too), then large messages (blocks, which can be fetched from validators that voted for
them), then the rest. That is safe: agreement never relies on a single delivery, since votes and certificates are
repeated at every timeout.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import structlog
import trio

from chain import crypto
from chain.exceptions import CodecError
from consensus.network.gossip import GOSSIP_BATCH_BYTES, MAX_BATCH_BYTES, Batch
from p2p.network import NetworkError
from p2p.streams.exchange import Exchange
from p2p.streams.exchanges import Streams

logger = structlog.get_logger(__name__)

COMMITTEE_PROTOCOL = "/wwwserve/vote/1"
"""Name of the protocol; its number grows when a message changes."""
MAX_QUEUED_MESSAGES = 256
"""Messages that may wait for one member."""
MAX_QUEUED_MESSAGE_BYTES = 4 << 20
"""Bytes of the messages that may wait for one member."""
BULKY_BYTES = 32 * 1024
"""Bytes above which a message is a block: no vote and no certificate is as long."""
MIN_RETRY_S = 0.25
"""Seconds before a lost link is opened again; they double with each failure."""
MAX_RETRY_S = 4.0
"""Most seconds before a lost link is opened again."""
CONNECT_TIMEOUT_S = 10.0
"""Seconds that dialling a member may take."""
HEAD_START_S = 0.5
"""Seconds that the member with the greater key leaves to the other, so that not both dial."""
MESSAGE_WRITE_TIMEOUT_S = 10.0
"""Seconds that one message may take before the link counts as lost."""


class _PeerQueue:
    """The queue to one member."""

    def __init__(self) -> None:
        self.queue: deque[tuple[bytes, int]] = deque()
        """Messages, each with its rank: the lowest goes first."""
        self.size = 0
        self.filled = trio.Event()
        self.scope = trio.CancelScope()

    def put(self, payload: bytes, is_hint: bool) -> int:
        """Append a message. Returns how many had to go."""
        self.queue.append((payload, 0 if is_hint else 1 if len(payload) > BULKY_BYTES else 2))
        self.size += len(payload)
        dropped = 0
        while len(self.queue) > MAX_QUEUED_MESSAGES or self.size > MAX_QUEUED_MESSAGE_BYTES:
            position = min(range(len(self.queue)), key=lambda index: self.queue[index][1])
            self.size -= len(self.queue[position][0])
            del self.queue[position]
            dropped += 1
        return dropped

    async def take(self) -> tuple[bytes, ...]:
        """The messages of the next frame: as many of the queued ones as fit."""
        while not self.queue:
            self.filled = trio.Event()
            await self.filled.wait()
        items = [self.queue.popleft()[0]]
        size = len(items[0])
        while self.queue and size + len(self.queue[0][0]) <= GOSSIP_BATCH_BYTES:
            items.append(self.queue.popleft()[0])
            size += len(items[-1])
        self.size -= size
        return tuple(items)


class CommitteeStreams:
    """The links to the members of the committee, and the way in for theirs.

    ``on_message(peer, payload)`` is awaited for each message of a member: while it waits, that member's link waits, and
    no other. ``find_addresses`` says where a member can be dialled that is not connected.
    """

    def __init__(
        self,
        streams: Streams,
        on_message: Callable[[bytes, bytes], Awaitable[None]],
        find_addresses: Callable[[bytes], Sequence[str]] = lambda peer: (),
    ) -> None:
        self._streams = streams
        self._on_message = on_message
        self._find_addresses = find_addresses
        self._queues: dict[bytes, _PeerQueue] = {}
        self._gathered: dict[_PeerQueue, None] = {}
        """Queues that got a message since the last flush."""
        self._members: frozenset[bytes] = frozenset()
        self._nursery: trio.Nursery | None = None
        self._last_frame: tuple[tuple[bytes, ...], bytes] = (), b""
        self.dropped = 0
        """Messages lost to full queues so far."""

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the links until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._streams.handle(COMMITTEE_PROTOCOL, self._receive, max_exchanges_per_peer=4)
            task_status.started()
            await trio.sleep_forever()

    def set_members(self, senders: Iterable[bytes], receivers: Iterable[bytes]) -> None:
        """Accept messages of ``senders`` and keep a link to each of ``receivers`` (public keys, without this node's).

        Only while :meth:`run` does.
        """
        self._members = frozenset(senders)
        wanted = dict.fromkeys(receivers)
        for peer in [peer for peer in self._queues if peer not in wanted]:
            self._queues.pop(peer).scope.cancel()
        for peer in wanted:
            if peer not in self._queues:
                queue = self._queues[peer] = _PeerQueue()
                assert self._nursery is not None
                self._nursery.start_soon(self._write, peer, queue)

    def is_member(self, peer: bytes) -> bool:
        """Whether ``peer`` is heard here: it is in the committee of this epoch or of one beside it."""
        return peer in self._members

    def send(self, peer: bytes, payload: bytes, is_hint: bool = False) -> None:
        """Queue a message (at most 900 KiB) for one member; other peers are ignored. Never waits."""
        queue = self._queues.get(peer)
        if queue is None:
            return
        if len(payload) > MAX_BATCH_BYTES:
            logger.warning("a message is too long to send", bytes=len(payload))
            return
        self.dropped += queue.put(payload, is_hint)
        self._gathered[queue] = None

    def broadcast(self, payload: bytes) -> None:
        """Queue a message for every member."""
        for peer in self._queues:
            self.send(peer, payload)

    def flush(self) -> None:
        """Send the queued messages. Until this call they wait, so that messages that belong together share a frame."""
        for queue in self._gathered:
            if queue.queue:
                queue.filled.set()
        self._gathered.clear()

    async def _write(self, peer: bytes, queue: _PeerQueue) -> None:
        delay = MIN_RETRY_S
        with queue.scope:
            while True:
                try:
                    messages = await queue.take()  # before opening: a silent member is left in peace
                    await self._connect(peer)
                    async with self._streams.open(peer, COMMITTEE_PROTOCOL) as exchange:
                        while True:
                            frame = self._encode_frame(messages)
                            if exchange.has_room(frame):  # it goes out without a wait, which spares a scope
                                await exchange.send(frame)
                            else:
                                with trio.fail_after(MESSAGE_WRITE_TIMEOUT_S):
                                    await exchange.send(frame)
                            delay = MIN_RETRY_S
                            messages = await queue.take()
                except (NetworkError, trio.TooSlowError) as error:
                    logger.debug("link lost", peer=crypto.format_address(peer), reason=str(error) or "too slow")
                await trio.sleep(delay)
                delay = min(MAX_RETRY_S, 2 * delay)

    async def _connect(self, peer: bytes) -> None:
        """Dial a member that is not connected.

        Raises:
            NetworkError, trio.TooSlowError: it cannot be reached.
        """
        network = self._streams.network
        if peer not in network.peers() and network.me > peer:
            await trio.sleep(HEAD_START_S)
        if peer not in network.peers():
            with trio.fail_after(CONNECT_TIMEOUT_S):
                await network.connect(peer, self._find_addresses(peer))

    def _encode_frame(self, messages: tuple[bytes, ...]) -> bytes:
        """The bytes of a frame; those of a broadcast are the same for all members."""
        if messages != self._last_frame[0]:
            self._last_frame = messages, Batch(messages).encode()
        return self._last_frame[1]

    async def _receive(self, exchange: Exchange) -> None:
        if exchange.peer not in self._members:
            await exchange.abort("only validators speak this protocol")
            return
        while (frame := await exchange.receive()) is not None:
            try:
                items = Batch.decode(frame).items
            except CodecError as error:
                await exchange.abort(f"malformed frame: {error}")
                return
            for payload in items:
                await self._on_message(exchange.peer, payload)
