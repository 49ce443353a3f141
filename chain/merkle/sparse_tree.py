"""A commitment to a map from keys to records: a path-compressed sparse Merkle tree.

Nodes are immutable. An update shares every node that it does not touch with the tree before it, so that the states of
competing blocks cost only their differences. A :class:`TreeProof` shows the record under a key, or that there is none;
it holds if its ``compute_root`` gives the trusted root. Each root has one value under a key and one proof of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

from chain.codec import Bounds, Hash, Record
from chain.crypto import hash_bytes
from chain.exceptions import ProofError
from chain.merkle.list import EMPTY_ROOT


class Leaf:
    """One entry of a tree: a key, its record, and the record's encoding."""

    __slots__ = ("encoded", "hash", "key", "path", "record")

    def __init__(self, key: bytes, record: Record) -> None:
        self.key = key
        self.record = record
        self.encoded = record.encode()
        self.path = compute_path(key)
        self.hash = _hash_leaf(self.path, self.encoded)


class _BranchNode:
    """A fork at bit ``depth``, the first at which the paths below it differ; ``path`` is that of any leaf below."""

    __slots__ = ("depth", "hash", "left", "path", "right")

    def __init__(self, depth: int, left: _Node, right: _Node) -> None:
        self.depth = depth
        self.left = left
        self.right = right
        self.path: int = left.path
        self.hash: bytes = hash_branch(depth, left.hash, right.hash)


def _hash_leaf(path: int, encoded: bytes) -> bytes:
    return hash_bytes("leaf", path.to_bytes(32, "big"), hash_bytes("value", encoded))


def hash_branch(depth: int, left: bytes, right: bytes) -> bytes:
    """Hash of the fork at bit ``depth`` over two subtrees."""
    return hash_bytes("branch", depth.to_bytes(1, "big"), left, right)


_Node = Leaf | _BranchNode


_Change = tuple[int, Leaf | None]


@lru_cache(maxsize=1 << 12)  # what each block reads and writes has the same few keys
def compute_path(key: bytes) -> int:
    """Position of a key in the tree: 256 bits, most significant first."""
    return int.from_bytes(hash_bytes("path", key), "big")


@dataclass(frozen=True, slots=True)
class Branch(Record):
    """A fork on the way to a leaf: the bit at which the paths part, and the hash of the side not taken."""

    depth: Annotated[int, Bounds(0, 255)]
    sibling: Hash


@dataclass(frozen=True, slots=True)
class ConflictingLeaf(Record):
    """The leaf that is found instead of an absent key: its path, and the hash of its value."""

    path: Hash
    value: Hash


@dataclass(frozen=True, slots=True)
class TreeProof(Record):
    """A proof of the record under a key, or of its absence: the forks on its path, lowest first, and the leaf at the
    end.

    The path of an absent key ends at the leaf of a ``conflicting`` key, unless the map is empty. The branches do not
    commit to the bits between them, so only that leaf shows that the key is absent.
    """

    branches: Annotated[tuple[Branch, ...], Bounds(0, 256)]
    conflicting: ConflictingLeaf | None

    def compute_root(self, key: bytes, encoded: bytes | None) -> bytes:
        """The root of the map in which ``key`` has the record of these bytes, or (None) is absent.

        Raises:
            ProofError: the proof is not of this kind, or cannot come from a tree.
        """
        path = compute_path(key)
        if encoded is not None:
            if self.conflicting is not None:
                raise ProofError("the proof shows the key to be absent")
            node, end = _hash_leaf(path, encoded), path
        elif self.conflicting is not None:
            end = int.from_bytes(self.conflicting.path, "big")
            if end == path:
                raise ProofError("the proof shows the key to be there")
            node = hash_bytes("leaf", self.conflicting.path, self.conflicting.value)
        elif self.branches:
            raise ProofError("the proof does not show what stands in place of the key")
        else:
            return EMPTY_ROOT
        above = 256
        for fork in self.branches:
            if fork.depth >= above:
                raise ProofError("the forks of the path are out of order")
            above, bit = fork.depth, (path >> (255 - fork.depth)) & 1
            if bit != (end >> (255 - fork.depth)) & 1:
                raise ProofError("the other leaf does not stand on the path of the key")
            node = hash_branch(fork.depth, *((fork.sibling, node) if bit else (node, fork.sibling)))
        return node


