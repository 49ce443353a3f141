"""A simulated network: gossip with delay and loss, streams with latency, partitions and crashes, all from one seed.

:class:`SimulatedInternet` is what lies between the nodes, and :class:`SimulatedNetwork` is one node's end of it, with
the same interface as the libp2p host. Whatever takes time is an entry of one queue ordered by (due time, serial
number), which :meth:`SimulatedInternet.run` works off. So a run under a clock that jumps is a function of the seed,
and costs one heap entry per message or chunk of a stream.

The model differs from real links as follows. Both ends see a disconnect at once. Gossip reaches each peer of the
connected component after one link's delay (two if not directly connected), or is lost with probability ``loss``.
Streams lose nothing, and have latency and a send window but no limit of bandwidth. A peer that an isolated stream is
opened to learns the key of the opener, and does not count it among its peers.

:class:`Traffic` counts what real links would carry: the bytes of streams with their framing, connections at a flat
price, and gossip as a mesh of :data:`MESH_DEGREE` forwards it, which is to every mesh neighbour but one.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import trio

from chain.crypto import format_address
from p2p.addresses import CIRCUIT, get_ip_address
from p2p.fanout import Fanout
from p2p.network import (
    MAX_GOSSIP_BYTES,
    MAX_UNREAD_GOSSIP_BYTES,
    GossipMessage,
    Misbehaviour,
    NetworkError,
    StreamHandler,
    is_network_error,
)
from p2p.simulation.runtime import SimulatedClock

logger = logging.getLogger(__name__)

SEND_WINDOW_BYTES = 256 * 1024
"""Bytes of a stream that may be on the way or unread, per direction."""
TICK_S = 0.001
"""Everything arrives on a multiple of this many seconds: one wake-up of the clock then serves many arrivals."""
QUEUE_ITEMS = 256
"""Gossip messages or connection changes that a subscriber may fall behind."""

CHUNK_OVERHEAD_BYTES = 30
"""What each chunk of a stream carries beside its bytes: 12 of Yamux, 18 of Noise."""
OPEN_BYTES = 60
"""Bytes that each end of a new stream sends to agree on the protocol, beside its name."""
CONNECT_BYTES = 1200
"""Bytes that each end of a new connection sends, about: TCP, Noise, multistream, identify, gossip's greeting."""
RESERVE_BYTES = 300
"""Bytes that each end sends for a reservation, about, beside opening a stream."""
GOSSIP_OVERHEAD_BYTES = 190
"""What a gossip message carries beside its payload: sender, sequence number, topic, key, signature."""
MESH_DEGREE = 6
"""Neighbours that a node forwards gossip to; the others receive notices (IHAVE)."""
NOTICES = 5
"""Notices of one message to each of the other neighbours: one in each heartbeat of the window."""
NOTICE_BYTES = 50
"""Bytes of one notice."""
RESERVATION_S = 1800.0
"""Seconds that a reservation is held for."""

Latency = Callable[[Random, bytes, bytes], float]
"""One-way delay in seconds of the link between two peers, drawn anew for each use."""


def uniform(low: float, high: float) -> Latency:
    """The same uniform delay (seconds) on every link."""
    return lambda random, source, target: random.uniform(low, high)


@dataclass(slots=True)
class Traffic:
    """What one node has sent so far: bytes, and messages (chunks of streams, gossip forwarded)."""

    messages: int = 0
    stream_bytes: int = 0
    connect_bytes: int = 0
    gossip_bytes: int = 0

    @property
    def bytes(self) -> int:
        """All bytes together."""
        return self.stream_bytes + self.connect_bytes + self.gossip_bytes


