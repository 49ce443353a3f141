"""The interface to the network: gossip, byte streams and connected peers, named by public key.

``p2p.host.network.Libp2pNetwork`` is the real implementation and ``p2p.simulation.network.SimulatedNetwork`` the
simulated one. Everything above (framing, pooling, flow control, discovery, consensus, market) is the same on both.

A peer is named by its 32-byte Ed25519 public key, which is also its account on the ledger; the connection
authenticates it (Noise), so ``RawStream.peer`` proves who is at the other end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import trio

MAX_GOSSIP_BYTES = 1 << 20
"""Gossip payloads are smaller than this; gossipsub drops larger ones silently."""
MAX_UNREAD_GOSSIP_BYTES = 16 << 20
"""Gossip of a topic that waits for a subscriber; beyond, the subscriber loses the oldest messages."""


class NetworkError(Exception):
    """A peer could not be reached, or a stream to it ended before its time."""


def is_network_error(error: Exception) -> bool:
    """Whether ``error`` is a NetworkError, or a nursery's group of nothing else."""
    if isinstance(error, ExceptionGroup):
        return error.split(NetworkError)[1] is None
    return isinstance(error, NetworkError)


class Misbehaviour(Enum):
    """What a peer can do against the rules, with what that adds to its score (:mod:`p2p.limits.peer_score`)."""

    UPGRADE = 4.0
    """A connection that came to nothing: no handshake, a wrong one, or one that took too long."""
    GARBAGE = 34.0
    """Bytes that are no frame or no message of their protocol."""
    OVERSIZE = 40.0
    """More than may be sent: a frame too long, or more than the other side's window."""
    FORGERY = 50.0
    """A record that its author did not sign."""
    RATE = 0.5
    """One stream or message above the rate."""


@dataclass(frozen=True, slots=True)
class GossipMessage:
    """One message of a topic. ``sender`` published it, and ``neighbour`` is the connected peer that it came from.

    Limit rates by neighbour: an attacker can invent any number of senders.
    """

    topic: str
    sender: bytes
    payload: bytes
    forwarder: bytes = b""

    @property
    def neighbour(self) -> bytes:
        """The connected peer that brought the message: the forwarder, or the sender itself."""
        return self.forwarder or self.sender


class RawStream(Protocol):
    """An authenticated, ordered, reliable stream of bytes to one peer. All methods raise :class:`NetworkError`."""

    @property
    def peer(self) -> bytes:
        """Public key of the other end."""

    @property
    def is_superseded(self) -> bool:
        """Whether this stream is relayed although a direct connection exists by now: then open a new one instead."""

    def has_room(self, size: int) -> bool:
        """Whether so many bytes can be sent without waiting."""

    async def send(self, data: bytes) -> None:
        """Send all of ``data``; waits while the link is full."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return 1 to ``max_bytes`` bytes, or ``b""`` once the peer has closed its side."""

    async def close(self) -> None:
        """Close both directions in order. Never raises, safe to call twice."""

    async def reset(self) -> None:
        """Abandon the stream at once. Never raises, safe to call twice."""


@dataclass(slots=True)
class ByteCount:
    """Bytes of one protocol so far, without what connections and encryption add."""

    received: int = 0
    sent: int = 0


StreamHandler = Callable[[RawStream], Awaitable[None]]


