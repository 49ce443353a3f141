"""What a node does with the frames of its neighbours: check, take in, pass on, answer.

Frames come from :mod:`p2p.discovery.plumtree`. What they bring goes into the peer table and the failure detector; the
answer comes from :mod:`p2p.peers.anti_entropy`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import trio

from chain.crypto import format_address
from p2p.coarse_clock import CoarseClock
from p2p.discovery.announcer import REFRESH_MIN_AGE_S, Announcer
from p2p.discovery.connector import Connector
from p2p.discovery.plumtree import Plumtree
from p2p.discovery.prober import Prober
from p2p.limits.rate_limit import Limiter, Rate
from p2p.network import Network
from p2p.peers.announcement import Announcement, decode_announcement, get_item_id, parse_announcement
from p2p.peers.anti_entropy import MAX_ITEM_IDS_BYTES, AntiEntropy, SyncFrame
from p2p.peers.failure_detector import PROBE_DELAY_S, FailureDetector
from p2p.peers.suspect_message import SuspectMessage, decode_suspect_message, parse_suspect_message
from p2p.peers.table import Change, PeerState, PeerTable
from p2p.runtime import Runtime

logger = logging.getLogger(__name__)

ITEM_RATE = Rate(items=200, size=math.inf, burst=10.0)
"""Items a second that are looked at, of each neighbour."""
TOTAL_ITEM_RATE = Rate(items=400, size=math.inf, burst=10.0)
"""Items a second that are looked at, of all neighbours."""
SYNC_RATE = Rate(items=2, size=math.inf, burst=10.0)
"""Frames a second that are answered with a walk through the table, of each neighbour."""
TOTAL_SYNC_RATE = Rate(items=20, size=math.inf, burst=10.0)
"""Frames a second that are answered with a walk through the table, of all neighbours."""
VERIFICATION_BATCH = 64
"""Signatures that are checked in one go in a thread."""
INLINE_VERIFICATIONS = 4
"""Signatures that are checked without a thread."""
UNTIMELY_REPORT_INTERVAL_S = 60.0
"""Least seconds between two lines in the log about announcements whose times do not fit this node's clock."""


@dataclass(frozen=True, slots=True)
class _ReceivedAnnouncement:
    """An announcement in a frame that would change the table if it is signed."""

    encoded: bytes
    announcement: Announcement
    age_s: float


@dataclass(frozen=True, slots=True)
class _ReceivedSuspect:
    """A suspect message in a frame that counts if it is signed."""

    encoded: bytes
    message: SuspectMessage


class _UntimelyReport:
    """Counts announcements whose times do not fit this node's clock, which may be wrong, and says so now and then."""

    def __init__(self) -> None:
        self._count = 0
        self._due = 0.0

    def note(self, announcements: list[Announcement], wall_time: int, now: float) -> None:
        """Count these."""
        self._count += len(announcements)
        if announcements and now >= self._due:
            last = announcements[-1]
            behind = (wall_time - last.sequence) / 1000
            text = "%d announcements were untimely; the last, in the name of %s, is %.0f s behind this node's clock"
            logger.info(text, self._count, format_address(last.peer), behind)
            self._count, self._due = 0, now + UNTIMELY_REPORT_INTERVAL_S