class SparseMerkleTree:
    """An immutable map from byte keys to records, with a root that commits to all of it.

    The root of an empty tree is ``EMPTY_ROOT``; a leaf hashes its path and its value's hash; a branch hashes its depth
    and both children. A branch exists only where two paths part, so that a tree of n leaves has n − 1 branches.
    """

    __slots__ = ("_root",)

    def __init__(self, root: _Node | None = None) -> None:
        self._root = root

    @property
    def root(self) -> bytes:
        """32-byte commitment to the whole map."""
        return EMPTY_ROOT if self._root is None else self._root.hash

    def get(self, key: bytes) -> Record | None:
        """The record under ``key``, or None."""
        leaf = self.find_leaf(key)
        return None if leaf is None else leaf.record

    def find_leaf(self, key: bytes) -> Leaf | None:
        """The entry under ``key``, or None."""
        node, path = self._root, compute_path(key)
        while isinstance(node, _BranchNode):
            node = node.right if (path >> (255 - node.depth)) & 1 else node.left
        return node if node is not None and node.path == path else None

    def prove(self, key: bytes) -> TreeProof:
        """The proof of the record under ``key``, or of its absence."""
        branches: list[Branch] = []
        node, path = self._root, compute_path(key)
        while isinstance(node, _BranchNode):
            taken, other = (node.right, node.left) if (path >> (255 - node.depth)) & 1 else (node.left, node.right)
            branches.append(Branch(node.depth, other.hash))
            node = taken
        found = None
        if node is not None and node.path != path:
            found = ConflictingLeaf(node.path.to_bytes(32, "big"), hash_bytes("value", node.encoded))
        return TreeProof(tuple(reversed(branches)), found)

    def update(self, changes: Mapping[bytes, Record | None]) -> SparseMerkleTree:
        """The tree with each key set to its record, or removed where the record is None."""
        leaves: list[_Change] = [
            (compute_path(key), None) if record is None else ((leaf := Leaf(key, record)).path, leaf)
            for key, record in changes.items()
        ]
        leaves.sort(key=lambda change: change[0])
        return SparseMerkleTree(_update(self._root, leaves))

    def __iter__(self) -> Iterator[Leaf]:
        """All leaves in order of their paths."""
        stack = [] if self._root is None else [self._root]
        while stack:
            node = stack.pop()
            if isinstance(node, _BranchNode):
                stack += (node.right, node.left)
            else:
                yield node

    def iter_after(self, path: int) -> Iterator[Leaf]:
        """The leaves whose paths are greater than ``path``, in order."""
        stack = [] if self._root is None else [self._root]
        while stack:
            node = stack.pop()
            if not isinstance(node, _BranchNode):
                if node.path > path:
                    yield node
                continue
            stack.append(node.right)
            # The greatest path on the left: that of ``node`` (which is one of the left) with every later bit set.
            if (node.path | ((1 << (255 - node.depth)) - 1)) > path:
                stack.append(node.left)

    def get_right_branches(self, path: int) -> tuple[Branch, ...]:
        """The forks at which the way to the leaf at ``path`` goes left, lowest first."""
        branches: list[Branch] = []
        node = self._root
        while isinstance(node, _BranchNode):
            if (path >> (255 - node.depth)) & 1:
                node = node.right
            else:
                branches.append(Branch(node.depth, node.right.hash))
                node = node.left
        return tuple(reversed(branches))


def _update(node: _Node | None, changes: list[_Change]) -> _Node | None:
    """``node`` after ``changes``, which are sorted by path and distinct."""
    if not changes:
        return node
    if not isinstance(node, _BranchNode):
        leaves = [leaf for _, leaf in changes if leaf is not None]
        if node is not None and all(path != node.path for path, _ in changes):
            leaves = sorted([*leaves, node], key=lambda leaf: leaf.path)
        return _build(leaves)
    # Split where the outermost changes first leave the node's own prefix, or else at the node's fork.
    depth = min(
        node.depth, _find_first_difference(changes[0][0], node.path), _find_first_difference(changes[-1][0], node.path)
    )
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
    depth = _find_first_difference(leaves[0].path, leaves[-1].path)
    middle = next(i for i, leaf in enumerate(leaves) if (leaf.path >> (255 - depth)) & 1)
    return _join(depth, _build(leaves[:middle]), _build(leaves[middle:]))


def _join(depth: int, left: _Node | None, right: _Node | None) -> _Node | None:
    if left is None or right is None:
        return left or right
    return _BranchNode(depth, left, right)


def _find_first_difference(a: int, b: int) -> int:
    """The first bit at which two paths differ (256 if they are equal)."""
    return 256 - (a ^ b).bit_length()
