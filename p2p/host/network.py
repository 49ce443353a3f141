"""The real network: :class:`Libp2pNetwork` is :class:`p2p.network.Network` over a libp2p host.

TCP, Noise and Yamux for streams, gossipsub 1.1 for gossip. Faults of libp2p are put right in ``p2p.host.workarounds``
and ``p2p.host.gossip``. This module is the facade: it starts and stops the host, delivers gossip, and leaves streams to
:mod:`p2p.host.protocols`, dialling to :mod:`p2p.host.dialer`, relays to :mod:`p2p.host.circuits` and the peers to
:mod:`p2p.host.connections`.

The library needs an orderly end: cancelled from outside, it leaks sockets and tasks. Its tasks therefore run shielded
inside :meth:`Libp2pNetwork.run`, which closes the host itself, within a deadline, when it is cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
from libp2p.abc import INetConn
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.tools.anyio_service import background_trio_service
from libp2p.utils.address_validation import expand_wildcard_address
from multiaddr import Multiaddr

from chain.crypto import KeyPair, format_address
from p2p.addresses import Endpoint, Reach, format_endpoint, get_endpoint, get_reach, get_scope, is_ip_address
from p2p.closing import CLOSE_TIMEOUT_S, shielded
from p2p.fanout import Fanout
from p2p.host.circuits import Circuits
from p2p.host.connection_gater import ConnectionGater, ConnectionLimits
from p2p.host.connections import Connections
from p2p.host.descriptors import fit_to_descriptors
from p2p.host.dialer import Dialer
from p2p.host.gossip.pubsub import GuardedPubsub
from p2p.host.gossip.router import GuardedGossipSub
from p2p.host.isolated import IsolatedDialer
from p2p.host.lifetime import Lifetime, RunningHost
from p2p.host.protocols import Protocols
from p2p.host.stream import Libp2pStream
from p2p.host.transport.tcp import DialRules
from p2p.host.workarounds.host import MAX_OUTBOUND, GuardedHost, build_host, close_host
from p2p.host.workarounds.swarm import ConnectionEvents
from p2p.limits.dial_pace import DialPace
from p2p.limits.places import OWNERS_CHOICE
from p2p.nat.dial_back import DIAL_BACK_PROTOCOL, Reachability
from p2p.nat.hole_punching import PUNCH_PROTOCOL, HolePuncher
from p2p.nat.port_mapping import PortForwarding
from p2p.nat.relay_client import HOP, STOP
from p2p.nat.relay_server import RelayLimits, RelayServer
from p2p.network import (
    MAX_GOSSIP_BYTES,
    MAX_UNREAD_GOSSIP_BYTES,
    ByteCount,
    EmptyDirectory,
    GossipMessage,
    Misbehaviour,
    NetworkError,
    PeerDirectory,
    RawStream,
    StreamHandler,
)
from p2p.runtime import Runtime

logger = logging.getLogger(__name__)

MAX_QUEUED_GOSSIP = 1024
"""Gossip messages that a subscriber may fall behind."""


class Libp2pNetwork:
    """One node's end of the network; see :class:`p2p.network.Network`. Runs while :meth:`run` does.

    ``listen`` are multiaddresses such as ``/ip4/0.0.0.0/tcp/4001`` (port 0 picks a free one); without any, the node
    only dials out. ``directory`` knows the addresses of peers that clients of this relay ask for, and which connections
    to protect. ``announce`` replaces what :attr:`listen_addresses` reports, for a node behind a forwarded port.
    ``rules`` say what may be dialled. With ``relay`` it relays for others, within these limits. ``public`` says whether
    others can dial it; None finds out (``p2p.nat.dial_back``), but an announced address counts as dialable. With
    ``upnp`` it asks the router to forward its ports. With ``hole_punching`` it replaces circuits by direct connections
    where NATs allow (``p2p.nat.hole_punching``), if it listens and dials without a proxy. ``limits`` bound inbound
    connections.

    Where the rules allow only some addresses, the node is *anonymous*: it does not listen, nothing it sends names an
    address, and it reaches the rest of the network by circuits through the relays at which it has a reservation.
    """

    def __init__(
        self,
        key: KeyPair,
        listen: Sequence[str],
        runtime: Runtime,
        *,
        directory: PeerDirectory | None = None,
        announce: Sequence[str] = (),
        rules: DialRules | None = None,
        relay: RelayLimits | None = None,
        public: bool | None = None,
        upnp: bool = False,
        hole_punching: bool = False,
        limits: ConnectionLimits | None = None,
    ) -> None:
        self._rules = rules or DialRules()
        if self.is_anonymous and (listen or announce or upnp or hole_punching or relay is not None):
            raise ValueError("an anonymous node neither listens nor announces an address nor relays")
        self._key = key
        self._listen = [Multiaddr(address) for address in listen]
        self._announce = tuple(announce)
        self._runtime = runtime
        self._directory = directory or EmptyDirectory()
        self._upnp = upnp
        self._public = (True if announce else public) if listen else False
        self._listen_addresses: tuple[str, ...] = ()
        self._pace = DialPace()
        self._topics: dict[str, Fanout[GossipMessage]] = {}
        self._lifetime = Lifetime()
        self._protocols = Protocols(self._lifetime)
        self.gater = ConnectionGater(
            fit_to_descriptors(limits or ConnectionLimits(), MAX_OUTBOUND),
            self._get_weight,
            runtime.random.randbytes(16),
        )
        self._connections = Connections(self.me, self._lifetime, self._release)
        self._circuits = Circuits(self, self._lifetime, self._connections, self.gater, runtime.now)
        self.reachability = Reachability(self, runtime)
        self.hole_puncher: HolePuncher | None = None
        if hole_punching and listen and self._rules.is_unlimited:
            self.hole_puncher = HolePuncher(self, self.reachability, runtime)
        self._dialer = Dialer(
            self, self._lifetime, self._connections, self._circuits, self.gater, self._rules, runtime, self._punch_soon
        )
        self.relay: RelayServer | None = None
        if relay is not None:
            self.relay = RelayServer(self, runtime, relay, self._get_addresses_for_others, self._get_quota_key)
        self._handle_own_protocols()

    def _handle_own_protocols(self) -> None:
        """Serve the protocols that the host itself speaks."""
        self.handle(STOP, self._circuits.accept)
        if self._rules.is_unlimited:  # a dial-back server must dial from where it is
            self.handle(DIAL_BACK_PROTOCOL, self.reachability.serve)
        if self.hole_puncher is not None:
            self.handle(PUNCH_PROTOCOL, self.hole_puncher.serve)
        if self.relay is not None:
            self.handle(HOP, self.relay.serve)

    @property
    def is_anonymous(self) -> bool:
        """Whether the node may dial certain addresses only."""
        return self._rules.is_restricted

    @property
    def me(self) -> bytes:
        return self._key.public_key

    @property
    def listen_addresses(self) -> tuple[str, ...]:
        if self.can_be_dialled() is False:
            return ()
        return self._announce or self.reachability.estimate.addresses or self._listen_addresses

    def can_be_dialled(self) -> bool | None:
        return self.reachability.estimate.value if self._public is None else self._public

    # Life

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Be on the network until cancelled; started once the node listens.

        Raises:
            NetworkError: one of the addresses cannot be listened on.
        """
        ended, failure = trio.Event(), None
        async with trio.open_nursery() as nursery:
            try:
                await nursery.start(self._run_library, ended)
            except NetworkError as error:
                failure = error
            else:
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    ended.set()
        if failure is not None:  # raised here, where no nursery wraps it in a group
            raise failure

    async def _run_library(self, ended: trio.Event, *, task_status: Any) -> None:
        """Run host and gossip out of reach of cancellation until ``ended``, then close them in order."""
        failure = None
        with trio.CancelScope(shield=True) as everything:
            host = build_host(self._key, self._rules, self._get_scope, self.gater, self.report_misbehaviour)
            router = GuardedGossipSub(report_misbehaviour=self.report_misbehaviour)
            isolated_dialer = IsolatedDialer(host, self._runtime.random.randbytes(32))
            first_sequence = self._runtime.random.getrandbits(62)  # the time would tell this node's clock
            count = self._protocols.byte_counts[PROTOCOL_ID_V11]
            pubsub = GuardedPubsub(host, router, first_sequence, self._deliver, self.report_misbehaviour, count)
            events = ConnectionEvents(self._connections.on_connected, self._on_disconnected)
            host.get_network().register_notifee(events)
            self._protocols.attach(host)
            async with host.run([]), background_trio_service(pubsub), background_trio_service(router):
                await pubsub.wait_until_ready()
                try:
                    async with trio.open_nursery() as nursery:
                        self._lifetime.running = RunningHost(host, pubsub, isolated_dialer, nursery)
                        try:
                            await self._start_listening(host)
                        except NetworkError as error:
                            failure = error
                        else:
                            for topic in list(self._topics):
                                await pubsub.subscribe(topic)
                            nursery.start_soon(self._become_reachable, self._get_ports(host))
                            task_status.started()
                            await ended.wait()
                        nursery.cancel_scope.cancel()
                finally:
                    self._lifetime.running = None
                    self._listen_addresses = ()
                    everything.deadline = trio.current_time() + 2 * CLOSE_TIMEOUT_S
                    self._protocols.cancel()
                    with shielded(CLOSE_TIMEOUT_S):
                        await close_host(host)
                    self._connections.update()
        if failure is not None:
            raise failure

    async def _start_listening(self, host: GuardedHost) -> None:
        network = host.get_network()
        for address in self._listen:
            try:
                started = await network.listen(address)
            except Exception as error:
                raise NetworkError(f"cannot listen on {address}: {error}") from error
            if not started:
                raise NetworkError(f"cannot listen on {address}: the port is in use or the address is not this host's")
        self._listen_addresses = tuple(
            # A wildcard stands for the addresses of the interfaces, or for loopback where there is no other.
            str(address).replace("/ip4/0.0.0.0/", "/ip4/127.0.0.1/").replace("/ip6/::/", "/ip6/::1/")
            for bound in host.get_transport_addrs()
            for address in expand_wildcard_address(bound)
        )

    def _get_ports(self, host: GuardedHost) -> list[int]:
        return [get_endpoint(str(address))[1] for address in host.get_transport_addrs()]

    async def _become_reachable(self, ports: Sequence[int]) -> None:
        """Have ports forwarded, where that is allowed, and find out whether others get through."""
        async with trio.open_nursery() as nursery:
            if self._upnp and ports:
                await nursery.start(PortForwarding(self._runtime).run, ports)
            if self._public is None:
                nursery.start_soon(self.reachability.run, ports)

    # Peers

    def peers(self) -> frozenset[bytes]:
        return self._connections.peers

    def peer_changes(self) -> trio.MemoryReceiveChannel[tuple[bytes, bool]]:
        return self._connections.subscribe()

    async def connect(self, peer: bytes, addresses: Sequence[str]) -> None:
        await self._dialer.connect(peer, addresses)

    async def disconnect(self, peer: bytes) -> None:
        await self._connections.disconnect(peer)

    async def reserve(self, relay: bytes) -> float:
        return await self._circuits.reserve(relay)

    def is_relayed(self, peer: bytes) -> bool:
        return self._connections.is_relayed(peer)

    def is_outbound(self, peer: bytes) -> bool:
        return self._connections.is_outbound(peer)

    def get_dialled_address(self, peer: bytes) -> str | None:
        return self._connections.get_dialled_address(peer)

    def get_remote_host(self, peer: bytes) -> str | None:
        if self._lifetime.running is None or self._rules.proxy is not None:  # all connections lead to the proxy
            return None
        remote = self._connections.get_remote_endpoint(peer)
        return None if remote is None else remote[0]

    def get_connected_since(self, peer: bytes) -> float | None:
        return self._connections.since.get(peer)

    def get_round_trip(self, peer: bytes) -> float | None:
        return self._connections.get_round_trip(peer)

    def get_remote_endpoint(self, peer: bytes) -> Endpoint | None:
        """See :class:`p2p.nat.dial_back.DialBackNetwork`."""
        return self._connections.get_remote_endpoint(peer)

    async def answers(self, peer: bytes, host: str, port: int) -> bool:
        """See :class:`p2p.nat.dial_back.DialBackNetwork`."""
        return await self._dialer.answers(peer, host, port)

    def share_port(self, peer: bytes) -> Endpoint | None:
        """See :class:`p2p.nat.hole_punching.PunchNetwork`."""
        return self._connections.share_port(peer)

    async def open_simultaneously(self, peer: bytes, local: Endpoint, remote: Endpoint, initiator: bool) -> bool:
        """See :class:`p2p.nat.hole_punching.PunchNetwork`."""
        return await self._dialer.open_simultaneously(peer, local, remote, initiator)

    def report_misbehaviour(self, peer: bytes, misbehaviour: Misbehaviour) -> None:
        if self._lifetime.running is None or peer not in self._connections.peers:
            return
        remote = self._connections.get_remote_endpoint(peer)
        host = None if remote is None else remote[0]
        if self.gater.report_misbehaviour(peer, host, misbehaviour, trio.current_time()):
            logger.info("%s broke the rules too often and is banned for a while", format_address(peer))
            self._release(peer)
            self._lifetime.start_soon(self.disconnect, peer)

    def refusals(self) -> Mapping[str, int]:
        return self.gater.refusals

    def byte_counts(self) -> Mapping[str, ByteCount]:
        return self._protocols.byte_counts

    async def partition(self, peers: Iterable[bytes]) -> None:
        """Have nothing to do with ``peers`` from now on: their connections are cut and no new ones made.

        An empty set ends it. For tests, which cannot unplug a cable on loopback.
        """
        swarm = self._lifetime.swarm
        swarm.refused = frozenset(peers)
        for peer in sorted(swarm.refused):
            await self.disconnect(peer)

    def _get_weight(self, peer: bytes) -> int:
        """The weight of a peer: with more of it, its connection is kept when there are too many. It can be banned all
        the same."""
        if self._circuits.has_reservation(peer):
            return OWNERS_CHOICE
        is_client = self.relay is not None and self.relay.table.has_reservation(peer, trio.current_time())
        return max(self._directory.get_weight(peer), int(is_client))

    def _release(self, peer: bytes) -> None:
        """A peer has disconnected: forget what it granted and what it was granted for the time of its connection."""
        self._circuits.release(peer)
        if self.relay is not None:
            self.relay.table.release(peer)

    def _punch_soon(self, peer: bytes) -> None:
        if self.hole_puncher is not None:
            self._lifetime.start_soon(self.hole_puncher.run, peer)

    def _get_addresses_for_others(self, peer: bytes) -> Sequence[str]:
        """Where this relay may dial ``peer`` on request: only addresses with at least its own reach.

        A peer can announce any address. Strangers must not use this relay to reach addresses that only it can dial, nor
        to have an address dialled as often as they like.
        """
        reach = get_scope(self.listen_addresses)
        allowed = [address for address in self._directory.get_addresses(peer) if get_reach(address) >= reach]
        return self._pace.admit(allowed, trio.current_time())

    def _get_scope(self) -> Reach:
        """The scope of the network: from how far it is reached, judged by this node's addresses and those that its
        owner names."""
        trusted = [format_endpoint(*endpoint) for endpoint in self._rules.trusted if is_ip_address(endpoint[0])]
        return get_scope((*trusted, *self.listen_addresses))

    def _get_quota_key(self, peer: bytes) -> bytes:
        """The quota key of a peer's address, which all peers there share; empty if it is not known or exempt."""
        remote = self._connections.get_remote_endpoint(peer)
        return b"" if remote is None else self.gater.get_quota_key(remote[0])

    def _on_disconnected(self, connection: INetConn) -> None:
        self._connections.update()
        if self._lifetime.running is not None:
            self._lifetime.running.pubsub.connection_lost(connection)

    # Streams

    async def open_stream(self, peer: bytes, protocol: str) -> Libp2pStream:
        if self._lifetime.running is None or peer not in self._connections.peers:
            raise NetworkError(f"not connected to {format_address(peer)}")
        return await self._protocols.open(peer, protocol)

    @asynccontextmanager
    async def open_isolated_stream(
        self, peer: bytes, addresses: Sequence[str], protocol: str, *, authenticated_as_self: bool = False
    ) -> AsyncIterator[RawStream]:
        if not self._rules.is_unlimited:
            raise NetworkError("a node that hides, or is behind a proxy, dials no strangers")
        if peer in self._connections.peers:
            stream = await self.open_stream(peer, protocol)
            try:
                yield stream
            finally:
                await stream.close()
            return
        running, swarm = self._lifetime.get_running(), self._lifetime.swarm
        if peer == self.me or peer in swarm.refused or self.gater.peers.is_banned(peer, trio.current_time()):
            raise NetworkError(f"{format_address(peer)} is not dialled: this node itself, banned or cut off")
        count = self._protocols.byte_counts[protocol]
        dial = partial(running.isolated_dialer.open, running.nursery, peer, addresses, protocol, count)
        async with dial(authenticated_as_self) as isolated:
            yield isolated

    def handle(self, protocol: str, handler: StreamHandler) -> None:
        self._protocols.handle(protocol, handler)

    # Gossip

    async def publish(self, topic: str, payload: bytes) -> None:
        if len(payload) >= MAX_GOSSIP_BYTES:
            raise ValueError(f"a gossip payload of {len(payload)} bytes is not below {MAX_GOSSIP_BYTES}")
        if self._lifetime.running is not None:
            await self._lifetime.running.pubsub.publish(topic, payload)

    def subscribe(self, topic: str) -> trio.MemoryReceiveChannel[GossipMessage]:
        if topic not in self._topics:
            self._topics[topic] = Fanout(
                MAX_QUEUED_GOSSIP, MAX_UNREAD_GOSSIP_BYTES, lambda message: len(message.payload)
            )
            if self._lifetime.running is not None:
                self._lifetime.start_soon(self._lifetime.running.pubsub.subscribe, topic)
        return self._topics[topic].subscribe()

    def _deliver(self, topic: str, sender: bytes, payload: bytes, neighbour: bytes) -> None:
        self._topics[topic].publish(GossipMessage(topic, sender, payload, neighbour))
