"""Discovery: finding the others, being found, and noticing who is gone, at a price that does not grow with the network.

A node makes a signed announcement of itself when something changes, and this spreads at once from neighbour to
neighbour (:mod:`p2p.discovery.plumtree`). Nothing else does: announcements are renewed the more seldom the more peers
there are, load is told to neighbours alone, and who is alive is watched by those connected to it. A peer whose
connection was lost is dialled once more, and if that fails accused (:mod:`p2p.peers.failure_detector`). SyncFrame are
reconciled with a random neighbour every few seconds (:mod:`p2p.peers.anti_entropy`), so that joins, departures and
changes arrive even where the first word got lost, and now and then a random peer is dialled, so that nobody dies
unwatched.

Gossip of the network is not used: it would cost each node several copies of every announcement, checked or not, where
neighbours push it along a tree, about once to each, and pass on only what they have verified.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVarTuple

import trio

from chain.crypto import KeyPair, format_address
from p2p.addresses import get_addresses, get_relays, is_local_address
from p2p.discovery.connection_manager import ConnectionManager, Dial
from p2p.discovery.dial_scheduler import SMALL_NETWORK, TARGET_OUTBOUND
from p2p.discovery.peer_store import PeerStore, StoredPeer
from p2p.discovery.plumtree import PROTOCOL, Plumtree, run_contained
from p2p.fanout import Fanout
from p2p.network import Network, NetworkError
from p2p.peers.announcement import (
    MAX_ADDRESSES,
    MAX_LIFETIME_MS,
    MAX_MODELS,
    MAX_RELAYS,
    Announcement,
    PeerLoad,
    decode_announcement,
    get_item_id,
    is_address,
    is_model_name,
    parse_announcement,
    sign_announcement,
)
from p2p.peers.anti_entropy import MAX_ITEM_IDS_BYTES, AgedAnnouncement, AntiEntropy, SyncFrame
from p2p.peers.failure_detector import OBSERVER_MIN_AGE_S, PROBE_DELAY_S, PROBERS, FailureDetector
from p2p.peers.suspect_message import (
    SuspectMessage,
    decode_suspect_message,
    parse_suspect_message,
    sign_suspect_message,
)
from p2p.peers.table import Change, PeerState, PeerTable
from p2p.rate_limit import Bucket, Limiter, Rate
from p2p.runtime import Runtime
from p2p.streams.exchanges import Streams

logger = logging.getLogger(__name__)

ANNOUNCE_INTERVAL_S = 10.0
"""Seconds between announcements when nothing changes, in a network of a few nodes."""
ANNOUNCE_INTERVAL_PER_PEER_S = 5.0
"""Seconds per peer between announcements in a larger one: whatever its size, one peer in 5 s renews its word."""
MISSED_ANNOUNCEMENTS = 3.5
"""Announcements that may go missing before a peer expires."""
MAX_ANNOUNCE_INTERVAL_S = MAX_LIFETIME_MS / 1000 / MISSED_ANNOUNCEMENTS
ANNOUNCE_SPACING_S = 1.0
"""Least seconds between announcements when something changes."""
RELAY_LOSS_DELAY_S = 5.0
"""Seconds for which the loss of a relay slot is kept to oneself, where there is another: a new one may replace it."""
REFRESH_MIN_AGE_S = 5.0
"""Least age in seconds of an announcement that is made anew because a peer asks for it."""
REFRESH_INTERVAL_S = ANNOUNCE_INTERVAL_S
REFRESH_BURST = 5
"""Seconds between announcements that are made anew because others ask, or accuse; and how many of them at once."""
SYNC_INTERVAL_S = 4.0
"""Mean seconds between reconciliations with a random neighbour."""
DIAL_TIMEOUT_S = 10.0
PROBE_TIMEOUT_S = 4.0
"""Seconds for the dial that decides whether a peer which was lost is accused. Too short for a slow link is no harm: the
accused refutes it."""
MAINTENANCE_INTERVAL_S = 1.0
"""Seconds between looks at connections, suspects and expiries."""
PROBE_HEAD_START_S = 0.5
"""Seconds that the peer with the greater key leaves to the other, when their connection was lost."""
RETURN_DELAY_S = 8.0
"""Seconds that a peer which cannot be dialled has to come back by itself."""
SUSPECT_DELAY_PER_NEIGHBOUR_S = 0.25
"""Most seconds for each neighbour for which a failed probe is kept to oneself: about as many watch the same peer, and a
few words are enough."""
MAX_PROBES = 16
"""Peers that are dialled at the same time to see whether they live."""
ITEM_RATE = Rate(items=200, size=math.inf, burst=10.0)
TOTAL_ITEM_RATE = Rate(items=400, size=math.inf, burst=10.0)
"""Announcements and accusations a second that are looked at, of each neighbour and of all."""
SYNC_RATE = Rate(items=2, size=math.inf, burst=10.0)
TOTAL_SYNC_RATE = Rate(items=20, size=math.inf, burst=10.0)
"""Frames a second that are answered with a walk through the view."""
VERIFICATION_BATCH = 64
INLINE_VERIFICATIONS = 4
"""Signatures that are checked in one go, in a thread; and how many are not worth one."""
ANSWER_SAMPLES = 16
"""Peers dialled for the first time that say how many of those heard of there are."""
ESTIMATE_INTERVAL_S = 5.0
LEAVE_TIMEOUT_S = 2.0
"""Seconds that saying goodbye may take."""
MAX_GOODBYES = 16
"""Neighbours that are told of a goodbye directly."""
PROBE_HOLD_S = 5.0
"""Seconds that a connection made as a probe is held when it is not needed."""
SAVE_INTERVAL_S = 60.0
"""Seconds between writes of the peers to disk."""
LOAD_STEP_PERMILLE = 100
"""Change of utilization, in permille, that neighbours are told at once."""
LOAD_INTERVAL_S = 5.0
"""Seconds after which they are told of any change."""
MAX_QUEUED_CHANGES = 1024
"""Changes that a subscriber may fall behind."""
Ts = TypeVarTuple("Ts")


class Discovery:
    """The discovery service of one node.

    ``bootstrap`` are (public key, multiaddress) pairs for the first contact. ``addresses`` replaces the network's own
    listen addresses in announcements (empty: this node cannot be dialled). ``weight(peer)`` says what a peer is worth
    (its stake): those above 0 are never pushed out of the view. ``store`` remembers the peers of one run for the next.
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
        target: int = TARGET_OUTBOUND,
        weight: Callable[[bytes], float] | None = None,
        store: PeerStore | None = None,
    ) -> None:
        salt = runtime.random.randbytes(16)
        self.is_outsider: Callable[[bytes], bool] = lambda peer: False
        """Which connected peers do not count, as long as they announce nothing."""
        self.table = PeerTable(network.me, weight=weight, salt=salt)
        self.failure_detector = FailureDetector(self.table)
        self._anti_entropy = AntiEntropy(self.table, self.failure_detector)
        self._network = network
        self._streams = streams
        self._runtime = runtime
        self._key = key
        self._chain_id = chain_id
        self._items = Limiter(ITEM_RATE, TOTAL_ITEM_RATE)
        self._lists = Limiter(SYNC_RATE, TOTAL_SYNC_RATE)
        self._plumtree = Plumtree(
            network, streams, runtime.random, self._anti_entropy, self._on_frame, self._make_greeting
        )
        known: dict[bytes, tuple[str, ...]] = {}
        for peer, address in bootstrap:
            known[peer] = (*known.get(peer, ()), address)
        self._bootstrap = known
        self._connections = ConnectionManager(network.me, known, runtime.random, target)
        self._target = target
        self._store = store
        self._dialling: dict[bytes, None] = {}
        self._answering = 1.0  # share of the peers dialled for the first time lately
        self._estimated = (0.0, -math.inf)  # peers, and until when that holds
        self._probing: dict[bytes, None] = {}
        self._closing: dict[bytes, None] = {}
        self._events: Fanout[Change] = Fanout(MAX_QUEUED_CHANGES)
        self._nursery: trio.Nursery | None = None
        # What the node says about itself, and what it last said.
        self._models = tuple(models)
        self._load = PeerLoad()
        self._sent_load = (PeerLoad(), 0.0)
        self._relays: tuple[str, ...] | None = None
        self._addresses = None if addresses is None else tuple(addresses)
        self._incarnation = 0
        self._started_at = 0.0
        self._announced: Announcement | None = None
        self._announced_at = 0.0
        self._had_relays_at = 0.0
        """When there last were all the relay slots that were announced."""
        self._needs_refresh = False
        """Whether others have a reason to take this node for dead, which a new announcement ends."""
        self._refreshes = Bucket(REFRESH_BURST * REFRESH_INTERVAL_S, 0.0, REFRESH_BURST * REFRESH_INTERVAL_S)
        self._changed = trio.Event()

    def find(self, peer: bytes) -> Announcement | None:
        """The last announcement of ``peer``, if it is present, with the latest load that it told this node."""
        return self.table.find(peer)

    def has_left(self, peer: bytes) -> bool:
        """Whether ``peer`` has said goodbye, and not come back since."""
        return self.table.state(peer) is PeerState.LEFT

    def suggest(self, peers: Mapping[bytes, tuple[str, ...]]) -> None:
        """Name peers that might be of this network, to be dialled as long as too few others are known."""
        self._connections.suggest(peers)

    def members(self) -> list[bytes]:
        """The connected peers that have announced themselves, by key."""
        return [peer for peer in sorted(self._network.peers()) if self.table.find(peer) is not None]

    def events(self) -> trio.MemoryReceiveChannel[Change]:
        """Receive every change of the view from now on; a slow reader loses the oldest and reads :attr:`view`."""
        return self._events.subscribe()

    def update(
        self, *, models: Sequence[str] | None = None, load: PeerLoad | None = None, relays: Sequence[str] | None = None
    ) -> None:
        """Change what this node says of itself: models and relays to everybody, load to its neighbours, both soon."""
        if models is not None:
            self._models = tuple(models)
        if relays is not None:
            self._relays = tuple(relays[:MAX_RELAYS])
        if load is not None:
            self._load = load
        self._announce_if_changed()

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until :meth:`leave` is called, or until cancelled, which looks like a crash to the others."""
        self._incarnation = self._runtime.now()
        self._started_at = trio.current_time()
        if self._store is not None:
            stored = await self._runtime.run_sync(self._store.load)
            self._connections.remember({one.peer: get_addresses(one) for one in stored})
        with self._network.peer_changes() as changes:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._announce()
                for peer in sorted(self._network.peers()):
                    self._connections.connected(peer, trio.current_time())
                nursery.start_soon(self._plumtree.run)
                nursery.start_soon(self._announce_loop)
                nursery.start_soon(self._sync_loop)
                nursery.start_soon(self._maintenance_loop)
                nursery.start_soon(self._connection_loop, changes)
                nursery.start_soon(self._save_loop)
                task_status.started()
        self._nursery = None

    async def leave(self) -> None:
        """Say goodbye and end :meth:`run`. Takes at most LEAVE_TIMEOUT_S seconds."""
        goodbye = self._announce(leaving=True)
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
        told = sorted(self._network.peers())
        if len(told) > MAX_GOODBYES:
            told = self._runtime.random.sample(told, MAX_GOODBYES)
        frame = SyncFrame(announcements=(AgedAnnouncement(goodbye.encode(), 0),))
        with trio.move_on_after(LEAVE_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._save)
                for peer in told:
                    nursery.start_soon(run_contained, self._network, peer, self._plumtree.request, peer, frame)

    # Announcing

    def _announce(self, leaving: bool = False) -> Announcement:
        """Make an announcement, enter it in our own view and let it spread. What would not fit into it is left out."""
        first, last = self._announced is None, self._announced.sequence if self._announced is not None else 0
        # A newcomer does not know yet how large the network is, so its first word has to be good for long.
        lifetime = MAX_LIFETIME_MS if first else round(MISSED_ANNOUNCEMENTS * self._interval() * 1000)
        self._announced = sign_announcement(
            self._key,
            self._chain_id,
            Announcement(
                peer=self._network.me,
                incarnation=self._incarnation,
                sequence=max(self._runtime.now(), last + 1, self._incarnation),
                leaving=leaving,
                addresses=self._get_addresses(),
                relays=self._get_relays(),
                models=self._get_models(),
                load=self._load,
                expires_after=lifetime,
                signature=bytes(64),
            ),
        )
        self._announced_at = trio.current_time()
        self._needs_refresh = False
        self._sent_load = (self._load, self._announced_at)
        self.table.apply(self._announced, self._announced_at)
        self._plumtree.broadcast([self.table.entries[self._network.me].id])
        return self._announced

    def _get_models(self) -> tuple[str, ...]:
        return tuple(filter(is_model_name, self._models))[:MAX_MODELS]

    def _get_addresses(self) -> tuple[str, ...]:
        addresses = self._addresses
        if addresses is None:
            addresses = () if self._network.can_be_dialled() is False else self._network.listen_addresses
        return tuple(filter(is_address, addresses))[:MAX_ADDRESSES]

    def _interval(self) -> float:
        """Seconds after which an announcement is made anew."""
        return min(
            max(ANNOUNCE_INTERVAL_S, ANNOUNCE_INTERVAL_PER_PEER_S * self._estimate_size()), MAX_ANNOUNCE_INTERVAL_S
        )

    def _estimate_size(self) -> float:
        """How many others there are: those that this node has dialled and, of the rest, as many as seem to answer."""
        now = trio.current_time()
        if now >= self._estimated[1] or len(self.table) <= SMALL_NETWORK:
            heard_of = [known for known in self.table.present() if not self.table.is_verified(known.peer)]
            proven = len(self.table) - len(heard_of)
            dialable = sum(bool(get_addresses(known)) for known in heard_of)
            self._estimated = (proven + self._answering * dialable, now + ESTIMATE_INTERVAL_S)
        return self._estimated[0]

    async def _announce_loop(self) -> None:
        jitter = self._runtime.random.uniform(0.1, 1.0)  # nodes that started together drift apart
        while True:
            assert self._announced is not None
            # The interval changes as the network does, so it is looked at again before it is over, and when it is.
            with trio.move_on_at(min(self._get_due(jitter), trio.current_time() + ANNOUNCE_INTERVAL_S)):
                await self._changed.wait()
                await trio.sleep_until(self._announced_at + ANNOUNCE_SPACING_S)
            if self._changed.is_set() or trio.current_time() >= self._get_due(jitter):
                jitter = self._runtime.random.uniform(0.8, 1.0)
                self._changed = trio.Event()
                self._announce()

    def _get_due(self, jitter: float) -> float:
        """When the last announcement is made anew if nothing changes."""
        assert self._announced is not None
        return (
            self._announced_at
            + min(self._interval(), self._announced.expires_after / 1000 / MISSED_ANNOUNCEMENTS) * jitter
        )

    def _announce_if_changed(self) -> None:
        """See what of this node's own state others have to hear of."""
        said = self._announced
        if said is None or self._nursery is None:
            return
        now, relays = trio.current_time(), self._get_relays()
        if not (relays and {*relays} < {*said.relays}):
            self._had_relays_at = now
        is_waiting = 0 < now - self._had_relays_at < RELAY_LOSS_DELAY_S
        if (self._get_models(), said.relays if is_waiting else relays, self._get_addresses()) != (
            said.models,
            said.relays,
            said.addresses,
        ):
            self._changed.set()
        self._refresh_if_allowed()
        told, told_at = self._sent_load
        step = abs(self._load.utilization - told.utilization) >= LOAD_STEP_PERMILLE or (self._load.waiting > 0) != (
            told.waiting > 0
        )
        if self._load != told and now - told_at >= (ANNOUNCE_SPACING_S if step else LOAD_INTERVAL_S):
            self._sent_load = (self._load, now)
            for peer in self._plumtree.peers():
                self._plumtree.send(peer, SyncFrame(load=self._load))

    def _request_refresh(self, least_age: float) -> None:
        """Make a new announcement soon, if the last is not too young."""
        if trio.current_time() - self._announced_at >= least_age:
            self._needs_refresh = True
            self._refresh_if_allowed()

    def _refresh_if_allowed(self) -> None:
        """Make a new announcement if that is called for, but not more often than others could make us wish."""
        now = trio.current_time()
        is_due = self._needs_refresh and now - self._announced_at >= ANNOUNCE_SPACING_S
        if is_due and self._refreshes.fill(now) >= REFRESH_INTERVAL_S:
            self._refreshes.level -= REFRESH_INTERVAL_S
            self._needs_refresh = False
            self._changed.set()

    def _outbid_old_self(self, theirs: Announcement) -> None:
        """Outdo an announcement in our name that is not our latest: an earlier life's, when our clock went back."""
        assert self._announced is not None
        if theirs.order > self._announced.order:
            logger.warning("an announcement in this node's name is newer than its own: is its key in use elsewhere?")
            self._incarnation = theirs.incarnation + 1
            self._changed.set()

    # Learning

    def _make_greeting(self, peer: bytes) -> SyncFrame:
        """The first frame to a neighbour."""
        return SyncFrame(root=self._anti_entropy.root, load=self._load, keep_open=True, refresh=self._is_lost(peer))

    def _is_lost(self, peer: bytes) -> bool:
        return self.table.state(peer) in (PeerState.CRASHED, PeerState.EXPIRED)

    async def _on_frame(self, peer: bytes, frame: SyncFrame) -> SyncFrame | None:
        """Take in a neighbour's frame and return what to answer.

        Raises:
            CodecError: something in it is not what its author signed, so whoever passed it on is at fault.
        """
        corrections: list[bytes] = []
        known, accused = self._filter_items(peer, frame, corrections)
        checks: list[Callable[[], object]] = []
        checks += [partial(decode_announcement, one.announcement, self._chain_id) for one in known]
        checks += [partial(decode_suspect_message, raw, self._chain_id) for raw in accused]
        for start in range(0, len(checks), VERIFICATION_BATCH):
            batch = checks[start : start + VERIFICATION_BATCH]
            if len(checks) <= INLINE_VERIFICATIONS:
                _call_all(batch)
            else:
                await self._runtime.run_sync(_call_all, batch)
        now = trio.current_time()
        for one in known:
            announcement = parse_announcement(one.announcement)
            least = announcement.get_least_age(self._runtime.now())  # whoever passes it on says what it likes
            corrections.append(self._on_announcement(announcement, max(one.age / 1000, least), peer))
        for raw in accused:
            self._on_suspect(parse_suspect_message(raw), peer)
        if frame.load is not None:
            self.table.set_load(peer, frame.load)
        if frame.closing:
            self._closing[peer] = None
        if frame.refresh:
            self._request_refresh(REFRESH_MIN_AGE_S)
        if self._anti_entropy.is_costly(frame) and not self._lists.admit(peer, 0, now):
            frame = replace(frame, root=b"", buckets=b"", bucket_numbers=b"", bucket_count=0)
        answer = self._anti_entropy.answer(peer, frame, now)
        if any(corrections) or frame.keep_open:
            base = answer or SyncFrame()
            have = b"".join((base.have, *corrections))[:MAX_ITEM_IDS_BYTES]
            greeting = self._make_greeting(peer) if frame.keep_open else SyncFrame()
            answer = replace(base, have=have, load=greeting.load, refresh=greeting.refresh)
        return answer

    def _filter_items(
        self, peer: bytes, frame: SyncFrame, corrections: list[bytes]
    ) -> tuple[list[AgedAnnouncement], list[bytes]]:
        """What of ``frame`` is worth checking its signature: within the rate, new, and what would make a difference.

        Where the sender is behind, what stands here is added to ``corrections``.

        Raises:
            CodecError: malformed.
        """
        known = [one for one in frame.announcements if get_item_id(one.announcement) not in self.table.by_id]
        accused = [raw for raw in frame.suspects if not self.failure_detector.knows(get_item_id(raw))]
        count, now = len(known) + len(accused), trio.current_time()
        if not count or not self._items.admit(peer, 0, now, count):
            return [], []
        news = []
        for one in known:
            announcement = parse_announcement(one.announcement)
            if not announcement.is_timely(self._runtime.now()):
                behind = (self._runtime.now() - announcement.sequence) / 1000
                name = format_address(announcement.peer)
                logger.info("announcement of %s refused: it is %.0f s behind this node's clock", name, behind)
            elif self.table.is_news(announcement):
                news.append(one)
            elif announcement.peer != self._network.me:
                corrections.append(self._anti_entropy.correct(announcement))
        heard = []
        for raw in accused:
            if self.failure_detector.counts(parse_suspect_message(raw), now):
                heard.append(raw)
            else:
                self.failure_detector.ignore(parse_suspect_message(raw))
        return news, heard

    def _on_announcement(self, announcement: Announcement, age: float, source: bytes) -> bytes:
        """Take in an announcement. Returns the short name of a newer one, where its sender is behind."""
        subject = announcement.peer
        if subject == self._network.me:
            self._outbid_old_self(announcement)
            return b""
        now = trio.current_time()
        before = self.table.entries.get(subject)
        held, life = (None, 0) if before is None else (before.id, before.announcement.incarnation)
        was_dead = before is not None and before.state is PeerState.CRASHED
        change = self.table.apply(announcement, now, age)
        entry = self.table.entries.get(subject)
        if entry is None:
            return b""
        if entry.id == held:
            return self._anti_entropy.correct(announcement)
        if subject in self._network.peers():
            self._mark_alive(subject)
        if entry.state is not PeerState.CRASHED:
            self.failure_detector.clear(
                subject, now, refuted=announcement.incarnation == life and not announcement.leaving
            )
            self._plumtree.broadcast([entry.id], source)
        if change is not None:
            self._emit(change)
            if was_dead or announcement.incarnation > life:
                self._connections.reset_backoff(subject)
            if was_dead and self._is_drawn():
                self._start_probe(subject, PROBE_DELAY_S)  # its last word may have been on the way when it died
        return b""

    def _on_suspect(self, message: SuspectMessage, source: bytes) -> None:
        """Take in an message, pass it on, and find out for oneself if it falls to this node."""
        suspect, now = message.suspect, trio.current_time()
        if suspect == self._network.me:
            if self.failure_detector.counts(message, now):  # or else others do not hear it either
                self.failure_detector.note_refuted(message.observer, suspect, now)
                self._request_refresh(0.0)
        elif self.failure_detector.on_suspect_message(message, now):
            # Once there are enough of them they go together, so that nobody is left with too few.
            is_failing = self.failure_detector.is_failing(suspect)
            items = self.failure_detector.get_item_ids(suspect) if is_failing else [get_item_id(message.encode())]
            self._plumtree.broadcast(items, source, [suspect])

    def _is_drawn(self) -> bool:
        """Whether this node is among the few that find out what all want to know."""
        return self._runtime.random.random() * self._estimate_size() < PROBERS

    def _emit(self, change: Change) -> None:
        if logger.isEnabledFor(logging.DEBUG):  # base58 is slow
            logger.debug("%s %s", format_address(change.peer), change.kind.value)
        self._events.publish(change)

    async def _sync_loop(self) -> None:
        while True:
            await trio.sleep(SYNC_INTERVAL_S * self._runtime.random.uniform(0.5, 1.5))
            peers = self._plumtree.peers()
            if peers:
                frame = SyncFrame(root=self._anti_entropy.root)
                self._plumtree.send(self._runtime.random.choice(peers), frame)

    # Connections

    async def _maintenance_loop(self) -> None:
        assert self._nursery is not None
        while True:
            now, connected = trio.current_time(), self._network.peers()
            for change in (*self.failure_detector.expire(now, connected), *self.table.expire(now)):
                self._emit(change)
            self._announce_if_changed()
            to_probe = []
            for peer in self.table.suspects():
                if peer in connected:
                    self._mark_alive(peer)
                elif not self.failure_detector.is_failing(peer) and not self._is_isolated():
                    to_probe.append(peer)
            for peer, chance in self.failure_detector.get_probe_chances(now, self._estimate_size()):
                if peer not in connected and self._runtime.random.random() < chance:
                    to_probe.append(peer)
            # There may be more than there is time for, most of them invented.
            self._runtime.random.shuffle(to_probe)
            for peer in sorted(to_probe, key=lambda peer: not self.table.is_verified(peer)):
                self._start_probe(peer)
            reachable = self._announced is not None and bool(self._announced.addresses)
            network = self._network
            actions = self._connections.choose(
                self.table,
                connected,
                self._dialling,
                network.is_relayed,
                reachable,
                now,
                self._get_outbound_peers(),
                network.get_remote_host,
            )
            for action in actions:
                if isinstance(action, Dial):
                    self._dialling[action.peer] = None
                    self._begin(action.peer, self._dial, action.peer, action.addresses, action.is_probe)
                else:
                    self._begin(action.peer, self._reserve, action.peer)
            await trio.sleep(MAINTENANCE_INTERVAL_S * self._runtime.random.uniform(0.8, 1.2))

    def _get_outbound_peers(self) -> list[bytes]:
        """The peers of the network to which this node has made the connection, by key."""
        return [
            peer
            for peer in sorted(self._network.peers())
            if self._network.is_outbound(peer) and not (self.is_outsider(peer) and self.table.find(peer) is None)
        ]

    def _begin(self, peer: bytes, task: Callable[[*Ts], Awaitable[object]], *arguments: *Ts) -> None:
        """Start a task about one peer, which cannot end this node whatever that peer sends."""
        assert self._nursery is not None
        self._nursery.start_soon(run_contained, self._network, peer, task, *arguments)

    async def _dial(self, peer: bytes, addresses: tuple[str, ...], is_probe: bool) -> None:
        try:
            was_relayed, is_hearsay = self._network.is_relayed(peer), not self.table.is_verified(peer)
            before = self._network.peers()
            connected = await self._connect(peer, addresses)
            if is_hearsay:
                self._answering += (connected - self._answering) / ANSWER_SAMPLES
            if not connected or (was_relayed and self._network.is_relayed(peer)):
                self._connections.failed(peer, trio.current_time())
                if not connected and self.table.mark_suspect(peer):
                    self._start_probe(peer)  # what failed once is tried once more before it is held against anyone
        finally:
            del self._dialling[peer]
        if is_probe:
            await self._close_probe(peer, addresses, before)

    async def _close_probe(self, peer: bytes, addresses: Sequence[str], before: Collection[bytes]) -> None:
        """After a while, close the connections that were made to see whether a peer lives: to it, or to its relays.

        ``before`` are the peers that were connected anyway.
        """
        made = [one for one in (peer, *sorted(get_relays(addresses))) if one not in before]
        if not self._network.peers().isdisjoint(made):
            await trio.sleep(PROBE_HOLD_S)
            for one in made:
                await self._close_surplus(one)

    async def _reserve(self, relay: bytes) -> None:
        """Ask for a relay slot, or renew it; others learn of it with the next look at what has changed."""
        if self._relays is None and self._find_relay_address(relay) is None:  # nobody could be told of the slot
            self._connections.refused(relay, trio.current_time())
            return
        try:
            with trio.fail_after(DIAL_TIMEOUT_S):
                seconds = await self._network.reserve(relay)
            self._connections.reserved(relay, seconds, trio.current_time())
        except (NetworkError, trio.TooSlowError) as error:
            logger.debug("no relay slot at %s: %s", format_address(relay), error)
            if relay in self._network.peers():  # else it is asked again when it is back
                self._connections.refused(relay, trio.current_time())

    def _get_relays(self) -> tuple[str, ...]:
        """Where this node can be reached through others: as :meth:`update` was told, or where it has a slot."""
        if self._relays is not None:
            return tuple(filter(is_address, self._relays))[:MAX_RELAYS]
        found = (self._find_relay_address(peer) for peer in self._connections.slots(trio.current_time()))
        return tuple(address for address in found if address is not None)[:MAX_RELAYS]

    def _find_relay_address(self, relay: bytes) -> str | None:
        """Where others can dial ``relay``: where this node has, or if that means something here only, as it says."""
        known = self.table.find(relay)
        addresses = known.addresses if known is not None else self._bootstrap.get(relay, ())
        dialled = self._network.get_dialled_address(relay)
        if dialled is not None:
            addresses = (dialled, *addresses)
        usable = [address for address in addresses if is_address(f"{address}/p2p/{format_address(relay)}")]
        usable.sort(key=is_local_address)
        return f"{usable[0]}/p2p/{format_address(relay)}" if usable else None

    async def _close_surplus(self, peer: bytes) -> None:
        """Close a connection that was only made to see whether a peer lives, unless it is of use."""
        own = self._get_outbound_peers()
        if peer not in own or len(own) <= self._target or self._streams.is_used(peer, besides=PROTOCOL):
            return
        if peer in self._connections.slots(trio.current_time()) or self._carries_circuits(peer):
            return
        self._closing[peer] = None
        with trio.move_on_after(LEAVE_TIMEOUT_S):
            await self._plumtree.request(peer, SyncFrame(closing=True))
        await self._network.disconnect(peer)

    def _carries_circuits(self, relay: bytes) -> bool:
        """Whether a connection to another peer may run through ``relay``."""
        behind = [peer for peer in self._network.peers() if self._network.is_relayed(peer)]
        return any(relay in get_relays(get_addresses(self.table.find(peer))) for peer in behind)

    async def _connect(self, peer: bytes, addresses: Sequence[str], timeout: float = DIAL_TIMEOUT_S) -> bool:
        with suppress(NetworkError), trio.move_on_after(timeout):
            await self._network.connect(peer, addresses)
        return peer in self._network.peers()

    async def _connection_loop(self, changes: trio.MemoryReceiveChannel[tuple[bytes, bool]]) -> None:
        async for peer, connected in changes:
            if connected:
                self._connections.connected(peer, trio.current_time())
                self._closing.pop(peer, None)
                self._mark_alive(peer)
                self._plumtree.connected(peer)
                if len(self._network.peers()) == 1:
                    self._request_refresh(REFRESH_MIN_AGE_S)  # the others may have given this node up
            else:
                self._connections.disconnected(peer, trio.current_time())
                if peer in self._closing:
                    del self._closing[peer]
                elif self.table.mark_suspect(peer):
                    self._start_probe(peer)

    async def _save_loop(self) -> None:
        while self._store is not None:
            await trio.sleep(SAVE_INTERVAL_S)
            await self._save()

    async def _save(self) -> None:
        """Write down who is there and can be found again."""
        if self._store is not None:
            now = self._runtime.now()
            seen = [
                StoredPeer(known.peer, known.addresses, known.relays, now, int(self.table.was_dialled(known.peer)))
                for known in self.table.present()
                if known.addresses or known.relays
            ]
            await self._runtime.run_sync(self._store.save, seen, now)

    # Who is alive

    def _mark_alive(self, peer: bytes) -> None:
        """Note that a peer is connected; it is proven only if that was this node's doing."""
        self.table.mark_alive(peer, self._network.is_outbound(peer))

    def _is_isolated(self) -> bool:
        """Whether it is more likely this node that is cut off than all the others."""
        return not self._network.peers() and len(self.table) > 1

    def _start_probe(self, peer: bytes, delay: float = 0.0) -> None:
        if self._nursery is not None and peer not in self._probing and len(self._probing) < MAX_PROBES:
            self._probing[peer] = None
            self._begin(peer, self._probe, peer, delay)

    async def _probe(self, peer: bytes, delay: float) -> None:
        """Find out whether a peer is still there, and say so if it is not."""
        try:
            await trio.sleep(delay or (PROBE_HEAD_START_S if peer < self._network.me else 0.0))
            known = self.table.find(peer)
            if known is None or self.failure_detector.is_failing(peer):
                return
            addresses = get_addresses(known)
            if peer not in self._network.peers() and not addresses:
                await trio.sleep(RETURN_DELAY_S)
            before = self._network.peers()
            answers = peer in before or await self._connect(peer, addresses, PROBE_TIMEOUT_S)
            self._begin(peer, self._close_probe, peer, addresses, before)
            if answers:
                self._mark_alive(peer)
                self.failure_detector.probe_succeeded(peer, trio.current_time())
            elif not self._is_isolated():
                # The word of a newcomer does not count with everybody, so it lets others speak first.
                is_new = trio.current_time() - self._started_at < OBSERVER_MIN_AGE_S
                await trio.sleep(
                    SUSPECT_DELAY_PER_NEIGHBOUR_S
                    * len(self._network.peers())
                    * (self._runtime.random.random() + is_new)
                )
                self._suspect(peer, known)
        finally:
            del self._probing[peer]

    def _suspect(self, peer: bytes, known: Announcement) -> None:
        """Hold a failed probe against ``peer``, unless it has been heard of since."""
        entry, now = self.table.entries.get(peer), trio.current_time()
        if entry is None or not entry.state.is_present or entry.announcement.order != known.order:
            return
        can_be_probed = bool(get_addresses(known))
        if self.failure_detector.needs_confirmations(peer):
            message = sign_suspect_message(self._key, self._chain_id, entry.announcement)
            if self.failure_detector.on_suspect_message(message, now):
                self._plumtree.broadcast([get_item_id(message.encode())])
        if can_be_probed:
            self.failure_detector.probe_failed(peer, now)


def _call_all(checks: Iterable[Callable[[], object]]) -> None:
    for check in checks:
        check()
