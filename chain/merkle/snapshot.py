"""Snapshots: a state in chunks, each verified by itself when it arrives.

The leaves of the state's tree (:class:`chain.merkle.sparse_tree.SparseMerkleTree`) are sent in the order of their
paths. The receiver folds them into the tree from left to right: a :class:`Frontier` holds the last leaf and,
for every fork on the way to it that goes right, the finished subtree on the left. A :class:`Chunk` is a run of leaves
and the hashes of the subtrees to the right of its last one. Frontier, run and right side together must hash to the
state root, and a root has one tree: no leaf can be altered, added, moved or left out, and the end is proved by there
being nothing to its right. So a chunk that lies is refused by itself, and its sender is known.

A value of more than ``MAX_INLINE_BYTES`` bytes (the table of thousands of servers) travels apart, in pieces; the chunk
has its hash. That keeps every other chunk near its full size, so that a drip of tiny chunks cannot pass for a slow
link.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from chain.codec import Bounds, Hash, Record
from chain.crypto import hash_bytes
from chain.exceptions import InvalidSnapshot
from chain.merkle.sparse_tree import Branch, SparseMerkleTree, compute_path, hash_branch

MAX_CHUNK_BYTES = 512 * 1024
"""Bytes of keys and values in a chunk, at most."""
MAX_INLINE_BYTES = 64 * 1024
"""Bytes of a value that still travels in a chunk."""
MAX_VALUE_BYTES = 64 << 20
"""Bytes of any value."""
MAX_PIECE_BYTES = 512 * 1024
"""Bytes of a large value sent at a time."""
ENTRY_OVERHEAD_BYTES = 32
"""What an entry costs in a chunk beside its key and value."""

MAX_STATE_KEY_BYTES = 64
"""Longest key of an entry."""
MAX_ENTRIES = MAX_CHUNK_BYTES // ENTRY_OVERHEAD_BYTES
"""Entries in a chunk, at most."""

Key = Annotated[bytes, Bounds(1, MAX_STATE_KEY_BYTES)]
Value = Annotated[bytes, Bounds(0, MAX_INLINE_BYTES)]


@dataclass(frozen=True, slots=True)
class Entry(Record):
    """One entry of the state: key and encoded record."""

    TAG = 1
    key: Key
    value: Value

    @property
    def value_hash(self) -> bytes:
        return hash_bytes("value", self.value)

    @property
    def size(self) -> int:
        """What it takes of a chunk."""
        return len(self.key) + len(self.value) + ENTRY_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class LargeEntry(Record):
    """An entry whose value is fetched apart."""

    TAG = 2
    key: Key
    value_hash: Hash

    @property
    def size(self) -> int:
        """What it takes of a chunk."""
        return len(self.key) + len(self.value_hash) + ENTRY_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class Chunk(Record):
    """A run of entries in the order of their paths, and the subtrees to the right of the last, lowest fork first."""

    entries: Annotated[tuple[Entry | LargeEntry, ...], Bounds(1, MAX_ENTRIES)]
    right: Annotated[tuple[Branch, ...], Bounds(0, 256)]

    @property
    def is_last(self) -> bool:
        """Whether the state ends here."""
        return not self.right


@dataclass(frozen=True, slots=True)
class Frontier(Record):
    """The left part of a tree: path and hash of its last leaf, and the finished subtrees on the left, root first."""

    path: Hash
    leaf: Hash
    left: Annotated[tuple[Branch, ...], Bounds(0, 256)]


def make_chunk(tree: SparseMerkleTree, after: bytes | None) -> Chunk | None:
    """The entries that follow the path ``after`` (None: from the first on) in a chunk; None if there are none."""
    entries: list[Entry | LargeEntry] = []
    room, path = MAX_CHUNK_BYTES, 0
    for leaf in tree if after is None else tree.iter_after(int.from_bytes(after, "big")):
        entry: Entry | LargeEntry
        if len(leaf.encoded) > MAX_INLINE_BYTES:
            entry = LargeEntry(leaf.key, hash_bytes("value", leaf.encoded))
        else:
            entry = Entry(leaf.key, leaf.encoded)
        if entry.size > room:
            break
        entries.append(entry)
        room, path = room - entry.size, leaf.path
    return Chunk(tuple(entries), tree.get_right_branches(path)) if entries else None


def add_chunk(frontier: Frontier | None, chunk: Chunk, root: bytes) -> Frontier:
    """Check that ``chunk`` continues what is left of ``frontier`` (None: nothing) in the tree of ``root``.

    Raises:
        InvalidSnapshot: it does not, or is smaller than an honest one.
    """
    size = sum(entry.size for entry in chunk.entries)
    if size > MAX_CHUNK_BYTES:
        raise InvalidSnapshot(f"a chunk of {size} bytes, more than {MAX_CHUNK_BYTES}")
    if (
        not chunk.is_last and size <= MAX_CHUNK_BYTES - MAX_INLINE_BYTES - MAX_STATE_KEY_BYTES - ENTRY_OVERHEAD_BYTES
    ):  # room for any other
        raise InvalidSnapshot(f"a chunk of {size} bytes that is not the last one")
    last = None if frontier is None else int.from_bytes(frontier.path, "big")
    node = b"" if frontier is None else frontier.leaf
    left = [] if frontier is None else list(frontier.left)
    for entry in chunk.entries:
        path = compute_path(entry.key)
        if last is not None:
            if path <= last:
                raise InvalidSnapshot("the entries are not in the order of their paths")
            depth = 256 - (path ^ last).bit_length()
            while left and left[-1].depth > depth:  # subtrees that end before this leaf
                fork = left.pop()
                node = hash_branch(fork.depth, fork.sibling, node)
            left.append(Branch(depth, node))
        last, node = path, hash_bytes("leaf", path.to_bytes(32, "big"), entry.value_hash)
    assert last is not None  # a chunk has an entry
    if any((last >> (255 - fork.depth)) & 1 for fork in chunk.right):  # else it hides leaves on the left
        raise InvalidSnapshot("a subtree that is not on the right")
    if _fold(node, last, left, chunk.right) != root:
        raise InvalidSnapshot("the chunk does not lead to the state root")
    return Frontier(last.to_bytes(32, "big"), node, tuple(left))


def _fold(node: bytes, path: int, left: list[Branch], right: tuple[Branch, ...]) -> bytes:
    """The root over a leaf and everything on both sides of its way."""
    sides = sorted([*left, *right], key=lambda fork: -fork.depth)
    if len({fork.depth for fork in sides}) != len(sides):
        raise InvalidSnapshot("two subtrees at one fork")
    for fork in sides:
        goes_right = (path >> (255 - fork.depth)) & 1
        node = hash_branch(fork.depth, *((fork.sibling, node) if goes_right else (node, fork.sibling)))
    return node


def check_value(entry: LargeEntry, value: bytes) -> None:
    """Check a large value that was fetched apart.

    Raises:
        InvalidSnapshot: it is another, or not large at all.
    """
    if len(value) <= MAX_INLINE_BYTES or hash_bytes("value", value) != entry.value_hash:
        raise InvalidSnapshot("a value is not the one that its chunk names")
