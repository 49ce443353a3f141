"""The view that a node has of all others: who is there, who left, who must not come back. No I/O, no clock.

The view is fed with announcements (whose signatures the caller has checked) and with what happens to connections, and
answers with :class:`Change` records. Of two announcements of a peer the greater ``order`` stands, so views that have
seen the same announcements agree, in whatever order and however often they saw them.

A departed peer leaves a *tombstone*, which remembers its last announcement:

    left       it said goodbye: only a later incarnation brings it back
    crashed    it was found dead: only an announcement made since then brings it back
    expired    nothing was heard for the lifetime of its announcement: any later announcement brings it back

Tombstones outlast every announcement that could still be accepted, so a dead peer does not return as a ghost. An
announcement that is passed on carries its *age*, so that it does not grow young on the way.

All times are seconds of one monotonic clock.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from chain.codec import Bounds, Record
from chain.exceptions import CodecError
from p2p.announcements import ACCEPTANCE, MAX_ANNOUNCEMENT, MAX_LIFETIME, Announcement

MAX_PEERS = 4096
"""Peers in a view, tombstones included."""
MAX_DIGEST = 49 * 2 * MAX_PEERS
"""Longest digest accepted, in bytes."""
TOMBSTONE = ACCEPTANCE
"""Seconds that a departure is remembered."""

_DIGEST = struct.Struct(">32sQ?Q")


class PeerState(Enum):
    ONLINE = "online"
    SUSPECT = "suspect"
    """The connection to it was lost; it counts as present until it is found dead."""
    LEFT = "left"
    CRASHED = "crashed"
    EXPIRED = "expired"

    @property
    def is_present(self) -> bool:
        return self in (PeerState.ONLINE, PeerState.SUSPECT)


class ChangeKind(Enum):
    JOINED = "joined"
    UPDATED = "updated"
    LEFT = "left"
    CRASHED = "crashed"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happened to a peer; ``announcement`` is the last that is known of it."""

    kind: ChangeKind
    announcement: Announcement

    @property
    def peer(self) -> bytes:
        return self.announcement.peer


@dataclass(frozen=True, slots=True)
class Sighting(Record):
    """An announcement (encoded) that is passed on, and how long ago it was made, in ms."""

    announcement: Annotated[bytes, Bounds(1, MAX_ANNOUNCEMENT)]
    age: Annotated[int, Bounds(0, MAX_LIFETIME)]


@dataclass(slots=True)
class _Entry:
    announcement: Announcement
    state: PeerState
    made: float
    """When the announcement was made, as far as is known."""
    deadline: float
    """When a present peer expires or a tombstone is forgotten."""
    verdict: float = 0.0
    """When a tombstone was put up."""
    scheduled: float = 0.0
    """The one queue item of this entry that counts."""
    encoded: bytes = b""
    """The announcement's bytes, once they were needed."""


