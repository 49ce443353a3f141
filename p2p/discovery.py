"""Discovery: finding the others, being found, and noticing who is gone.

Each node gossips a signed announcement of itself on change and every few seconds, and reconciles its view with a random
connected peer every few seconds more, so that joins, departures and changes spread even where gossip fails. It keeps
enough connections (:mod:`p2p.dialling`), and pings a peer whose connection was lost by dialling it once more: if that
fails, the peer has crashed. What the view makes of all this is in :mod:`p2p.peers`.

The intervals grow with the network, from :data:`LARGE` peers on, so that the traffic of one node does not.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import trio

from chain.codec import Bounds, PublicKey, Record
from chain.crypto import KeyPair, format_address
from chain.exceptions import CodecError
from p2p.announcements import (
    MAX_ADDRESSES,
    MAX_ANNOUNCEMENT,
    MAX_LIFETIME,
    Announcement,
    PeerLoad,
    decode_announcement,
    sign_announcement,
)
from p2p.broadcast import Broadcast
from p2p.dialling import PATIENCE, TARGET, DialPlan
from p2p.network import Network, NetworkError
from p2p.peers import MAX_DIGEST, MAX_PEERS, Change, PeerView, Sighting
from p2p.runtime import Runtime
from p2p.streams import Exchange, Streams

logger = logging.getLogger(__name__)

PROTOCOL = "/wwwserve/views/1"
ANNOUNCE_INTERVAL = 10.0
"""Seconds between announcements when nothing changes."""
ANNOUNCE_SPACING = 1.0
"""Least seconds between announcements when something does."""
MISSES = 3.5
"""Announcements that may go missing before a peer expires."""
RECONCILE_INTERVAL = 4.0
"""Seconds between reconciliations with a random peer."""
RECONCILE_TIMEOUT = 10.0
DIAL_TIMEOUT = 10.0
KEEP_INTERVAL = 1.0
"""Seconds between looks at connections and expiries."""
LEAVE_TIMEOUT = 2.0
"""Seconds that saying goodbye may take."""
LARGE = 100
"""Peers up to which the intervals are as above."""
MAX_PACE = MAX_LIFETIME / 1000 / (MISSES * ANNOUNCE_INTERVAL)
"""How much the intervals grow at most: no announcement may be good for longer than MAX_LIFETIME."""
MAX_SIGHTINGS = 512 * 1024
"""Bytes of announcements in one frame."""
LOAD_STEP = 100
"""Change of utilization, in permille, that is worth an announcement of its own."""
EVENTS = 1024
"""Changes that a subscriber may fall behind."""


@dataclass(frozen=True, slots=True)
class Views(Record):
    """One frame of a reconciliation.

    The opener sends its ``digest``, the other answers with the announcements that the opener lacks (``known``) and the
    peers of whom it would hear more (``wanted``), the opener sends those. Without a digest nothing is answered.
    """

    digest: Annotated[bytes, Bounds(0, MAX_DIGEST)] = b""
    known: Annotated[tuple[Sighting, ...], Bounds(0, 2 * MAX_PEERS)] = ()
    wanted: Annotated[tuple[PublicKey, ...], Bounds(0, 2 * MAX_PEERS)] = ()


class Discovery:
    """The discovery service of one node.

    ``bootstrap`` are (public key, multiaddress) pairs for the first contact. ``addresses`` replaces the network's own
    listen addresses in announcements (empty: this node cannot be dialled).
    """

    def __init__(
        self,
        network: Network,
        streams: Streams,
        runtime: Runtime,
        key: KeyPair,
        chain_id: bytes,
        *,
        bootstrap: Sequence[tuple[bytes, str]] = (),
        models: Sequence[str] = (),
        addresses: Sequence[str] | None = None,
        target: int = TARGET,
    ) -> None:
        self.view = PeerView(network.me)
        self.topic = f"/wwwserve/{chain_id[:4].hex()}/peers"
        self._network = network
        self._streams = streams
        self._runtime = runtime
        self._key = key
        self._chain_id = chain_id
        known: dict[bytes, tuple[str, ...]] = {}
        for peer, address in bootstrap:
            known[peer] = (*known.get(peer, ()), address)
        self._plan = DialPlan(network.me, known, runtime.random, target)
        self._dialling: dict[bytes, None] = {}
        self._events: Broadcast[Change] = Broadcast(EVENTS)
        self._nursery: trio.Nursery | None = None
        # What the node says about itself, and what it last said.
        self._models = tuple(models)
        self._load = PeerLoad()
        self._relays: tuple[str, ...] = ()
        self._addresses = None if addresses is None else tuple(addresses)
        self._incarnation = 0
        self._announced: Announcement | None = None
        self._changed = trio.Event()

    def find(self, peer: bytes) -> Announcement | None:
        """The last announcement of ``peer``, if it is present."""
        return self.view.find(peer)

    def events(self) -> trio.MemoryReceiveChannel[Change]:
        """Receive every change of the view from now on; a slow reader loses the oldest and reads :attr:`view`."""
        return self._events.subscribe()

    def update(
        self, *, models: Sequence[str] | None = None, load: PeerLoad | None = None, relays: Sequence[str] | None = None
    ) -> None:
        """Change what this node announces; it is published soon if it matters, else with the next announcement."""
        if models is not None:
            self._models = tuple(models)
        if load is not None:
            self._load = load
        if relays is not None:
            self._relays = tuple(relays)
        said = self._announced
        if said is not None and (
            (self._models, self._relays) != (said.models, said.relays)
            or abs(self._load.utilization - said.load.utilization) >= LOAD_STEP
            or (self._load.waiting > 0) != (said.load.waiting > 0)
        ):
            self._changed.set()

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until :meth:`leave` is called, or until cancelled, which looks like a crash to the others."""
        self._incarnation = self._runtime.now()
        messages, changes = self._network.subscribe(self.topic), self._network.peer_changes()
        self._streams.handle(PROTOCOL, self._answer, max_exchanges_per_peer=4)
        with messages, changes:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._announce()
                for peer in sorted(self._network.peers()):
                    self._plan.connected(peer, trio.current_time())
                nursery.start_soon(self._keep_announcing)
                nursery.start_soon(self._keep_reconciling)
                nursery.start_soon(self._keep_connected)
                nursery.start_soon(self._watch_gossip, messages)
                nursery.start_soon(self._watch_connections, changes)
                task_status.started()
        self._nursery = None

    async def leave(self) -> None:
        """Say goodbye to everyone and end :meth:`run`. Takes at most LEAVE_TIMEOUT seconds."""
        goodbye = self._announce(leaving=True)
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
        with trio.move_on_after(LEAVE_TIMEOUT):
            async with trio.open_nursery() as nursery:
                # Gossip needs time that a leaving node may not have, so the neighbours are told directly as well.
                for peer in sorted(self._network.peers()):
                    nursery.start_soon(self._tell, peer, goodbye)
                await self._publish(goodbye)

    # Announcing

    def _announce(self, leaving: bool = False) -> Announcement:
        """Make an announcement and enter it in our own view, from which it is reconciled."""
        addresses = self._network.listen_addresses if self._addresses is None else self._addresses
        last = self._announced.sequence if self._announced is not None else 0
        self._announced = sign_announcement(
            self._key,
            self._chain_id,
            Announcement(
                peer=self._network.me,
                incarnation=self._incarnation,
                sequence=max(self._runtime.now(), last + 1, self._incarnation),
                leaving=leaving,
                addresses=tuple(addresses[:MAX_ADDRESSES]),
                relays=self._relays,
                models=self._models,
                load=self._load,
                expires_after=round(MISSES * ANNOUNCE_INTERVAL * self._pace() * 1000),
                signature=bytes(64),
            ),
        )
        self.view.apply(self._announced, trio.current_time())
        return self._announced

    async def _publish(self, announcement: Announcement) -> None:
        with suppress(NetworkError):  # gossip is a hint; reconciliation carries it too
            await self._network.publish(self.topic, announcement.encode())

    async def _keep_announcing(self) -> None:
        assert self._announced is not None
        announcement = self._announced
        while True:
            await self._publish(announcement)
            published = trio.current_time()
            with trio.move_on_after(ANNOUNCE_INTERVAL * self._pace() * self._runtime.random.uniform(0.9, 1.1)):
                await self._changed.wait()
                await trio.sleep_until(published + ANNOUNCE_SPACING * self._pace())
            self._changed = trio.Event()
            announcement = self._announce()

    def _defend(self, theirs: Announcement) -> None:
        """Outdo an announcement in our name that is not our latest: an earlier life's, when our clock went back."""
        assert self._announced is not None
        if theirs.order > self._announced.order and theirs.is_timely(self._runtime.now()):
            logger.warning("an announcement in this node's name is newer than its own: is its key in use elsewhere?")
            self._incarnation = theirs.incarnation + 1
            self._changed.set()

    def _pace(self) -> float:
        """What all intervals are multiplied by."""
        return min(max(1.0, len(self.view) / LARGE), MAX_PACE)

    # Learning

    async def _watch_gossip(self, messages: trio.MemoryReceiveChannel[Any]) -> None:
        async for message in messages:
            try:
                if len(message.payload) <= MAX_ANNOUNCEMENT:
                    self._learn(decode_announcement(message.payload, self._chain_id), 0.0)
            except CodecError as error:
                logger.info("bad announcement gossiped by %s: %s", format_address(message.sender), error)

    def _learn(self, announcement: Announcement, age: float) -> None:
        if announcement.peer == self._network.me:
            self._defend(announcement)
        elif announcement.is_timely(self._runtime.now()):
            self._emit(self.view.apply(announcement, trio.current_time(), age))
        else:
            behind = (self._runtime.now() - announcement.sequence) / 1000
            name = format_address(announcement.peer)
            logger.info("announcement of %s refused: it is %.0f s behind this node's clock", name, behind)

    def _emit(self, change: Change | None) -> None:
        if change is not None:
            if logger.isEnabledFor(logging.DEBUG):  # base58 is slow
                logger.debug("%s %s", format_address(change.peer), change.kind.value)
            self._events.publish(change)

    # Reconciling

    async def _keep_reconciling(self) -> None:
        while True:
            await trio.sleep(RECONCILE_INTERVAL * self._pace() * self._runtime.random.uniform(0.5, 1.5))
            peers = sorted(self._network.peers())
            if peers:
                await self._reconcile(self._runtime.random.choice(peers))

    async def _reconcile(self, peer: bytes) -> None:
        try:
            with trio.fail_after(RECONCILE_TIMEOUT):
                async with self._streams.open(peer, PROTOCOL) as exchange:
                    await exchange.send(Views(digest=self.view.digest()).encode())
                    answer = await exchange.receive()
                    if answer is not None:
                        views = Views.decode(answer)
                        self._learn_all(views.known)
                        wanted = self.view.select(views.wanted, trio.current_time(), MAX_SIGHTINGS)
                        await exchange.send(Views(known=wanted).encode(), end=True)
        except (NetworkError, CodecError, trio.TooSlowError) as error:
            logger.debug("no reconciliation with %s: %s", peer.hex(), error)

    async def _tell(self, peer: bytes, announcement: Announcement) -> None:
        """Hand ``announcement`` to ``peer`` and wait until it has it."""
        with suppress(NetworkError):
            async with self._streams.open(peer, PROTOCOL) as exchange:
                await exchange.send(Views(known=(Sighting(announcement.encode(), 0),)).encode(), end=True)
                await exchange.receive()

    async def _answer(self, exchange: Exchange) -> None:
        try:
            with trio.move_on_after(RECONCILE_TIMEOUT):
                while (frame := await exchange.receive()) is not None:
                    views = Views.decode(frame)
                    self._learn_all(views.known)
                    if views.digest:
                        known = self.view.newer_than(views.digest, trio.current_time(), MAX_SIGHTINGS)
                        wanted = self.view.older_than(views.digest)
                        await exchange.send(Views(known=known, wanted=wanted).encode())
        except CodecError as error:
            await exchange.abort(str(error))

    def _learn_all(self, sightings: Iterable[Sighting]) -> None:
        """
        Raises:
            CodecError: one of them is not what its peer signed, so whoever passed it on is at fault.
        """
        for sighting in sightings:
            self._learn(decode_announcement(sighting.announcement, self._chain_id), sighting.age / 1000)

    # Connections

    async def _keep_connected(self) -> None:
        assert self._nursery is not None
        while True:
            now = trio.current_time()
            for change in self.view.expire(now):
                self._emit(change)
            reachable = self._announced is not None and bool(self._announced.addresses)
            for peer, addresses in self._plan.choose(self.view, self._network.peers(), self._dialling, reachable, now):
                self._dialling[peer] = None
                self._nursery.start_soon(self._dial, peer, addresses)
            await trio.sleep(KEEP_INTERVAL * self._runtime.random.uniform(0.8, 1.2))

    async def _dial(self, peer: bytes, addresses: tuple[str, ...]) -> None:
        try:
            if await self._connect(peer, addresses):
                await self._reconcile(peer)
            else:
                self._plan.failed(peer, trio.current_time())
        finally:
            del self._dialling[peer]

    async def _connect(self, peer: bytes, addresses: Sequence[str]) -> bool:
        with suppress(NetworkError), trio.move_on_after(DIAL_TIMEOUT):
            await self._network.connect(peer, addresses)
        return peer in self._network.peers()

    async def _watch_connections(self, changes: trio.MemoryReceiveChannel[tuple[bytes, bool]]) -> None:
        assert self._nursery is not None
        async for peer, connected in changes:
            if connected:
                self._plan.connected(peer, trio.current_time())
                self.view.confirm(peer)
                if len(self._network.peers()) == 1:
                    self._changed.set()  # what was gossiped before went nowhere
            else:
                self._plan.disconnected(peer, trio.current_time())
                if self.view.suspect(peer):
                    self._nursery.start_soon(self._check, peer)

    async def _check(self, peer: bytes) -> None:
        """Find out whether a peer whose connection was lost is still there."""
        if peer < self._network.me:
            await trio.sleep(PATIENCE / 2)
        known = self.view.find(peer)
        if known is None or not known.addresses + known.relays:
            return  # whoever cannot be dialled has to come back by itself, or expires
        if await self._connect(peer, known.addresses + known.relays):
            self.view.confirm(peer)
            await self._reconcile(peer)
        else:
            self._emit(self.view.crash(peer, trio.current_time()))