class SimulatedInternet:
    """The world that connects :class:`SimulatedNetwork` objects.

    ``dial_timeout`` is what dialling through a partition, or a host that is off, costs in seconds.
    ``errors`` keeps the last exceptions other than NetworkError that left a stream handler, so that a test can insist
    on none.
    """

    def __init__(
        self, seed: str | int, latency: Latency | None = None, loss: float = 0.0, dial_timeout: float = 3.0
    ) -> None:
        self.random = Random(f"hub:{seed}")
        self.latency = latency or uniform(0.01, 0.05)
        self.loss = loss
        self.dial_timeout = dial_timeout
        self.errors: deque[Exception] = deque(maxlen=100)
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = 0
        self._sleep = trio.CancelScope()
        self._sleeper = trio.lowlevel.ParkingLot()
        self._nursery: trio.Nursery | None = None
        self._networks: dict[bytes, SimulatedNetwork] = {}
        self._addresses: dict[bytes, int] = {}
        self._groups: dict[bytes, int] | None = None
        self._components: dict[bytes, int] | None = None  # computed when needed
        self._silent: dict[bytes, None] = {}

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver until cancelled; every stream handler runs inside, and every network is dead afterwards."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                while True:
                    while self._queue and self._queue[0][0] <= trio.current_time():
                        _, _, action, arguments = heapq.heappop(self._queue)
                        action(*arguments)
                    await self._wait_until_due(self._queue[0][0] if self._queue else math.inf)
            finally:
                self._nursery = None
                for network in list(self._networks.values()):
                    self.kill(network.me)

    async def _wait_until_due(self, due: float) -> None:
        """Sleep until ``due``, or the earlier time that :meth:`_wake_at` sets meanwhile."""
        if isinstance(trio.lowlevel.current_clock(), SimulatedClock):
            self._wake_at(due)
            await self._sleeper.park()
        else:
            with trio.CancelScope(deadline=due) as self._sleep:
                await trio.sleep_forever()

    def _wake_at(self, due: float) -> None:
        clock = trio.lowlevel.current_clock()
        if isinstance(clock, SimulatedClock):
            clock.set_alarm(due, self._sleeper.unpark_all)
        else:
            self._sleep.deadline = due

    # What a test does to the world

    def connect_all(self) -> None:
        """Connect every pair of living nodes that no partition separates, at once."""
        networks = list(self._networks.values())
        for index, one in enumerate(networks):
            for other in networks[index + 1 :]:
                if self._reachable(one.me, other.me):
                    self._link(one, other)

    def partition(self, groups: Iterable[Iterable[bytes]], notice: float = 0.0) -> None:
        """Cut every link between different ``groups`` (peers in none form one more) and refuse to make new ones.

        Nothing passes from now on; the two ends learn of it after ``notice`` seconds.
        """
        self._groups = {peer: index for index, group in enumerate(groups) for peer in group}
        self._cut((link for link in self._links() if not self._reachable(link.one.me, link.other.me)), notice)

    def heal(self) -> None:
        """End the partition. Lost connections stay lost until someone dials."""
        self._groups = None

    def kill(self, peer: bytes, notice: float = 0.0, silent: bool = False) -> None:
        """End ``peer``'s network as a crash does: no goodbye, streams reset, handlers cancelled.

        Its neighbours learn of it after ``notice`` seconds. ``silent`` is a host that is off, or behind a broken link:
        dials to it are not refused but time out. A new :class:`SimulatedNetwork` of the same key is a restart.
        """
        network = self._networks.pop(peer, None)
        if network is not None:
            self._components = None
            if silent:
                self._silent[peer] = None
            links = list(network._links.values())
            network._die()
            self._cut(links, notice)

    def move(self, peer: bytes, address: str) -> None:
        """Give ``peer`` another address, as a provider does at night. Its connections are lost, at once."""
        network = self._networks[peer]
        network._listen_addresses = (address,)
        self._cut(list(network._links.values()), 0.0)

    # What the networks use

    def _register(self, network: SimulatedNetwork) -> int:
        if network.me in self._networks:
            raise ValueError("a network of this key is alive already")
        self._networks[network.me] = network
        self._silent.pop(network.me, None)
        self._components = None
        return self._addresses.setdefault(network.me, len(self._addresses))

    def _schedule(self, due: float, action: Callable[..., None], *arguments: Any) -> None:
        self._serial += 1
        due = math.ceil(due / TICK_S) * TICK_S
        heapq.heappush(self._queue, (due, self._serial, action, arguments))
        if self._queue[0][1] == self._serial:
            self._wake_at(due)

    def _delay(self, source: bytes, target: bytes) -> float:
        return self.latency(self.random, source, target)

    def _reachable(self, one: bytes, other: bytes) -> bool:
        return self._groups is None or self._groups.get(one, -1) == self._groups.get(other, -1)

    def _listener(self, address: str, peer: bytes) -> SimulatedNetwork | None:
        """The living network of ``peer`` if it listens at ``address``."""
        network = self._networks.get(peer)
        return network if network is not None and address in network.listen_addresses else None

    def _links(self) -> list[_Link]:
        """Every link once, in the order of the nodes' creation."""
        networks = self._networks.values()
        return [link for each in networks for link in (*each._links.values(), *each._isolated) if link.one is each]

    def _link(
        self, one: SimulatedNetwork, other: SimulatedNetwork, relay: SimulatedNetwork | None = None, address: str = ""
    ) -> None:
        old = one._links.get(other.me) or other._links.get(one.me)
        if old is not None and old.severed:
            self._drop(old)
            old = None
        if old is not None and (old.relay is None or relay is not None):
            return
        link = _Link(one, other, relay, address)
        self._components = None
        for network in (one, other) if relay is None else (one, other, relay):
            network.traffic.connect_bytes += CONNECT_BYTES
        if relay is not None:
            relay._circuits[link] = None
        if old is not None:
            self._replace(old, link)
            return
        one._link_up(other.me, link)
        other._link_up(one.me, link)

    def _replace(self, circuit: _Link, link: _Link) -> None:
        """A direct link takes over from a circuit, and neither end has been without the other."""
        link.streams = circuit.streams
        for stream in (stream for pair in link.streams.values() for stream in pair):
            stream._link = link
        if circuit.relay is not None:
            circuit.relay._circuits.pop(circuit, None)
        link.one._links[link.other.me] = link.other._links[link.one.me] = link

    def _cut(self, links: Iterable[_Link], notice: float) -> None:
        for link in list(links):
            link.severed = True
            self._components = None
            if notice > 0:
                self._schedule(trio.current_time() + notice, self._drop, link)
            else:
                self._drop(link)

    def _drop(self, link: _Link) -> None:
        """Both ends learn that ``link`` is gone. Harmless if they know."""
        link.severed = True
        self._components = None
        for pair in list(link.streams.values()):
            for stream in pair:
                stream._fail("the connection was lost")
        link.streams.clear()
        if link.relay is not None:
            link.relay._circuits.pop(link, None)
        for network in (link.one, link.other):
            network._isolated.pop(link, None)
        link.one._link_down(link.other.me, link)
        link.other._link_down(link.one.me, link)

    def _gossip_graph(self) -> dict[bytes, int]:
        """The number of the connected component that each living peer is in."""
        if self._components is None:
            components: dict[bytes, int] = {}
            for number, root in enumerate(self._networks):
                found = [] if root in components else [root]
                while found:
                    name = found.pop()
                    components[name] = number
                    found += [
                        neighbour
                        for neighbour, link in self._networks[name]._links.items()
                        if not link.severed and neighbour not in components
                    ]
            self._components = components
        return self._components

    def _gossip(self, source: SimulatedNetwork, message: GossipMessage) -> None:
        now, graph = trio.current_time(), self._gossip_graph()
        size = len(message.payload) + GOSSIP_OVERHEAD_BYTES
        source._count_gossip(size, 0)
        for target in self._networks.values():
            if target is source or message.topic not in target._topics or graph[target.me] != graph[source.me]:
                continue
            if self.loss and self.random.random() < self.loss:
                continue
            target._count_gossip(size, 1)
            delay = self._delay(source.me, target.me)
            if target.me not in source._links:
                delay += self._delay(source.me, target.me)
            self._schedule(now + delay, self._gossip_arrives, target, message)

    def _gossip_arrives(self, target: SimulatedNetwork, message: GossipMessage) -> None:
        if target.alive and self._reachable(message.sender, target.me):
            if message.sender not in target._links:
                message = replace(message, forwarder=next(iter(target._links), b""))
            target._topics[message.topic].publish(message)

    def _start_handler(self, network: SimulatedNetwork, handler: StreamHandler, stream: SimulatedStream) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(network._run_handler, handler, stream)


