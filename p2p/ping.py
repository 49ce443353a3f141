"""How long a round trip to a peer takes, and under which address the peer sees this node.

A ping is a frame of random bytes that comes back. It tells nothing else: a clock that others can read is a fingerprint
(:mod:`p2p.coarse_clock`). docs/protocol.md, section 18.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import trio

from chain.codec import Bounds, Record
from chain.exceptions import CodecError
from p2p.limits.rate_limit import Limiter, Rate
from p2p.network import Network, NetworkError
from p2p.runtime import Runtime
from p2p.streams.exchange import Exchange
from p2p.streams.exchanges import Streams

PING_PROTOCOL = "/wwwserve/ping/1"
NONCE_BYTES = 32
"""Random bytes of a ping."""
MAX_PINGS_PER_PEER = 4
"""Exchanges of one peer that are answered at a time."""
PING_RATE = Rate(items=5, size=1 << 20, burst=10.0)
"""Pings of one peer that are answered."""
TOTAL_PING_RATE = Rate(items=100, size=1 << 20, burst=10.0)
"""Pings of all peers that are answered."""


@dataclass(frozen=True, slots=True)
class Ping(Record):
    """The request."""

    nonce: Annotated[bytes, Bounds(NONCE_BYTES, NONCE_BYTES)]


@dataclass(frozen=True, slots=True)
class Pong(Record):
    """The answer: the same bytes, and the IP address that the direct connection leads to, empty if there is none."""

    nonce: Annotated[bytes, Bounds(NONCE_BYTES, NONCE_BYTES)]
    host: Annotated[str, Bounds(0, 45)]


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """What a ping found. ``seen_as`` is the address under which the peer sees this node, empty if it does not say."""

    seconds: float
    is_relayed: bool
    seen_as: str


class Pinger:
    """Pings peers that are connected (:meth:`ping`), and answers theirs (:meth:`serve`)."""

    def __init__(self, network: Network, streams: Streams, runtime: Runtime) -> None:
        self._network = network
        self._streams = streams
        self._runtime = runtime
        self._limiter = Limiter(PING_RATE, TOTAL_PING_RATE)

    async def ping(self, peer: bytes, timeout: float) -> RoundTrip:
        """Send one ping and wait for its answer. Opening the stream is not part of the time.

        Raises:
            NetworkError: not connected, no answer within ``timeout`` seconds, or not the right one.
        """
        nonce = self._runtime.random.randbytes(NONCE_BYTES)
        try:
            with trio.fail_after(timeout):
                async with self._streams.open(peer, PING_PROTOCOL) as exchange:
                    began = trio.current_time()
                    await exchange.send(Ping(nonce).encode(), end=True)
                    answer = await exchange.receive()
                    took = trio.current_time() - began
        except trio.TooSlowError:
            raise NetworkError(f"no answer within {timeout:g} s") from None
        try:
            pong = Pong.decode(answer or b"")
        except CodecError:
            raise NetworkError("the answer to a ping is malformed") from None
        if pong.nonce != nonce:
            raise NetworkError("the answer is to another ping")
        return RoundTrip(took, self._network.is_relayed(peer), pong.host)

    async def serve(self, exchange: Exchange) -> None:
        """Answer one ping.

        Raises:
            NetworkError: the peer was lost, sent something else, or pings too often.
        """
        request = await exchange.receive()
        if not self._limiter.admit(exchange.peer, NONCE_BYTES, trio.current_time()):
            raise NetworkError("too many pings")
        try:
            ping = Ping.decode(request or b"")
        except CodecError:
            raise NetworkError("this is no ping") from None
        host = self._network.get_remote_host(exchange.peer) or ""
        await exchange.send(Pong(ping.nonce, host).encode(), end=True)
