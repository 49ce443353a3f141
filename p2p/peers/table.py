"""The peer table: what one node knows about all others. No I/O, no clock.

The table is fed with announcements (whose signatures the caller has checked), with what happens to connections, and
with the results of :mod:`p2p.peers.failure_detector`; it answers with :class:`Change` records. Of two announcements of
a peer the one with the greater ``order`` stands. So tables that have seen the same announcements are equal, in whatever
order and however often these came.

A departed peer leaves a *tombstone*, which remembers its last announcement:

    left       it said goodbye: only a later incarnation brings it back
    crashed    it was declared dead: only an announcement made since then, or from another address, brings it back
    expired    nothing was heard for the lifetime of its announcement: any later announcement brings it back

Tombstones outlast every announcement that could still be accepted, so a dead peer does not return as a ghost. An
announcement that is passed on carries its *age*, so that passing it on does not renew it.

Identities are free, so in a full table places are bought or drawn (:mod:`p2p.limits.places`). Weight is stake, as the
caller says. Of the peers without weight, the unverified ones, known from others only, go first. Next go those that this
node has dialled, of which it remembers the latest :data:`MAX_DIALLED`. A peer gains nothing by connecting to this node.
Tombstones have their own limit and the same rules, so that a crowd of newcomers cannot make this node forget a goodbye;
those of peers that were never present go first.

Load changes every second and is not spread: what a neighbour says of its load directly (:meth:`PeerTable.set_load`)
replaces the load in its announcement.

All times are seconds of one monotonic clock.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum

from p2p.addresses import CIRCUIT, Located, Reach, get_addresses, get_direct, is_in_scope
from p2p.limits.places import OWNERS_CHOICE, Places, draw_lot
from p2p.peers.announcement import ACCEPTANCE_S, Announcement, PeerLoad, get_item_id

MAX_TABLE_PEERS = 4096
"""Peers that are present in a table, and tombstones beside them."""
MAX_DIALLED_PER_ANNOUNCEMENT = 4
"""Direct addresses in an announcement that are dialled."""
MAX_DIALLED = MAX_TABLE_PEERS // 8
"""Peers that are remembered to have been dialled: half of the places that are kept for peers without weight."""
NEVER_PRESENT = 1 << 256
"""What is added to the lot of a tombstone of a peer that was never present: it is worse than any other."""
RANK_INTERVAL_S = 60.0
"""Seconds after which all are ranked anew by their weight."""
TOMBSTONE_S = ACCEPTANCE_S
"""Seconds that a departure is remembered."""


class PeerState(Enum):
    ONLINE = "online"
    SUSPECT = "suspect"
    """The connection to it was lost, or others suspect it; it counts as present until it is declared dead."""
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


@dataclass(slots=True)
class Entry:
    """What the table holds about one peer."""

    announcement: Announcement
    encoded: bytes
    id: bytes
    state: PeerState
    made_at: float
    """When the announcement was made, as far as is known."""
    first_seen_at: float
    """When the peer was first heard of."""
    deadline: float
    """When a present peer expires or a tombstone is forgotten."""
    lot: int
    """A secret number that decides between peers of the same rank: the greater one gives way."""
    declared_dead_at: float = 0.0
    """When the peer was declared dead or left."""
    queued_for: float = 0.0
    """The one queue item of this entry that counts."""
    was_dialled: bool = False
    """This node has dialled it."""
    current: Announcement = field(init=False)
    """The announcement, with the latest load that is known."""

    def __post_init__(self) -> None:
        self.current = self.announcement


class PeerTable:
    """What one node knows about the others (and holds about itself, under ``me``, to pass on).

    ``weight(peer)`` is what a peer has at stake, 0 if that is too little to count; ``salt`` is a secret of this node.
    """

    def __init__(
        self,
        me: bytes,
        max_peers: int = MAX_TABLE_PEERS,
        weight: Callable[[bytes], int] | None = None,
        salt: bytes = b"",
        bootstrap: Iterable[bytes] = (),
    ) -> None:
        self.me = me
        self._bootstrap = frozenset(bootstrap)
        self.weight = weight or (lambda peer: 0)
        self.scope = Reach.MACHINE
        """That of this node's network, in which other peers may be dialled (:func:`p2p.addresses.get_scope`)."""
        self.own_addresses: frozenset[str] = frozenset()
        """At which nobody else is."""
        self.entries: dict[bytes, Entry] = {}
        self.by_id: dict[bytes, Entry] = {}
        self.root = 0
        """Fingerprint of the present peers and their announcements; equal for views that agree."""
        self.version = 0
        """Grows with every change of who is present, or of an announcement."""
        self._salt = salt
        self._live = self._make_places(max_peers)
        self._tombstones = self._make_places(max_peers)
        self._ranked_at = 0.0
        self._dialled: OrderedDict[bytes, None] = OrderedDict()
        self._present = 0
        self._suspected: dict[bytes, None] = {}
        self._queue: list[tuple[float, bytes]] = []

    def __len__(self) -> int:
        """Number of other peers that are present."""
        return self._present - (self.find(self.me) is not None)  # it is not present once it has said goodbye itself

    def find(self, peer: bytes) -> Announcement | None:
        """The announcement of a peer that is present."""
        entry = self.entries.get(peer)
        return entry.current if entry is not None and entry.state.is_present else None

    def get_addresses(self, peer: bytes) -> tuple[str, ...]:
        """Where ``peer`` can be dialled, directly or through its relays; empty if it is not present."""
        return self.get_dialable(self.find(peer))

    def get_dialable(self, known: Located | None) -> tuple[str, ...]:
        """Where this node may dial a peer, of the addresses that it announces: some direct ones and its relays."""
        return self.select_dialable(get_addresses(known))

    def select_dialable(self, addresses: Iterable[str]) -> tuple[str, ...]:
        """Those of a peer's addresses that this node may dial: in scope, and not too many."""
        allowed = [one for one in addresses if is_in_scope(one, self.scope) and one not in self.own_addresses]
        direct = get_direct(allowed)[:MAX_DIALLED_PER_ANNOUNCEMENT]
        return (*direct, *(one for one in allowed if one.endswith(CIRCUIT)))

    def get_weight(self, peer: bytes) -> int:
        """What ``peer`` has at stake; a bootstrap peer is the owner's choice."""
        return OWNERS_CHOICE if peer in self._bootstrap else self.weight(peer)

    def state(self, peer: bytes) -> PeerState | None:
        """What is known about a peer, if anything."""
        entry = self.entries.get(peer)
        return None if entry is None else entry.state

    def present(self) -> list[Announcement]:
        """The announcements of all other peers that are present, by key."""
        return [entry.current for entry in self._sorted(PeerState.ONLINE, PeerState.SUSPECT)]

    def lost(self) -> list[Announcement]:
        """The last announcements of peers that went without a goodbye, by key: priority a dial now and then."""
        return [entry.announcement for entry in self._sorted(PeerState.CRASHED, PeerState.EXPIRED)]

    def suspects(self) -> list[bytes]:
        """The peers that may be gone, by key."""
        return sorted(self._suspected)

    def is_verified(self, peer: bytes) -> bool:
        """Whether this node has dialled ``peer``, or it has weight; others are known from announcements only."""
        entry = self.entries.get(peer)
        return entry is not None and (entry.was_dialled or self.weight(peer) > 0)

    def was_dialled(self, peer: bytes) -> bool:
        """Whether this node has dialled ``peer``."""
        entry = self.entries.get(peer)
        return entry is not None and entry.was_dialled

    def apply(self, announcement: Announcement, now: float, age: float = 0.0) -> Change | None:
        """Take in an announcement of valid signature that was made ``age`` seconds ago."""
        entry = self.entries.get(announcement.peer)
        made = now - age
        if entry is None:
            return self._enter(announcement, now, made)
        if not _supersedes(announcement, entry.announcement):
            return None
        before, old = entry.state, entry.announcement
        self._replace(entry, announcement, made)
        if announcement.leaving:
            self._tombstone(entry, PeerState.LEFT, now)
            return Change(ChangeKind.LEFT, announcement) if before.is_present else None
        if _expiry(announcement, made) <= now:  # newer than ours, but stale all the same
            if before is PeerState.LEFT:
                self._set_state(entry, PeerState.EXPIRED)
            return None
        if before is PeerState.CRASHED and made <= entry.declared_dead_at and not _is_elsewhere(announcement, old):
            return None  # it was made before the peer was found dead, where it still says to be
        if not before.is_present and not self._take_place(entry):
            self._set_state(entry, PeerState.EXPIRED)
            return None
        self._set_state(entry, PeerState.ONLINE)
        self._schedule(entry, _expiry(announcement, made))
        return Change(ChangeKind.UPDATED if before.is_present else ChangeKind.JOINED, announcement)

    def set_load(self, peer: bytes, load: PeerLoad) -> None:
        """Note what a peer itself says of its load."""
        entry = self.entries.get(peer)
        if entry is not None:
            entry.current = replace(entry.announcement, load=load)

    def is_news(self, announcement: Announcement) -> bool:
        """Whether an announcement would stand, if it were signed."""
        entry = self.entries.get(announcement.peer)
        return entry is None or _supersedes(announcement, entry.announcement)

    def mark_suspect(self, peer: bytes) -> bool:
        """Note that ``peer`` may be gone; whether that is news about a peer that is present."""
        entry = self.entries.get(peer)
        if entry is None or peer == self.me or entry.state is not PeerState.ONLINE:
            return False
        self._set_state(entry, PeerState.SUSPECT)
        return True

    def mark_alive(self, peer: bytes, dialled: bool = False) -> None:
        """Note that ``peer`` is connected, so that it is there; and whether it was this node that has ``dialled``."""
        entry = self.entries.get(peer)
        if entry is not None:
            if dialled:
                self._note_dialled(entry)
            if entry.state is PeerState.SUSPECT:
                self._set_state(entry, PeerState.ONLINE)

    def mark_crashed(self, peer: bytes, now: float, found: float | None = None) -> Change | None:
        """Note that ``peer`` is dead, as was ``found`` at that time (default: now)."""
        entry = self.entries.get(peer)
        if entry is None or peer == self.me or not entry.state.is_present:
            return None
        self._tombstone(entry, PeerState.CRASHED, now)
        entry.declared_dead_at = now if found is None else found
        return Change(ChangeKind.CRASHED, entry.announcement)

    def expire(self, now: float) -> list[Change]:
        """Make tombstones of peers whose announcement has expired, and forget tombstones after TOMBSTONE_S."""
        if now - self._ranked_at >= RANK_INTERVAL_S:
            self._live.refresh_all()
            self._tombstones.refresh_all()
            self._ranked_at = now
        changes = []
        while self._queue and self._queue[0][0] <= now:
            due, peer = heapq.heappop(self._queue)
            entry = self.entries.get(peer)
            if entry is None or entry.queued_for != due:
                continue
            entry.queued_for = 0.0
            if entry.deadline > now:
                self._schedule(entry, entry.deadline)
            elif not entry.state.is_present:
                self._remove(entry)
            else:
                self._tombstone(entry, PeerState.EXPIRED, now)
                changes.append(Change(ChangeKind.EXPIRED, entry.announcement))
        return changes

    # Inside

    def _sorted(self, *states: PeerState) -> list[Entry]:
        return [entry for peer, entry in sorted(self.entries.items()) if entry.state in states and peer != self.me]

    def _enter(self, announcement: Announcement, now: float, made: float) -> Change | None:
        expiry = _expiry(announcement, made)
        peer = announcement.peer
        if expiry <= now and not announcement.leaving:
            return None
        encoded, lot = announcement.encode(), draw_lot(self._salt, peer)
        entry = Entry(announcement, encoded, get_item_id(encoded), PeerState.EXPIRED, made, now, expiry, lot)
        if not announcement.leaving and not self._take_place(entry):
            return None
        self.entries[peer] = self.by_id[entry.id] = entry
        if announcement.leaving:
            self._tombstone(entry, PeerState.LEFT, now)
            return None
        self._set_state(entry, PeerState.ONLINE)
        self._schedule(entry, expiry)
        return Change(ChangeKind.JOINED, announcement)

    def _make_places(self, size: int) -> Places:
        return Places(size, lambda peer: self.weight(peer), lambda peer: int(peer in self._dialled))

    def _take_place(self, entry: Entry) -> bool:
        """Whether ``entry`` may become present; another peer may give way for it."""
        peer = entry.announcement.peer
        if peer == self.me:
            return True
        self._live.put(peer, entry.lot)
        surplus = self._live.find_surplus()
        if surplus == peer:
            self._live.discard(peer)
            return False
        if surplus is not None:
            self._remove(self.entries[surplus])
        self._tombstones.discard(peer)
        return True

    def _note_dialled(self, entry: Entry) -> None:
        entry.was_dialled = True
        self._dialled[entry.announcement.peer] = None
        self._dialled.move_to_end(entry.announcement.peer)
        if len(self._dialled) > MAX_DIALLED:
            oldest = self.entries[self._dialled.popitem(last=False)[0]]
            oldest.was_dialled = False
            self._refresh_place(oldest.announcement.peer)
        self._refresh_place(entry.announcement.peer)

    def _refresh_place(self, peer: bytes) -> None:
        self._live.refresh(peer)
        self._tombstones.refresh(peer)

    def _set_state(self, entry: Entry, state: PeerState) -> None:
        self._count(entry, -1)
        entry.state = state
        self._count(entry, 1)

    def _replace(self, entry: Entry, announcement: Announcement, made: float) -> None:
        self._count(entry, -1)
        self.by_id.pop(entry.id, None)
        entry.announcement = entry.current = announcement
        entry.made_at = made
        entry.encoded = announcement.encode()
        entry.id = get_item_id(entry.encoded)
        self.by_id[entry.id] = entry
        self._count(entry, 1)

    def _remove(self, entry: Entry) -> None:
        self._count(entry, -1)
        self.by_id.pop(entry.id, None)
        peer = entry.announcement.peer
        self._dialled.pop(peer, None)
        self._live.discard(peer)
        self._tombstones.discard(peer)
        del self.entries[peer]

    def _count(self, entry: Entry, sign: int) -> None:
        self.version += 1
        if entry.state.is_present:
            self._present += sign
            self.root ^= int.from_bytes(entry.id)
        if entry.state is PeerState.SUSPECT and sign > 0:
            self._suspected[entry.announcement.peer] = None
        elif sign < 0:
            self._suspected.pop(entry.announcement.peer, None)

    def _tombstone(self, entry: Entry, state: PeerState, now: float) -> None:
        self._set_state(entry, state)
        entry.declared_dead_at = now
        self._schedule(entry, now + TOMBSTONE_S)
        peer = entry.announcement.peer
        if peer == self.me:
            return
        self._live.discard(peer)
        self._tombstones.put(
            peer, entry.lot if entry.declared_dead_at > entry.first_seen_at else entry.lot + NEVER_PRESENT
        )
        surplus = self._tombstones.find_surplus()
        if surplus is not None:
            self._remove(self.entries[surplus])

    def _schedule(self, entry: Entry, deadline: float) -> None:
        """Set the deadline. A queue item that comes too early is put back when it is due; one too late is replaced."""
        entry.deadline = deadline
        if entry.announcement.peer != self.me and (not entry.queued_for or deadline < entry.queued_for):
            entry.queued_for = deadline
            heapq.heappush(self._queue, (deadline, entry.announcement.peer))


def _supersedes(new: Announcement, old: Announcement) -> bool:
    # A peer that signs two announcements of one order must not split the views: the greater signature stands.
    return (new.order, new.signature) > (old.order, old.signature)


def _is_elsewhere(new: Announcement, old: Announcement) -> bool:
    """Whether a peer that did not answer at the old place may well do so at the new one, or is a new process."""
    return (new.incarnation, new.addresses, new.relays) != (old.incarnation, old.addresses, old.relays)


def _expiry(announcement: Announcement, made: float) -> float:
    return made + announcement.expires_after / 1000
