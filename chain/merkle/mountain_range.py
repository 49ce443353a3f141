"""A commitment to an append-only list: a Merkle mountain range over the ids of all blocks so far.

It keeps the peaks of perfect binary trees, one for each bit of the count, so that an append costs O(log n) hashes and
needs none of the earlier leaves. The root hashes the count and the peaks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from chain.codec import Bounds, Hash, Natural, Record
from chain.crypto import hash_bytes
from chain.exceptions import ProofError
from chain.merkle.list import hash_level


@dataclass(frozen=True, slots=True)
class MountainRange(Record):
    """A Merkle mountain range over block ids: ``count`` leaves under ``peaks``, tallest first."""

    count: Natural
    peaks: Annotated[tuple[Hash, ...], Bounds(0, 64)]

    def append(self, block_id: bytes) -> MountainRange:
        """The history with one more block."""
        peaks = list(self.peaks)
        node, count = hash_bytes("history leaf", block_id), self.count
        while count & 1:  # a peak of the same height stands beside the new one: join them
            node = hash_bytes("history node", peaks.pop(), node)
            count >>= 1
        return MountainRange(self.count + 1, (*peaks, node))

    @property
    def root(self) -> bytes:
        """Commitment to the count and all peaks."""
        return hash_bytes("history", self.count.to_bytes(8, "big"), *self.peaks)


@dataclass(frozen=True, slots=True)
class MountainRangeProof(Record):
    """That a block id is number ``index`` of the ``count`` in a history.

    ``siblings`` lead from it to its peak, nearest first; ``peaks`` are the others, tallest first.
    """

    index: Natural
    count: Natural
    siblings: Annotated[tuple[Hash, ...], Bounds(0, 63)]
    peaks: Annotated[tuple[Hash, ...], Bounds(0, 63)]

    def compute_root(self, block_id: bytes) -> bytes:
        """The root of the history in which ``block_id`` has that number.

        Raises:
            ProofError: there is no such number, or its path or the peaks are of another history.
        """
        if self.index >= self.count:
            raise ProofError(f"number {self.index} of a history of {self.count} does not exist")
        position, start, height = _find_mountain(self.index, self.count)
        if len(self.siblings) != height or len(self.peaks) != self.count.bit_count() - 1:
            raise ProofError(f"the path through the history is not one for number {self.index} of {self.count}")
        node, offset = hash_bytes("history leaf", block_id), self.index - start
        for level, sibling in enumerate(self.siblings):
            node = hash_bytes("history node", *((sibling, node) if (offset >> level) & 1 else (node, sibling)))
        return MountainRange(self.count, (*self.peaks[:position], node, *self.peaks[position:])).root


def prove_mountain_range_leaf(block_ids: Sequence[bytes], index: int) -> MountainRangeProof:
    """The proof that ``block_ids[index]`` has that number in the history of all of ``block_ids``."""
    index = range(len(block_ids))[index]
    position, _, _ = _find_mountain(index, len(block_ids))
    peaks: list[bytes] = []
    siblings: list[bytes] = []
    for start, height in _get_mountains(len(block_ids)):
        level = [hash_bytes("history leaf", block_id) for block_id in block_ids[start : start + (1 << height)]]
        offset = index - start
        while len(level) > 1:
            if len(peaks) == position:
                siblings.append(level[offset ^ 1])
            level, offset = hash_level("history node", level), offset >> 1
        peaks += level
    del peaks[position]
    return MountainRangeProof(index, len(block_ids), tuple(siblings), tuple(peaks))


def _get_mountains(count: int) -> list[tuple[int, int]]:
    """First leaf and height of each mountain, tallest first: one for each bit of the count."""
    heights = [height for height in reversed(range(count.bit_length())) if (count >> height) & 1]
    return [(count >> (height + 1) << (height + 1), height) for height in heights]


def _find_mountain(index: int, count: int) -> tuple[int, int, int]:
    """Position among the peaks, first leaf and height of the mountain over a leaf."""
    mountains = _get_mountains(count)
    position = bisect_right(mountains, index, key=lambda mountain: mountain[0]) - 1
    return (position, *mountains[position])
