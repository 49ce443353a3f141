"""A commitment to a list: the binary Merkle tree of RFC 6962 over its elements, hashed with their number.

Leaves, inner nodes and the root are hashed in separate domains. A root therefore commits to one list only, and a proof
of one element holds if its ``compute_root`` gives the trusted root.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from chain.codec import Bounds, Hash, Natural, Record
from chain.crypto import hash_bytes
from chain.exceptions import ProofError

EMPTY_ROOT = hash_bytes("empty")
"""Root of nothing."""


def compute_merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Commitment to ``leaves``: a hash of their number and of the root of the binary tree over them.

    A split leaves the largest power of two on the left (RFC 6962 §2.1).
    """
    if not leaves:
        return EMPTY_ROOT
    level = [hash_bytes("list leaf", leaf) for leaf in leaves]
    while len(level) > 1:
        level = hash_level("list node", level)
    return hash_bytes("list", len(leaves).to_bytes(8, "big"), level[0])


def hash_level(domain: str, level: Sequence[bytes]) -> list[bytes]:
    """The level above. Carrying an odd last node up gives the same tree as the recursive definition."""
    paired = [hash_bytes(domain, level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    return [*paired, *level[len(paired) * 2 :]]


@dataclass(frozen=True, slots=True)
class ListProof(Record):
    """That a leaf is number ``index`` of ``count``: the audit path of RFC 6962 §2.1.1, nearest sibling first."""

    index: Natural
    count: Natural
    siblings: Annotated[tuple[Hash, ...], Bounds(0, 63)]

    def compute_root(self, leaf: bytes) -> bytes:
        """The root of the list in which ``leaf`` stands there.

        Raises:
            ProofError: there is no such place, or its path has another length.
        """
        if self.index >= self.count:
            raise ProofError(f"number {self.index} of a list of {self.count} does not exist")
        node, index, last, used = hash_bytes("list leaf", leaf), self.index, self.count - 1, 0
        while last:  # the width of the level, less one
            if index & 1 or index < last:  # else the node is the odd last one, carried up
                if used == len(self.siblings):
                    raise ProofError("the path through the list is too short")
                sibling, used = self.siblings[used], used + 1
                node = hash_bytes("list node", *((sibling, node) if index & 1 else (node, sibling)))
            index, last = index >> 1, last >> 1
        if used != len(self.siblings):
            raise ProofError("the path through the list is too long")
        return hash_bytes("list", self.count.to_bytes(8, "big"), node)


def prove_list_leaf(leaves: Sequence[bytes], index: int) -> ListProof:
    """The proof that ``leaves[index]`` is where it is."""
    siblings, position = [], range(len(leaves))[index]
    level = [hash_bytes("list leaf", leaf) for leaf in leaves]
    while len(level) > 1:
        if position ^ 1 < len(level):
            siblings.append(level[position ^ 1])
        level, position = hash_level("list node", level), position >> 1
    return ListProof(range(len(leaves))[index], len(leaves), tuple(siblings))
