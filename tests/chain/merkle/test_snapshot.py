"""Chunks of a state: together they are the state, and nothing else passes for one of them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.crypto import hash_bytes
from chain.exceptions import InvalidSnapshot
from chain.merkle.snapshot import Chunk, Entry, Frontier, LargeEntry, add_chunk, check_value, make_chunk
from chain.merkle.sparse_tree import Branch, SparseMerkleTree
from chain.state.keys import account_key
from chain.state.records import Account

MAX_INLINE_BYTES, MAX_CHUNK_BYTES = 64, 500


@pytest.fixture(autouse=True, scope="module")
def small_chunks() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chain.merkle.snapshot.MAX_INLINE_BYTES", MAX_INLINE_BYTES)
        patch.setattr("chain.merkle.snapshot.MAX_CHUNK_BYTES", MAX_CHUNK_BYTES)
        yield


def make_tree(count: int, seed: int = 0) -> SparseMerkleTree:
    """Accounts, every fifth of them large."""
    return SparseMerkleTree().update(
        {
            account_key(hash_bytes("owner", bytes([seed]), number.to_bytes(4, "big"))): Account(
                available=number + 1, models=("m" * 80,) if number % 5 == 0 else ()
            )
            for number in range(count)
        }
    )


def take_all(tree: SparseMerkleTree) -> tuple[list[Chunk], list[Frontier]]:
    """The chunks of a tree, and the frontier after each."""
    chunks: list[Chunk] = []
    frontiers: list[Frontier] = []
    while not chunks or not chunks[-1].is_last:
        chunk = make_chunk(tree, frontiers[-1].path if frontiers else None)
        assert chunk is not None
        chunk = Chunk.decode(chunk.encode())
        frontiers.append(add_chunk(frontiers[-1] if frontiers else None, chunk, tree.root))
        chunks.append(chunk)
    return chunks, frontiers


def read(tree: SparseMerkleTree, chunks: list[Chunk]) -> dict[bytes, bytes]:
    values: Mapping[bytes, bytes] = {leaf.key: leaf.encoded for leaf in tree}
    found: dict[bytes, bytes] = {}
    for entry in (entry for chunk in chunks for entry in chunk.entries):
        if isinstance(entry, LargeEntry):
            check_value(entry, values[entry.key])
        found[entry.key] = entry.value if isinstance(entry, Entry) else values[entry.key]
    return found


@given(count=st.integers(1, 120), seed=st.integers(0, 255))
@settings(max_examples=40, deadline=None)
def test_the_chunks_are_the_state(count: int, seed: int) -> None:
    tree = make_tree(count, seed)
    chunks, frontiers = take_all(tree)
    assert list(read(tree, chunks).items()) == [(leaf.key, leaf.encoded) for leaf in tree]
    assert make_chunk(tree, frontiers[-1].path) is None
    assert all(sum(entry.size for entry in chunk.entries) <= MAX_CHUNK_BYTES for chunk in chunks)
    assert any(isinstance(entry, LargeEntry) for chunk in chunks for entry in chunk.entries)


def test_an_empty_state_has_no_chunk() -> None:
    assert make_chunk(SparseMerkleTree(), None) is None


TREE = make_tree(60)


def forge(rng: random.Random, chunk: Chunk, others: list[Chunk]) -> Chunk:
    """A chunk that differs from the honest one."""
    entries, right = list(chunk.entries), list(chunk.right)
    at = rng.randrange(len(entries))
    match rng.randrange(10):
        case 0:
            del entries[at]
        case 1:
            entries.insert(at, Entry(b"a" + rng.randbytes(32), b"x"))
        case 2:
            entries[at] = replace(entries[at], key=b"a" + rng.randbytes(32))
        case 3:
            entry = entries[at]
            name = "value" if isinstance(entry, Entry) else "value_hash"
            entries[at] = replace(entry, **{name: rng.randbytes(32)})
        case 4 if len(entries) > 1:
            other = rng.randrange(len(entries))
            entries[at], entries[other] = entries[other], entries[at]
        case 5 if right:
            del right[rng.randrange(len(right))]
        case 6:
            right.insert(rng.randrange(len(right) + 1), Branch(rng.randrange(256), rng.randbytes(32)))
        case 7 if right:
            number = rng.randrange(len(right))
            right[number] = replace(right[number], sibling=rng.randbytes(32))
        case 8 if right:
            number = rng.randrange(len(right))
            right[number] = replace(right[number], depth=rng.randrange(256))
        case _:
            return rng.choice(others)
    return Chunk(tuple(entries), tuple(right))


def test_nothing_else_passes_for_a_chunk() -> None:
    rng = random.Random(1)
    chunks, frontiers = take_all(TREE)
    others = [*chunks, *take_all(make_tree(60, 1))[0]]
    refused = 0
    for _ in range(4_000):
        number = rng.randrange(len(chunks))
        forged = forge(rng, chunks[number], others) if any(chunks[number].entries[1:]) else chunks[number]
        if forged == chunks[number] or not forged.entries:
            continue
        with pytest.raises(InvalidSnapshot):
            add_chunk(frontiers[number - 1] if number else None, forged, TREE.root)
        refused += 1
    assert refused > 3_000


def test_leaves_on_the_left_cannot_hide_behind_a_hash() -> None:
    """The left half of the tree is left out; its hash stands in as if it came later."""
    middle = (1 << 255) - 1
    chunk = make_chunk(TREE, middle.to_bytes(32, "big"))
    assert chunk is not None
    half = TREE.prove(chunk.entries[0].key).branches[-1]
    assert half.depth == 0
    with pytest.raises(InvalidSnapshot, match="not on the right"):
        add_chunk(None, replace(chunk, right=(*chunk.right, half)), TREE.root)


def test_a_chunk_is_large_or_the_last() -> None:
    chunk = make_chunk(TREE, None)
    assert chunk is not None
    first = next(iter(TREE))
    small = Chunk(chunk.entries[:1], TREE.get_right_branches(first.path))
    with pytest.raises(InvalidSnapshot, match="not the last"):
        add_chunk(None, small, TREE.root)
    big = Chunk(tuple(Entry(leaf.key, leaf.encoded) for leaf in TREE if len(leaf.encoded) <= MAX_INLINE_BYTES), ())
    with pytest.raises(InvalidSnapshot, match="more than"):
        add_chunk(None, big, TREE.root)
    alone = make_tree(2)
    only = make_chunk(alone, None)
    assert only is not None and only.is_last
    add_chunk(None, only, alone.root)


def test_a_large_value_is_large_and_the_one_named() -> None:
    leaf = next(leaf for leaf in TREE if len(leaf.encoded) > MAX_INLINE_BYTES)
    entry = LargeEntry(leaf.key, hash_bytes("value", leaf.encoded))
    check_value(entry, leaf.encoded)
    small = LargeEntry(leaf.key, hash_bytes("value", b"small"))
    for wrong, value in ((entry, leaf.encoded + b"x"), (entry, leaf.encoded[:-1]), (entry, b""), (small, b"small")):
        with pytest.raises(InvalidSnapshot):
            check_value(wrong, value)
