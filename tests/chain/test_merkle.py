"""The three commitments against the plainest implementation of each."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.crypto import hash_bytes
from chain.merkle import EMPTY, History, Tree, compute_merkle_root
from chain.operations import Usage


def naive_list_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 §2.1 as it stands: split at the largest power of two below n."""
    if not leaves:
        return EMPTY
    if len(leaves) == 1:
        return hash_bytes("list leaf", leaves[0])
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hash_bytes("list node", naive_list_root(leaves[:split]), naive_list_root(leaves[split:]))


def naive_map_root(entries: dict[bytes, Usage]) -> bytes:
    """A binary trie over hashed keys in which a subtree of one leaf is that leaf."""
    paths = {
        "".join(f"{byte:08b}" for byte in hash_bytes("path", key)): record.encode() for key, record in entries.items()
    }

    def root(below: dict[str, bytes], depth: int) -> bytes:
        if not below:
            return EMPTY
        if len(below) == 1:
            ((path, encoded),) = below.items()
            return hash_bytes("leaf", int(path, 2).to_bytes(32, "big"), hash_bytes("value", encoded))
        left = {path: value for path, value in below.items() if path[depth] == "0"}
        right = {path: value for path, value in below.items() if path[depth] == "1"}
        if not left or not right:
            return root(below, depth + 1)
        return hash_bytes("branch", bytes([depth]), root(left, depth + 1), root(right, depth + 1))

    return root(paths, 0)


@pytest.mark.parametrize("count", [*range(35), 63, 64, 65, 100])
def test_list_root_has_the_shape_of_rfc_6962(count: int) -> None:
    leaves = [number.to_bytes(2, "big") for number in range(count)]
    assert compute_merkle_root(leaves) == naive_list_root(leaves)


def test_list_root_commits_to_order_number_and_boundaries() -> None:
    lists = [
        [],
        [b""],
        [b"", b""],
        [b"a"],
        [b"a", b"b"],
        [b"b", b"a"],
        [b"ab"],
        [b"a", b"b", b"b"],
        [b"a", b"b", b"b", b"b"],
    ]
    assert len({compute_merkle_root(leaves) for leaves in lists}) == len(lists)


keys = st.integers(0, 40).map(lambda number: b"key %d" % number)
values = st.one_of(st.none(), st.integers(0, 3).map(lambda number: Usage(number, 0)))


@given(batches=st.lists(st.dictionaries(keys, values, max_size=25), max_size=6))
def test_tree_is_a_map_and_its_root_depends_on_the_content_alone(batches: list[dict[bytes, Usage | None]]) -> None:
    tree, model = Tree(), dict[bytes, Usage]()
    for changes in batches:
        before, before_root, before_entries = tree, tree.root, {leaf.key: leaf.record for leaf in tree}
        tree = tree.update(changes)
        for key, value in changes.items():
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
        assert {leaf.key: leaf.record for leaf in tree} == model
        for number in range(41):
            assert tree.get(b"key %d" % number) == model.get(b"key %d" % number)
        assert tree.root == naive_map_root(model)
        assert tree.root == Tree().update(model).root
        assert before.root == before_root and {leaf.key: leaf.record for leaf in before} == before_entries


@given(seed=st.integers(0, 2**32), count=st.integers(1, 60))
def test_root_is_independent_of_the_path_to_it(seed: int, count: int) -> None:
    chance = random.Random(seed)
    final = {b"key %d" % number: Usage(number, 1) for number in range(count)}
    steps: list[tuple[bytes, Usage | None]] = list(final.items())
    detours = [b"key %d" % number for number in range(count + 20) if chance.random() < 0.5]
    tree = Tree().update({key: Usage(7, 7) for key in detours})
    steps += [(key, None) for key in detours if key not in final]
    chance.shuffle(steps)
    while steps:
        size = chance.randint(1, len(steps))
        tree, steps = tree.update(dict(steps[:size])), steps[size:]
    assert tree.root == Tree().update(final).root
    assert [leaf.key for leaf in tree] == [leaf.key for leaf in Tree().update(final)]


def test_leaves_stand_in_the_order_of_their_paths() -> None:
    tree = Tree().update({b"key %d" % number: Usage(number, 0) for number in range(50)})
    paths = [hash_bytes("path", leaf.key) for leaf in tree]
    assert paths == sorted(paths) and len(paths) == 50


def test_a_vain_update_costs_nothing() -> None:
    tree = Tree().update({b"key %d" % number: Usage(number, 0) for number in range(50)})
    assert tree.update({}).root == tree.root
    assert tree.update({b"other": None}).root == tree.root
    assert Tree().update({b"other": None}).root == EMPTY == Tree().root
    assert tree.update({leaf.key: None for leaf in tree}).root == EMPTY


def test_key_and_value_are_both_committed_to() -> None:
    roots = {Tree().update({key: value}).root for key in (b"a", b"b") for value in (Usage(0, 0), Usage(0, 1))}
    assert len(roots) == 4


def naive_history_root(ids: list[bytes]) -> bytes:
    """Peaks of perfect trees, one per bit of the count, tallest first."""

    def perfect(leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return hash_bytes("history leaf", leaves[0])
        half = len(leaves) // 2
        return hash_bytes("history node", perfect(leaves[:half]), perfect(leaves[half:]))

    peaks, start = b"", 0
    for bit in reversed(range(len(ids).bit_length())):
        if len(ids) >> bit & 1:
            peaks += perfect(ids[start : start + (1 << bit)])
            start += 1 << bit
    return hash_bytes("history", len(ids).to_bytes(8, "big"), peaks)


def test_history_is_a_mountain_range() -> None:
    ids = [hash_bytes("test", bytes([number])) for number in range(70)]
    history = History(0, ())
    for count in range(70):
        assert history.count == count and len(history.peaks) == count.bit_count()
        assert history.root == naive_history_root(ids[:count])
        assert History.decode(history.encode()) == history
        history = history.append(ids[count])
    assert len({naive_history_root(ids[:count]) for count in range(70)}) == 70