class PeerView:
    """What one node knows about the others (and holds about itself, under :attr:`me`, to pass on)."""

    def __init__(self, me: bytes, max_peers: int = MAX_PEERS) -> None:
        self.me = me
        self._max_peers = max_peers
        self._entries: dict[bytes, _Entry] = {}
        self._queue: list[tuple[float, bytes]] = []

    def __len__(self) -> int:
        """Number of other peers that are present."""
        return sum(entry.state.is_present for peer, entry in self._entries.items() if peer != self.me)

    def find(self, peer: bytes) -> Announcement | None:
        """The announcement of a peer that is present."""
        entry = self._entries.get(peer)
        return entry.announcement if entry is not None and entry.state.is_present else None

    def state(self, peer: bytes) -> PeerState | None:
        """What is known about a peer, if anything."""
        entry = self._entries.get(peer)
        return None if entry is None else entry.state

    def present(self) -> list[Announcement]:
        """The announcements of all other peers that are present, by key."""
        return [self._entries[peer].announcement for peer in sorted(self._entries) if self._is_present_other(peer)]

    def lost(self) -> list[Announcement]:
        """The last announcements of peers that went without a goodbye, by key: worth a dial now and then."""
        states = (PeerState.CRASHED, PeerState.EXPIRED)
        return [entry.announcement for _, entry in sorted(self._entries.items()) if entry.state in states]

    def apply(self, announcement: Announcement, now: float, age: float = 0.0) -> Change | None:
        """Take in an announcement of valid signature that was made ``age`` seconds ago."""
        entry = self._entries.get(announcement.peer)
        made = now - age
        if entry is None:
            return self._enter(announcement, now, made)
        if not _supersedes(announcement, entry.announcement):
            return None
        restarted = announcement.incarnation > entry.announcement.incarnation
        before, entry.announcement, entry.made, entry.encoded = entry.state, announcement, made, b""
        if announcement.leaving:
            self._bury(entry, PeerState.LEFT, now)
            return Change(ChangeKind.LEFT, announcement) if before.is_present else None
        if _expiry(announcement, made) <= now:  # newer than ours, but stale all the same
            if before is PeerState.LEFT:
                entry.state = PeerState.EXPIRED
            return None
        if before is PeerState.CRASHED and not restarted and made <= entry.verdict:
            return None  # it was made before the peer was found dead
        entry.state = PeerState.ONLINE
        self._schedule(entry, _expiry(announcement, made))
        return Change(ChangeKind.UPDATED if before.is_present else ChangeKind.JOINED, announcement)

    def suspect(self, peer: bytes) -> bool:
        """Note that the connection to ``peer`` was lost; whether that is news about a peer that is present."""
        entry = self._entries.get(peer)
        if entry is None or peer == self.me or entry.state is not PeerState.ONLINE:
            return False
        entry.state = PeerState.SUSPECT
        return True

    def confirm(self, peer: bytes) -> None:
        """Note that a suspect was reached after all."""
        entry = self._entries.get(peer)
        if entry is not None and entry.state is PeerState.SUSPECT:
            entry.state = PeerState.ONLINE

    def crash(self, peer: bytes, now: float) -> Change | None:
        """Note that ``peer`` did not answer."""
        entry = self._entries.get(peer)
        if entry is None or peer == self.me or not entry.state.is_present:
            return None
        self._bury(entry, PeerState.CRASHED, now)
        return Change(ChangeKind.CRASHED, entry.announcement)

    def expire(self, now: float) -> list[Change]:
        """Bury the peers that fell silent and forget the tombstones that have served."""
        changes = []
        while self._queue and self._queue[0][0] <= now:
            due, peer = heapq.heappop(self._queue)
            entry = self._entries.get(peer)
            if entry is None or entry.scheduled != due:
                continue
            if entry.deadline > now:
                entry.scheduled = 0.0
                self._schedule(entry, entry.deadline)
            elif not entry.state.is_present:
                del self._entries[peer]
            else:
                self._bury(entry, PeerState.EXPIRED, now)
                changes.append(Change(ChangeKind.EXPIRED, entry.announcement))
        return changes

    # Pairwise reconciliation

    def digest(self) -> bytes:
        """Which announcements this view holds, tombstones included: 49 bytes for each, the peer and the order."""
        return b"".join([_DIGEST.pack(peer, *entry.announcement.order) for peer, entry in self._entries.items()])

    def newer_than(self, digest: bytes, now: float, room: int) -> tuple[Sighting, ...]:
        """Announcements that the view behind ``digest`` lacks, up to ``room`` bytes.

        Raises:
            CodecError: malformed digest.
        """
        theirs = _parse(digest)
        newer = (
            peer
            for peer, entry in self._entries.items()
            if peer not in theirs or entry.announcement.order > theirs[peer]
        )
        return self._sightings(newer, now, room)

    def older_than(self, digest: bytes) -> tuple[bytes, ...]:
        """The peers of whom the view behind ``digest`` holds a newer announcement.

        Raises:
            CodecError: malformed digest.
        """
        older = []
        for peer, order in _parse(digest).items():
            entry = self._entries.get(peer)
            if entry is None or entry.announcement.order < order:
                older.append(peer)
        return tuple(older)

    def select(self, peers: Iterable[bytes], now: float, room: int) -> tuple[Sighting, ...]:
        """The announcements of ``peers``, as far as this view vouches for them, up to ``room`` bytes."""
        return self._sightings(peers, now, room)

    def _sightings(self, peers: Iterable[bytes], now: float, room: int) -> tuple[Sighting, ...]:
        # Peers found dead are not passed on: their last announcement would make them look alive.
        sightings: list[Sighting] = []
        for peer in peers:
            entry = self._entries.get(peer)
            if entry is not None and (entry.state.is_present or entry.state is PeerState.LEFT):
                entry.encoded = entry.encoded or entry.announcement.encode()
                room -= len(entry.encoded)
                if room < 0:
                    break
                age = min(max(round((now - entry.made) * 1000), 0), MAX_LIFETIME)
                sightings.append(Sighting(entry.encoded, age))
        return tuple(sightings)

    # Inside

    def _is_present_other(self, peer: bytes) -> bool:
        return peer != self.me and self._entries[peer].state.is_present

    def _enter(self, announcement: Announcement, now: float, made: float) -> Change | None:
        expiry = _expiry(announcement, made)
        if (expiry <= now and not announcement.leaving) or not self._make_room():
            return None
        entry = self._entries[announcement.peer] = _Entry(announcement, PeerState.ONLINE, made, expiry)
        if announcement.leaving:
            self._bury(entry, PeerState.LEFT, now)
            return None
        self._schedule(entry, expiry)
        return Change(ChangeKind.JOINED, announcement)

    def _make_room(self) -> bool:
        """Whether another peer fits, for which the oldest tombstone may have to go."""
        if len(self._entries) < self._max_peers:
            return True
        buried = [(entry.verdict, peer) for peer, entry in self._entries.items() if not entry.state.is_present]
        if buried:
            del self._entries[min(buried)[1]]
        return bool(buried)

    def _bury(self, entry: _Entry, state: PeerState, now: float) -> None:
        entry.state = state
        entry.verdict = now
        self._schedule(entry, now + TOMBSTONE)

    def _schedule(self, entry: _Entry, deadline: float) -> None:
        """Set the deadline. A queue item that comes too early is put back when it is due; one too late is replaced."""
        entry.deadline = deadline
        if entry.announcement.peer != self.me and (not entry.scheduled or deadline < entry.scheduled):
            entry.scheduled = deadline
            heapq.heappush(self._queue, (deadline, entry.announcement.peer))


def _parse(digest: bytes) -> dict[bytes, tuple[int, bool, int]]:
    if len(digest) % _DIGEST.size:
        raise CodecError("malformed digest")
    return {
        peer: (incarnation, leaving, sequence) for peer, incarnation, leaving, sequence in _DIGEST.iter_unpack(digest)
    }


def _supersedes(new: Announcement, old: Announcement) -> bool:
    # A peer that signs two announcements of one order must not split the views: the greater signature stands.
    return (new.order, new.signature) > (old.order, old.signature)


def _expiry(announcement: Announcement, made: float) -> float:
    return made + announcement.expires_after / 1000
