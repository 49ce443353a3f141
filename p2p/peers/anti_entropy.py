"""Anti-entropy: how two peer tables become equal. No I/O, no clock.

Everything that spreads is an *item* with an id of 8 bytes (:func:`p2p.peers.announcement.get_item_id`): an announcement
or a suspect message. Neighbours exchange :class:`SyncFrame` records, each of which is answered, if at all, from the
table alone:

    have            these items are here               -> want: those that the reader lacks
    want            send these                         -> announcements, suspects
    root            fingerprint of all that is here    -> buckets, if it differs
    buckets         a fingerprint of each bucket       -> for those that differ: bucket_numbers, have (all ids in them)
    bucket_numbers  have lists all of these buckets    -> announcements, suspects that the list lacks

Two tables that agree cost a frame of a few bytes; two that differ in a few peers cost a few buckets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated

from chain.codec import Bounds, Record
from chain.exceptions import CodecError
from p2p.peers.announcement import ITEM_ID_BYTES, MAX_ANNOUNCEMENT_BYTES, MAX_LIFETIME_MS, Announcement, PeerLoad
from p2p.peers.failure_detector import FailureDetector
from p2p.peers.suspect_message import EncodedSuspectMessage
from p2p.peers.table import MAX_PEERS, PeerState, PeerTable

MAX_ITEM_IDS_BYTES = 4 * MAX_PEERS * ITEM_ID_BYTES
"""Longest list of short names, in bytes."""
FINGERPRINT_BYTES = ITEM_ID_BYTES
"""Bytes of a fingerprint."""
EMPTY_BUCKET = bytes(FINGERPRINT_BYTES)
BUCKET_PEERS = 16
"""Peers in a bucket, about."""
MAX_BUCKETS = 256
MAX_ITEMS_BYTES = 128 * 1024
MAX_ITEMS = 1024
"""Bytes of items in one frame, and their number; what has no room is found next time."""
REQUEST_RETRY_S = 1.0
"""Seconds after which an item that was asked for, and did not come, is asked for again."""
PULL_PERIOD_S = 2.0
"""Seconds in which nobody else is asked for what differs when most does: a newcomer fetches the view from one peer."""
MAX_REQUESTED = 4 * MAX_PEERS
GOODBYE_LISTING_S = 300.0
"""Seconds for which a goodbye is listed; later all have it."""


@dataclass(frozen=True, slots=True)
class AgedAnnouncement(Record):
    """An announcement (encoded) that is passed on, and how long ago it was made, in ms."""

    announcement: Annotated[bytes, Bounds(1, MAX_ANNOUNCEMENT_BYTES)]
    age: Annotated[int, Bounds(0, MAX_LIFETIME_MS)]


@dataclass(frozen=True, slots=True)
class SyncFrame(Record):
    """One frame between two neighbours; see the table above. Empty fields say nothing.

    ``parts`` are the numbers of buckets, one byte each, of ``count``. ``load`` is the sender's own. ``lasting`` opens
    the conversation in which neighbours tell each other what is new, ``renew`` asks the other for a new announcement
    (its last one counts for nothing here), and ``parting`` says that the connection will be closed on purpose. With
    ``graft`` what is new is pushed over this link from now on, with ``prune`` no longer
    (:mod:`p2p.discovery.plumtree`).
    """

    have: Annotated[bytes, Bounds(0, MAX_ITEM_IDS_BYTES)] = b""
    want: Annotated[bytes, Bounds(0, MAX_ITEM_IDS_BYTES)] = b""
    announcements: Annotated[tuple[AgedAnnouncement, ...], Bounds(0, MAX_ITEMS)] = ()
    suspects: Annotated[tuple[EncodedSuspectMessage, ...], Bounds(0, MAX_ITEMS)] = ()
    root: Annotated[bytes, Bounds(0, FINGERPRINT_BYTES)] = b""
    buckets: Annotated[bytes, Bounds(0, FINGERPRINT_BYTES * MAX_BUCKETS)] = b""
    bucket_numbers: Annotated[bytes, Bounds(0, MAX_BUCKETS)] = b""
    bucket_count: Annotated[int, Bounds(0, MAX_BUCKETS)] = 0
    load: PeerLoad | None = None
    keep_open: bool = False
    refresh: bool = False
    closing: bool = False
    graft: bool = False
    prune: bool = False


EMPTY = SyncFrame()


class AntiEntropy:
    """What one node answers to its neighbours' frames."""

    def __init__(self, table: PeerTable, failure_detector: FailureDetector) -> None:
        self._table = table
        self._failure_detector = failure_detector
        self._requested: dict[bytes, float] = {}
        self._pulling_until = 0.0
        self._computed: tuple[int, int, list[bytes]] = (-1, 0, [])

    @property
    def root(self) -> bytes:
        """Fingerprint of the present peers and their announcements."""
        return self._table.root.to_bytes(FINGERPRINT_BYTES)

    def answer(self, peer: bytes, frame: SyncFrame, now: float) -> SyncFrame | None:
        """The frame that answers ``frame`` of ``peer``, if any. What ``frame`` brought has been taken in before.

        Raises:
            CodecError: malformed lists.
        """
        have, parts, count = b"", b"", 0
        listed = _split(frame.have)
        missing = [item for item in listed if self._request(item, now)]
        asked: Iterable[bytes] = _split(frame.want)
        if frame.bucket_numbers:
            _check_bucket_numbers(frame.bucket_numbers, frame.bucket_count)
            held = {*listed}
            asked = [
                *asked,
                *(item for item in self._list(frame.bucket_numbers, frame.bucket_count, now) if item not in held),
            ]
        if frame.buckets and now >= self._pulling_until:
            theirs = _split(frame.buckets)
            mine = self._fingerprints(len(theirs))
            differing = bytes(number for number, value in enumerate(theirs) if value != mine[number])
            count = len(theirs)
            parts, have = self._list_whole(differing, count, now)
            if 2 * sum(theirs[number] != EMPTY_BUCKET for number in differing) > count:
                self._pulling_until = now + PULL_PERIOD_S  # but who serves a newcomer has nothing to fetch from it
        buckets = b""
        if frame.root and frame.root != self.root:
            buckets = b"".join(self._fingerprints(self._choose_bucket_count()))
        reply = replace(
            self.collect(asked, peer, now),
            have=have,
            want=b"".join(missing),
            buckets=buckets,
            bucket_numbers=parts,
            bucket_count=count if parts else 0,
        )
        return None if reply == EMPTY else reply

    def is_costly(self, frame: SyncFrame) -> bool:
        """Whether an answer to ``frame`` takes a walk through the whole view."""
        return bool(frame.buckets or frame.bucket_numbers or (frame.root and frame.root != self.root))

    def correct(self, announcement: Announcement) -> bytes:
        """The short name of what this view holds in place of ``announcement``, if it holds something newer."""
        entry = self._table.entries.get(announcement.peer)
        if entry is None or entry.announcement.order <= announcement.order:
            return b""
        return entry.id

    def knows(self, item: bytes) -> bool:
        """Whether the item of this short name is here."""
        return item in self._table.by_id or self._failure_detector.knows(item)

    def holds(self, item: bytes) -> bool:
        """Whether there is something to send by this short name."""
        return item in self._table.by_id or self._failure_detector.find(item) is not None

    def _request(self, item: bytes, now: float) -> bool:
        """Whether to ask for an item: it is not here, and nobody was asked for it a moment ago."""
        if self.knows(item) or now - self._requested.get(item, -REQUEST_RETRY_S) < REQUEST_RETRY_S:
            return False
        self._requested.pop(item, None)
        self._requested[item] = now
        if len(self._requested) > MAX_REQUESTED:
            del self._requested[next(iter(self._requested))]
        return True

    def _choose_bucket_count(self) -> int:
        return min(MAX_BUCKETS, 4 << max(0, (len(self._table) // (4 * BUCKET_PEERS)).bit_length()))

    def _fingerprints(self, count: int) -> list[bytes]:
        """Of all buckets; those computed last are good as long as nothing changes."""
        version, buckets, computed = self._computed
        if (version, buckets) == (self._table.version, count):
            return computed
        sums = [0] * count
        for peer, entry in self._table.entries.items():
            if entry.state.is_present:
                sums[_bucket(peer, count)] ^= int.from_bytes(entry.id)
        self._computed = self._table.version, count, [value.to_bytes(FINGERPRINT_BYTES) for value in sums]
        return self._computed[2]

    def _list_whole(self, parts: bytes, count: int, now: float) -> tuple[bytes, bytes]:
        """As many of the buckets as have room in one frame, and the short names of all in them."""
        names: list[list[bytes]] = [[] for _ in range(count)]
        for peer, items in self._list_each(parts, count, now):
            names[_bucket(peer, count)] += items
        listed, have = bytearray(), bytearray()
        for number in parts:
            if len(have) + ITEM_ID_BYTES * len(names[number]) <= MAX_ITEM_IDS_BYTES:
                listed.append(number)
                have += b"".join(names[number])
        return bytes(listed), bytes(have)

    def _list(self, parts: bytes, count: int, now: float) -> Iterator[bytes]:
        """The short names of all that others should have, in some buckets."""
        for _, items in self._list_each(parts, count, now):
            yield from items

    def _list_each(self, parts: bytes, count: int, now: float) -> Iterator[tuple[bytes, list[bytes]]]:
        """The same, peer by peer."""
        wanted = {*parts}
        for peer, entry in self._table.entries.items():
            if _bucket(peer, count) in wanted:
                is_listed = entry.state.is_present or (
                    entry.state is PeerState.LEFT and now - entry.declared_dead_at < GOODBYE_LISTING_S
                )
                yield peer, [*([entry.id] if is_listed else []), *self._failure_detector.get_item_ids(peer)]

    def collect(self, items: Iterable[bytes], reader: bytes, now: float) -> SyncFrame:
        """What goes by these names, for ``reader``, as far as this node vouches for it and there is room."""
        known: list[AgedAnnouncement] = []
        accused: list[bytes] = []
        room = MAX_ITEMS_BYTES
        for item in items:
            entry = self._table.by_id.get(item)
            if entry is not None:
                # Peers found dead are not passed on, or they would look alive; but they may learn what they have to
                # outdo, such as the word of an earlier life when their clock went back.
                is_its_own = entry.announcement.peer == reader
                if entry.state.is_present or entry.state is PeerState.LEFT or is_its_own:
                    age = min(max(round((now - entry.made_at) * 1000), 0), MAX_LIFETIME_MS)
                    known.append(AgedAnnouncement(entry.encoded, age))
                    room -= len(entry.encoded)
            elif (accusation := self._failure_detector.find(item)) is not None:
                accused.append(accusation.encode())
                room -= len(accused[-1])
            if room < 0 or len(known) + len(accused) == MAX_ITEMS:
                break
        return SyncFrame(announcements=tuple(known), suspects=tuple(accused))


def _bucket(peer: bytes, count: int) -> int:
    return int.from_bytes(peer[:2]) % count


def _split(names: bytes) -> list[bytes]:
    if len(names) % ITEM_ID_BYTES:
        raise CodecError("a list of short names has a broken length")
    return [names[start : start + ITEM_ID_BYTES] for start in range(0, len(names), ITEM_ID_BYTES)]


def _check_bucket_numbers(parts: bytes, count: int) -> None:
    if max(parts) >= count:
        raise CodecError("there is no such bucket")
