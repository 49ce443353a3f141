"""Discovery: a node finds others, is found, and notices which are gone, at a cost that does not grow with the network.

A node announces itself when something changes, and the announcement spreads at once along a tree of connections
(:mod:`p2p.discovery.plumtree`). The more peers there are, the less often announcements are renewed. Only neighbours
learn a change of load. Each peer is watched by those connected to it. A peer whose connection was lost is dialled once
more, and suspected if that fails (:mod:`p2p.peers.failure_detector`). Every few seconds the tables of two neighbours
are synchronised (:mod:`p2p.peers.anti_entropy`), which finds what the tree did not deliver. Now and then a random peer
is dialled, so that the death of every peer is noticed by some node.

Gossipsub is not used here: it delivers several copies of every announcement before it is checked, where the tree
delivers about one, and nodes pass on only what they have verified.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import trio

from chain.crypto import KeyPair, format_address
from p2p.addresses import get_addresses, get_scope
from p2p.coarse_clock import CoarseClock
from p2p.discovery.announcer import REFRESH_MIN_AGE_S, Announcer
from p2p.discovery.connection_manager import ConnectionManager, Dial
from p2p.discovery.connector import Connector
from p2p.discovery.dial_scheduler import TARGET_OUTBOUND
from p2p.discovery.peer_store import PeerStore, StoredPeer
from p2p.discovery.peer_tasks import PeerTasks, run_contained
from p2p.discovery.plumtree import Plumtree
from p2p.discovery.prober import Prober
from p2p.discovery.size_estimate import SizeEstimate
from p2p.discovery.sync_handler import SyncHandler
from p2p.fanout import Fanout
from p2p.network import Network
from p2p.peers.announcement import Announcement, PeerLoad
from p2p.peers.anti_entropy import AgedAnnouncement, AntiEntropy, SyncFrame
from p2p.peers.failure_detector import FailureDetector
from p2p.peers.table import Change, PeerState, PeerTable
from p2p.runtime import Runtime
from p2p.streams.exchanges import Streams

logger = logging.getLogger(__name__)

SYNC_INTERVAL_S = 4.0
"""Mean seconds between synchronisations with a random neighbour."""
MAINTENANCE_INTERVAL_S = 1.0
"""Mean seconds between checks of connections, suspects and expiries."""
LEAVE_TIMEOUT_S = 2.0
"""Seconds that saying goodbye may take."""
MAX_GOODBYES = 16
"""Neighbours that are told of a goodbye directly."""
PEER_STORE_INTERVAL_S = 60.0
"""Seconds between writes of the peers to disk."""
MAX_QUEUED_PEER_CHANGES = 1024
"""Changes that a subscriber may fall behind."""


class Discovery:
    """The discovery service of one node.

    ``table`` is the peer table to fill, which others may read (default: one without stakes). ``bootstrap`` are (public
    key, multiaddress) pairs for the first contact. ``target`` is the number of connections that the node makes itself.
    ``store`` remembers the peers of one run for the next.
    """

    def __init__(
        self,
        network: Network,
        streams: Streams,
        runtime: Runtime,
        key: KeyPair,
        chain_id: bytes,
        *,
        table: PeerTable | None = None,
        bootstrap: Sequence[tuple[bytes, str]] = (),
        models: Sequence[str] = (),
        target: int = TARGET_OUTBOUND,
        store: PeerStore | None = None,
    ) -> None:
        self.table = PeerTable(network.me, salt=runtime.random.randbytes(16)) if table is None else table
        self.failure_detector = FailureDetector(self.table)
        self._network = network
        self._runtime = runtime
        self._store = store
        self._changes: Fanout[Change] = Fanout(MAX_QUEUED_PEER_CHANGES)
        self._configured: tuple[str, ...] = ()
        self.note_configured(address for _, address in bootstrap)
        servers: dict[bytes, tuple[str, ...]] = {}
        for peer, address in bootstrap:
            servers[peer] = (*servers.get(peer, ()), address)
        size = SizeEstimate(self.table)
        manager = ConnectionManager(network.me, servers, runtime.random, target)
        self._tasks = PeerTasks(network)
        self._anti_entropy = AntiEntropy(self.table, self.failure_detector)
        self._plumtree = Plumtree(network, streams, runtime.random, self._anti_entropy)
        self._connector = Connector(network, streams, self.table, self._plumtree, manager, size, servers, target)
        clock = CoarseClock(runtime.now, runtime.random.randbytes(16))
        self._announcer = Announcer(
            network, runtime, clock, key, chain_id, self.table, self._plumtree, self._connector, size, models
        )
        self._prober = Prober(
            network,
            runtime,
            key,
            chain_id,
            self.table,
            self.failure_detector,
            self._plumtree,
            self._connector,
            size,
            self._tasks,
        )
        self._handler = SyncHandler(
            network,
            runtime,
            clock,
            chain_id,
            self.table,
            self.failure_detector,
            self._anti_entropy,
            self._plumtree,
            self._announcer,
            self._connector,
            self._prober,
            self._emit,
        )

    def find(self, peer: bytes) -> Announcement | None:
        """The last announcement of ``peer``, if it is present, with the latest load that it told this node."""
        return self.table.find(peer)

    def has_left(self, peer: bytes) -> bool:
        """Whether ``peer`` has said goodbye and not come back since."""
        return self.table.state(peer) is PeerState.LEFT

    def members(self) -> list[bytes]:
        """The connected peers that have announced themselves, by key."""
        return [peer for peer in sorted(self._network.peers()) if self.table.find(peer) is not None]

    def events(self) -> trio.MemoryReceiveChannel[Change]:
        """Receive every change of the table from now on; a slow reader loses the oldest and reads :attr:`table`."""
        return self._changes.subscribe()

    def update(self, *, models: Sequence[str] | None = None, load: PeerLoad | None = None) -> None:
        """Change what this node says of itself: models to all, load to its neighbours, both soon."""
        self._announcer.update(models, load)

    def suggest(self, peers: Mapping[bytes, tuple[str, ...]]) -> None:
        """Name peers that might be of this network, to be dialled as long as too few others are known."""
        self._connector.suggest(peers)

    def note_configured(self, addresses: Iterable[str]) -> None:
        """Note addresses that the owner names: they show from how far the network is reached."""
        self._configured += tuple(addresses)
        self._note_own_addresses()

    def note_stranger(self, peer: bytes) -> None:
        """Note a peer that may be connected and not of this network; it counts once it announces itself."""
        self._connector.note_stranger(peer)

    def forget_stranger(self, peer: bytes) -> None:
        """Take back :meth:`note_stranger`."""
        self._connector.forget_stranger(peer)

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until :meth:`leave` is called, or until cancelled, which looks like a crash to the others."""
        last_incarnation = 0
        if self._store is not None:
            stored = await self._runtime.run_sync(self._store.load)
            last_incarnation = self._store.incarnation
            self._connector.manager.scheduler.remember({one.peer: get_addresses(one) for one in stored})
        with self._network.peer_changes() as changes:
            async with self._tasks.open() as nursery:
                self._announcer.start(last_incarnation)
                for peer in sorted(self._network.peers()):
                    self._connector.on_connected(peer)
                nursery.start_soon(self._plumtree.run, self._handler)
                nursery.start_soon(self._announcer.run)
                nursery.start_soon(self._sync_loop)
                nursery.start_soon(self._maintenance_loop)
                nursery.start_soon(self._connection_loop, changes)
                nursery.start_soon(self._save_loop)
                task_status.started()

    async def leave(self) -> None:
        """Say goodbye and end :meth:`run`. Takes at most LEAVE_TIMEOUT_S seconds."""
        goodbye = self._announcer.announce(leaving=True)
        self._tasks.cancel()
        readers = sorted(self._network.peers())
        if len(readers) > MAX_GOODBYES:
            readers = self._runtime.random.sample(readers, MAX_GOODBYES)
        frame = SyncFrame(announcements=(AgedAnnouncement(goodbye.encode(), 0),))
        with trio.move_on_after(LEAVE_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._save)
                for peer in readers:
                    nursery.start_soon(run_contained, self._network, peer, self._plumtree.request, peer, frame)

    async def _sync_loop(self) -> None:
        while True:
            await trio.sleep(SYNC_INTERVAL_S * self._runtime.random.uniform(0.5, 1.5))
            peers = self._plumtree.peers()
            if peers:
                frame = SyncFrame(root=self._anti_entropy.root)
                self._plumtree.send(self._runtime.random.choice(peers), frame)

    async def _maintenance_loop(self) -> None:
        while True:
            now, connected = trio.current_time(), self._network.peers()
            self._note_own_addresses()
            for change in (*self.failure_detector.expire(now, connected), *self.table.expire(now)):
                self._emit(change)
            self._announcer.announce_if_changed()
            self._prober.start_due(now)
            announced = self._announcer.announced
            for action in self._connector.choose(announced is not None and bool(announced.addresses)):
                if isinstance(action, Dial):
                    self._tasks.start(action.peer, self._dial, action)
                else:
                    self._tasks.start(action.peer, self._connector.reserve, action.peer)
            await trio.sleep(MAINTENANCE_INTERVAL_S * self._runtime.random.uniform(0.8, 1.2))

    def _note_own_addresses(self) -> None:
        """Have the table know where not to dial others."""
        own = self._network.listen_addresses
        self.table.own_addresses, self.table.scope = frozenset(own), get_scope((*self._configured, *own))

    async def _dial(self, dial: Dial) -> None:
        before = self._network.peers()
        if not await self._connector.dial(dial) and self.table.mark_suspect(dial.peer):
            self._prober.start(dial.peer)  # one failed dial is no evidence yet
        if dial.is_probe:
            await self._connector.close_probe(dial.peer, dial.addresses, before)

    async def _connection_loop(self, changes: trio.MemoryReceiveChannel[tuple[bytes, bool]]) -> None:
        async for peer, is_connected in changes:
            if is_connected:
                self._connector.on_connected(peer)
                self._connector.mark_alive(peer)
                self._plumtree.connected(peer)
                if len(self._network.peers()) == 1:
                    self._announcer.request_refresh(REFRESH_MIN_AGE_S)  # others may have declared this node dead
            elif not self._connector.on_disconnected(peer) and self.table.mark_suspect(peer):
                self._prober.start(peer)

    async def _save_loop(self) -> None:
        while self._store is not None:
            await self._save()
            await trio.sleep(PEER_STORE_INTERVAL_S)

    async def _save(self) -> None:
        """Store the peers that are present and can be dialled, and the incarnation that the next run has to exceed."""
        if self._store is not None:
            self._store.incarnation = self._announcer.incarnation
            now = self._runtime.now()
            seen = [
                StoredPeer(known.peer, known.addresses, known.relays, now, int(self.table.was_dialled(known.peer)))
                for known in self.table.present()
                if known.addresses or known.relays
            ]
            await self._runtime.run_sync(self._store.save, seen, now)

    def _emit(self, change: Change) -> None:
        if logger.isEnabledFor(logging.DEBUG):  # base58 is slow
            logger.debug("%s %s", format_address(change.peer), change.kind.value)
        self._changes.publish(change)
