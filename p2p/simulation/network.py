"""One node's end of the simulated internet: the interface of a network, as the libp2p host has it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from p2p.addresses import CIRCUIT, get_ip_address
from p2p.fanout import Fanout
from p2p.network import (
    MAX_GOSSIP_BYTES,
    MAX_UNREAD_GOSSIP_BYTES,
    ByteCount,
    GossipMessage,
    Misbehaviour,
    NetworkError,
    StreamHandler,
)
from p2p.simulation.internet import QUEUE_ITEMS, Endpoint, Link, SimulatedInternet
from p2p.simulation.stream import SimulatedStream, connect_ends

RESERVATION_S = 1800.0
"""Seconds that a reservation is held for."""


class SimulatedNetwork(Endpoint):
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
        super().__init__(hub, public_key, listen, address, max_reservations)

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
        await trio.sleep(self.hub.delay(self._me, peer) + self.hub.delay(peer, self._me))
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
        await trio.sleep(2 * self.hub.delay(relay.me, peer))
        link = relay._links.get(peer)
        if link is None or link.severed or relay._reservations.get(peer, 0.0) < trio.current_time():
            return False
        self._check_alive()
        self.hub._link(self, link.other if link.one is relay else link.one, relay)
        return True

    async def reserve(self, relay: bytes) -> float:
        self._check_alive()
        link = self._links.get(relay)
        if link is None:
            raise NetworkError("not connected to this relay")
        await trio.sleep(self.hub.delay(self._me, relay) + self.hub.delay(relay, self._me))
        host = link.other if link.one is self else link.one
        for network in (self, host):
            network.traffic.count_reservation()
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

    def get_connected_since(self, peer: bytes) -> float | None:
        link = self._links.get(peer)
        return None if link is None else link.since

    def get_round_trip(self, peer: bytes) -> float | None:
        return None  # there is no keepalive

    def can_be_dialled(self) -> bool | None:
        return bool(self._listen_addresses)

    def report_misbehaviour(self, peer: bytes, misbehaviour: Misbehaviour) -> None:
        """The simulation bans no peer. Bans are tested by themselves and on real hosts."""

    def byte_counts(self) -> Mapping[str, ByteCount]:
        return {}

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

    async def _dial_isolated(self, peer: bytes, addresses: Sequence[str]) -> Link:
        """A link outside of :meth:`peers`."""
        target = next(filter(None, (self.hub._listener(address, peer) for address in addresses)), None)
        if not self.hub._reachable(self._me, peer) or peer in self.hub._silent:
            await trio.sleep(self.hub.dial_timeout)
        await trio.sleep(self.hub.delay(self._me, peer) + self.hub.delay(peer, self._me))
        if target is None or not target.alive or not self.hub._reachable(self._me, peer):
            raise NetworkError("no address answered as this peer")
        self._check_alive()
        link = Link(self, target, None, "")
        for network in (self, target):
            network._isolated[link] = None
            network.traffic.count_connection()
        return link

    async def _open(self, link: Link, protocol: str) -> SimulatedStream:
        target = link.other if link.one is self else link.one
        serial = self.hub.draw_serial()
        here, _ = link.streams[serial] = connect_ends(self.hub, link, serial, self._me, target.me)
        for network in (self, target):
            network.traffic.count_opening(protocol)
        here.ask(target._accept, protocol)
        try:
            await here.wait_open()
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

    def _check_alive(self) -> None:
        if not self.alive:
            raise NetworkError("this node is off the network")
