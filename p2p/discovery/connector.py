"""Makes, keeps and closes connections, as the connection manager chooses, and knows this node's relay addresses."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

import trio

from chain.crypto import format_address
from p2p.addresses import get_addresses, get_relays, is_local_address
from p2p.discovery.connection_manager import ConnectionManager, Dial, Reserve
from p2p.discovery.dial_scheduler import ConnectionSnapshot
from p2p.discovery.plumtree import PLUMTREE_PROTOCOL, Plumtree
from p2p.discovery.size_estimate import SizeEstimate
from p2p.network import Network, NetworkError
from p2p.peers.announcement import MAX_ANNOUNCED_RELAYS, is_address
from p2p.peers.anti_entropy import SyncFrame
from p2p.peers.table import PeerTable
from p2p.streams.exchanges import Streams

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
"""Seconds for a dial, or for a request of a reservation."""
PROBE_HOLD_S = 5.0
"""Seconds that a connection made as a probe is held when it is not needed."""
DISCONNECT_TIMEOUT_S = 2.0
"""Seconds for telling a peer that its connection is closed on purpose."""


class Connector:
    """The connections of one node. ``bootstrap`` says where bootstrap peers can be dialled."""

    def __init__(
        self,
        network: Network,
        streams: Streams,
        table: PeerTable,
        plumtree: Plumtree,
        manager: ConnectionManager,
        size: SizeEstimate,
        bootstrap: Mapping[bytes, tuple[str, ...]],
        target: int,
    ) -> None:
        self.manager = manager
        self._network = network
        self._streams = streams
        self._table = table
        self._plumtree = plumtree
        self._size = size
        self._bootstrap = bootstrap
        self._target = target
        self._dialling: dict[bytes, None] = {}
        self._closing: dict[bytes, None] = {}
        self._suggested: frozenset[bytes] = frozenset()
        self._strangers: set[bytes] = set()  # only ever asked for membership

    # What happened

    def on_connected(self, peer: bytes) -> None:
        """Take in a new connection."""
        self.manager.connected(peer, trio.current_time())
        self._closing.pop(peer, None)

    def on_disconnected(self, peer: bytes) -> bool:
        """Take in the end of a connection. Returns whether one side closed it on purpose."""
        self.manager.disconnected(peer, trio.current_time())
        if peer not in self._closing:
            return False
        del self._closing[peer]
        return True

    def on_closing(self, peer: bytes) -> None:
        """Note that ``peer`` will close the connection on purpose."""
        self._closing[peer] = None

    def mark_alive(self, peer: bytes) -> None:
        """Note that a peer is connected; it is verified only if this node has dialled it."""
        self._table.mark_alive(peer, self._network.is_outbound(peer))

    def suggest(self, peers: Mapping[bytes, tuple[str, ...]]) -> None:
        """Name peers that might be members, to be dialled while too few are known; they replace earlier ones."""
        self._suggested = frozenset(peers)
        self.manager.scheduler.suggest(peers)

    def note_stranger(self, peer: bytes) -> None:
        """Note a peer that may be connected and of no use to this network; it counts once it announces itself."""
        self._strangers.add(peer)

    def forget_stranger(self, peer: bytes) -> None:
        """Take back :meth:`note_stranger`."""
        self._strangers.discard(peer)

    # What to do

    def choose(self, is_reachable: bool) -> list[Dial | Reserve]:
        """The dials and requests for reservations to begin now; the dials count as begun."""
        actions = self.manager.choose(self._table, self._get_snapshot(is_reachable), trio.current_time())
        self._dialling.update((action.peer, None) for action in actions if isinstance(action, Dial))
        return actions

    def admit(self, peer: bytes, addresses: Sequence[str]) -> tuple[str, ...]:
        """See :meth:`~p2p.discovery.dial_scheduler.DialScheduler.admit`."""
        return self.manager.scheduler.admit(self._table, peer, addresses, trio.current_time())

    async def dial(self, dial: Dial) -> bool:
        """Dial a chosen peer. Returns whether it is connected."""
        peer = dial.peer
        try:
            was_relayed, is_unverified = self._network.is_relayed(peer), not self._table.is_verified(peer)
            is_connected = await self.connect(peer, dial.addresses)
            if is_unverified:
                self._size.note_first_dial(is_connected)
            if not is_connected or (was_relayed and self._network.is_relayed(peer)):
                self.manager.scheduler.failed(peer, trio.current_time())
            return is_connected
        finally:
            del self._dialling[peer]

    async def connect(self, peer: bytes, addresses: Sequence[str], timeout: float = CONNECT_TIMEOUT_S) -> bool:
        """Connect to ``peer``. Returns whether it is connected after at most ``timeout`` seconds."""
        with suppress(NetworkError), trio.move_on_after(timeout):
            await self._network.connect(peer, addresses)
        return peer in self._network.peers()

    async def close_probe(self, peer: bytes, addresses: Sequence[str], before: Collection[bytes]) -> None:
        """After :data:`PROBE_HOLD_S`, close what a probe of ``peer`` opened: to it, or to its relays.

        ``before`` are the peers that were connected before the probe.
        """
        made = [one for one in (peer, *sorted(get_relays(addresses))) if one not in before]
        if not self._network.peers().isdisjoint(made):
            await trio.sleep(PROBE_HOLD_S)
            for one in made:
                await self._close_surplus(one)

    async def reserve(self, relay: bytes) -> None:
        """Request a reservation, or renew it. The announcer sees it in :meth:`get_relay_addresses`."""
        if self._find_relay_address(relay) is None:  # the reservation could not be announced
            self.manager.refused(relay, trio.current_time())
            return
        try:
            with trio.fail_after(CONNECT_TIMEOUT_S):
                seconds = await self._network.reserve(relay)
            self.manager.reserved(relay, seconds, trio.current_time())
        except (NetworkError, trio.TooSlowError) as error:
            logger.debug("no reservation at %s: %s", format_address(relay), error)
            if relay in self._network.peers():  # else it is asked again when it is back
                self.manager.refused(relay, trio.current_time())

    def get_relay_addresses(self) -> tuple[str, ...]:
        """The addresses of the relays that hold a reservation for this node."""
        found = (self._find_relay_address(peer) for peer in self.manager.get_relays(trio.current_time()))
        return tuple(address for address in found if address is not None)[:MAX_ANNOUNCED_RELAYS]

    def _get_snapshot(self, is_reachable: bool) -> ConnectionSnapshot:
        connected = self._network.peers()
        hosts = {peer: self._network.get_remote_host(peer) for peer in sorted(connected)}
        return ConnectionSnapshot(
            connected=connected,
            dialling=frozenset(self._dialling),
            outbound=frozenset(self._get_outbound_peers()),
            relayed=frozenset(filter(self._network.is_relayed, connected)),
            remote_hosts={peer: host for peer, host in hosts.items() if host is not None},
            is_reachable=is_reachable,
        )

    def _get_outbound_peers(self) -> list[bytes]:
        """The peers of this network that this node has dialled, by key."""
        return [
            peer
            for peer in sorted(self._network.peers())
            if self._network.is_outbound(peer) and not (self._is_stranger(peer) and self._table.find(peer) is None)
        ]

    def _is_stranger(self, peer: bytes) -> bool:
        return peer in self._strangers or peer in self._suggested

    def _find_relay_address(self, relay: bytes) -> str | None:
        """Where others can dial ``relay``: at the address this node dialled, or else at one that the relay announces.

        An address of a local network comes last.
        """
        known = self._table.find(relay)
        addresses = known.addresses if known is not None else self._bootstrap.get(relay, ())
        dialled = self._network.get_dialled_address(relay)
        if dialled is not None:
            addresses = (dialled, *addresses)
        usable = [address for address in addresses if is_address(f"{address}/p2p/{format_address(relay)}")]
        usable.sort(key=is_local_address)
        return f"{usable[0]}/p2p/{format_address(relay)}" if usable else None

    async def _close_surplus(self, peer: bytes) -> None:
        """Close a connection that a probe opened, unless it is of use."""
        outbound = self._get_outbound_peers()
        is_used = self._streams.is_used(peer, besides=PLUMTREE_PROTOCOL)
        if peer not in outbound or len(outbound) <= self._target or is_used:
            return
        if peer in self.manager.get_relays(trio.current_time()) or self._carries_circuits(peer):
            return
        self._closing[peer] = None
        with trio.move_on_after(DISCONNECT_TIMEOUT_S):
            await self._plumtree.request(peer, SyncFrame(closing=True))
        await self._network.disconnect(peer)

    def _carries_circuits(self, relay: bytes) -> bool:
        """Whether a connection to another peer may run through ``relay``."""
        relayed = [peer for peer in self._network.peers() if self._network.is_relayed(peer)]
        return any(relay in get_relays(get_addresses(self._table.find(peer))) for peer in relayed)