class Network(Protocol):
    """What a node can do on the network."""

    @property
    def me(self) -> bytes:
        """This node's public key."""

    @property
    def listen_addresses(self) -> tuple[str, ...]:
        """Multiaddresses (without the /p2p part) at which this node can be dialled; empty if it does not listen."""

    def peers(self) -> frozenset[bytes]:
        """The peers connected at this moment."""

    async def connect(self, peer: bytes, addresses: Sequence[str]) -> None:
        """Connect to ``peer`` at one of ``addresses`` (multiaddresses); nothing happens if connected already.

        A connection through a relay is replaced by a direct one, if one of the direct addresses answers.

        Raises:
            NetworkError: none of the addresses answered as that peer.
        """

    async def disconnect(self, peer: bytes) -> None:
        """Close every connection to ``peer``. Never raises."""

    def report_misbehaviour(self, peer: bytes, misbehaviour: Misbehaviour) -> None:
        """Add to a connected peer's score; one that is too high disconnects and bans the peer for a while."""

    def refusals(self) -> Mapping[str, int]:
        """Inbound connections refused so far, by reason; empty where all are accepted."""

    def byte_counts(self) -> Mapping[str, ByteCount]:
        """The bytes of each protocol that was spoken, gossip included; empty where they are not counted."""

    async def reserve(self, relay: bytes) -> float:
        """Ask a connected peer, a relay, for a reservation, so that others can dial this node through it.

        Returns:
            Seconds that the reservation holds for; it ends earlier with the connection.

        Raises:
            NetworkError: not connected, or the peer does not relay, takes no more reservations or did not answer.
        """

    def is_relayed(self, peer: bytes) -> bool:
        """Whether the connection to ``peer``, if there is one, runs through a relay."""

    def is_outbound(self, peer: bytes) -> bool:
        """Whether this node dialled the present connection to ``peer``.

        An attacker can dial this node under any number of keys, but does not choose whom this node dials.
        """

    def get_dialled_address(self, peer: bytes) -> str | None:
        """The multiaddress (without the /p2p part) at which this node dialled the present connection to ``peer``.

        None if there is none, the peer dialled it, or it runs through a relay.
        """

    def get_remote_host(self, peer: bytes) -> str | None:
        """The IP address that the direct connection to ``peer`` leads to; None if there is none or it is not known."""

    def get_connected_since(self, peer: bytes) -> float | None:
        """When ``peer`` was connected (monotonic clock, seconds); None if it is not connected.

        A direct connection that replaces one through a relay does not change it.
        """

    def get_round_trip(self, peer: bytes) -> float | None:
        """Seconds that a round trip to ``peer`` takes, as measured by the connection's keepalive.

        None if the peer is not connected, or nothing is measured yet. The peer can make it longer.
        """

    def can_be_dialled(self) -> bool | None:
        """Whether others can dial this node at its listen addresses; None as long as that is not known."""

    async def open_stream(self, peer: bytes, protocol: str) -> RawStream:
        """Open a stream of ``protocol`` (such as ``/wwwserve/sync/1``) to a connected peer.

        Raises:
            NetworkError: not connected, or the peer does not speak ``protocol``.
        """

    def open_isolated_stream(
        self, peer: bytes, addresses: Sequence[str], protocol: str, *, authenticated_as_self: bool = False
    ) -> AbstractAsyncContextManager[RawStream]:
        """A stream to ``peer``, which need not be of this network: for a request to a stranger.

        If it is not connected it is dialled at its direct addresses, on a connection that ends with the stream, serves
        nothing and is not among :meth:`peers`. It authenticates with a throwaway key, unless ``authenticated_as_self``.
        Anonymous nodes must not call this.

        Raises:
            NetworkError: the peer was not reached, does not speak ``protocol``, or this node may not dial strangers.
        """

    def handle(self, protocol: str, handler: StreamHandler) -> None:
        """Call ``handler`` in a task of its own for each inbound stream of ``protocol``.

        An exception that leaves the handler resets the stream and ends nothing else. The stream is closed when the
        handler returns.
        """

    async def publish(self, topic: str, payload: bytes) -> None:
        """Gossip ``payload`` (less than 1 MiB) to the subscribers of ``topic``. A hint: it may be lost.

        Raises:
            ValueError: the payload is too large for gossip, which would drop it silently.
        """

    def subscribe(self, topic: str) -> trio.MemoryReceiveChannel[GossipMessage]:
        """Receive the messages of ``topic``. The channel is bounded and sheds the oldest hint when full."""

    def peer_changes(self) -> trio.MemoryReceiveChannel[tuple[bytes, bool]]:
        """Receive ``(peer, connected)`` whenever the set :meth:`peers` changes."""


class PeerDirectory(Protocol):
    """What is known of peers whether they are connected or not. Discovery fills it; the host reads it."""

    def get_addresses(self, peer: bytes) -> tuple[str, ...]:
        """Where ``peer`` can be dialled (multiaddresses), directly or through its relays; none if that is not known."""

    def get_weight(self, peer: bytes) -> int:
        """What ``peer`` has at stake, by which it keeps its connection when there are too many.

        See :mod:`p2p.limits.places`.
        """


class EmptyDirectory:
    """A :class:`PeerDirectory` without peers, for a client of one connection."""

    def get_addresses(self, peer: bytes) -> tuple[str, ...]:
        return ()

    def get_weight(self, peer: bytes) -> int:
        return 0


class RunnableNetwork(Network, Protocol):
    """A network that runs tasks of its own."""

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Be on the network until cancelled; started once it can be used."""
