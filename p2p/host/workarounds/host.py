"""Guards of the streams and protocols of a host (the library's BasicHost), and how a host is put together."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import trio
from libp2p.abc import INetConn, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.host.basic_host import BasicHost
from libp2p.host.exceptions import StreamFailure
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from multiaddr import Multiaddr

from chain.crypto import KeyPair
from p2p.addresses import Reach
from p2p.closing import CLOSE_TIMEOUT_S, quietly
from p2p.host.connection_gater import PATIENT_UPGRADE_TIMEOUT_S, UPGRADE_TIMEOUT_S, ConnectionGater
from p2p.host.transport.socks5 import PROXY_TIMEOUT_S
from p2p.host.transport.tcp import DialRules, GuardedTCP
from p2p.host.workarounds.process import install
from p2p.host.workarounds.swarm import GuardedSwarm
from p2p.host.workarounds.yamux import GuardedUpgrader
from p2p.limits.rate_limit import Limiter, Rate
from p2p.network import Misbehaviour
from p2p.peer_id import public_key_of

logger = logging.getLogger(__name__)

MAX_STREAMS_PER_CONNECTION = 512
"""Open streams per connection, in both directions together."""
STREAM_RATE = Rate(items=100, size=math.inf, burst=5.0)
"""Rate at which one peer may open streams; each costs 4 ms of CPU."""
MAX_OUTBOUND = 256
"""Outbound connections for which there is always room, however many inbound ones there are."""


class GuardedHost(BasicHost):
    """Streams and their protocols. Calls ``report_misbehaviour(peer, misbehaviour)`` for peers that open too many."""

    def __init__(self, swarm: GuardedSwarm, report_misbehaviour: Callable[[bytes, Misbehaviour], None]) -> None:
        super().__init__(swarm, disable_identify_address_discovery=True)
        self._limiter = Limiter(STREAM_RATE)
        self._report_misbehaviour = report_misbehaviour

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        """An exception that leaves a stream handler or the negotiation ends the process.

        Here it resets the stream. Delete when the library does that. The bounds on the streams of a peer are ours.
        """
        assert isinstance(net_stream, NetStream)
        connection = net_stream.swarm_conn
        try:
            peer = public_key_of(net_stream.muxed_conn.peer_id) or b""
            if not self._limiter.admit(peer, 0, trio.current_time()):
                self._report_misbehaviour(peer, Misbehaviour.RATE)
                raise StreamFailure("the peer opens too many streams")
            if connection is None or len(connection.streams) > MAX_STREAMS_PER_CONNECTION:
                raise StreamFailure("the peer has too many streams open")
            await super()._swarm_stream_handler(net_stream)
        except Exception as error:
            logger.debug("inbound stream: %r", error)
            await quietly(net_stream.reset)

    def _schedule_identify(self, peer_id: ID, *, reason: str) -> None:
        """Identify costs a stream per connection, runs in a task without owner, and tells peers every listen address.

        Nothing here needs it. Delete when it can be switched off.
        """

    async def _push_identify_to_all_peers(self) -> None:
        """See :meth:`_schedule_identify`."""

    def get_addrs(self) -> list[Multiaddr]:
        """Gossip attaches these, signed, to nearly every message, and dials the addresses that others attach.

        Here it finds none: a node's addresses are in its announcements and nowhere else. Delete when gossip can be told
        to leave them out.
        """
        return []


def build_host(
    key: KeyPair,
    rules: DialRules,
    get_scope: Callable[[], Reach],
    gater: ConnectionGater,
    report_misbehaviour: Callable[[bytes, Misbehaviour], None],
) -> GuardedHost:
    """A host of this key with every guard in place: TCP, Noise, Yamux, no identify, no automatic dialling."""
    install()
    timeout = UPGRADE_TIMEOUT_S if rules.proxy is None else PROXY_TIMEOUT_S
    key_pair = create_new_key_pair(key.seed)
    peer_id = ID.from_pubkey(key_pair.public_key)
    peerstore = PeerStore()
    peerstore.add_key_pair(peer_id, key_pair)
    room = gater.limits.max_connections + gater.limits.max_half_open + MAX_OUTBOUND
    swarm = GuardedSwarm(
        peer_id,
        peerstore,
        GuardedUpgrader(key_pair, max(timeout, PATIENT_UPGRADE_TIMEOUT_S)),
        [GuardedTCP(rules, get_scope)],
        retry_config=RetryConfig(max_retries=0),
        connection_config=ConnectionConfig(
            max_connections=room,
            min_connections=0,
            high_watermark=room,
            inbound_upgrade_timeout=PATIENT_UPGRADE_TIMEOUT_S,
            outbound_upgrade_timeout=timeout,
            inbound_stream_protocol_negotiation_timeout=timeout,
            outbound_stream_protocol_negotiation_timeout=timeout,
        ),
    )
    swarm.gater = gater
    host = GuardedHost(swarm, report_misbehaviour)
    for protocol in list(host.get_mux().get_protocols()):
        if protocol is not None and "/id/" in protocol:
            host.remove_stream_handler(protocol)
    return host


async def close_host(host: GuardedHost) -> None:
    """Only leaving ``host.run()`` leaks 3 descriptors and 9 tasks.

    Here connections are first closed concurrently: the library takes 0.2 s for each, one after the other. The listeners
    end even if the deadline passes before. Delete when ``host.run()`` closes the host.
    """
    swarm = host.get_network()
    assert isinstance(swarm, GuardedSwarm)
    try:
        await close_connections(swarm.get_connections())
    finally:
        swarm.stop_listening()
    await host.close()


async def close_connections(connections: Sequence[INetConn]) -> None:
    """Close these concurrently, within a deadline. Never raises."""
    async with trio.open_nursery() as nursery:
        for connection in connections:
            nursery.start_soon(_close_connection, connection)


async def _close_connection(connection: INetConn) -> None:
    with trio.move_on_after(CLOSE_TIMEOUT_S):
        await quietly(connection.close)
