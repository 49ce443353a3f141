"""Isolated streams: one request to a stranger, on a connection outside of the swarm.

Servers of the DHT are strangers: they speak neither gossip nor any other protocol of this network, and some belong to
the network of another chain. In the swarm they would be counted as peers, get gossip, be asked for blocks, and be
banned for announcements that are signed for another chain. So an isolated stream has a connection of its own. It is
dialled by the rules like any other, and no protocol is served on it.

It authenticates with a throwaway key, made for this run of the node, unless ``authenticated_as_self``. So servers do
not learn which account asks, and closing the connection is not taken for a crash of this node.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio
from libp2p.abc import IRawConnection
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.stream.net_stream import NetStream
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from chain.crypto import format_address
from p2p.addresses import get_endpoint
from p2p.closing import CLOSE_TIMEOUT_S, quietly, root_cause, shielded
from p2p.host.connection_gater import UPGRADE_TIMEOUT_S
from p2p.host.stream import Libp2pStream
from p2p.host.workarounds.host import GuardedHost
from p2p.host.workarounds.swarm import GuardedSwarm
from p2p.host.workarounds.yamux import GuardedUpgrader, GuardedYamux
from p2p.network import ByteCount, NetworkError
from p2p.peer_id import peer_id_of

logger = logging.getLogger(__name__)

ISOLATED_DIAL_TIMEOUT_S = 5.0
"""Time for one address: TCP, Noise, Yamux and the agreement on the protocol."""
MAX_DIALLED_ADDRESSES = 2
"""Addresses of a stranger that are tried."""


class IsolatedDialer:
    """Opens the isolated streams of one run of the node. ``seed`` makes the throwaway key."""

    def __init__(self, host: GuardedHost, seed: bytes) -> None:
        swarm = host.get_network()
        assert isinstance(swarm, GuardedSwarm)
        self._swarm = swarm
        self._throwaway = GuardedUpgrader(create_new_key_pair(seed))

    @asynccontextmanager
    async def open(
        self,
        nursery: trio.Nursery,
        peer: bytes,
        addresses: Sequence[str],
        protocol: str,
        count: ByteCount,
        authenticated_as_self: bool,
    ) -> AsyncIterator[Libp2pStream]:
        """A stream of ``protocol`` to ``peer``; its connection runs in ``nursery`` and ends with it.

        ``count`` is that of the protocol.

        Raises:
            NetworkError: none of the addresses answered as that peer, or it does not speak the protocol.
        """
        failures: list[str] = []
        for address in [one for one in addresses if is_direct(one)][:MAX_DIALLED_ADDRESSES]:
            connection = _Connection(peer, count)
            try:
                try:
                    upgrader = self._swarm.upgrader if authenticated_as_self else self._throwaway
                    with trio.fail_after(ISOLATED_DIAL_TIMEOUT_S):
                        stream = await connection.open(self._swarm, upgrader, Multiaddr(address), protocol, nursery)
                except trio.TooSlowError:
                    failures.append(f"{address}: no answer within {ISOLATED_DIAL_TIMEOUT_S:g} s")
                    continue
                except Exception as error:
                    failures.append(f"{address}: {root_cause(error)}")
                    continue
                yield stream
                return
            finally:
                await connection.close()
        raise NetworkError(f"cannot reach {format_address(peer)}: {'; '.join(failures) or 'no address is known'}")


class _Connection:
    """The connection of one isolated stream, in any stage."""

    def __init__(self, peer: bytes, count: ByteCount) -> None:
        self._peer = peer
        self._count = count
        self._muxer: GuardedYamux | None = None
        self._raw: IRawConnection | None = None

    async def open(
        self, swarm: GuardedSwarm, upgrader: TransportUpgrader, address: Multiaddr, protocol: str, nursery: trio.Nursery
    ) -> Libp2pStream:
        """Open the connection and the stream. Raises any exception of the library."""
        transport = swarm.transport_manager.transport_for_dialing(address)
        if transport is None:
            raise NetworkError("not the address of a TCP port")
        peer_id = peer_id_of(self._peer)
        self._raw = raw = await transport.dial(address)
        muxer = await upgrader.upgrade_connection(await upgrader.upgrade_security(raw, True, peer_id), peer_id)
        assert isinstance(muxer, GuardedYamux)
        self._muxer = muxer
        nursery.start_soon(_run, muxer)
        await muxer.event_started.wait()
        stream = NetStream(await muxer.open_stream(), None, None)
        negotiation = MultiselectCommunicator(stream)
        await MultiselectClient().select_one_of([TProtocol(protocol)], negotiation, int(UPGRADE_TIMEOUT_S))
        stream.set_protocol(TProtocol(protocol))
        return Libp2pStream(stream, self._peer, self._count, lambda stream: None)

    async def close(self) -> None:
        with shielded(CLOSE_TIMEOUT_S):
            if self._muxer is not None:
                await quietly(self._muxer.close)
            if self._raw is not None:
                await quietly(self._raw.close)


async def _run(muxer: GuardedYamux) -> None:
    """Run the connection until it is closed; streams that the other end opens on it are reset."""
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(muxer.start)
            while True:
                stream = await muxer.accept_stream()
                await quietly(stream.reset)
    except Exception as error:
        logger.debug("isolated connection: %r", error)


def is_direct(address: str) -> bool:
    """Whether an address is that of a TCP port, and not of a circuit."""
    try:
        get_endpoint(address)
    except ValueError:
        return False
    return True
