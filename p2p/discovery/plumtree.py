"""Plumtree: an epidemic broadcast tree over the connections of one node.

After Leitão, Pereira and Rodrigues, "Epidemic Broadcast Trees" (2007). Each pair of connected peers holds one lasting
exchange, their *session*; the peer with the lesser key opens it, and opens it again when it breaks. A new item is
pushed whole over the *eager* sessions, which form a tree, and its id is pushed *lazily* to :data:`LAZY_FANOUT` other
peers. ``graft`` makes a session eager: a peer sends it when it wants an item that it knows by id only, so the tree did
not bring it. ``prune`` ends that: a peer sends it when an item arrives that it has already. When an eager session ends,
another becomes eager at once.

A lazy push waits until the tree should have delivered the item. The peers that receive lazy pushes stay the same for
:data:`LAZY_REDRAW_INTERVAL_S`, so that many ids travel in one frame.

A peer that prunes or grafts at will, or drops items, can only delay them: at most :data:`MAX_EAGER_INBOUND` eager
sessions run over connections that others made. The receivers of lazy pushes are drawn at random. Anti-entropy
(:mod:`p2p.peers.anti_entropy`) finds what neither push delivered.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import Protocol

import trio

from chain.crypto import format_address
from chain.exceptions import CodecError
from p2p.discovery.peer_tasks import run_contained
from p2p.limits.rate_limit import Limiter, Rate
from p2p.network import Misbehaviour, Network, NetworkError
from p2p.peers.announcement import ITEM_ID_BYTES, get_item_id
from p2p.peers.anti_entropy import EMPTY_FRAME, AntiEntropy, SyncFrame
from p2p.streams.exchange import Exchange
from p2p.streams.exchanges import Streams

logger = logging.getLogger(__name__)

PLUMTREE_PROTOCOL = "/wwwserve/views/3"
"""The protocol of sessions and of single frames."""
LAZY_FANOUT = 4
"""Neighbours that receive the id of a new item, besides those that receive the item."""
LAZY_REDRAW_INTERVAL_S = 4.0
"""Seconds after which the receivers of lazy pushes are drawn anew."""
MAX_EAGER_INBOUND = 8
"""Eager sessions over connections that others made; further peers that graft receive lazy pushes only."""
PRUNE_PROBABILITY = 0.5
"""Probability that a duplicate prunes. With 1, two items that travel round the same loop at once would cut it in two
places and disconnect the tree."""
BATCH_DELAY_S = 0.05
"""Mean seconds for which a new item waits for others to share its frame."""
LAZY_DELAY_S = (1.0, 5.0)
"""Range from which the delay of a lazy push is drawn, in seconds. The tree delivers sooner; where it is broken, the
first lazy push to arrive repairs it before others are sent."""
SEND_TIMEOUT_S = 10.0
"""Seconds that sending a frame may take; then the session is aborted."""
SHORT_EXCHANGE_TIMEOUT_S = 10.0
"""Seconds without a frame after which an exchange ends that is no session."""
SESSION_REOPEN_DELAY_S = 2.0
"""Mean seconds before a session that broke is opened again."""
MAX_SENDING = 8
"""Frames that may be on the way to one neighbour; further ones are dropped."""
MAX_PENDING = 4096
"""Items that wait for an eager push to one neighbour, and ids that wait for a lazy push."""
PLUMTREE_RATE = Rate(items=100, size=1 << 20, burst=10.0)
"""Frames and bytes a second that are read from one neighbour."""
TOTAL_PLUMTREE_RATE = Rate(items=500, size=4 << 20, burst=10.0)
"""Frames and bytes a second that are read from all neighbours."""
MAX_PLUMTREE_EXCHANGES = 4
"""Exchanges that one peer may hold at a time."""


class FrameHandler(Protocol):
    """What uses the tree."""

    def make_greeting(self, peer: bytes) -> SyncFrame:
        """The first frame of a session with ``peer``."""

    async def on_frame(self, peer: bytes, frame: SyncFrame) -> SyncFrame | None:
        """Take in a frame of ``peer`` and return the answer, if any.

        Raises:
            CodecError: ``peer`` sent what no honest peer sends.
        """


class PeerSession:
    """The lasting exchange with one neighbour."""

    __slots__ = ("due", "eager_pushes", "exchange", "is_eager", "lazy_pushes", "sending")

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.is_eager = False
        """Whether new items are pushed whole over it."""
        self.eager_pushes: dict[bytes, None] = {}
        self.lazy_pushes: dict[bytes, None] = {}
        self.due = 0.0
        """When the next lazy push is due."""
        self.sending = 0
        """Frames on the way."""

    def eager_push(self, items: dict[bytes, None]) -> None:
        if len(self.eager_pushes) < MAX_PENDING:
            self.eager_pushes |= items

    def lazy_push(self, items: dict[bytes, None], due: float) -> None:
        if not self.lazy_pushes:
            self.due = due
        if len(self.lazy_pushes) < MAX_PENDING:
            self.lazy_pushes |= items

    def forget(self, items: Iterable[bytes]) -> None:
        """Do not push items that the neighbour has."""
        if self.eager_pushes or self.lazy_pushes:
            for item in items:
                self.eager_pushes.pop(item, None)
                self.lazy_pushes.pop(item, None)


class Plumtree:
    """The sessions of one node. The items to push are looked up by id in ``items``."""

    def __init__(
        self,
        network: Network,
        streams: Streams,
        random: Random,
        items: AntiEntropy,
    ) -> None:
        self._network = network
        self._streams = streams
        self._random = random
        self._items = items
        self._handler: FrameHandler | None = None
        self._sessions: dict[bytes, PeerSession] = {}
        self._opening: dict[bytes, None] = {}
        self._drawn: list[bytes] = []
        self._drawn_until = 0.0
        self._limiter = Limiter(PLUMTREE_RATE, TOTAL_PLUMTREE_RATE)
        self._nursery: trio.Nursery | None = None
        self._wake = trio.Event()

    async def run(self, handler: FrameHandler) -> None:
        """Hold sessions until cancelled, and hand every frame to ``handler``."""
        self._handler = handler
        self._streams.handle(PLUMTREE_PROTOCOL, self._answer, max_exchanges_per_peer=MAX_PLUMTREE_EXCHANGES)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for peer in sorted(self._network.peers()):
                self.connected(peer)
            try:
                while True:
                    with trio.move_on_at(self._get_due()):
                        await self._wake.wait()
                    self._wake = trio.Event()
                    await trio.sleep(BATCH_DELAY_S * self._random.uniform(0.5, 1.5))
                    self._send_due(trio.current_time())
            finally:
                self._nursery = None

    def _get_handler(self) -> FrameHandler:
        assert self._handler is not None
        return self._handler

    def peers(self) -> list[bytes]:
        """The peers with which a session is open, by key."""
        return sorted(self._sessions)

    def connected(self, peer: bytes) -> None:
        """Open a session with a new neighbour, if this node has the lesser key."""
        if self._nursery is not None and self._network.me < peer and peer not in self._opening:
            self._opening[peer] = None
            self._nursery.start_soon(self._keep_session, peer)

    def broadcast(self, items: Iterable[bytes], source: bytes = b"", always: Iterable[bytes] = ()) -> None:
        """Push these items (by id) along the tree, but not back to ``source``. ``always`` receive them in any case."""
        ids, now = dict.fromkeys(items), trio.current_time()
        eager = [peer for peer, session in self._sessions.items() if session.is_eager and peer != source]
        pushed = dict.fromkeys((*eager, *(peer for peer in always if peer in self._sessions)))
        for peer in pushed:
            self._sessions[peer].eager_push(ids)
        for peer in [peer for peer in self._draw_lazy_peers() if peer != source][:LAZY_FANOUT]:
            if peer not in pushed:
                self._sessions[peer].lazy_push(ids, now + self._random.uniform(*LAZY_DELAY_S))
        self._wake.set()

    def send(self, peer: bytes, frame: SyncFrame) -> None:
        """Send a frame to a neighbour soon, unless too many are on the way to it already."""
        self._send_soon([peer], frame)

    def send_to_all(self, frame: SyncFrame) -> None:
        """:meth:`send` a frame to each neighbour."""
        self._send_soon(self.peers(), frame)

    def _send_soon(self, peers: Iterable[bytes], frame: SyncFrame) -> None:
        raw = _encode(frame)
        if raw is None or self._nursery is None:
            return
        for peer in peers:
            session = self._sessions.get(peer)
            if session is not None and session.sending < MAX_SENDING:
                session.sending += 1
                self._nursery.start_soon(run_contained, self._network, peer, self._send, session, raw)

    async def request(self, peer: bytes, frame: SyncFrame) -> None:
        """Send one frame to a connected peer and wait for its answer or end. Never raises NetworkError."""
        with suppress(NetworkError):
            async with self._streams.open(peer, PLUMTREE_PROTOCOL) as exchange:
                await exchange.send(frame.encode(), end=True)
                await exchange.receive()

    def _draw_lazy_peers(self) -> list[bytes]:
        """The receivers of lazy pushes at this time, and one more in case that the item came from one of them."""
        now = trio.current_time()
        here = [peer for peer in self._drawn if peer in self._sessions]
        if now >= self._drawn_until or len(here) < min(LAZY_FANOUT + 1, len(self._sessions)):
            here = self._random.sample(list(self._sessions), min(LAZY_FANOUT + 1, len(self._sessions)))
            self._drawn, self._drawn_until = here, now + LAZY_REDRAW_INTERVAL_S
        return here

    def _get_due(self) -> float:
        """When the next push is due; the past if it waits for a slow neighbour."""
        sessions = [session for session in self._sessions.values() if session.eager_pushes or session.lazy_pushes]
        return min((-math.inf if session.eager_pushes else session.due for session in sessions), default=math.inf)

    def _send_due(self, now: float) -> None:
        for peer, session in list(self._sessions.items()):
            if session.sending >= MAX_SENDING:
                continue
            frame = EMPTY_FRAME
            if session.eager_pushes:
                frame, session.eager_pushes = self._items.collect(session.eager_pushes, peer, now), {}
            if session.lazy_pushes and now >= session.due:
                ids, session.lazy_pushes = [item for item in session.lazy_pushes if self._items.holds(item)], {}
                frame = replace(frame, have=b"".join(ids))
            if frame != EMPTY_FRAME:
                self.send(peer, frame)

    def _open_session(self, session: PeerSession) -> None:
        """Push new items to this neighbour from now on; the first session becomes eager."""
        peer = session.exchange.peer
        self._sessions[peer] = session
        if not self._is_in_tree():
            self._graft(peer)

    def _close_session(self, session: PeerSession) -> None:
        """Forget a session; if it was eager, another becomes eager."""
        del self._sessions[session.exchange.peer]
        if session.is_eager:
            self._repair()

    def _is_in_tree(self) -> bool:
        return any(session.is_eager for session in self._sessions.values())

    def _repair(self) -> None:
        """Make one more session eager."""
        others = [peer for peer, session in self._sessions.items() if not session.is_eager]
        if others:
            self._graft(self._random.choice(others))

    def _graft(self, peer: bytes) -> None:
        self._sessions[peer].is_eager = True
        self.send(peer, SyncFrame(graft=True))

    def _change_tree(
        self, session: PeerSession, frame: SyncFrame, was_here: bool, reply: SyncFrame | None
    ) -> SyncFrame | None:
        """Apply ``frame`` to the tree. Returns ``reply`` with the ``graft`` or ``prune`` for the neighbour."""
        if frame.prune and session.is_eager:
            session.is_eager = False
            if not self._is_in_tree():
                self._repair()
        wants = bool(frame.have and not frame.bucket_numbers and reply is not None and reply.want)
        if frame.graft or wants:
            session.is_eager = session.is_eager or self._has_room(session.exchange.peer)
        if reply is not None and wants and session.is_eager:
            return replace(reply, graft=True)
        if was_here and self._random.random() < PRUNE_PROBABILITY:
            session.is_eager = False
            return replace(reply or EMPTY_FRAME, prune=True)
        return reply

    def _has_room(self, peer: bytes) -> bool:
        """Whether the session with ``peer`` may become eager."""
        others = [
            other
            for other, session in self._sessions.items()
            if session.is_eager and not self._network.is_outbound(other)
        ]
        return self._network.is_outbound(peer) or len(others) < MAX_EAGER_INBOUND

    async def _send(self, session: PeerSession, raw: bytes) -> None:
        try:
            with trio.move_on_after(SEND_TIMEOUT_S) as scope, suppress(NetworkError, RuntimeError):
                await session.exchange.send(raw)
            if scope.cancelled_caught:
                await session.exchange.abort("too slow")
        finally:
            session.sending -= 1

    async def _keep_session(self, peer: bytes) -> None:
        try:
            while peer in self._network.peers():
                await run_contained(self._network, peer, self._run_session, peer)
                await trio.sleep(SESSION_REOPEN_DELAY_S * self._random.uniform(0.5, 1.5))
        finally:
            del self._opening[peer]

    async def _run_session(self, peer: bytes) -> None:
        async with self._streams.open(peer, PLUMTREE_PROTOCOL) as exchange:
            await exchange.send(self._get_handler().make_greeting(peer).encode())
            await self._listen(exchange, keep_open=True)

    async def _answer(self, exchange: Exchange) -> None:
        await self._listen(exchange, keep_open=False)

    async def _listen(self, exchange: Exchange, keep_open: bool) -> None:
        """Read frames until the peer ends the exchange, or is silent in one that is no session."""
        session = PeerSession(exchange)
        peer = exchange.peer
        try:
            if keep_open:
                self._open_session(session)
            while True:
                if keep_open:
                    raw = await exchange.receive()
                else:
                    raw = None
                    with trio.move_on_after(SHORT_EXCHANGE_TIMEOUT_S):
                        raw = await exchange.receive()
                if raw is None:
                    return
                if not self._limiter.admit(peer, len(raw), trio.current_time()):
                    continue
                frame = SyncFrame.decode(raw)
                if frame.keep_open and not keep_open:
                    keep_open = True
                    self._open_session(session)
                told = [
                    get_item_id(raw) for raw in (*(one.announcement for one in frame.announcements), *frame.suspects)
                ]
                was_here = bool(told) and all(map(self._items.knows, told))
                session.forget((*told, *_split(frame.have)))
                reply = await self._get_handler().on_frame(peer, frame)
                if keep_open:
                    reply = self._change_tree(session, frame, was_here, reply)
                if keep_open and reply is not None and self._sessions.get(peer) is session:
                    self.send(peer, reply)
                elif reply is not None and (answer := _encode(reply)) is not None:
                    await exchange.send(answer)
        except CodecError as error:
            logger.info("bad frame from %s: %s", format_address(peer), error)
            self._network.report_misbehaviour(peer, Misbehaviour.FORGERY)
            await exchange.abort(str(error))
        finally:
            if self._sessions.get(peer) is session:
                self._close_session(session)


def _encode(frame: SyncFrame) -> bytes | None:
    """The bytes of a frame; None if it is out of bounds, which is this node's own mistake."""
    try:
        return frame.encode()
    except CodecError as error:
        logger.error("a frame that cannot be sent: %s", error)
        return None


def _split(have: bytes) -> list[bytes]:
    return [have[start : start + ITEM_ID_BYTES] for start in range(0, len(have), ITEM_ID_BYTES)]