class SyncHandler:
    """Takes in the frames for one node. ``emit`` is called with every change of the table."""

    def __init__(
        self,
        network: Network,
        runtime: Runtime,
        clock: CoarseClock,
        chain_id: bytes,
        table: PeerTable,
        failure_detector: FailureDetector,
        anti_entropy: AntiEntropy,
        plumtree: Plumtree,
        announcer: Announcer,
        connector: Connector,
        prober: Prober,
        emit: Callable[[Change], None],
    ) -> None:
        self._network = network
        self._runtime = runtime
        self._clock = clock
        self._chain_id = chain_id
        self._table = table
        self._failure_detector = failure_detector
        self._anti_entropy = anti_entropy
        self._plumtree = plumtree
        self._announcer = announcer
        self._connector = connector
        self._prober = prober
        self._emit = emit
        self._items = Limiter(ITEM_RATE, TOTAL_ITEM_RATE)
        self._syncs = Limiter(SYNC_RATE, TOTAL_SYNC_RATE)
        self._untimely = _UntimelyReport()

    def make_greeting(self, peer: bytes) -> SyncFrame:
        """The first frame of a session with ``peer``."""
        is_lost = self._table.state(peer) in (PeerState.CRASHED, PeerState.EXPIRED)
        return SyncFrame(root=self._anti_entropy.root, load=self._announcer.load, keep_open=True, refresh=is_lost)

    async def on_frame(self, peer: bytes, frame: SyncFrame) -> SyncFrame | None:
        """Take in a neighbour's frame and return the answer, if any.

        Raises:
            CodecError: an item is malformed or not signed by its author, so ``peer`` passed it on unchecked.
        """
        corrections: list[bytes] = []
        announcements, suspects = self._filter_items(peer, frame, corrections)
        await self._verify(announcements, suspects)
        now = trio.current_time()
        for received in announcements:
            corrections.append(self._on_announcement(received.announcement, received.age_s, peer))
        for suspect in suspects:
            self._on_suspect(suspect.message, peer)
        if frame.load is not None:
            self._table.set_load(peer, frame.load)
        if frame.closing:
            self._connector.on_closing(peer)
        if frame.refresh:
            self._announcer.request_refresh(REFRESH_MIN_AGE_S)
        if self._anti_entropy.is_costly(frame) and not self._syncs.admit(peer, 0, now):
            frame = replace(frame, root=b"", buckets=b"", bucket_numbers=b"", bucket_count=0)
        answer = self._anti_entropy.answer(peer, frame, now)
        if any(corrections) or frame.keep_open:
            base = answer or SyncFrame()
            have = b"".join((base.have, *corrections))[:MAX_ITEM_IDS_BYTES]
            greeting = self.make_greeting(peer) if frame.keep_open else SyncFrame()
            answer = replace(base, have=have, load=greeting.load, refresh=greeting.refresh)
        return answer

    def _filter_items(
        self, peer: bytes, frame: SyncFrame, corrections: list[bytes]
    ) -> tuple[list[_ReceivedAnnouncement], list[_ReceivedSuspect]]:
        """The items of ``frame`` whose signatures are worth checking: within the rate, new, and of consequence.

        Where the sender's announcement is outdated, the id of this node's is added to ``corrections``.

        Raises:
            CodecError: malformed, or untimely and forged.
        """
        aged = [one for one in frame.announcements if get_item_id(one.announcement) not in self._table.by_id]
        encoded = [raw for raw in frame.suspects if not self._failure_detector.knows(get_item_id(raw))]
        count, now = len(aged) + len(encoded), trio.current_time()
        if not count or not self._items.admit(peer, 0, now, count):
            return [], []
        wall_time = self._clock.now()
        announcements = []
        untimely: list[Announcement] = []
        for one in aged:
            announcement = parse_announcement(one.announcement)
            if not announcement.is_timely(wall_time):
                untimely.append(announcement)
            elif self._table.is_news(announcement):
                # The sender chooses the age; the clock bounds it from below.
                age = max(one.age / 1000, announcement.get_least_age(wall_time))
                announcements.append(_ReceivedAnnouncement(one.announcement, announcement, age))
            elif announcement.peer != self._network.me:
                corrections.append(self._anti_entropy.correct(announcement))
        suspects = []
        for raw in encoded:
            message = parse_suspect_message(raw)
            if self._failure_detector.counts(message, now):
                suspects.append(_ReceivedSuspect(raw, message))
            else:
                self._failure_detector.ignore(message)
        if untimely:  # one of them tells whether the peer makes them up
            decode_announcement(untimely[0].encode(), self._chain_id)
            self._untimely.note(untimely, wall_time, now)
        return announcements, suspects

    async def _verify(self, announcements: list[_ReceivedAnnouncement], suspects: list[_ReceivedSuspect]) -> None:
        """Check the signatures of these items, in threads where they are many.

        Raises:
            CodecError: one does not hold.
        """
        checks: list[Callable[[], object]] = []
        checks += [partial(decode_announcement, one.encoded, self._chain_id) for one in announcements]
        checks += [partial(decode_suspect_message, one.encoded, self._chain_id) for one in suspects]
        for start in range(0, len(checks), VERIFICATION_BATCH):
            batch = checks[start : start + VERIFICATION_BATCH]
            if len(checks) <= INLINE_VERIFICATIONS:
                _call_all(batch)
            else:
                await self._runtime.run_sync(_call_all, batch)

    def _on_announcement(self, announcement: Announcement, age: float, source: bytes) -> bytes:
        """Take in an announcement and pass it on. Returns the id of a newer one that ``source`` lacks, or nothing."""
        subject = announcement.peer
        if subject == self._network.me:
            self._announcer.outbid_old_self(announcement)
            return b""
        now = trio.current_time()
        before = self._table.entries.get(subject)
        held, incarnation = (None, 0) if before is None else (before.id, before.announcement.incarnation)
        was_dead = before is not None and before.state is PeerState.CRASHED
        change = self._table.apply(announcement, now, age)
        entry = self._table.entries.get(subject)
        if entry is None:
            return b""
        if entry.id == held:
            return self._anti_entropy.correct(announcement)
        if subject in self._network.peers():
            self._connector.mark_alive(subject)
        if entry.state is not PeerState.CRASHED:
            is_refutation = announcement.incarnation == incarnation and not announcement.leaving
            self._failure_detector.clear(subject, now, refuted=is_refutation)
            self._plumtree.broadcast([entry.id], source)
        if change is not None:
            self._emit(change)
            if was_dead or announcement.incarnation > incarnation:
                self._connector.manager.scheduler.reset_backoff(subject)
            if was_dead and self._prober.is_drawn():
                self._prober.start(subject, PROBE_DELAY_S)  # it may have died since it sent the announcement
        return b""

    def _on_suspect(self, message: SuspectMessage, source: bytes) -> None:
        """Take in a suspect message and pass it on; refute one about this node."""
        suspect, now = message.suspect, trio.current_time()
        if suspect == self._network.me:
            if self._failure_detector.counts(message, now):  # it counts with others, too
                self._failure_detector.note_refuted(message.observer, suspect, now)
                self._announcer.request_refresh(0.0)
        elif self._failure_detector.on_suspect_message(message, now):
            # Messages that suffice together are sent together, so that no node is left with too few.
            is_failing = self._failure_detector.is_failing(suspect)
            items = self._failure_detector.get_item_ids(suspect) if is_failing else [get_item_id(message.encode())]
            self._plumtree.broadcast(items, source, [suspect])


def _call_all(checks: Iterable[Callable[[], object]]) -> None:
    for check in checks:
        check()
