"""Conversations with neighbours: one lasting exchange per connection, in which what is new is told at once.

Of two connected peers the one with the lesser key opens the exchange and opens it again when it breaks. What spreads is
offered by short name to :data:`FANOUT` neighbours, and to each at most once in :data:`SPACING` seconds; they are drawn
anew only every few seconds, so that the price of a name falls as more of them travel together. What gets lost on the
way is found by reconciliation.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from random import Random
from typing import TypeVarTuple

import trio

from chain.crypto import format_address
from chain.exceptions import CodecError
from p2p.bans import Fault
from p2p.limits import Limiter, Rate
from p2p.network import Network, NetworkError, is_network_error
from p2p.reconciliation import Views
from p2p.streams import Exchange, Streams

logger = logging.getLogger(__name__)

PROTOCOL = "/wwwserve/views/1"
FANOUT = 6
"""Neighbours that are told of something new."""
DRAW_INTERVAL = 4.0
"""Seconds for which these are the same."""
DELAY = 0.2
"""Mean seconds for which something new waits for more."""
SPACING = 2.0
"""Least seconds between two offers to the same neighbour."""
SAY_TIMEOUT = 10.0
"""Seconds that one frame may take; then the neighbour is too slow and the exchange is aborted."""
ANSWER_TIMEOUT = 10.0
"""Seconds without a frame after which an exchange that is not lasting ends."""
REOPEN = 2.0
"""Mean seconds before an exchange that broke is opened again."""
MAX_SAYING = 8
"""Frames on the way to one neighbour; beyond, answers are dropped."""
MAX_OFFERED = 4096
"""Names that wait to be offered to one neighbour."""
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
            network.blame(peer, Fault.GARBAGE)


class _Talk:
    """The lasting exchange with one neighbour."""

    __slots__ = ("due", "exchange", "offers", "saying")

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.offers: dict[bytes, None] = {}
        self.due = 0.0
        self.saying = 0


class Neighbours:
    """The conversations of one node. ``take`` is called with every frame, ``greeting`` makes the first one."""

    def __init__(
        self, network: Network, streams: Streams, random: Random, take: Take, greeting: Callable[[bytes], Views]
    ) -> None:
        self._network = network
        self._streams = streams
        self._random = random
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
                    await self._wake.wait()
                    self._wake = trio.Event()
                    # Offers go on until all are made; then the next one starts the clock again.
                    while any(talk.offers for talk in self._talks.values()):
                        await trio.sleep(DELAY * self._random.uniform(0.5, 1.5))
                        self._offer_due(trio.current_time())
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

    def spread(
        self, items: Iterable[bytes], source: bytes = b"", always: Iterable[bytes] = (), urgent: bool = False
    ) -> None:
        """Offer something new, but not to its ``source``; to ``always`` in any case. What is ``urgent`` waits for no
        more."""
        others = [peer for peer in self._draw() if peer != source]
        for peer in dict.fromkeys([*others[:FANOUT], *always]):
            talk = self._talks.get(peer)
            if talk is not None and len(talk.offers) < MAX_OFFERED:
                talk.offers.update(dict.fromkeys(items))
                if urgent:
                    talk.due = 0.0
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
        """Those who are told of something new at this time, and one more in case that it came from one of them."""
        now = trio.current_time()
        here = [peer for peer in self._drawn if peer in self._talks]
        if now >= self._drawn_until or len(here) < min(FANOUT + 1, len(self._talks)):
            here = self._random.sample(list(self._talks), min(FANOUT + 1, len(self._talks)))
            self._drawn, self._drawn_until = here, now + DRAW_INTERVAL
        return here

    def _offer_due(self, now: float) -> None:
        for peer, talk in list(self._talks.items()):
            if talk.offers and now >= talk.due:
                talk.due = now + SPACING
                names, talk.offers = b"".join(talk.offers), {}
                self.say(peer, Views(have=names))

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
                self._talks[peer] = talk
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
                    lasting, self._talks[peer] = True, talk
                for name in _names(frame.have) if talk.offers else ():
                    talk.offers.pop(name, None)
                reply = await self._take(peer, frame)
                if lasting and reply is not None and self._talks.get(peer) is talk:
                    self.say(peer, reply)
                elif reply is not None and (answer := _encode(reply)) is not None:
                    await exchange.send(answer)
        except CodecError as error:
            logger.info("bad frame from %s: %s", format_address(peer), error)
            self._network.blame(peer, Fault.FORGERY)
            await exchange.abort(str(error))
        finally:
            if self._talks.get(peer) is talk:
                del self._talks[peer]


def _encode(frame: Views) -> bytes | None:
    """The bytes of a frame; None if it is out of bounds, which is this node's own mistake."""
    try:
        return frame.encode()
    except CodecError as error:
        logger.error("a frame that cannot be sent: %s", error)
        return None


def _names(have: bytes) -> list[bytes]:
    return [have[start : start + 8] for start in range(0, len(have), 8)]