class _Link:
    """A connection between two networks."""

    __slots__ = ("address", "one", "other", "relay", "severed", "streams")

    def __init__(
        self, one: SimulatedNetwork, other: SimulatedNetwork, relay: SimulatedNetwork | None = None, address: str = ""
    ) -> None:
        self.one = one
        """The network that has dialled."""
        self.other = other
        self.relay = relay
        """The node that the connection runs through, if it is a circuit."""
        self.address = address
        """Where the other was dialled, if that was directly."""
        self.severed = False
        """Nothing passes any more, whether or not the ends know."""
        self.streams: dict[int, tuple[SimulatedStream, SimulatedStream]] = {}


class SimulatedNetwork:
    """One node's end of a :class:`SimulatedInternet`; see :class:`p2p.network.Network`.

    Its address is ``/memory/<n>``, the same again after a restart, or the given one; without ``listen`` it is as if
    behind a NAT: it can only dial out, or be dialled through a relay. It relays for up to ``max_reservations`` others.
    """

    def __init__(
        self,
        hub: SimulatedInternet,
        public_key: bytes,
        listen: bool = True,
        *,
        address: str = "",
        max_reservations: int = 0,
    ) -> None:
        self.hub = hub
        self.alive = True
        self.traffic = Traffic()
        self.max_reservations = max_reservations
        self._me = public_key
        number = hub._register(self)
        self._listen_addresses = (address or f"/memory/{number}",) if listen else ()
        self._reservations: dict[bytes, float] = {}  # of the others with this node, and when they end
        self._circuits: dict[_Link, None] = {}  # through this node
        self._isolated: dict[_Link, None] = {}  # of this node, and at it
        self._links: dict[bytes, _Link] = {}
        self._peers: frozenset[bytes] = frozenset()
        self._topics: dict[str, Fanout[GossipMessage]] = {}
        self._changes: Fanout[tuple[bytes, bool]] = Fanout(QUEUE_ITEMS)
        self._handlers: dict[str, StreamHandler] = {}
        self._scopes: dict[int, trio.CancelScope] = {}

    @property
    def me(self) -> bytes:
        return self._me

    @property
    def listen_addresses(self) -> tuple[str, ...]:
        return self._listen_addresses

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Optional: tie the network's life to a nursery. When cancelled, the node is off the network at once."""
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            if self.hub._networks.get(self._me) is self:
                self.hub.kill(self._me)

    def peers(self) -> frozenset[bytes]:
        return self._peers

    async def connect(self, peer: bytes, addresses: Sequence[str]) -> None:
        self._check_alive()
        if peer in self._peers and not self.is_relayed(peer):
            return
        if peer == self._me:
            raise NetworkError("a node does not dial itself")
        if not self.hub._reachable(self._me, peer):
            await trio.sleep(self.hub.dial_timeout)
            raise NetworkError("the dial timed out")
        await trio.sleep(self.hub._delay(self._me, peer) + self.hub._delay(peer, self._me))
        for address in addresses:
            if address.endswith(CIRCUIT):
                is_there = peer in self._peers
                if not is_there and await self._connect_through(address.removesuffix(CIRCUIT), peer):
                    return
                continue
            if peer in self.hub._silent:
                await trio.sleep(self.hub.dial_timeout)
            target = self.hub._listener(address, peer)
            if target is not None and self.hub._reachable(self._me, peer):
                self._check_alive()
                self.hub._link(self, target, address=address)
                return
        if peer not in self._peers:
            raise NetworkError("no address answered as this peer")

    async def _connect_through(self, address: str, peer: bytes) -> bool:
        """Dial ``peer`` through the relay at ``address`` (with /p2p/<id>), connecting to the relay first."""
        relay = next((found for found in self.hub._networks.values() if address in found.relay_addresses), None)
        if relay is None or relay is self or relay.me == peer:
            return False
        try:
            await self.connect(relay.me, relay.listen_addresses)
        except NetworkError:
            return False
        await trio.sleep(2 * self.hub._delay(relay.me, peer))
        link = relay._links.get(peer)
        if link is None or link.severed or relay._reservations.get(peer, 0.0) < trio.current_time():
            return False
        self._check_alive()
        self.hub._link(self, link.other if link.one is relay else link.one, relay)
        return True

    @property
    def relay_addresses(self) -> tuple[str, ...]:
        """What those that this node relays for announce."""
        return tuple(f"{address}/p2p/{format_address(self._me)}" for address in self._listen_addresses)

    async def reserve(self, relay: bytes) -> float:
        self._check_alive()
        link = self._links.get(relay)
        if link is None:
            raise NetworkError("not connected to this relay")
        await trio.sleep(self.hub._delay(self._me, relay) + self.hub._delay(relay, self._me))
        host = link.other if link.one is self else link.one
        for network in (self, host):
            network.traffic.messages += 2
            network.traffic.stream_bytes += OPEN_BYTES + RESERVE_BYTES
        if link.severed or self._links.get(relay) is not link:
            raise NetworkError("the relay did not answer")
        now = trio.current_time()
        held = host._reservations
        for peer in [peer for peer, end in held.items() if end < now or peer not in host._links]:
            del held[peer]
        if self._me not in held and len(held) >= host.max_reservations:
            raise NetworkError("the relay takes no more reservations")
        held[self._me] = now + RESERVATION_S
        return RESERVATION_S

    def is_relayed(self, peer: bytes) -> bool:
        link = self._links.get(peer)
        return link is not None and link.relay is not None

    def is_outbound(self, peer: bytes) -> bool:
        link = self._links.get(peer)
        return link is not None and link.one is self

    def get_dialled_address(self, peer: bytes) -> str | None:
        link = self._links.get(peer)
        return None if link is None or link.one is not self else link.address or None

    def get_remote_host(self, peer: bytes) -> str | None:
        link = self._links.get(peer)
        if link is None or link.relay is not None:
            return None
        others = (link.address,) if link.one is self else link.one.listen_addresses
        return get_ip_address(others[0]) if others else None

    def can_be_dialled(self) -> bool | None:
        return bool(self._listen_addresses)

    def report_misbehaviour(self, peer: bytes, misbehaviour: Misbehaviour) -> None:
        """The simulation bans no peer. Bans are tested by themselves and on real hosts."""

    def refusals(self) -> Mapping[str, int]:
        return {}

    async def disconnect(self, peer: bytes) -> None:
        await trio.lowlevel.checkpoint()
        link = self._links.get(peer)
        if link is not None:
            self.hub._drop(link)

    async def open_stream(self, peer: bytes, protocol: str) -> SimulatedStream:
        self._check_alive()
        link = self._links.get(peer)
        if link is None:
            raise NetworkError("not connected to this peer")
        return await self._open(link, protocol)

    @asynccontextmanager
    async def open_isolated_stream(
        self, peer: bytes, addresses: Sequence[str], protocol: str, *, authenticated_as_self: bool = False
    ) -> AsyncIterator[SimulatedStream]:
        self._check_alive()
        link = self._links.get(peer)
        if link is None:
            link = await self._dial_isolated(peer, addresses)
        try:
            stream = await self._open(link, protocol)
            try:
                yield stream
            finally:
                await stream.close()
        finally:
            if link in self._isolated:
                self.hub._drop(link)

    async def _dial_isolated(self, peer: bytes, addresses: Sequence[str]) -> _Link:
        """A link outside of :meth:`peers`."""
        target = next(filter(None, (self.hub._listener(address, peer) for address in addresses)), None)
        if not self.hub._reachable(self._me, peer) or peer in self.hub._silent:
            await trio.sleep(self.hub.dial_timeout)
        await trio.sleep(self.hub._delay(self._me, peer) + self.hub._delay(peer, self._me))
        if target is None or not target.alive or not self.hub._reachable(self._me, peer):
            raise NetworkError("no address answered as this peer")
        self._check_alive()
        link = _Link(self, target, None, "")
        for network in (self, target):
            network._isolated[link] = None
            network.traffic.connect_bytes += CONNECT_BYTES
        return link

    async def _open(self, link: _Link, protocol: str) -> SimulatedStream:
        target = link.other if link.one is self else link.one
        self.hub._serial += 1
        serial = self.hub._serial
        here, there = (
            SimulatedStream(self.hub, link, serial, target.me),
            SimulatedStream(self.hub, link, serial, self._me),
        )
        here._other, there._other = there, here
        link.streams[serial] = (here, there)
        for network in (self, target):
            network.traffic.messages += 1
            network.traffic.stream_bytes += OPEN_BYTES + len(protocol)
        here._send_event(there._opened, target, protocol)
        try:
            await here._wait_open()
        except trio.Cancelled:
            await here.reset()
            raise
        return here

    def handle(self, protocol: str, handler: StreamHandler) -> None:
        self._handlers[protocol] = handler

    async def publish(self, topic: str, payload: bytes) -> None:
        if len(payload) >= MAX_GOSSIP_BYTES:
            raise ValueError(f"a gossip payload of {len(payload)} bytes is not below {MAX_GOSSIP_BYTES}")
        await trio.lowlevel.checkpoint()
        if self.alive:
            self.hub._gossip(self, GossipMessage(topic, self._me, payload))

    def subscribe(self, topic: str) -> trio.MemoryReceiveChannel[GossipMessage]:
        fanout = self._topics.get(topic)
        if fanout is None:
            fanout = self._topics[topic] = Fanout(
                QUEUE_ITEMS, MAX_UNREAD_GOSSIP_BYTES, lambda message: len(message.payload)
            )
        return fanout.subscribe()

    def peer_changes(self) -> trio.MemoryReceiveChannel[tuple[bytes, bool]]:
        return self._changes.subscribe()

    def _count_gossip(self, size: int, received: int) -> None:
        """A message of ``size`` bytes goes to the mesh, but not back to where it came from; others receive notices."""
        mesh = min(len(self._links), MESH_DEGREE)
        told = min(len(self._links) - mesh, MESH_DEGREE)
        self.traffic.messages += max(mesh - received, 0)
        self.traffic.gossip_bytes += max(mesh - received, 0) * size + told * NOTICES * NOTICE_BYTES

    def _check_alive(self) -> None:
        if not self.alive:
            raise NetworkError("this node is off the network")

    def _link_up(self, peer: bytes, link: _Link) -> None:
        self._links[peer] = link
        self._peers = frozenset(self._links)
        self._changes.publish((peer, True))

    def _link_down(self, peer: bytes, link: _Link) -> None:
        if self._links.get(peer) is link:
            del self._links[peer]
            self._peers = frozenset(self._links)
            self._changes.publish((peer, False))

    def _die(self) -> None:
        self.alive = False
        for link in self._links.values():
            for pair in list(link.streams.values()):
                for stream in pair:
                    if stream.peer != self._me:
                        stream._fail("this node is off the network")
        self._links.clear()
        self._peers = frozenset()
        self.hub._cut([*self._circuits, *self._isolated], 0.0)
        for scope in self._scopes.values():
            scope.cancel()

    async def _run_handler(self, handler: StreamHandler, stream: SimulatedStream) -> None:
        if not self.alive:
            return
        scope = self._scopes[stream._serial] = trio.CancelScope()
        try:
            with scope:
                await handler(stream)
                await stream.close()
        except Exception as error:
            if not is_network_error(error):
                self.hub.errors.append(error)
                logger.error("a stream handler failed", exc_info=error)
            await stream.reset()
        finally:
            del self._scopes[stream._serial]


