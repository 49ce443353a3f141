"""A simulated network: gossip with delay and loss, streams with latency, partitions and crashes, all from one seed.

:class:`SimulatedInternet` is what lies between the nodes, and :class:`Endpoint` what is one node's own of it; the node
acts through :class:`p2p.simulation.network.SimulatedNetwork`, which has the same interface as the libp2p host. All that
takes time is an entry of one queue (:mod:`p2p.simulation.events`), which :meth:`SimulatedInternet.run` works off. So a
run under a clock that jumps is a function of the seed, and costs one entry per message or chunk of a stream.

The model differs from real links as follows. Both ends see a disconnect at once. Gossip reaches each peer of the
connected component after one link's delay (two if not directly connected), or is lost with probability ``loss``.
Streams lose nothing, and have latency and a send window but no limit of bandwidth. A peer that an isolated stream is
opened to learns the key of the opener, and does not count it among its peers.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from random import Random
from typing import Any

import trio

from chain.crypto import format_address
from p2p.fanout import Fanout
from p2p.network import (
    GossipMessage,
    StreamHandler,
    is_network_error,
)
from p2p.simulation.events import EventQueue
from p2p.simulation.stream import SimulatedStream
from p2p.simulation.traffic import Traffic

logger = logging.getLogger(__name__)

QUEUE_ITEMS = 256
"""Gossip messages or connection changes that a subscriber may fall behind."""

Latency = Callable[[Random, bytes, bytes], float]
"""One-way delay in seconds of the link between two peers, drawn anew for each use."""


def uniform(low: float, high: float) -> Latency:
    """The same uniform delay (seconds) on every link."""
    return lambda random, source, target: random.uniform(low, high)


class SimulatedInternet:
    """The world that connects endpoints.

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
        self._events = EventQueue()
        self.schedule = self._events.schedule
        self.draw_serial = self._events.draw_serial
        self._nursery: trio.Nursery | None = None
        self._networks: dict[bytes, Endpoint] = {}
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
                await self._events.run()
            finally:
                self._nursery = None
                for network in list(self._networks.values()):
                    self.kill(network.me)

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
        dials to it are not refused but time out. A new endpoint of the same key is a restart.
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

    def _register(self, network: Endpoint) -> int:
        if network.me in self._networks:
            raise ValueError("a network of this key is alive already")
        self._networks[network.me] = network
        self._silent.pop(network.me, None)
        self._components = None
        return self._addresses.setdefault(network.me, len(self._addresses))

    def delay(self, source: bytes, target: bytes) -> float:
        """One way, drawn anew."""
        return self.latency(self.random, source, target)

    def _reachable(self, one: bytes, other: bytes) -> bool:
        return self._groups is None or self._groups.get(one, -1) == self._groups.get(other, -1)

    def _listener(self, address: str, peer: bytes) -> Endpoint | None:
        """The living network of ``peer`` if it listens at ``address``."""
        network = self._networks.get(peer)
        return network if network is not None and address in network.listen_addresses else None

    def _links(self) -> list[Link]:
        """Every link once, in the order of the nodes' creation."""
        networks = self._networks.values()
        return [link for each in networks for link in (*each._links.values(), *each._isolated) if link.one is each]

    def _link(self, one: Endpoint, other: Endpoint, relay: Endpoint | None = None, address: str = "") -> None:
        old = one._links.get(other.me) or other._links.get(one.me)
        if old is not None and old.severed:
            self._drop(old)
            old = None
        if old is not None and (old.relay is None or relay is not None):
            return
        link = Link(one, other, relay, address)
        components = self._components
        if components is not None and components.get(one.me) != components.get(other.me):
            self._components = None
        for network in (one, other) if relay is None else (one, other, relay):
            network.traffic.count_connection()
        if relay is not None:
            relay._circuits[link] = None
        if old is not None:
            self._replace(old, link)
            return
        one._link_up(other.me, link)
        other._link_up(one.me, link)

    def _replace(self, circuit: Link, link: Link) -> None:
        """A direct link takes over from a circuit, and neither end has been without the other."""
        link.streams, link.since = circuit.streams, circuit.since
        for stream in (stream for pair in link.streams.values() for stream in pair):
            stream.link = link
        if circuit.relay is not None:
            circuit.relay._circuits.pop(circuit, None)
        link.one._links[link.other.me] = link.other._links[link.one.me] = link

    def _cut(self, links: Iterable[Link], notice: float) -> None:
        for link in list(links):
            link.severed = True
            self._components = None
            if notice > 0:
                self.schedule(trio.current_time() + notice, self._drop, link)
            else:
                self._drop(link)

    def _drop(self, link: Link) -> None:
        """Both ends learn that ``link`` is gone. Harmless if they know."""
        link.severed = True
        self._components = None
        for pair in list(link.streams.values()):
            for stream in pair:
                stream.fail("the connection was lost")
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

    def _gossip(self, source: Endpoint, message: GossipMessage) -> None:
        now, graph = trio.current_time(), self._gossip_graph()
        size, me, component = len(message.payload), source._me, graph[source._me]
        source.traffic.count_gossip(size, len(source._links), 0)
        for peer, target in self._networks.items():
            if target is source or message.topic not in target._topics or graph[peer] != component:
                continue
            if self.loss and self.random.random() < self.loss:
                continue
            target.traffic.count_gossip(size, len(target._links), 1)
            delay = self.delay(me, peer)
            if peer not in source._links:
                delay += self.delay(me, peer)
            self.schedule(now + delay, self._gossip_arrives, target, message)

    def _gossip_arrives(self, target: Endpoint, message: GossipMessage) -> None:
        if target.alive and self._reachable(message.sender, target.me):
            if message.sender not in target._links:
                forwarder = next(iter(target._links), b"")
                message = GossipMessage(message.topic, message.sender, message.payload, forwarder)
            target._topics[message.topic].publish(message)

    def _start(self, run: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(run, *arguments)


class Link:
    """A connection between two networks."""

    __slots__ = ("address", "one", "other", "relay", "severed", "since", "streams")

    def __init__(self, one: Endpoint, other: Endpoint, relay: Endpoint | None = None, address: str = "") -> None:
        self.one = one
        """The network that has dialled."""
        self.other = other
        self.relay = relay
        """The node that the connection runs through, if it is a circuit."""
        self.address = address
        """Where the other was dialled, if that was directly."""
        self.severed = False
        """Nothing passes any more, whether or not the ends know."""
        self.since = trio.current_time()
        self.streams: dict[int, tuple[SimulatedStream, SimulatedStream]] = {}

    def count_chunk(self, receiver: bytes, size: int) -> None:
        """A piece of a stream of this connection, sent to ``receiver``."""
        sender = self.other if self.one.me == receiver else self.one
        for network in (sender,) if self.relay is None else (sender, self.relay):
            network.traffic.count_chunk(size)


class Endpoint:
    """What is one node's own of a :class:`SimulatedInternet`: its links, reservations, and the streams opened to it.

    The arguments are those of :class:`p2p.simulation.network.SimulatedNetwork`.
    """

    def __init__(
        self, hub: SimulatedInternet, public_key: bytes, listen: bool, address: str, max_reservations: int
    ) -> None:
        self.hub = hub
        self.alive = True
        self.traffic = Traffic()
        self.max_reservations = max_reservations
        self._me = public_key
        number = hub._register(self)
        self._listen_addresses = (address or f"/memory/{number}",) if listen else ()
        self._reservations: dict[bytes, float] = {}  # of the others with this node, and when they end
        self._circuits: dict[Link, None] = {}  # through this node
        self._isolated: dict[Link, None] = {}  # of this node, and at it
        self._links: dict[bytes, Link] = {}
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

    @property
    def relay_addresses(self) -> tuple[str, ...]:
        """What those that this node relays for announce."""
        return tuple(f"{address}/p2p/{format_address(self._me)}" for address in self._listen_addresses)

    def _accept(self, stream: SimulatedStream, protocol: str) -> None:
        handler = self._handlers.get(protocol)
        if stream.has_failed:
            return
        if handler is None:
            stream.refuse(f"the peer does not speak {protocol}")
            return
        stream.accept()
        self.hub._start(self._run_handler, handler, stream)

    def _link_up(self, peer: bytes, link: Link) -> None:
        self._links[peer] = link
        self._peers = frozenset(self._links)
        self._changes.publish((peer, True))

    def _link_down(self, peer: bytes, link: Link) -> None:
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
                        stream.fail("this node is off the network")
        self._links.clear()
        self._peers = frozenset()
        self.hub._cut([*self._circuits, *self._isolated], 0.0)
        for scope in self._scopes.values():
            scope.cancel()

    async def _run_handler(self, handler: StreamHandler, stream: SimulatedStream) -> None:
        if not self.alive:
            return
        scope = self._scopes[stream.serial] = trio.CancelScope()
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
            del self._scopes[stream.serial]
