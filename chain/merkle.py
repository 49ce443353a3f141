"""Three commitments: a list, a growing history, and a map.

- :func:`compute_merkle_root`: a binary Merkle tree over a list, in the shape of RFC 6962.
- :class:`History`: a Merkle mountain range, the peaks of perfect trees over everything appended so far.
- :class:`Tree`: a path-compressed sparse Merkle tree over a map from keys to records. Its nodes are never changed, so
  that an update shares all it did not touch with the tree before it, and the states of competing blocks cost only
  their differences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from chain.codec import Bounds, Hash, Natural, Record
from chain.crypto import hash_bytes

EMPTY = hash_bytes("empty")
"""Root of nothing."""


def compute_merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Root of the binary tree over ``leaves``; a split leaves the largest power of two on the left (RFC 6962 §2.1)."""
    if not leaves:
        return EMPTY
    return _subtree_root([hash_bytes("list leaf", leaf) for leaf in leaves])


def _subtree_root(level: list[bytes]) -> bytes:
    # Pairing level by level and carrying an odd last node up gives the same tree as the recursive definition.
    while len(level) > 1:
        paired = [hash_bytes("list node", level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(paired) * 2 :]
    return level[0]


@dataclass(frozen=True, slots=True)
class History(Record):
    """A Merkle mountain range over block ids: ``count`` leaves under ``peaks``, tallest first."""

    count: Natural
    peaks: Annotated[tuple[Hash, ...], Bounds(0, 64)]

    def append(self, block_id: bytes) -> History:
        """The history with one more block."""
        peaks = list(self.peaks)
        node, count = hash_bytes("history leaf", block_id), self.count
        while count & 1:  # a peak of the same height stands beside the new one: join them
            node = hash_bytes("history node", peaks.pop(), node)
            count >>= 1
        return History(self.count + 1, (*peaks, node))

    @property
    def root(self) -> bytes:
        """Commitment to the count and all peaks."""
        return hash_bytes("history", self.count.to_bytes(8, "big"), *self.peaks)


class Leaf:
    """One entry of a tree: a key, its record, and the record's encoding."""

    __slots__ = ("encoded", "hash", "key", "path", "record")

    def __init__(self, key: bytes, record: Record) -> None:
        self.key = key
        self.record = record
        self.encoded = record.encode()
        self.path = compute_path(key)
        self.hash = hash_bytes("leaf", self.path.to_bytes(32, "big"), hash_bytes("value", self.encoded))


class _Branch:
    """A fork at bit ``depth``, the first at which the paths below it differ; ``path`` is that of any leaf below."""

    __slots__ = ("depth", "hash", "left", "path", "right")

    def __init__(self, depth: int, left: _Node, right: _Node) -> None:
        self.depth = depth
        self.left = left
        self.right = right
        self.path: int = left.path
        self.hash: bytes = hash_bytes("branch", depth.to_bytes(1, "big"), left.hash, right.hash)


_Node = Leaf | _Branch
_Change = tuple[int, Leaf | None]


def compute_path(key: bytes) -> int:
    """Position of a key in the tree: 256 bits, most significant first."""
    return int.from_bytes(hash_bytes("path", key), "big")


class Tree:
    """An immutable map from byte keys to records, with a root that commits to all of it.

    The root of an empty tree is ``EMPTY``; a leaf hashes its path and its value's hash; a branch hashes its depth and
    both children. A branch exists only where two paths part, so that a tree of n leaves has n − 1 branches.
    """

    __slots__ = ("_root",)

    def __init__(self, root: _Node | None = None) -> None:
        self._root = root

    @property
    def root(self) -> bytes:
        """32-byte commitment to the whole map."""
        return EMPTY if self._root is None else self._root.hash

    def get(self, key: bytes) -> Record | None:
        """The record under ``key``, or None."""
        node, path = self._root, compute_path(key)
        while isinstance(node, _Branch):
            node = node.right if (path >> (255 - node.depth)) & 1 else node.left
        return node.record if node is not None and node.path == path else None

    def update(self, changes: Mapping[bytes, Record | None]) -> Tree:
        """The tree with each key set to its record, or removed where the record is None."""
        leaves: list[_Change] = [
            (compute_path(key), None) if record is None else ((leaf := Leaf(key, record)).path, leaf)
            for key, record in changes.items()
        ]
        leaves.sort(key=lambda change: change[0])
        return Tree(_update(self._root, leaves))

    def __iter__(self) -> Iterator[Leaf]:
        """All leaves in order of their paths."""
        stack = [] if self._root is None else [self._root]
        while stack:
            node = stack.pop()
            if isinstance(node, _Branch):
                stack += (node.right, node.left)
            else:
                yield node


def _update(node: _Node | None, changes: list[_Change]) -> _Node | None:
    """``node`` after ``changes``, which are sorted by path and distinct."""
    if not changes:
        return node
    if not isinstance(node, _Branch):
        leaves = [leaf for _, leaf in changes if leaf is not None]
        if node is not None and all(path != node.path for path, _ in changes):
            leaves = sorted([*leaves, node], key=lambda leaf: leaf.path)
        return _build(leaves)
    # Split where the outermost changes first leave the node's own prefix, or else at the node's fork.
    depth = min(node.depth, _fork(changes[0][0], node.path), _fork(changes[-1][0], node.path))
    shift = 255 - depth
    middle = next((i for i, (path, _) in enumerate(changes) if (path >> shift) & 1), len(changes))
    if depth == node.depth:
        left, right = _update(node.left, changes[:middle]), _update(node.right, changes[middle:])
        if left is node.left and right is node.right:
            return node
    elif (node.path >> shift) & 1:
        left, right = _update(None, changes[:middle]), _update(node, changes[middle:])
    else:
        left, right = _update(node, changes[:middle]), _update(None, changes[middle:])
    return _join(depth, left, right)


def _build(leaves: list[Leaf]) -> _Node | None:
    """The tree of sorted, distinct leaves."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else None
    depth = _fork(leaves[0].path, leaves[-1].path)
    middle = next(i for i, leaf in enumerate(leaves) if (leaf.path >> (255 - depth)) & 1)
    return _join(depth, _build(leaves[:middle]), _build(leaves[middle:]))


def _join(depth: int, left: _Node | None, right: _Node | None) -> _Node | None:
    if left is None or right is None:
        return left or right
    return _Branch(depth, left, right)


def _fork(a: int, b: int) -> int:
    """The first bit at which two paths differ (256 if they are equal)."""
    return 256 - (a ^ b).bit_length()
