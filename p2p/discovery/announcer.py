"""What a node says about itself: when it announces itself anew, and to whom it tells its load.

A change of models, addresses or relays is announced soon. Without changes the announcement is renewed at an interval
that grows with the network, so that the renewals of all nodes together stay at one in
:data:`ANNOUNCE_INTERVAL_PER_PEER_S`. A change of load is told to the neighbours alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from chain.crypto import KeyPair
from p2p.coarse_clock import CoarseClock
from p2p.discovery.connector import Connector
from p2p.discovery.plumtree import Plumtree
from p2p.discovery.size_estimate import SizeEstimate
from p2p.limits.rate_limit import Bucket
from p2p.network import Network
from p2p.peers.announcement import (
    MAX_AHEAD_MS,
    MAX_ANNOUNCED_ADDRESSES,
    MAX_ANNOUNCED_MODELS,
    MAX_LIFETIME_MS,
    Announcement,
    PeerLoad,
    is_address,
    is_model_name,
    sign_announcement,
)
from p2p.peers.anti_entropy import SyncFrame
from p2p.peers.table import PeerTable
from p2p.runtime import Runtime

logger = logging.getLogger(__name__)

ANNOUNCE_INTERVAL_S = 10.0
"""Seconds between announcements when nothing changes, in a network of a few nodes."""
ANNOUNCE_INTERVAL_PER_PEER_S = 5.0
"""Seconds per peer between announcements in a larger network."""
MISSED_ANNOUNCEMENTS = 3.5
"""Intervals without an announcement after which a peer expires."""
MAX_ANNOUNCE_INTERVAL_S = MAX_LIFETIME_MS / 1000 / MISSED_ANNOUNCEMENTS
"""Most seconds between announcements."""
ANNOUNCE_SPACING_S = 1.0
"""Least seconds between announcements when something changes."""
RELAY_LOSS_DELAY_S = 5.0
"""Seconds for which the loss of a reservation is not announced while another is left: a new one may replace it."""
REFRESH_MIN_AGE_S = 5.0
"""Least age of an announcement that is renewed because a peer asks for it."""
REFRESH_INTERVAL_S = ANNOUNCE_INTERVAL_S
"""Seconds between announcements that are renewed because peers ask for them, or suspect this node."""
REFRESH_BURST = 5
"""Announcements that may be renewed for peers in a row, without that interval."""
INCARNATION_SPREAD_MS = 1000
"""Range of the random addition to the coarse time of an incarnation: so independent runs do not share one."""
LOAD_INTERVAL_S = 5.0
"""Seconds after which neighbours are told of any change of load."""


class Announcer:
    """Announces one node."""

    def __init__(
        self,
        network: Network,
        runtime: Runtime,
        clock: CoarseClock,
        key: KeyPair,
        chain_id: bytes,
        table: PeerTable,
        plumtree: Plumtree,
        connector: Connector,
        size: SizeEstimate,
        models: Sequence[str],
    ) -> None:
        self._network = network
        self._runtime = runtime
        self._clock = clock
        self._key = key
        self._chain_id = chain_id
        self._table = table
        self._plumtree = plumtree
        self._connector = connector
        self._size = size
        self._models = tuple(models)
        self.load = PeerLoad()
        """What the node said last of its load, to itself."""
        self._sent_load = (PeerLoad(), 0.0)
        self.announced: Announcement | None = None
        """The latest announcement."""
        self._announced_at = 0.0
        self.incarnation = 0
        """That of this run."""
        self._had_relays_at = 0.0
        """When all announced reservations were last there."""
        self._needs_refresh = False
        """Whether others may take this node for dead, which a new announcement ends."""
        self._refreshes = Bucket(REFRESH_BURST * REFRESH_INTERVAL_S, 0.0, REFRESH_BURST * REFRESH_INTERVAL_S)
        self._changed = trio.Event()

    def start(self, last_incarnation: int) -> None:
        """Begin a new incarnation, later than that of the last run, with a first announcement."""
        now = self._clock.now()
        is_plausible = last_incarnation < now + MAX_AHEAD_MS  # else others would refuse all that follows it
        first = now + self._runtime.random.randrange(INCARNATION_SPREAD_MS)
        self.incarnation = max(first, last_incarnation + 1 if is_plausible else 0)
        self.announce()

    def update(self, models: Sequence[str] | None = None, load: PeerLoad | None = None) -> None:
        """Change what the node says of itself."""
        if models is not None:
            self._models = tuple(models)
        if load is not None:
            self.load = load
        self.announce_if_changed()

    def announce(self, leaving: bool = False) -> Announcement:
        """Sign an announcement, put it into the table and broadcast it. What exceeds its bounds is left out."""
        first, last = self.announced is None, self.announced.sequence if self.announced is not None else 0
        # The first announcement lives long: a newcomer does not know the size of the network yet.
        lifetime = MAX_LIFETIME_MS if first else round(MISSED_ANNOUNCEMENTS * self.get_interval() * 1000)
        self.announced = sign_announcement(
            self._key,
            self._chain_id,
            Announcement(
                peer=self._network.me,
                incarnation=self.incarnation,
                sequence=max(self._clock.now(), last + 1, self.incarnation),
                leaving=leaving,
                addresses=self._get_addresses(),
                relays=self._connector.get_relay_addresses(),
                models=self._get_models(),
                load=self.load,
                expires_after=lifetime,
                signature=bytes(64),
            ),
        )
        self._announced_at = trio.current_time()
        self._needs_refresh = False
        self._sent_load = (self.load, self._announced_at)
        self._table.apply(self.announced, self._announced_at)
        self._plumtree.broadcast([self._table.entries[self._network.me].id])
        return self.announced

    async def run(self) -> None:
        """Renew the announcement until cancelled."""
        jitter = self._runtime.random.uniform(0.1, 1.0)  # nodes that started together drift apart
        while True:
            # The interval changes as the network does, so it is looked at again before it is over, and when it is.
            with trio.move_on_at(min(self._get_due(jitter), trio.current_time() + ANNOUNCE_INTERVAL_S)):
                await self._changed.wait()
                await trio.sleep_until(self._announced_at + ANNOUNCE_SPACING_S)
            if self._changed.is_set() or trio.current_time() >= self._get_due(jitter):
                jitter = self._runtime.random.uniform(0.8, 1.0)
                self._changed = trio.Event()
                self.announce()

    def announce_if_changed(self) -> None:
        """Compare what the node would say now with what it said last; announce or tell the difference soon."""
        said = self.announced
        if said is None:
            return
        now, relays = trio.current_time(), self._connector.get_relay_addresses()
        if not (relays and {*relays} < {*said.relays}):
            self._had_relays_at = now
        if 0 < now - self._had_relays_at < RELAY_LOSS_DELAY_S:
            relays = said.relays
        if (self._get_models(), relays, self._get_addresses()) != (said.models, said.relays, said.addresses):
            self._changed.set()
        self._refresh_if_allowed()
        sent, sent_at = self._sent_load
        interval = ANNOUNCE_SPACING_S if self.load.is_far_from(sent) else LOAD_INTERVAL_S
        if self.load != sent and now - sent_at >= interval:
            self._sent_load = (self.load, now)
            self._plumtree.send_to_all(SyncFrame(load=self.load))

    def request_refresh(self, min_age: float) -> None:
        """Make a new announcement soon if the last is at least ``min_age`` seconds old."""
        if trio.current_time() - self._announced_at >= min_age:
            self._needs_refresh = True
            self._refresh_if_allowed()

    def outbid_old_self(self, theirs: Announcement) -> None:
        """Supersede an announcement of this node that is newer than its latest.

        It is from before the clock was set back, or of an earlier run, which this one does not know of.
        """
        if self.announced is not None and theirs.order > self.announced.order:
            logger.warning("an announcement in this node's name is newer than its own: is its key in use elsewhere?")
            self.incarnation = theirs.incarnation + 1
            self._changed.set()

    def get_interval(self) -> float:
        """Seconds after which an unchanged announcement is renewed."""
        interval = ANNOUNCE_INTERVAL_PER_PEER_S * self._size.get(trio.current_time())
        return min(max(ANNOUNCE_INTERVAL_S, interval), MAX_ANNOUNCE_INTERVAL_S)

    def _get_due(self, jitter: float) -> float:
        """When the last announcement is renewed if nothing changes."""
        assert self.announced is not None
        lifetime = self.announced.expires_after / 1000
        return self._announced_at + min(self.get_interval(), lifetime / MISSED_ANNOUNCEMENTS) * jitter

    def _refresh_if_allowed(self) -> None:
        """Announce anew if that is called for, but not more often than :data:`REFRESH_INTERVAL_S` allows."""
        now = trio.current_time()
        is_due = self._needs_refresh and now - self._announced_at >= ANNOUNCE_SPACING_S
        if is_due and self._refreshes.fill(now) >= REFRESH_INTERVAL_S:
            self._refreshes.level -= REFRESH_INTERVAL_S
            self._needs_refresh = False
            self._changed.set()

    def _get_models(self) -> tuple[str, ...]:
        return tuple(filter(is_model_name, self._models))[:MAX_ANNOUNCED_MODELS]

    def _get_addresses(self) -> tuple[str, ...]:
        addresses = () if self._network.can_be_dialled() is False else self._network.listen_addresses
        return tuple(filter(is_address, addresses))[:MAX_ANNOUNCED_ADDRESSES]
