"""Conversations with neighbours: one lasting exchange per connection, in which what is new is told at once.

Of two connected peers the one with the lesser key opens the exchange and opens it again when it breaks. What spreads is
*pushed* whole along a tree and *offered* by short name beside it (Leitão, Pereira and Rodrigues, "Epidemic Broadcast
Trees", 2007), so that it comes soon, and hardly ever twice. A link is in the tree from the time that one of its sides
wants what the other offers (``graft``) until something comes over it that is here already (``prune``); when one is
lost, another takes its place at once. An offer waits until the tree should have been there, and goes to :data:`FANOUT`
neighbours that are the same for some time, so that many names travel together.

Whoever prunes, grafts and keeps to itself what it likes only delays: of the links that others have made only some are
in the tree, whom names are offered to is drawn at random, and what got lost on both ways is found by reconciliation.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import TypeVarTuple

import trio

from chain.crypto import format_address
from chain.exceptions import CodecError
from p2p.network import Misbehaviour, Network, NetworkError, is_network_error
from p2p.peers.announcement import ITEM_ID, get_item_id
from p2p.peers.anti_entropy import EMPTY, Reconciliation, Views
from p2p.rate_limit import Limiter, Rate
from p2p.streams.exchanges import Exchange, Streams

logger = logging.getLogger(__name__)

PROTOCOL = "/wwwserve/views/1"
FANOUT = 4
"""Neighbours that are offered something new, besides those to which it is pushed."""
DRAW_INTERVAL = 4.0
"""Seconds for which these are the same."""
MAX_EAGER = 8
"""Links in the tree of those that others have made; whoever asks for more is offered names like the rest."""
PRUNE = 0.5
"""Share of repetitions that prune. Where two items at a time go round in one circle, each would open it in a place of
its own, and the tree would fall apart."""
DELAY = 0.05
"""Mean seconds for which something new waits for more."""
OFFER_DELAY = (1.0, 5.0)
"""Seconds for which names wait until they are offered, drawn anew each time: what comes by the tree is there before,
and where that is broken, one graft mends it before others would."""
SAY_TIMEOUT = 10.0
"""Seconds that one frame may take; then the neighbour is too slow and the exchange is aborted."""
ANSWER_TIMEOUT = 10.0
"""Seconds without a frame after which an exchange that is not lasting ends."""
REOPEN = 2.0
"""Mean seconds before an exchange that broke is opened again."""
MAX_SAYING = 8
"""Frames on the way to one neighbour; beyond, answers are dropped."""
MAX_PENDING = 4096
"""Names that wait to be pushed to one neighbour, or offered."""
RATE = Rate(items=100, size=1 << 20, burst=10.0)
TOTAL_RATE = Rate(items=500, size=4 << 20, burst=10.0)
"""Frames and bytes a second that are looked at, of each neighbour and of all."""
MAX_EXCHANGES = 4

Take = Callable[[bytes, Views], Awaitable[Views | None]]
"""Takes in what a peer sent and returns what to answer. Raises CodecError."""
Ts = TypeVarTuple("Ts")


async def contained(network: Network, peer: bytes, task: Callable[[*Ts], Awaitable[object]], *arguments: *Ts) -> None:
    """Run a task about one peer. Whatever it fails of ends nothing else: it is logged, and held against the peer."""
    try:
        await task(*arguments)
    except Exception as error:
        if is_network_error(error):
            logger.debug("%s: %s", format_address(peer), error)
        else:
            logger.error("a task about %s failed", format_address(peer), exc_info=error)
            network.report_misbehaviour(peer, Misbehaviour.GARBAGE)


class _Talk:
    """The lasting exchange with one neighbour."""

    __slots__ = ("due", "exchange", "is_eager", "offers", "pushes", "saying")

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.is_eager = False
        """The link is in the tree, as this side sees it."""
        self.pushes: dict[bytes, None] = {}
        self.offers: dict[bytes, None] = {}
        self.due = 0.0
        """When the next offer may be made."""
        self.saying = 0

    def push(self, names: dict[bytes, None]) -> None:
        if len(self.pushes) < MAX_PENDING:
            self.pushes |= names

    def offer(self, names: dict[bytes, None], due: float) -> None:
        if not self.offers:
            self.due = due
        if len(self.offers) < MAX_PENDING:
            self.offers |= names

    def forget(self, items: Iterable[bytes]) -> None:
        """Tell nothing of what the neighbour has told."""
        if self.pushes or self.offers:
            for item in items:
                self.pushes.pop(item, None)
                self.offers.pop(item, None)


class Neighbours:
    """The conversations of one node. ``take`` is called with every frame, ``greeting`` makes the first one.

    What goes by the names that spread is looked up in ``items``.
    """

    def __init__(
        self,
        network: Network,
        streams: Streams,
        random: Random,
        items: Reconciliation,
        take: Take,
        greeting: Callable[[bytes], Views],
    ) -> None:
        self._network = network
        self._streams = streams
        self._random = random
        self._items = items
        self._take = take
        self._greeting = greeting
        self._talks: dict[bytes, _Talk] = {}
        self._opening: dict[bytes, None] = {}
        self._drawn: list[bytes] = []
        self._drawn_until = 0.0
        self._limiter = Limiter(RATE, TOTAL_RATE)
        self._nursery: trio.Nursery | None = None
        self._wake = trio.Event()

    async def run(self) -> None:
        """Converse until cancelled."""
        self._streams.handle(PROTOCOL, self._answer, max_exchanges_per_peer=MAX_EXCHANGES)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for peer in sorted(self._network.peers()):
                self.connected(peer)
            try:
                while True:
                    with trio.move_on_at(self._get_due()):
                        await self._wake.wait()
                    self._wake = trio.Event()
                    await trio.sleep(DELAY * self._random.uniform(0.5, 1.5))
                    self._tell_due(trio.current_time())
            finally:
                self._nursery = None

    def peers(self) -> list[bytes]:
        """Those in conversation with this node, by key."""
        return sorted(self._talks)

    def connected(self, peer: bytes) -> None:
        """Begin a conversation with a new neighbour, if that is this side's part."""
        if self._nursery is not None and self._network.me < peer and peer not in self._opening:
            self._opening[peer] = None
            self._nursery.start_soon(self._stay_in_conversation, peer)

    def spread(self, items: Iterable[bytes], source: bytes = b"", always: Iterable[bytes] = ()) -> None:
        """Let the items of these names spread, but not back to their ``source``; ``always`` are told in any case."""
        names, now = dict.fromkeys(items), trio.current_time()
        eager = [peer for peer, talk in self._talks.items() if talk.is_eager and peer != source]
        pushed = dict.fromkeys((*eager, *(peer for peer in always if peer in self._talks)))
        for peer in pushed:
            self._talks[peer].push(names)
        for peer in [peer for peer in self._draw() if peer != source][:FANOUT]:
            if peer not in pushed:
                self._talks[peer].offer(names, now + self._random.uniform(*OFFER_DELAY))
        self._wake.set()

    def say(self, peer: bytes, frame: Views) -> None:
        """Send a frame to a neighbour soon, unless too many are on the way to it already."""
        talk = self._talks.get(peer)
        if talk is not None and self._nursery is not None and talk.saying < MAX_SAYING:
            raw = _encode(frame)
            if raw is not None:
                talk.saying += 1
                self._nursery.start_soon(contained, self._network, peer, self._say, talk, raw)

    async def tell(self, peer: bytes, frame: Views) -> None:
        """Hand one frame to a connected peer and wait until it has taken it in. Never raises NetworkError."""
        with suppress(NetworkError):
            async with self._streams.open(peer, PROTOCOL) as exchange:
                await exchange.send(frame.encode(), end=True)
                await exchange.receive()

    def _draw(self) -> list[bytes]:
        """Those who are offered something new at this time, and one more in case that it came from one of them."""
        now = trio.current_time()
        here = [peer for peer in self._drawn if peer in self._talks]
        if now >= self._drawn_until or len(here) < min(FANOUT + 1, len(self._talks)):
            here = self._random.sample(list(self._talks), min(FANOUT + 1, len(self._talks)))
            self._drawn, self._drawn_until = here, now + DRAW_INTERVAL
        return here

    def _get_due(self) -> float:
        """When there is something to tell; the past, if it has waited for a slow neighbour."""
        talks = [talk for talk in self._talks.values() if talk.pushes or talk.offers]
        return min((-math.inf if talk.pushes else talk.due for talk in talks), default=math.inf)

    def _tell_due(self, now: float) -> None:
        for peer, talk in list(self._talks.items()):
            if talk.saying >= MAX_SAYING:
                continue
            frame = EMPTY
            if talk.pushes:
                frame, talk.pushes = self._items.collect(talk.pushes, peer, now), {}
            if talk.offers and now >= talk.due:
                names, talk.offers = [name for name in talk.offers if self._items.holds(name)], {}
                frame = replace(frame, have=b"".join(names))
            if frame != EMPTY:
                self.say(peer, frame)

    def _begin_talk(self, talk: _Talk) -> None:
        """From now on what is new is told to this neighbour; the first one is this node's place in the tree."""
        peer = talk.exchange.peer
        self._talks[peer] = talk
        if not self._is_in_tree():
            self._graft(peer)

    def _end_talk(self, talk: _Talk) -> None:
        """If the link was in the tree, another takes its place before anything is missed."""
        del self._talks[talk.exchange.peer]
        if talk.is_eager:
            self._mend()

    def _is_in_tree(self) -> bool:
        return any(talk.is_eager for talk in self._talks.values())

    def _mend(self) -> None:
        """Put one more link into the tree."""
        others = [peer for peer, talk in self._talks.items() if not talk.is_eager]
        if others:
            self._graft(self._random.choice(others))

    def _graft(self, peer: bytes) -> None:
        self._talks[peer].is_eager = True
        self.say(peer, Views(graft=True))

    def _change_tree(self, talk: _Talk, frame: Views, was_here: bool, reply: Views | None) -> Views | None:
        """Do what ``frame`` asks and shows about the tree; returns ``reply`` with what the neighbour should do."""
        if frame.prune and talk.is_eager:
            talk.is_eager = False
            if not self._is_in_tree():
                self._mend()
        wants = bool(frame.have and not frame.parts and reply is not None and reply.want)
        if frame.graft or wants:
            talk.is_eager = talk.is_eager or self._has_room(talk.exchange.peer)
        if reply is not None and wants and talk.is_eager:
            return replace(reply, graft=True)
        if was_here and self._random.random() < PRUNE:
            talk.is_eager = False
            return replace(reply or EMPTY, prune=True)
        return reply

    def _has_room(self, peer: bytes) -> bool:
        """Whether the link to ``peer`` may be in the tree."""
        others = [
            other for other, talk in self._talks.items() if talk.is_eager and not self._network.is_outbound(other)
        ]
        return self._network.is_outbound(peer) or len(others) < MAX_EAGER

    async def _say(self, talk: _Talk, raw: bytes) -> None:
        try:
            with trio.move_on_after(SAY_TIMEOUT) as scope, suppress(NetworkError, RuntimeError):
                await talk.exchange.send(raw)
            if scope.cancelled_caught:
                await talk.exchange.abort("too slow")
        finally:
            talk.saying -= 1

    async def _stay_in_conversation(self, peer: bytes) -> None:
        try:
            while peer in self._network.peers():
                await contained(self._network, peer, self._converse, peer)
                await trio.sleep(REOPEN * self._random.uniform(0.5, 1.5))
        finally:
            del self._opening[peer]

    async def _converse(self, peer: bytes) -> None:
        async with self._streams.open(peer, PROTOCOL) as exchange:
            await exchange.send(self._greeting(peer).encode())
            await self._listen(exchange, lasting=True)

    async def _answer(self, exchange: Exchange) -> None:
        await self._listen(exchange, lasting=False)

    async def _listen(self, exchange: Exchange, lasting: bool) -> None:
        """Take in frames until the peer ends, or is silent although it did not say that it would stay."""
        talk = _Talk(exchange)
        peer = exchange.peer
        try:
            if lasting:
                self._begin_talk(talk)
            while True:
                if lasting:
                    raw = await exchange.receive()
                else:
                    raw = None
                    with trio.move_on_after(ANSWER_TIMEOUT):
                        raw = await exchange.receive()
                if raw is None:
                    return
                if not self._limiter.admit(peer, len(raw), trio.current_time()):
                    continue
                frame = Views.decode(raw)
                if frame.lasting and not lasting:
                    lasting = True
                    self._begin_talk(talk)
                told = [get_item_id(raw) for raw in (*(one.announcement for one in frame.known), *frame.accused)]
                was_here = bool(told) and all(map(self._items.knows, told))
                talk.forget((*told, *_names(frame.have)))
                reply = await self._take(peer, frame)
                if lasting:
                    reply = self._change_tree(talk, frame, was_here, reply)
                if lasting and reply is not None and self._talks.get(peer) is talk:
                    self.say(peer, reply)
                elif reply is not None and (answer := _encode(reply)) is not None:
                    await exchange.send(answer)
        except CodecError as error:
            logger.info("bad frame from %s: %s", format_address(peer), error)
            self._network.report_misbehaviour(peer, Misbehaviour.FORGERY)
            await exchange.abort(str(error))
        finally:
            if self._talks.get(peer) is talk:
                self._end_talk(talk)


def _encode(frame: Views) -> bytes | None:
    """The bytes of a frame; None if it is out of bounds, which is this node's own mistake."""
    try:
        return frame.encode()
    except CodecError as error:
        logger.error("a frame that cannot be sent: %s", error)
        return None


def _names(have: bytes) -> list[bytes]:
    return [have[start : start + ITEM_ID] for start in range(0, len(have), ITEM_ID)]
