"""The DHT service of a node: finds the first peers of its network, and announces the node to them.

A node needs the genesis file and the address of one server of the DHT, which need not belong to its network. Nodes
that others can dial announce themselves there as providers of a key made from the chain id. A node with fewer than
:data:`ENOUGH_MEMBERS` members of its network among its connections looks the key up. It dials the peers found, as it
dials peers remembered from an earlier run: only while too few others are known.

There is little traffic when nothing is needed: a record is renewed every few hours, and lookups that find nothing new
become rare. A record tells strangers what its node announces to the whole network anyway; a lookup tells that a node at
this IP address is interested in the key. Anonymous nodes do not run this service, and their network refuses them
isolated streams.

Servers are asked on isolated streams (``Network.open_isolated_stream``) and do not become peers. Strangers that connect
to this node, and found peers that turn out not to be of this network, do not count as connections, and are closed when
they are idle.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import trio

from chain.crypto import format_address
from p2p.backoff import Backoff
from p2p.dht.kademlia import K, Kind, Message, PeerInfo, get_provider_key
from p2p.dht.lookup import ALPHA, Lookup
from p2p.dht.messages import DHT_PROTOCOL, MAX_DHT_MESSAGE_BYTES, WireMessage, clean_address, decode_response, encode
from p2p.dht.provider_store import ProviderStore
from p2p.dht.routing_table import RoutingTable
from p2p.dht.server import DhtServer
from p2p.discovery.service import Discovery
from p2p.length_prefixed import MessageStream
from p2p.network import Network, NetworkError
from p2p.runtime import Runtime

logger = logging.getLogger(__name__)

ENOUGH_MEMBERS = 3
"""Members of the network, among the connections, below which more are looked up."""
CHECK_INTERVAL_S = 3.0
"""Mean time between checks whether a lookup or a renewal is due."""
REPROVIDE_INTERVAL_S = 4 * 3600.0
"""Mean time between renewals of this node's records; servers keep them for 24 hours or more."""
ENOUGH_SERVERS = 5
"""Servers that hold this node's record, below which it tries again sooner."""
JITTER = (0.75, 1.25)
"""Range of the factor by which every delay is multiplied."""
LOOKUP_BACKOFF = Backoff(5.0, 3600.0, JITTER)
"""Delays between lookups that do not bring the node enough members."""
PROVIDE_BACKOFF = Backoff(5.0, REPROVIDE_INTERVAL_S, JITTER)
"""Delays between attempts to leave records at enough servers."""
DHT_REQUEST_TIMEOUT_S = 10.0
"""Time for the dial of a server and its response."""
LOOKUP_TIMEOUT_S = 60.0
"""Time for a lookup."""
STRANGER_IDLE_TIMEOUT_S = 60.0
"""Time without a request after which the connection of a stranger is closed."""
MAX_STRANGERS = 4096
"""Strangers that are remembered."""


