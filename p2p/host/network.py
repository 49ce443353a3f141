"""The network for real: :class:`Libp2pNetwork` is :class:`p2p.network.Network` over a libp2p host.

TCP, Noise and Yamux for streams, gossipsub 1.1 for gossip. What libp2p gets wrong is put right in
``p2p.host.workarounds`` and ``p2p.host.gossip``; here is only the translation between the library's notions (peer ids,
multiaddresses, its many exceptions) and ours.

The library needs an orderly end: cancelled from outside, it leaks sockets and tasks. Its tasks therefore run shielded
inside :meth:`Libp2pNetwork.run`, which closes the host itself, within a deadline, when it is cancelled.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address
from typing import Any
from weakref import WeakValueDictionary

import trio
from libp2p.abc import INetConn, INetStream
from libp2p.custom_types import TProtocol
from libp2p.network.stream.net_stream import NetStream
from libp2p.rcmgr import Direction
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.tools.anyio_service import background_trio_service
from libp2p.utils.address_validation import expand_wildcard_address
from multiaddr import Multiaddr

from chain.crypto import KeyPair, format_address
from p2p.addresses import Endpoint, Reach, format_endpoint, get_endpoint, get_reach, parse_circuit_address
from p2p.closing import root_cause, shielded
from p2p.fanout import Broadcast
from p2p.host.connection_gater import Door, DoorLimits
from p2p.host.descriptors import fit_to_descriptors
from p2p.host.gossip import GuardedGossipSub, GuardedPubsub
from p2p.host.isolated import Visits
from p2p.host.stream import CLOSE_TIMEOUT, Libp2pStream, drain
from p2p.host.transport import PROXY_TIMEOUT, DialRules, GuardedTCP
from p2p.host.workarounds import (
    MAX_OUTBOUND,
    ConnectionEvents,
    GuardedHost,
    GuardedSwarm,
    build_host,
    is_busy,
    is_circuit,
    keep_window,
    share_port,
    surplus_connections,
)
from p2p.nat.dial_back import PROTOCOL as REACHABILITY
from p2p.nat.dial_back import Reachability
from p2p.nat.hole_punching import PROTOCOL as PUNCH
from p2p.nat.hole_punching import Punching
from p2p.nat.port_mapping import PortForwarding
from p2p.nat.relay_client import CIRCUIT_TIMEOUT, HOP, STOP, accept_circuit, open_circuit, reserve
from p2p.nat.relay_server import Relay, RelayLimits
from p2p.network import (
    MAX_GOSSIP,
    MAX_UNREAD,
    GossipMessage,
    Misbehaviour,
    NetworkError,
    RawStream,
    StreamHandler,
    is_network_error,
)
from p2p.peer_id import peer_id_of, public_key_of
from p2p.runtime import Runtime

logger = logging.getLogger(__name__)

QUEUE = 1024
"""Gossip messages or connection changes that a subscriber may fall behind."""
DIAL_TIMEOUT = 5.0
"""Seconds for one address: TCP, Noise and Yamux."""
HEAD_START = 4.0
"""Seconds for all direct addresses together, if there are circuits to try after them."""
OPEN_TIMEOUT = 10.0
"""Seconds to open a stream and agree on its protocol."""
DUPLICATE_GRACE = 0.5
"""Seconds to wait before closing a surplus connection, so that the other end knows the one that stays."""
MAX_OFFERED_CIRCUITS = 64
"""Circuits taken in from one relay at a time: they cost it one connection, and this node one each."""
RETIREMENT = 600.0
"""Seconds that a circuit may go on with what it carries after a direct connection has taken its place."""


class Libp2pNetwork:
    """One node's end of the network; see :class:`p2p.network.Network`. Runs while :meth:`run` does.

    ``listen`` are multiaddresses such as ``/ip4/0.0.0.0/tcp/4001`` (port 0 picks a free one); without any, the node
    only dials out. ``announce`` replaces what :attr:`listen_addresses` reports, for a node behind a forwarded port.
    ``rules`` say what may be dialled. With ``relay`` it relays for others, within these limits. ``public`` says whether
    others can dial it; None finds out (``p2p.nat.dial_back``), but who announces an address is taken to know it. With
    ``upnp`` it asks the router to forward its ports. With ``hole_punching`` it replaces circuits by direct connections
    where NATs allow (``p2p.nat.hole_punching``), if it listens and dials without a proxy. ``limits`` say how many
    connections it takes in.

    Where the rules allow only some addresses, the node is *anonymous*: it does not listen, nothing it sends names an
    address, and it reaches the rest of the network by circuits through the relays at which it has a reservation.
    """

    def __init__(
        self,
        key: KeyPair,
        listen: Sequence[str],
        runtime: Runtime,
        *,
        announce: Sequence[str] = (),
        rules: DialRules | None = None,
        relay: RelayLimits | None = None,
        public: bool | None = None,
        upnp: bool = False,
        hole_punching: bool = False,
        limits: DoorLimits | None = None,
    ) -> None:
        self._rules = rules or DialRules()
        if self.is_anonymous and (listen or announce or upnp or hole_punching or relay is not None):
            raise ValueError("an anonymous node neither listens nor tells anybody an address nor relays")
        self._key = key
        self._listen = [Multiaddr(address) for address in listen]
        self._announce = tuple(announce)
        self._runtime = runtime
        self._listen_addresses: tuple[str, ...] = ()
        self._peers: frozenset[bytes] = frozenset()
        self._handlers: dict[str, StreamHandler] = {}
        self._topics: dict[str, Broadcast[GossipMessage]] = {}
        self._changes: Broadcast[tuple[bytes, bool]] = Broadcast(QUEUE)
        self._dials: WeakValueDictionary[bytes, trio.Lock] = WeakValueDictionary()
        self._scopes: set[trio.CancelScope] = set()
        self._running: _Running | None = None
        self._reserved: dict[bytes, float] = {}  # relays, and until when (trio time)
        self._asking: Counter[bytes] = Counter()  # relays that are being asked for a reservation
        self._offered: Counter[bytes] = Counter()  # circuits taken in, by relay
        self._dialled: dict[bytes, str] = {}  # where connected peers were dialled directly
        self._handlers[STOP] = self._accept_circuit
        self._upnp = upnp
        self._public = (True if announce else public) if listen else False
        self.reachability = Reachability(self, runtime)
        if self._rules == DialRules():  # a witness must dial from where it is
            self._handlers[REACHABILITY] = self.reachability.serve
        self.punching: Punching | None = None
        if hole_punching and listen and self._rules == DialRules():
            self.punching = Punching(self, self.reachability, runtime)
            self._handlers[PUNCH] = self.punching.serve
        self.locate: Callable[[bytes], Sequence[str]] = lambda peer: ()
        """Where a peer might be dialled, for those who ask this relay to reach it."""
        self.is_kept: Callable[[bytes], bool] = lambda peer: False
        """Which peers keep their connection when there are too many; relays in use and clients do, anyway."""
        self.door = Door(fit_to_descriptors(limits or DoorLimits(), MAX_OUTBOUND), self._is_kept)
        self.relay = None if relay is None else Relay(self, runtime, relay, self.is_relayed, self._locate, self._place)
        if self.relay is not None:
            self._handlers[HOP] = self.relay.serve

    @property
    def is_anonymous(self) -> bool:
        """Whether the node may dial certain addresses only."""
        return self._rules.allowed is not None

    @property
    def me(self) -> bytes:
        return self._key.public_key

    @property
    def listen_addresses(self) -> tuple[str, ...]:
        if self.can_be_dialled() is False:
            return ()
        return self._announce or self.reachability.verdict.addresses or self._listen_addresses

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
            host = build_host(self._key, self._rules, self.door, self.report_misbehaviour)
            router = GuardedGossipSub(report_misbehaviour=self.report_misbehaviour)
            visits = Visits(host, self._runtime.random.randbytes(32))
            pubsub = GuardedPubsub(
                host, router, self._runtime.now() * 1_000_000, self._deliver, self.report_misbehaviour
            )
            host.get_network().register_notifee(ConnectionEvents(self._connected, self._disconnected))
            for protocol in self._handlers:
                self._attach(host, protocol)
            async with host.run([]), background_trio_service(pubsub), background_trio_service(router):
                await pubsub.wait_until_ready()
                try:
                    async with trio.open_nursery() as nursery:
                        self._running = _Running(host, pubsub, visits, nursery)
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
                    self._running = None
                    self._listen_addresses = ()
                    everything.deadline = trio.current_time() + 2 * CLOSE_TIMEOUT
                    for scope in list(self._scopes):
                        scope.cancel()
                    with shielded(CLOSE_TIMEOUT):
                        await _close_host(host)
                    self._update_peers()
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

    async def _become_reachable(self, ports: Sequence[int]) -> None:
        """Have ports forwarded, where that is allowed, and find out whether others get through."""
        async with trio.open_nursery() as nursery:
            if self._upnp and ports:
                await nursery.start(PortForwarding(self._runtime).run, ports)
            if self._public is None:
                nursery.start_soon(self.reachability.run, ports)

    def _get_ports(self, host: GuardedHost) -> list[int]:
        return [get_endpoint(str(address))[1] for address in host.get_transport_addrs()]

    # Peers

    def peers(self) -> frozenset[bytes]:
        return self._peers

    def peer_changes(self) -> trio.MemoryReceiveChannel[tuple[bytes, bool]]:
        return self._changes.subscribe()

    async def connect(self, peer: bytes, addresses: Sequence[str]) -> None:
        if peer == self.me:
            raise NetworkError("a node does not dial itself")
        swarm = self._swarm()
        if self.door.peers.is_banned(peer, trio.current_time()):
            raise NetworkError(f"{format_address(peer)} broke the rules and is banned for a while")
        if peer in swarm.refused:
            raise NetworkError(f"{format_address(peer)} is on the other side of a partition")
        failures: list[str] = []
        async with self._dials.setdefault(peer, trio.Lock()):
            for attempt, place, seconds, is_direct in self._paths(peer, addresses):
                if peer in self._peers and not (is_direct and self.is_relayed(peer)):
                    break
                try:
                    with trio.fail_after(seconds):
                        await attempt()
                    if is_direct and peer in self._peers:
                        self._dialled[peer] = place
                except trio.TooSlowError:
                    failures.append(f"{place}: no answer within {seconds:g} s")
                except Exception as error:
                    failures.append(f"{place}: {root_cause(error)}")
        if peer not in self._peers:
            raise NetworkError(f"cannot reach {format_address(peer)}: {'; '.join(failures) or 'no address is known'}")

    def _paths(
        self, peer: bytes, addresses: Sequence[str]
    ) -> Iterator[tuple[Callable[[], Awaitable[None]], str, float, bool]]:
        """The ways to ``peer``, direct ones first.

        How to try each, what to call it, the seconds it may take, and whether it is direct.
        """
        direct: list[Multiaddr] = []
        relays: dict[bytes, list[str]] = {}
        for address in addresses:
            try:
                circuit = parse_circuit_address(address)
                target = Multiaddr(address if circuit is None else circuit[1])
            except ValueError as error:  # strangers announce what they like
                logger.debug("address of %s: %s", format_address(peer), error)
                continue
            if not self._rules.allows(target):
                continue
            if circuit is None:
                direct.append(target)
            elif circuit[0] not in (peer, self.me):
                relays.setdefault(circuit[0], []).append(circuit[1])
        if self.is_anonymous:  # its relays reach for it what it may not dial
            now = trio.current_time()
            held = sorted(relay for relay, expiry in self._reserved.items() if expiry > now and relay != peer)
            relays |= {relay: relays.get(relay, []) for relay in held}
        patience = DIAL_TIMEOUT if self._rules.proxy is None else PROXY_TIMEOUT
        # Behind a NAT direct addresses lead nowhere and answer nothing: where there is another way they get less time.
        for target in direct:
            yield (
                partial(self._swarm().dial, peer_id_of(peer), target),
                str(target),
                min(patience, HEAD_START / len(direct)) if relays and self._rules.proxy is None else patience,
                True,
            )
        # Those that are connected first; not always the same one, which may be the one that hangs.
        for relay in sorted(relays, key=lambda relay: (relay not in self._peers, self._runtime.random.random())):
            place = f"through the relay {format_address(relay)}"
            yield partial(self._dial_circuit, relay, relays[relay], peer), place, patience + CIRCUIT_TIMEOUT, False

    async def _dial_circuit(self, relay: bytes, addresses: Sequence[str], peer: bytes) -> None:
        if relay not in self._peers:
            await self.connect(relay, addresses)
        end = await open_circuit(self, relay, peer)
        await self._swarm().upgrade_outbound_raw_conn(end.as_connection(True, relay), peer_id_of(peer))
        if self.punching is not None and self._running is not None:
            self._running.nursery.start_soon(self.punching.run, peer)

    async def _accept_circuit(self, stream: RawStream) -> None:
        """Take in the connection that comes through a relay, and hold its stream as long as it lasts.

        Nodes that dial nobody but their relays come through relays that this node has asked for nothing. These have no
        more room than if the circuits were their own connections.
        """
        if self._offered[stream.peer] >= MAX_OFFERED_CIRCUITS:
            raise NetworkError("the relay offers too many circuits")
        remote = self.get_remote_endpoint(stream.peer)
        is_asked = stream.peer in self._asking or stream.peer in self._reserved
        origin = self.door.get_origin(stream.peer, None if remote is None else remote[0], is_asked)
        self._offered[stream.peer] += 1
        try:
            end = await accept_circuit(stream)
            try:
                await self._swarm().serve(end.as_connection(False, stream.peer), None, origin)
            finally:
                await end.close()
        finally:
            self._offered[stream.peer] -= 1
            if not self._offered[stream.peer]:
                del self._offered[stream.peer]

    async def reserve(self, relay: bytes) -> float:
        if self.is_relayed(relay):
            raise NetworkError(f"{format_address(relay)} is connected through a relay and cannot be one")
        self._asking[relay] += 1  # circuits may come before its answer does
        try:
            seconds = await reserve(self, relay, self._runtime.now())
        except NetworkError:
            self._reserved.pop(relay, None)
            raise
        finally:
            self._asking[relay] -= 1
            if not self._asking[relay]:
                del self._asking[relay]
        if relay in self._peers:
            self._reserved[relay] = trio.current_time() + seconds
        return seconds

    def is_relayed(self, peer: bytes) -> bool:
        return peer in self._peers and all(
            is_circuit(connection)
            for connection in self._swarm().get_connections(peer_id_of(peer))
            if not connection.is_closed
        )

    def is_outbound(self, peer: bytes) -> bool:
        if self._running is None:
            return False
        return peer in self._peers and any(
            getattr(connection, "direction", None) == Direction.OUTBOUND
            for connection in self._swarm().get_connections(peer_id_of(peer))
            if not connection.is_closed
        )

    def get_dialled_address(self, peer: bytes) -> str | None:
        return self._dialled.get(peer) if self.is_outbound(peer) and not self.is_relayed(peer) else None

    def can_be_dialled(self) -> bool | None:
        return self.reachability.verdict.value if self._public is None else self._public

    def get_remote_host(self, peer: bytes) -> str | None:
        remote = None if self._running is None else self.get_remote_endpoint(peer)
        # Through a proxy, it is that which all connections lead to.
        return None if remote is None or self._rules.proxy is not None else remote[0]

    def get_remote_endpoint(self, peer: bytes) -> Endpoint | None:
        """The IP address and port of a directly connected peer; None if they are not known."""
        for connection in self._swarm().get_connections(peer_id_of(peer)):
            muxed = connection.muxed_conn
            assert isinstance(muxed, Yamux)
            remote = None if is_circuit(connection) or connection.is_closed else muxed.get_remote_address()
            if remote is not None:
                address = ip_address(remote[0])
                return str(getattr(address, "ipv4_mapped", None) or address), remote[1]
        return None

    def share_port(self, peer: bytes) -> Endpoint | None:
        """See :class:`p2p.nat.hole_punching.Puncher`."""
        shared = (share_port(connection) for connection in self._swarm().get_connections(peer_id_of(peer)))
        return next((endpoint for endpoint in shared if endpoint is not None), None)

    async def open_simultaneously(self, peer: bytes, local: Endpoint, remote: Endpoint, initiator: bool) -> bool:
        """See :class:`p2p.nat.hole_punching.Puncher`. The responder takes the connection in by the door, like any
        other."""
        if self._running is None:
            return False
        swarm = self._swarm()
        transport = next(one for one in swarm.transport_manager.get_transports() if isinstance(one, GuardedTCP))
        try:
            raw = await transport.open_simultaneously(local, remote, initiator)
            if not initiator:
                self._running.nursery.start_soon(swarm.serve, raw, None)
                return True
            try:
                with trio.fail_after(DIAL_TIMEOUT):
                    await swarm.upgrade_outbound_raw_conn(raw, peer_id_of(peer))
                    return True
            except BaseException:
                with shielded(CLOSE_TIMEOUT):
                    await raw.close()
                raise
        except Exception as error:
            logger.debug("no hole to %s: %r", format_address(peer), error)
        return False

    async def answers(self, peer: bytes, host: str, port: int) -> bool:
        """Whether ``peer`` answers at this address on a fresh connection, which is closed again."""
        swarm = self._swarm()
        address = Multiaddr(format_endpoint(host, port))
        transport = swarm.transport_manager.transport_for_dialing(address)
        with trio.move_on_after(DIAL_TIMEOUT):
            try:
                assert transport is not None
                raw = await transport.dial(address)
                try:
                    await swarm.upgrader.upgrade_security(raw, True, peer_id_of(peer))
                    return True
                finally:
                    with shielded(CLOSE_TIMEOUT):
                        await raw.close()
            except Exception as error:
                logger.debug("%s does not answer at %s: %r", format_address(peer), address, error)
        return False

    def _locate(self, peer: bytes) -> Sequence[str]:
        """Where to dial ``peer`` for somebody else: at no place that is nearer than where this node can be dialled.

        Anybody announces anything, and what may be dialled from here is not for strangers to use.
        """
        reach = max(map(get_reach, self.listen_addresses), default=Reach.ANYWHERE)
        return [address for address in self.locate(peer) if get_reach(address) >= reach]

    def _place(self, peer: bytes) -> bytes:
        """What a peer is counted under among others of the same address; empty if that is not known or exempt."""
        remote = self.get_remote_endpoint(peer)
        return b"" if remote is None else self.door.get_name(remote[0])

    async def disconnect(self, peer: bytes) -> None:
        if self._running is not None:
            await _close_all(self._running.host.get_network().get_connections(peer_id_of(peer)))
            self._update_peers()

    def report_misbehaviour(self, peer: bytes, fault: Misbehaviour) -> None:
        if self._running is None or peer not in self._peers:
            return
        remote = self.get_remote_endpoint(peer)
        if self.door.report_misbehaviour(peer, None if remote is None else remote[0], fault, trio.current_time()):
            logger.info("%s broke the rules too often and is banned for a while", format_address(peer))
            self._reserved.pop(peer, None)
            if self.relay is not None:
                self.relay.table.release(peer)
            self._running.nursery.start_soon(self.disconnect, peer)

    def refusals(self) -> Mapping[str, int]:
        return self.door.refusals

    def _is_kept(self, peer: bytes) -> bool:
        """Whether a peer keeps its connection when there are too many. It is blamed and banned like anybody else."""
        if peer in self._reserved or self.is_kept(peer):
            return True
        return self.relay is not None and self.relay.table.has_reservation(peer, trio.current_time())

    async def partition(self, peers: Iterable[bytes]) -> None:
        """Have nothing to do with ``peers`` from now on: their connections are cut and no new ones made.

        An empty set ends it. For tests, which cannot unplug a cable on loopback.
        """
        swarm = self._swarm()
        swarm.refused = frozenset(peers)
        for peer in sorted(swarm.refused):
            await self.disconnect(peer)

    def _swarm(self) -> GuardedSwarm:
        if self._running is None:
            raise NetworkError("the node is not on the network")
        swarm = self._running.host.get_network()
        assert isinstance(swarm, GuardedSwarm)
        return swarm

    def _update_peers(self) -> None:
        """Bring :meth:`peers` up to date and report what changed."""
        before, connected = self._peers, set()
        if self._running is not None:
            for peer_id, connections in self._running.host.get_network().get_connections_map().items():
                peer = public_key_of(peer_id)
                if peer is not None and not all(connection.is_closed for connection in connections):
                    connected.add(peer)
        self._peers = frozenset(connected)
        for peer in sorted(before ^ self._peers):
            if peer not in self._peers:
                self._reserved.pop(peer, None)
                self._dialled.pop(peer, None)
                if self.relay is not None:
                    self.relay.table.release(peer)
            self._changes.publish((peer, peer in self._peers))

    def _connected(self, connection: INetConn) -> None:
        self._update_peers()
        if self._running is not None:
            self._running.nursery.start_soon(self._close_surplus, connection)

    def _disconnected(self, connection: INetConn) -> None:
        self._update_peers()
        if self._running is not None:
            self._running.pubsub.connection_lost(connection)

    async def _close_surplus(self, connection: INetConn) -> None:
        peer_id = connection.muxed_conn.peer_id
        if len(self._swarm().get_connections(peer_id)) > 1:
            await trio.sleep(DUPLICATE_GRACE)
            outbound_wins = self.me < (public_key_of(peer_id) or b"")
            surplus = surplus_connections(self._swarm().get_connections(peer_id), outbound_wins)
            await _close_all([connection for connection in surplus if not is_circuit(connection)])
            with trio.move_on_after(RETIREMENT):
                while any(is_busy(connection) for connection in surplus if not connection.is_closed):
                    await trio.sleep(1)
            await _close_all(surplus)

    # Streams

    async def open_stream(self, peer: bytes, protocol: str) -> Libp2pStream:
        if self._running is None or peer not in self._peers:
            raise NetworkError(f"not connected to {format_address(peer)}")
        try:
            with trio.fail_after(OPEN_TIMEOUT):
                stream = await self._running.host.new_stream(peer_id_of(peer), [TProtocol(protocol)])
        except trio.TooSlowError:
            raise NetworkError(f"{format_address(peer)} did not open a stream within {OPEN_TIMEOUT:g} s") from None
        except Exception as error:
            raise NetworkError(f"{format_address(peer)} opens no stream of {protocol}: {root_cause(error)}") from error
        assert isinstance(stream, NetStream)
        if protocol == STOP:
            keep_window(stream)
        return Libp2pStream(stream, peer, self._drain_soon)

    @asynccontextmanager
    async def visit(
        self, peer: bytes, addresses: Sequence[str], protocol: str, *, named: bool = False
    ) -> AsyncIterator[RawStream]:
        if self._rules != DialRules():
            raise NetworkError("a node that hides, or is behind a proxy, visits no strangers")
        if peer in self._peers:
            stream = await self.open_stream(peer, protocol)
            try:
                yield stream
            finally:
                await stream.close()
            return
        swarm = self._swarm()
        assert self._running is not None
        if peer == self.me or peer in swarm.refused or self.door.peers.is_banned(peer, trio.current_time()):
            raise NetworkError(f"{format_address(peer)} is not visited: itself, banned or cut off")
        async with self._running.visits.open(self._running.nursery, peer, addresses, protocol, named) as visitor:
            yield visitor

    def handle(self, protocol: str, handler: StreamHandler) -> None:
        self._handlers[protocol] = handler
        if self._running is not None:
            self._attach(self._running.host, protocol)

    def _attach(self, host: GuardedHost, protocol: str) -> None:
        async def serve(stream: INetStream) -> None:
            assert isinstance(stream, NetStream)
            await self._serve(protocol, stream)

        host.set_stream_handler(TProtocol(protocol), serve)

    async def _serve(self, protocol: str, stream: NetStream) -> None:
        """Run the handler of one inbound stream, and see the stream to its end."""
        peer = public_key_of(stream.muxed_conn.peer_id)
        if peer is None or self._running is None:
            await stream.reset()
            return
        if protocol == HOP:
            keep_window(stream)
        ours = Libp2pStream(stream, peer, self._drain_soon)
        scope = trio.CancelScope()
        self._scopes.add(scope)
        try:
            with scope:
                await self._handlers[protocol](ours)
                await ours.close()
                return
        except Exception as error:
            if not is_network_error(error):
                logger.error("the handler of %s failed", protocol, exc_info=error)
        finally:
            self._scopes.discard(scope)
        await ours.reset()

    def _drain_soon(self, stream: NetStream) -> None:
        if self._running is not None:
            self._running.nursery.start_soon(drain, stream)

    # Gossip

    async def publish(self, topic: str, payload: bytes) -> None:
        if len(payload) >= MAX_GOSSIP:
            raise ValueError(f"a gossip payload of {len(payload)} bytes is not below {MAX_GOSSIP}")
        if self._running is not None:
            await self._running.pubsub.publish(topic, payload)

    def subscribe(self, topic: str) -> trio.MemoryReceiveChannel[GossipMessage]:
        if topic not in self._topics:
            self._topics[topic] = Broadcast(QUEUE, MAX_UNREAD, lambda message: len(message.payload))
            if self._running is not None:
                self._running.nursery.start_soon(self._running.pubsub.subscribe, topic)
        return self._topics[topic].subscribe()

    def _deliver(self, topic: str, sender: bytes, payload: bytes, neighbour: bytes) -> None:
        self._topics[topic].publish(GossipMessage(topic, sender, payload, neighbour))


class _Running:
    """What exists only while the node is on the network. ``nursery`` ends with it."""

    __slots__ = ("host", "nursery", "pubsub", "visits")

    def __init__(self, host: GuardedHost, pubsub: GuardedPubsub, visits: Visits, nursery: trio.Nursery) -> None:
        self.host = host
        self.pubsub = pubsub
        self.visits = visits
        self.nursery = nursery


async def _close_host(host: GuardedHost) -> None:
    """Leaving ``host.run()`` alone leaks 3 descriptors and 9 tasks (item 15).

    Connections are closed side by side first: the library takes 0.2 s for each in turn. Delete when ``host.run()``
    closes the host.
    """
    await _close_all(host.get_network().get_connections())
    await host.close()


async def _close_all(connections: Sequence[INetConn]) -> None:
    async with trio.open_nursery() as nursery:
        for connection in connections:
            nursery.start_soon(_close_connection, connection)


async def _close_connection(connection: INetConn) -> None:
    with trio.move_on_after(CLOSE_TIMEOUT):
        try:
            await connection.close()
        except Exception as error:
            logger.debug("closing a connection: %r", error)
