"""The network for real: :class:`Libp2pNetwork` is :class:`p2p.network.Network` over a libp2p host.

TCP, Noise and Yamux for streams, gossipsub 1.1 for gossip. What libp2p gets wrong is put right in ``p2p.hardening``
and ``p2p.gossip``; here is only the translation between the library's notions (peer ids, multiaddresses, its many
exceptions) and ours.

The library needs an orderly end: cancelled from outside, it leaks sockets and tasks. Its tasks therefore run shielded
inside :meth:`Libp2pNetwork.run`, which closes the host itself, within a deadline, when it is cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakValueDictionary

import trio
from libp2p.abc import INetConn, INetStream
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.network.stream.net_stream import NetStream
from libp2p.tools.anyio_service import background_trio_service
from libp2p.utils.address_validation import expand_wildcard_address
from multiaddr import Multiaddr

from chain.crypto import KeyPair, format_address
from p2p.broadcast import Broadcast
from p2p.gossip import GuardedGossipSub, GuardedPubsub
from p2p.hardening import (
    ConnectionEvents,
    GuardedHost,
    GuardedSwarm,
    build_host,
    peer_id_of,
    public_key_of,
    shielded,
    surplus_connections,
    wait_for_window,
    was_reset,
)
from p2p.network import MAX_GOSSIP, GossipMessage, NetworkError, StreamHandler, is_network_error
from p2p.runtime import Runtime

logger = logging.getLogger(__name__)

QUEUE = 1024
"""Gossip messages or connection changes that a subscriber may fall behind."""
DIAL_TIMEOUT = 5.0
"""Seconds for one address: TCP, Noise and Yamux."""
OPEN_TIMEOUT = 10.0
"""Seconds to open a stream and agree on its protocol."""
CLOSE_TIMEOUT = 5.0
"""Seconds that an orderly end may take before it is cut short."""
LINGER = 10.0
"""Seconds that a peer has to close its side of a stream that we have closed; then the stream is reset."""
DUPLICATE_GRACE = 0.5
"""Seconds to wait before closing a surplus connection, so that the other end knows the one that stays."""


class Libp2pNetwork:
    """One node's end of the network; see :class:`p2p.network.Network`. Runs while :meth:`run` does.

    ``listen`` are multiaddresses such as ``/ip4/0.0.0.0/tcp/4001`` (port 0 picks a free one); without any, the node
    only dials out. ``announce`` replaces what :attr:`listen_addresses` reports, for a node behind a forwarded port.
    """

    def __init__(self, key: KeyPair, listen: Sequence[str], runtime: Runtime, *, announce: Sequence[str] = ()) -> None:
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

    @property
    def me(self) -> bytes:
        return self._key.public_key

    @property
    def listen_addresses(self) -> tuple[str, ...]:
        return self._announce or self._listen_addresses

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
            host = build_host(self._key)
            router = GuardedGossipSub()
            pubsub = GuardedPubsub(host, router, self._runtime.now() * 1_000_000, self._deliver)
            host.get_network().register_notifee(ConnectionEvents(self._connected, self._disconnected))
            for protocol in self._handlers:
                self._attach(host, protocol)
            async with host.run([]), background_trio_service(pubsub), background_trio_service(router):
                await pubsub.wait_until_ready()
                try:
                    async with trio.open_nursery() as nursery:
                        self._running = _Running(host, pubsub, nursery)
                        try:
                            await self._start_listening(host)
                        except NetworkError as error:
                            failure = error
                        else:
                            for topic in list(self._topics):
                                await pubsub.subscribe(topic)
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

    # Peers

    def peers(self) -> frozenset[bytes]:
        return self._peers

    def peer_changes(self) -> trio.MemoryReceiveChannel[tuple[bytes, bool]]:
        return self._changes.subscribe()

    async def connect(self, peer: bytes, addresses: Sequence[str]) -> None:
        if peer == self.me:
            raise NetworkError("a node does not dial itself")
        swarm = self._swarm()
        failures = []
        async with self._dials.setdefault(peer, trio.Lock()):
            for address in addresses:
                if peer in self._peers:
                    break
                try:
                    with trio.fail_after(DIAL_TIMEOUT):
                        await swarm.dial(peer_id_of(peer), Multiaddr(address))
                except trio.TooSlowError:
                    failures.append(f"{address}: no answer within {DIAL_TIMEOUT:g} s")
                except Exception as error:
                    failures.append(f"{address}: {_root_cause(error)}")
        if peer not in self._peers:
            raise NetworkError(f"cannot reach {format_address(peer)}: {'; '.join(failures) or 'no address is known'}")

    async def disconnect(self, peer: bytes) -> None:
        if self._running is not None:
            await _close_all(self._running.host.get_network().get_connections(peer_id_of(peer)))
            self._update_peers()

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
            await _close_all(surplus_connections(self._swarm().get_connections(peer_id), outbound_wins))

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
            raise NetworkError(f"{format_address(peer)} opens no stream of {protocol}: {_root_cause(error)}") from error
        assert isinstance(stream, NetStream)
        return Libp2pStream(stream, peer, self._drain_soon)

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
            self._running.nursery.start_soon(_drain, stream)

    # Gossip

    async def publish(self, topic: str, payload: bytes) -> None:
        if len(payload) >= MAX_GOSSIP:
            raise ValueError(f"a gossip payload of {len(payload)} bytes is not below {MAX_GOSSIP}")
        if self._running is not None:
            await self._running.pubsub.publish(topic, payload)

    def subscribe(self, topic: str) -> trio.MemoryReceiveChannel[GossipMessage]:
        if topic not in self._topics:
            self._topics[topic] = Broadcast(QUEUE)
            if self._running is not None:
                self._running.nursery.start_soon(self._running.pubsub.subscribe, topic)
        return self._topics[topic].subscribe()

    def _deliver(self, topic: str, sender: bytes, payload: bytes) -> None:
        self._topics[topic].publish(GossipMessage(topic, sender, payload))


class Libp2pStream:
    """See :class:`p2p.network.RawStream`."""

    __slots__ = ("_closed", "_drain_soon", "_peer", "_stream")

    def __init__(self, stream: NetStream, peer: bytes, drain_soon: Callable[[NetStream], None]) -> None:
        self._stream = stream
        self._peer = peer
        self._drain_soon = drain_soon
        self._closed = False

    @property
    def peer(self) -> bytes:
        return self._peer

    async def send(self, data: bytes) -> None:
        self._check_open()
        sent = 0
        try:
            while sent < len(data):
                window = await wait_for_window(self._stream)
                await self._stream.write(data[sent : sent + window])
                sent += window
        except Exception as error:
            raise NetworkError(f"the stream to {format_address(self._peer)} broke: {_root_cause(error)}") from error

    async def receive(self, max_bytes: int = 65536) -> bytes:
        self._check_open()
        try:
            return await self._stream.read(max_bytes)
        except StreamEOF:
            if was_reset(self._stream):
                raise NetworkError(f"{format_address(self._peer)} reset the stream, or is gone") from None
            return b""
        except Exception as error:
            raise NetworkError(f"the stream to {format_address(self._peer)} broke: {_root_cause(error)}") from error

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with shielded(CLOSE_TIMEOUT):
            try:
                await self._stream.close()
            except Exception as error:
                logger.debug("closing a stream: %r", error)
                return
        self._drain_soon(self._stream)

    async def reset(self) -> None:
        self._closed = True
        await _reset(self._stream)

    def _check_open(self) -> None:
        if self._closed:
            raise NetworkError("the stream is closed")


class _Running:
    """What exists only while the node is on the network. ``nursery`` ends with it."""

    __slots__ = ("host", "nursery", "pubsub")

    def __init__(self, host: GuardedHost, pubsub: GuardedPubsub, nursery: trio.Nursery) -> None:
        self.host = host
        self.pubsub = pubsub
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


async def _drain(stream: NetStream) -> None:
    """Take what the peer still sends until it closes too; a half-closed stream would stay for ever."""
    with trio.move_on_after(LINGER):
        try:
            while await stream.read(65536):
                pass
        except Exception:
            return
    await _reset(stream)


async def _reset(stream: NetStream) -> None:
    with shielded(CLOSE_TIMEOUT):
        try:
            await stream.reset()
        except Exception as error:
            logger.debug("resetting a stream: %r", error)


def _root_cause(error: BaseException) -> str:
    """One line that says what went wrong; the library wraps the reason in up to five exceptions."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).splitlines()[0] if str(error) else type(error).__name__