class DhtDiscovery:
    """The service of one node. ``servers`` are (public key, multiaddress) pairs of servers for the first contact."""

    def __init__(
        self,
        network: Network,
        discovery: Discovery,
        runtime: Runtime,
        chain_id: bytes,
        servers: Sequence[tuple[bytes, str]] = (),
    ) -> None:
        self.key = get_provider_key(chain_id)
        self.table = RoutingTable(network.me)
        self.records = ProviderStore(self.key)
        self.requests = 0
        """Requests sent so far."""
        self._network = network
        self._discovery = discovery
        self._runtime = runtime
        discovery.note_configured(address for _, address in servers)
        known: dict[bytes, tuple[str, ...]] = {}
        for peer, address in servers:
            known[peer] = (*known.get(peer, ()), address)
        self._servers = [PeerInfo(peer, addresses) for peer, addresses in known.items() if peer != network.me]
        self._server = DhtServer(
            network, self.table, self.records, self.key, self._get_own_addresses, self._note_stranger
        )
        self._suggested: dict[bytes, tuple[str, ...]] = {}
        self._strangers: dict[bytes, float] = {}  # and when they were last heard of

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until cancelled; the network must be running, and discovery."""
        self._network.handle(DHT_PROTOCOL, self._server.serve)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reprovide_loop)
            nursery.start_soon(self._find_peers_loop)
            nursery.start_soon(self._close_idle_loop)
            task_status.started()

    async def find(self) -> dict[bytes, tuple[str, ...]]:
        """Peers that provide the key of this chain, as strangers say, and where they can be dialled."""
        lookup = await self._look_up(Kind.GET_PROVIDERS)
        return {provider.peer: provider.addresses for provider in lookup.providers()}

    async def provide(self) -> int:
        """Have the servers nearest to the key record this node. Returns how many confirm that they have."""
        me = PeerInfo(self._network.me, self._get_own_addresses())
        confirmed: list[bytes] = []
        nearest = (await self._look_up(Kind.FIND_NODE)).closest()
        limit = trio.CapacityLimiter(ALPHA)

        async def leave_record(server: PeerInfo) -> None:
            async with limit:
                response = await self._ask(
                    server,
                    Message(Kind.ADD_PROVIDER, self.key, providers=(me,)),
                    # There is no response to the first. A server that names this node in response to the second has it.
                    Message(Kind.GET_PROVIDERS, self.key),
                    authenticated_as_self=True,
                )
                if response is not None and any(provider.peer == me.peer for provider in response.providers):
                    confirmed.append(server.peer)

        async with trio.open_nursery() as nursery:
            for server in nearest:
                nursery.start_soon(leave_record, server)
        return len(confirmed)

    # Loops

    async def _reprovide_loop(self) -> None:
        """Provide as soon as others can dial this node, when its addresses change, and now and then."""
        provided: tuple[str, ...] = ()
        due, attempts = 0.0, 0
        while True:
            await trio.sleep(CHECK_INTERVAL_S * self._runtime.random.uniform(0.5, 1.5))
            addresses = self._get_own_addresses() if self._network.can_be_dialled() else ()
            if not addresses or not self._get_seeds():
                continue
            if addresses != provided:
                provided, due, attempts = addresses, 0.0, 0
            if trio.current_time() >= due:
                confirmed = await self.provide()
                logger.info("the DHT has this node's addresses at %d servers", confirmed)
                enough = confirmed >= ENOUGH_SERVERS
                backoff = Backoff(REPROVIDE_INTERVAL_S, REPROVIDE_INTERVAL_S, JITTER) if enough else PROVIDE_BACKOFF
                due = trio.current_time() + backoff.get_delay(attempts, self._runtime.random)
                attempts += 1

    async def _find_peers_loop(self) -> None:
        """Look peers up while there are too few, with growing delays."""
        due, attempts = 0.0, 0
        while True:
            await trio.sleep(CHECK_INTERVAL_S * self._runtime.random.uniform(0.5, 1.5))
            if len(self._discovery.members()) >= ENOUGH_MEMBERS:
                due, attempts = min(due, trio.current_time() + LOOKUP_BACKOFF.first_s), 0
            elif trio.current_time() >= due and self._get_seeds():
                found = await self.find()
                logger.info("the DHT names %d peers", len(found))
                self._suggested = found
                self._discovery.suggest(found)
                due = trio.current_time() + LOOKUP_BACKOFF.get_delay(attempts, self._runtime.random)
                attempts += 1

    async def _close_idle_loop(self) -> None:
        """Close the connections of strangers that send no more requests."""
        servers = {server.peer for server in self._servers}
        while True:
            await trio.sleep(STRANGER_IDLE_TIMEOUT_S / 2)
            connected, now = self._network.peers(), trio.current_time()
            for peer in sorted(self._suggested.keys() & connected):
                self._strangers.setdefault(peer, now)
                self._discovery.note_stranger(peer)
            for peer, heard in list(self._strangers.items()):
                if now - heard < STRANGER_IDLE_TIMEOUT_S:
                    continue
                del self._strangers[peer]
                self._discovery.forget_stranger(peer)
                if peer in connected and peer not in servers and self._discovery.table.find(peer) is None:
                    if self._suggested.pop(peer, None):
                        self._discovery.suggest(self._suggested)
                    await self._network.disconnect(peer)

    def _note_stranger(self, peer: bytes) -> None:
        if len(self._strangers) < MAX_STRANGERS:
            self._strangers[peer] = trio.current_time()
            self._discovery.note_stranger(peer)

    # Requests

    def _get_own_addresses(self) -> tuple[str, ...]:
        """Where this node can be dialled, in the forms that others accept; none if others cannot dial it."""
        if self._network.can_be_dialled() is False:
            return ()
        usable = (clean_address(address, self._network.me) for address in self._network.listen_addresses)
        return tuple(address for address in usable if address is not None)

    def _get_seeds(self) -> list[PeerInfo]:
        """Servers to begin with: the configured ones, those that answered before, and members that can be dialled.

        And the peers that left records here, which usually serve too: that is how this node learns of new ones.
        """
        members = (self._discovery.table.find(peer) for peer in self._discovery.members())
        near = [PeerInfo(known.peer, known.addresses) for known in members if known is not None and known.addresses]
        return [*self._servers, *self.table.closest(self.key), *near[:K], *self.records.latest(K)]

    async def _look_up(self, kind: Kind) -> Lookup:
        """Run a lookup of the key with requests of this kind."""
        lookup = Lookup(self._network.me, self.key, self._get_seeds(), always=self._servers)
        changed = trio.Event()
        under_way = 0

        async def ask(server: PeerInfo) -> None:
            nonlocal changed, under_way
            response = await self._ask(server, Message(kind, self.key))
            if response is None:
                lookup.failed(server.peer)
            else:
                lookup.answered(server.peer, response.closer, response.providers)
            under_way -= 1
            changed.set()

        with trio.move_on_after(LOOKUP_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                while True:
                    while under_way < ALPHA and (server := lookup.next()) is not None:
                        under_way += 1
                        nursery.start_soon(ask, server)
                    if not under_way:
                        break
                    await changed.wait()
                    changed = trio.Event()
        return lookup

    async def _ask(self, server: PeerInfo, *requests: Message, authenticated_as_self: bool = False) -> Message | None:
        """The response to the last of some requests, of its kind; None if there is none."""
        self.requests += len(requests)
        kind, kinds = requests[-1].kind, {request.kind for request in requests}
        try:
            with trio.fail_after(DHT_REQUEST_TIMEOUT_S):
                async with self._network.open_isolated_stream(
                    server.peer, server.addresses, DHT_PROTOCOL, authenticated_as_self=authenticated_as_self
                ) as raw:
                    stream = MessageStream(raw, MAX_DHT_MESSAGE_BYTES)
                    for request in requests:
                        await stream.send_message(encode(request))
                    response = decode_response(await stream.receive_message(WireMessage))
                    while response.kind is not kind and response.kind in kinds:  # some servers echo a new record
                        response = decode_response(await stream.receive_message(WireMessage))
        except (NetworkError, trio.TooSlowError) as error:
            logger.debug("no response from the server %s: %s", format_address(server.peer), error)
            self.table.remove(server.peer)
            return None
        if response.kind is not kind:
            return None
        self.table.add(server, trio.current_time())
        return response