class SimulatedStream:
    """One end of a stream; see :class:`p2p.network.RawStream`."""

    _other: SimulatedStream

    def __init__(self, hub: SimulatedInternet, link: _Link, serial: int, peer: bytes) -> None:
        self._hub = hub
        self._link = link
        self._serial = serial
        self._peer = peer
        self._inbox = bytearray()
        self._unread = 0  # bytes sent from here that the other end has not read
        self._last_due = 0.0
        self._open = False
        self._ended = False  # the other end has closed
        self._closed = False  # this end has closed
        self._failure = ""
        self._readable = trio.lowlevel.ParkingLot()
        self._writable = trio.lowlevel.ParkingLot()

    @property
    def peer(self) -> bytes:
        return self._peer

    @property
    def is_superseded(self) -> bool:
        """There is one link between two peers."""
        return False

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        view = memoryview(data)
        while True:
            self._check()
            if self._ended:
                raise NetworkError("the peer has closed the stream")
            room = SEND_WINDOW_BYTES - self._unread
            if room > 0 and len(view):
                chunk, view = bytes(view[:room]), view[room:]
                self._unread += len(chunk)
                self._count(len(chunk))
                self._send_event(self._other._arrive, chunk)
            if not len(view):
                return
            await self._writable.park()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if self._inbox or self._ended:  # waiting is a checkpoint by itself
            await trio.lowlevel.checkpoint()
        while True:
            self._check()
            if self._inbox:
                data = bytes(self._inbox[:max_bytes])
                del self._inbox[:max_bytes]
                self._other._unread -= len(data)
                self._other._writable.unpark_all()
                return data
            if self._ended:
                return b""
            await self._readable.park()

    async def close(self) -> None:
        if not self._closed and not self._failure:
            self._closed = True
            self._inbox.clear()
            self._wake()
            self._count(0)
            self._send_event(self._other._end)

    async def reset(self) -> None:
        if not self._failure:
            self._fail("the stream was reset")
            self._count(0)
            self._send_event(self._other._fail, "the peer reset the stream")

    def _count(self, size: int) -> None:
        one, other, relay = self._link.one, self._link.other, self._link.relay
        sender = other if one.me == self._peer else one
        for network in (sender,) if relay is None else (sender, relay):
            network.traffic.messages += 1
            network.traffic.stream_bytes += size + CHUNK_OVERHEAD_BYTES

    def _check(self) -> None:
        if self._failure or self._closed:
            raise NetworkError(self._failure or "the stream is closed")

    async def _wait_open(self) -> None:
        while not self._open:
            self._check()
            await self._readable.park()

    def _send_event(self, action: Callable[..., None], *arguments: Any) -> None:
        """Let ``action`` happen at the other end, after the link's delay and after everything sent before."""
        due = trio.current_time() + self._hub._delay(self._other._peer, self._peer)
        self._last_due = max(self._last_due, due)
        self._hub._schedule(self._last_due, self._pass, action, arguments)

    def _pass(self, action: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if not self._link.severed:
            action(*arguments)

    def _opened(self, network: SimulatedNetwork, protocol: str) -> None:
        """The other end asks for ``protocol``; ``self`` is the end of ``network``, the one that is asked."""
        handler = network._handlers.get(protocol)
        if self._failure:
            return
        if handler is None:
            self._fail("refused")
            self._send_event(self._other._fail, f"the peer does not speak {protocol}")
            return
        self._open = True
        self._send_event(self._other._accepted)
        self._hub._start_handler(network, handler, self)

    def _accepted(self) -> None:
        self._open = True
        self._wake()

    def _arrive(self, chunk: bytes) -> None:
        if self._closed or self._failure:
            self._other._unread -= len(chunk)
        else:
            self._inbox += chunk
            self._readable.unpark_all()

    def _end(self) -> None:
        self._ended = True
        self._wake()
        if self._closed:
            self._link.streams.pop(self._serial, None)

    def _fail(self, reason: str) -> None:
        if not self._failure:
            self._failure = reason
            self._inbox.clear()
            self._wake()
            if self._other._failure:
                self._link.streams.pop(self._serial, None)

    def _wake(self) -> None:
        self._readable.unpark_all()
        self._writable.unpark_all()
