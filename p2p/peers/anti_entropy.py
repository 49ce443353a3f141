"""Anti-entropy: how two peer tables become equal. No I/O, no clock.

Everything that spreads is an *item* with an id of 8 bytes (:func:`p2p.peers.announcement.get_item_id`): an announcement
or a suspect message. Neighbours exchange :class:`SyncFrame` records. A frame is answered, if at all, from the
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
from chain.collections import BoundedDict
from chain.exceptions import CodecError
from p2p.peers.announcement import ITEM_ID_BYTES, MAX_ANNOUNCEMENT_BYTES, MAX_LIFETIME_MS, Announcement, PeerLoad
from p2p.peers.failure_detector import FailureDetector
from p2p.peers.suspect_message import EncodedSuspectMessage
from p2p.peers.table import MAX_TABLE_PEERS, PeerState, PeerTable

MAX_ITEM_IDS_BYTES = 4 * MAX_TABLE_PEERS * ITEM_ID_BYTES
"""Longest list of item ids."""
FINGERPRINT_BYTES = ITEM_ID_BYTES
"""Length of a fingerprint."""
EMPTY_BUCKET = bytes(FINGERPRINT_BYTES)
"""The fingerprint of a bucket without peers."""
BUCKET_PEERS = 16
"""Approximate number of peers in a bucket."""
MAX_BUCKETS = 256
"""Buckets in one frame."""
MAX_ITEMS_BYTES = 128 * 1024
"""Bytes of items in one frame, after which no more are added; the next synchronisation finds the rest."""
MAX_SYNC_ITEMS = 1024
"""Items in one frame."""
REQUEST_RETRY_S = 1.0
"""Seconds after which an item that was requested and did not come may be requested again."""
PULL_PERIOD_S = 2.0
"""Seconds for which a node whose table differs in most buckets, a newcomer, synchronises with one peer only."""
MAX_REQUESTED = 4 * MAX_TABLE_PEERS
"""Requested items that are remembered."""
GOODBYE_LISTING_S = 300.0
"""Seconds for which a goodbye is listed; after that every node has it."""


@dataclass(frozen=True, slots=True)
class AgedAnnouncement(Record):
    """An encoded announcement and its age in ms, as far as the sender knows."""

    announcement: Annotated[bytes, Bounds(1, MAX_ANNOUNCEMENT_BYTES)]
    age: Annotated[int, Bounds(0, MAX_LIFETIME_MS)]


@dataclass(frozen=True, slots=True)
class SyncFrame(Record):
    """One frame between two neighbours; see the table above. Fields with their default say nothing.

    ``bucket_numbers`` are of one byte each, out of ``bucket_count``. ``load`` is the sender's own. ``keep_open`` makes
    the exchange a session. ``refresh`` asks the reader for a new announcement, since its last one has expired here.
    ``closing`` says that the sender will close the connection on purpose. ``graft`` and ``prune`` change the tree
    (:mod:`p2p.discovery.plumtree`).
    """

    have: Annotated[bytes, Bounds(0, MAX_ITEM_IDS_BYTES)] = b""
    want: Annotated[bytes, Bounds(0, MAX_ITEM_IDS_BYTES)] = b""
    announcements: Annotated[tuple[AgedAnnouncement, ...], Bounds(0, MAX_SYNC_ITEMS)] = ()
    suspects: Annotated[tuple[EncodedSuspectMessage, ...], Bounds(0, MAX_SYNC_ITEMS)] = ()
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


EMPTY_FRAME = SyncFrame()
"""A frame that says nothing."""


class AntiEntropy:
    """The answers of one node to its neighbours' frames."""

    def __init__(self, table: PeerTable, failure_detector: FailureDetector) -> None:
        self._table = table
        self._failure_detector = failure_detector
        self._requested: BoundedDict[bytes, float] = BoundedDict(MAX_REQUESTED)
        self._pulling_until = 0.0
        self._computed: tuple[int, int, list[bytes]] = (-1, 0, [])

    @property
    def root(self) -> bytes:
        """Fingerprint of the present peers and their announcements."""
        return self._table.root.to_bytes(FINGERPRINT_BYTES)

    def answer(self, peer: bytes, frame: SyncFrame, now: float) -> SyncFrame | None:
        """The frame that answers ``frame`` of ``peer``, if any. The caller has applied the items in ``frame`` before.

        Raises:
            CodecError: malformed lists.
        """
        have, numbers, count = b"", b"", 0
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
            numbers, have = self._list_whole(differing, count, now)
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
            bucket_numbers=numbers,
            bucket_count=count if numbers else 0,
        )
        return None if reply == EMPTY_FRAME else reply

    def is_costly(self, frame: SyncFrame) -> bool:
        """Whether the answer to ``frame`` takes a walk through the whole table."""
        return bool(frame.buckets or frame.bucket_numbers or (frame.root and frame.root != self.root))

    def correct(self, announcement: Announcement) -> bytes:
        """The id of a newer announcement of the same peer, if the table holds one, or nothing."""
        entry = self._table.entries.get(announcement.peer)
        if entry is None or entry.announcement.order <= announcement.order:
            return b""
        return entry.id

    def knows(self, item: bytes) -> bool:
        """Whether the item of this id need not be requested."""
        return item in self._table.by_id or self._failure_detector.knows(item)

    def holds(self, item: bytes) -> bool:
        """Whether the item of this id can be sent."""
        return item in self._table.by_id or self._failure_detector.find(item) is not None

    def _request(self, item: bytes, now: float) -> bool:
        """Whether to request an item: it is unknown, and was not requested a moment ago."""
        if self.knows(item) or now - self._requested.get(item, -REQUEST_RETRY_S) < REQUEST_RETRY_S:
            return False
        self._requested[item] = now
        return True

    def _choose_bucket_count(self) -> int:
        return min(MAX_BUCKETS, 4 << max(0, (len(self._table) // (4 * BUCKET_PEERS)).bit_length()))

    def _fingerprints(self, count: int) -> list[bytes]:
        """The fingerprints of all buckets; computed again only after a change."""
        version, buckets, computed = self._computed
        if (version, buckets) == (self._table.version, count):
            return computed
        sums = [0] * count
        for peer, entry in self._table.entries.items():
            if entry.state.is_present:
                sums[_bucket(peer, count)] ^= int.from_bytes(entry.id)
        self._computed = self._table.version, count, [value.to_bytes(FINGERPRINT_BYTES) for value in sums]
        return self._computed[2]

    def _list_whole(self, numbers: bytes, count: int, now: float) -> tuple[bytes, bytes]:
        """The numbers of as many of these buckets as one frame has room for, and the ids of all items in them."""
        ids: list[list[bytes]] = [[] for _ in range(count)]
        for peer, items in self._list_each(numbers, count, now):
            ids[_bucket(peer, count)] += items
        listed, have = bytearray(), bytearray()
        for number in numbers:
            if len(have) + ITEM_ID_BYTES * len(ids[number]) <= MAX_ITEM_IDS_BYTES:
                listed.append(number)
                have += b"".join(ids[number])
        return bytes(listed), bytes(have)

    def _list(self, numbers: bytes, count: int, now: float) -> Iterator[bytes]:
        """The ids of the items in these buckets that others should have."""
        for _, items in self._list_each(numbers, count, now):
            yield from items

    def _list_each(self, numbers: bytes, count: int, now: float) -> Iterator[tuple[bytes, list[bytes]]]:
        """These ids by peer."""
        wanted = {*numbers}
        for peer, entry in self._table.entries.items():
            if _bucket(peer, count) in wanted:
                is_listed = entry.state.is_present or (
                    entry.state is PeerState.LEFT and now - entry.declared_dead_at < GOODBYE_LISTING_S
                )
                yield peer, [*([entry.id] if is_listed else []), *self._failure_detector.get_item_ids(peer)]

    def collect(self, items: Iterable[bytes], reader: bytes, now: float) -> SyncFrame:
        """The items with these ids that may be sent to ``reader``, up to about :data:`MAX_ITEMS_BYTES`."""
        announcements: list[AgedAnnouncement] = []
        suspects: list[bytes] = []
        room = MAX_ITEMS_BYTES
        for item in items:
            entry = self._table.by_id.get(item)
            if entry is not None:
                # Announcements of dead peers are not passed on, or these would look alive. The peer itself may see
                # its own, which it has to supersede after its clock was set back.
                is_its_own = entry.announcement.peer == reader
                if entry.state.is_present or entry.state is PeerState.LEFT or is_its_own:
                    age = min(max(round((now - entry.made_at) * 1000), 0), MAX_LIFETIME_MS)
                    announcements.append(AgedAnnouncement(entry.encoded, age))
                    room -= len(entry.encoded)
            elif (message := self._failure_detector.find(item)) is not None:
                suspects.append(message.encode())
                room -= len(suspects[-1])
            if room < 0 or len(announcements) + len(suspects) == MAX_SYNC_ITEMS:
                break
        return SyncFrame(announcements=tuple(announcements), suspects=tuple(suspects))


def _bucket(peer: bytes, count: int) -> int:
    return int.from_bytes(peer[:2]) % count


def _split(ids: bytes) -> list[bytes]:
    if len(ids) % ITEM_ID_BYTES:
        raise CodecError("a list of item ids has a broken length")
    return [ids[start : start + ITEM_ID_BYTES] for start in range(0, len(ids), ITEM_ID_BYTES)]


def _check_bucket_numbers(numbers: bytes, count: int) -> None:
    if max(numbers) >= count:
        raise CodecError("there is no such bucket")
