"""The server of the DHT: answers the requests of other nodes, for any key, within bounds.

Peers that ask need not be of this network. Only nodes that others can dial serve.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from chain.collections import SparseCounter
from p2p.addresses import get_subnet
from p2p.dht.kademlia import MAX_DHT_KEY_BYTES, MIN_KEY_BYTES, K, Kind, Message, PeerInfo
from p2p.dht.messages import MAX_DHT_MESSAGE_BYTES, WireMessage, decode_request, encode
from p2p.dht.provider_store import ProviderStore
from p2p.dht.routing_table import RoutingTable
from p2p.length_prefixed import MalformedMessage, MessageStream
from p2p.limits.rate_limit import Limiter, Rate
from p2p.limits.shared_slots import SharedSlots, get_slot_owner
from p2p.network import Misbehaviour, Network, NetworkError, RawStream

READ_TIMEOUT_S = 15.0
"""Time that a stream may wait for the next request."""
MAX_DHT_STREAMS = 32
"""Streams that are served at a time; beyond it, of the address with most the one goes that asked nothing longest."""
MAX_DHT_STREAMS_PER_PEER = 4
"""Streams of one peer that are served at a time."""
DHT_REQUEST_RATE = Rate(items=5, size=1 << 16, burst=10.0)
"""Requests of one peer, and their bytes."""
TOTAL_DHT_REQUEST_RATE = Rate(items=50, size=1 << 19, burst=10.0)
"""Requests of all peers, and their bytes."""


class DhtServer:
    """Serves from ``table`` and ``records``, and names this node as a provider of ``key``.

    ``get_own_addresses()`` is where this node can be dialled; ``on_request(peer)`` is called when a peer may ask.
    """

    def __init__(
        self,
        network: Network,
        table: RoutingTable,
        records: ProviderStore,
        key: bytes,
        get_own_addresses: Callable[[], tuple[str, ...]],
        on_request: Callable[[bytes], None],
    ) -> None:
        self._network = network
        self._table = table
        self._records = records
        self._key = key
        self._get_own_addresses = get_own_addresses
        self._on_request = on_request
        self._limiter = Limiter(DHT_REQUEST_RATE, TOTAL_DHT_REQUEST_RATE)
        self._streams: SparseCounter[bytes] = SparseCounter()
        self._slots: SharedSlots[trio.CancelScope] = SharedSlots(MAX_DHT_STREAMS)

    async def serve(self, stream: RawStream) -> None:
        """Answer the requests on one stream.

        Raises:
            NetworkError: the stream broke, or this node does not serve, or has too many streams of the peer or of all.
        """
        peer = stream.peer
        if self._network.can_be_dialled() is False:
            raise NetworkError("a node that others cannot dial does not serve")
        if self._streams[peer] >= MAX_DHT_STREAMS_PER_PEER:
            raise NetworkError("too many streams of the DHT are open")
        self._streams[peer] += 1
        try:
            with trio.CancelScope() as scope:
                self._note_used(scope, peer)
                await self._serve_requests(MessageStream(stream, MAX_DHT_MESSAGE_BYTES), peer, scope)
        finally:
            self._streams[peer] -= 1
            self._slots.discard(scope)
        if scope.cancelled_caught:
            raise NetworkError("the stream gave way to others")

    def _note_used(self, scope: trio.CancelScope, peer: bytes) -> None:
        surplus = self._slots.put(scope, get_slot_owner(self._network, peer))
        if surplus is not None:
            surplus.cancel()

    async def _serve_requests(self, stream: MessageStream, peer: bytes, scope: trio.CancelScope) -> None:
        while True:
            self._on_request(peer)
            with trio.move_on_after(READ_TIMEOUT_S):
                if await stream.is_at_end():
                    return
                try:
                    message = await stream.receive_message(WireMessage)
                    if not self._limiter.admit(peer, message.ByteSize(), trio.current_time()):
                        raise NetworkError("too many requests")
                    request = decode_request(message, peer)
                except MalformedMessage:
                    self._network.report_misbehaviour(peer, Misbehaviour.GARBAGE)
                    raise
                if request.kind is not Kind.PING:  # it asks nothing
                    self._note_used(scope, peer)
                response = self._respond(request, peer)
                if response is not None:
                    await stream.send_message(encode(response))
                continue
            raise NetworkError("no request came")

    def _respond(self, request: Message, peer: bytes) -> Message | None:
        """The response to a request of ``peer``; None if there is none to that kind.

        Raises:
            NetworkError: the request is not one that is served here.
        """
        if request.kind is Kind.PING:
            return Message(Kind.PING)
        if request.kind is Kind.PUT_VALUE or not MIN_KEY_BYTES <= len(request.key) <= MAX_DHT_KEY_BYTES:
            raise NetworkError("values are not kept, and keys have 2 to 80 bytes")
        now = trio.current_time()
        if request.kind is Kind.ADD_PROVIDER:
            host = self._network.get_remote_host(peer)
            for provider in request.providers:
                if provider.addresses:
                    self._records.add(request.key, provider, now, "" if host is None else get_subnet(host))
            return None
        closer = [server for server in self._table.closest(request.key, K + 1) if server.peer != peer][:K]
        providers: list[PeerInfo] = []
        if request.kind is Kind.GET_PROVIDERS:
            mine = [PeerInfo(self._network.me, self._get_own_addresses())] if request.key == self._key else []
            providers = [*mine, *self._records.find(request.key, now)]
        return Message(request.kind, request.key, tuple(closer), tuple(providers))
