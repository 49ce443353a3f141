"""Places in something of bounded size: which peers have one, and which peer loses its place when there are too many.
Pure.

Identities are free, so a place is bought or drawn. A peer's *weight* is what it has at stake, as the caller says.
Weights are compared by *class*, the powers of two: a larger class displaces a smaller one. Within a class a lot
decides, which follows from a secret, so that it can neither be aimed at nor improved by coming first. A share of the
places is kept for peers without weight. So peers with weight never shut newcomers out, nor the reverse, however many
there are.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from chain.crypto import hash_bytes

NEWCOMERS_DIVISOR = 4
"""Every fourth place is kept for peers without weight."""
OWNERS_CHOICE = 1 << 63
"""Weight of a peer that the owner has chosen: more than any stake."""


def get_weight_class(weight: int) -> int:
    """The class of a weight: 0 for none, and one more with each power of two."""
    return max(0, weight).bit_length()


def count_bought_places(size: int) -> int:
    """How many of ``size`` places peers with weight have at most: the others are kept for those without."""
    return size - size // NEWCOMERS_DIVISOR


def draw_lot(secret: bytes, peer: bytes) -> int:
    """The lot of ``peer``: the peer with the greatest lot loses its place first."""
    return int.from_bytes(hash_bytes("place lot", secret, peer))


class _Group:
    """Peers in the order in which they lose their places: by rank, the lowest first, and then by lot, the greatest
    first."""

    def __init__(self) -> None:
        self.places: dict[bytes, tuple[int, int]] = {}
        self._heap: list[tuple[int, int, bytes]] = []  # what is not the place of its peer any more is skipped

    def put(self, peer: bytes, rank: int, lot: int) -> None:
        self.places[peer] = rank, -lot
        heapq.heappush(self._heap, (rank, -lot, peer))
        if len(self._heap) > 4 * len(self.places) + 64:
            self._heap = [(*place, one) for one, place in self.places.items()]
            heapq.heapify(self._heap)

    def find_first(self) -> bytes:
        """The one to give way first. There must be one."""
        while self.places.get(self._heap[0][2]) != self._heap[0][:2]:
            heapq.heappop(self._heap)
        return self._heap[0][2]


class Places:
    """The peers that have one of ``size`` places.

    ``get_weight(peer)`` is the peer's weight, and ``get_rank(peer)`` ranks those without (from 0).
    """

    def __init__(self, size: int, get_weight: Callable[[bytes], int], get_rank: Callable[[bytes], int]) -> None:
        self.size = size
        self._get_weight = get_weight
        self._get_rank = get_rank
        self._weighty, self._others = _Group(), _Group()

    def __len__(self) -> int:
        return len(self._weighty.places) + len(self._others.places)

    def put(self, peer: bytes, lot: int) -> None:
        """Give ``peer`` a place, or change its lot. Then :meth:`find_surplus` says which peer loses its place."""
        group, rank = self._rank(peer)
        if group.places.get(peer) != (rank, -lot):
            self.discard(peer)
            group.put(peer, rank, lot)

    def discard(self, peer: bytes) -> None:
        """Take the place of ``peer``, if it has one."""
        self._weighty.places.pop(peer, None)
        self._others.places.pop(peer, None)

    def refresh(self, peer: bytes) -> bool:
        """Rank ``peer`` anew, if it has a place. Returns whether that changes anything."""
        for group in (self._weighty, self._others):
            place = group.places.get(peer)
            if place is not None and self._rank(peer) != (group, place[0]):
                self.put(peer, -place[1])
                return True
        return False

    def refresh_all(self) -> None:
        """Rank all anew: weights shrink, too."""
        for peer in [*self._weighty.places, *self._others.places]:
            self.refresh(peer)

    def find_surplus(self) -> bytes | None:
        """Who gives way, if there are more than places."""
        while len(self) > self.size:
            is_share_exceeded = len(self._weighty.places) > count_bought_places(self.size)
            peer = (self._weighty if is_share_exceeded else self._others).find_first()
            if not self.refresh(peer):
                return peer
        return None

    def _rank(self, peer: bytes) -> tuple[_Group, int]:
        weight_class = get_weight_class(self._get_weight(peer))
        return (self._weighty, weight_class) if weight_class else (self._others, self._get_rank(peer))
