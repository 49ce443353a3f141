"""The three commitments against the plainest implementation of each."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.codec import pack, unpack
from chain.crypto import hash_bytes
from chain.exceptions import CodecError, ProofError
from chain.merkle.list import EMPTY_ROOT, ListProof, compute_merkle_root, prove_list_leaf
from chain.merkle.mountain_range import MountainRange, MountainRangeProof, prove_mountain_range_leaf
from chain.merkle.sparse_tree import Branch, ConflictingLeaf, SparseMerkleTree, TreeProof, compute_path
from chain.types.operations import Usage


def naive_list_root(leaves: list[bytes]) -> bytes:
    """The number of leaves, and RFC 6962 §2.1 as it stands: split at the largest power of two below n."""

    def subtree(leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return hash_bytes("list leaf", leaves[0])
        split = 1 << (len(leaves) - 1).bit_length() - 1
        return hash_bytes("list node", subtree(leaves[:split]), subtree(leaves[split:]))

    return hash_bytes("list", len(leaves).to_bytes(8, "big"), subtree(leaves)) if leaves else EMPTY_ROOT


def naive_map_root(entries: dict[bytes, Usage]) -> bytes:
    """A binary trie over hashed keys in which a subtree of one leaf is that leaf."""
    paths = {
        "".join(f"{byte:08b}" for byte in hash_bytes("path", key)): record.encode() for key, record in entries.items()
    }

    def root(below: dict[str, bytes], depth: int) -> bytes:
        if not below:
            return EMPTY_ROOT
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
    tree, model = SparseMerkleTree(), dict[bytes, Usage]()
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
        assert tree.root == SparseMerkleTree().update(model).root
        assert before.root == before_root and {leaf.key: leaf.record for leaf in before} == before_entries


@given(seed=st.integers(0, 2**32), count=st.integers(1, 60))
def test_root_is_independent_of_the_path_to_it(seed: int, count: int) -> None:
    chance = random.Random(seed)
    final = {b"key %d" % number: Usage(number, 1) for number in range(count)}
    steps: list[tuple[bytes, Usage | None]] = list(final.items())
    detours = [b"key %d" % number for number in range(count + 20) if chance.random() < 0.5]
    tree = SparseMerkleTree().update({key: Usage(7, 7) for key in detours})
    steps += [(key, None) for key in detours if key not in final]
    chance.shuffle(steps)
    while steps:
        size = chance.randint(1, len(steps))
        tree, steps = tree.update(dict(steps[:size])), steps[size:]
    assert tree.root == SparseMerkleTree().update(final).root
    assert [leaf.key for leaf in tree] == [leaf.key for leaf in SparseMerkleTree().update(final)]


def test_leaves_stand_in_the_order_of_their_paths() -> None:
    tree = SparseMerkleTree().update({b"key %d" % number: Usage(number, 0) for number in range(50)})
    paths = [hash_bytes("path", leaf.key) for leaf in tree]
    assert paths == sorted(paths) and len(paths) == 50


def test_a_vain_update_costs_nothing() -> None:
    tree = SparseMerkleTree().update({b"key %d" % number: Usage(number, 0) for number in range(50)})
    assert tree.update({}).root == tree.root
    assert tree.update({b"other": None}).root == tree.root
    assert SparseMerkleTree().update({b"other": None}).root == EMPTY_ROOT == SparseMerkleTree().root
    assert tree.update({leaf.key: None for leaf in tree}).root == EMPTY_ROOT


def test_key_and_value_are_both_committed_to() -> None:
    roots = {
        SparseMerkleTree().update({key: value}).root for key in (b"a", b"b") for value in (Usage(0, 0), Usage(0, 1))
    }
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
    history = MountainRange(0, ())
    for count in range(70):
        assert history.count == count and len(history.peaks) == count.bit_count()
        assert history.root == naive_history_root(ids[:count])
        assert MountainRange.decode(history.encode()) == history
        history = history.append(ids[count])
    assert len({naive_history_root(ids[:count]) for count in range(70)}) == 70


Proof = ListProof | MountainRangeProof | TreeProof
OTHER = hash_bytes("test other")


def get_root(compute: Callable[..., bytes], *arguments: Any) -> bytes | None:
    """The root that a proof leads to, or None where it is refused."""
    try:
        return compute(*arguments)
    except ProofError:
        return None


def get_variants(wire: Any) -> Iterator[Any]:
    """Every value one step away: each number changed, each string flipped, each element dropped, doubled or swapped."""
    if isinstance(wire, list):
        for position, item in enumerate(wire):
            for variant in get_variants(item):
                yield [*wire[:position], variant, *wire[position + 1 :]]
            yield [*wire[:position], *wire[position + 1 :]]
            yield [*wire[:position], item, *wire[position:]]
            yield [*wire[:position], OTHER, *wire[position:]]
            for other in range(position):
                swapped = list(wire)
                swapped[position], swapped[other] = swapped[other], swapped[position]
                yield swapped
        yield [*wire, OTHER]
    elif isinstance(wire, bytes):
        yield from (bytes([wire[0] ^ 1]) + wire[1:], wire[:-1] + bytes([wire[-1] ^ 128]), wire[:-1], wire + b"x", None)
    elif isinstance(wire, int):
        yield from (number for number in {0, 1, wire - 1, wire + 1, 2 * wire, 2**62, 2**63 - 1} if number != wire)
    else:
        yield [OTHER, OTHER]


def assert_no_variant_holds(proof: Proof, compute: Callable[[Any], bytes], root: bytes) -> None:
    """Nothing one step away from a proof leads to the same root: not in its values, and not in its bytes."""
    assert compute(type(proof).decode(proof.encode())) == root
    wire, tried = unpack(proof.encode()), 0
    for variant in get_variants(wire):
        if variant == wire:
            continue  # equal elements swapped
        try:
            changed = type(proof).decode(pack(variant))
        except CodecError:
            continue
        tried += 1
        assert get_root(compute, changed) != root, variant
    assert tried or wire == [[], None]
    raw = proof.encode()
    for position in range(len(raw)):
        flipped = raw[:position] + bytes([raw[position] ^ (1 << position % 8)]) + raw[position + 1 :]
        try:
            changed = type(proof).decode(flipped)
        except CodecError:
            continue
        assert get_root(compute, changed) != root, position


@pytest.mark.parametrize("count", [*range(1, 20), 31, 32, 33, 100])
def test_every_item_of_a_list_can_be_proven_and_nothing_else(count: int) -> None:
    leaves = [number.to_bytes(2, "big") for number in range(count)]
    root = compute_merkle_root(leaves)
    for index in range(count):
        proof = prove_list_leaf(leaves, index)
        assert (proof.index, proof.count) == (index, count) and len(proof.siblings) <= (count - 1).bit_length()
        assert proof.compute_root(leaves[index]) == root
        for other in (b"", leaves[index] + b"x", leaves[index - 1] if count > 1 else b"x"):
            assert proof.compute_root(other) != root


@given(count=st.integers(1, 40), data=st.data())
def test_no_changed_proof_of_an_item_holds(count: int, data: st.DataObject) -> None:
    leaves = [b"leaf %d" % number for number in range(count)]
    index = data.draw(st.integers(0, count - 1))
    proof = prove_list_leaf(leaves, index)
    assert_no_variant_holds(proof, lambda changed: changed.compute_root(leaves[index]), compute_merkle_root(leaves))


def test_a_place_in_a_list_is_proven_for_its_length_alone() -> None:
    """Without the length in the root, the third of three leaves would pass for the second of two."""
    leaves = [b"a", b"b", b"c"]
    proof, root = prove_list_leaf(leaves, 2), compute_merkle_root(leaves)
    assert proof.compute_root(b"c") == root and len(proof.siblings) == 1
    assert ListProof(1, 2, proof.siblings).compute_root(b"c") != root


def test_a_node_of_a_list_is_no_leaf() -> None:
    leaves = [b"a", b"b", b"c", b"d"]
    left, right = (hash_bytes("list leaf", leaf) for leaf in leaves[:2])
    upper = prove_list_leaf(leaves, 0).siblings[1:]
    assert ListProof(0, 2, upper).compute_root(left + right) != compute_merkle_root(leaves)
    assert ListProof(0, 4, (right, *upper)).compute_root(b"a") == compute_merkle_root(leaves)


def test_proofs_of_places_that_do_not_exist() -> None:
    for proof in (ListProof(0, 0, ()), ListProof(2, 2, (OTHER,)), ListProof(2**63 - 1, 2**63 - 1, (OTHER,) * 63)):
        with pytest.raises(ProofError, match="does not exist"):
            proof.compute_root(b"")
    for past in (MountainRangeProof(0, 0, (), ()), MountainRangeProof(3, 3, (), (OTHER,))):
        with pytest.raises(ProofError, match="does not exist"):
            past.compute_root(OTHER)
    longest = ListProof(2**63 - 2, 2**63 - 1, (OTHER,) * 63)  # bounded work, however many leaves a proof claims
    with pytest.raises(ProofError, match="too long"):
        longest.compute_root(b"")
    assert len(MountainRangeProof(0, 2**63 - 1, (OTHER,) * 62, (OTHER,) * 62).compute_root(OTHER)) == 32
    for index in (-1, 0):  # the prover's own mistake is an IndexError, whichever end it runs off
        with pytest.raises(IndexError):
            prove_list_leaf([], index)
        with pytest.raises(IndexError):
            prove_mountain_range_leaf([], index)


@pytest.mark.parametrize("count", [*range(1, 20), 31, 32, 33, 63, 64])
def test_every_block_of_a_history_can_be_proven_and_nothing_else(count: int) -> None:
    ids = [hash_bytes("test", bytes([number])) for number in range(count)]
    history = MountainRange(0, ())
    for block_id in ids:
        history = history.append(block_id)
    for index in range(count):
        proof = prove_mountain_range_leaf(ids, index)
        assert (proof.index, proof.count) == (index, count) and len(proof.peaks) == count.bit_count() - 1
        assert proof.compute_root(ids[index]) == history.root
        for other in (OTHER, *ids[:index], *ids[index + 1 :]):
            assert proof.compute_root(other) != history.root


@given(count=st.integers(1, 70), data=st.data())
def test_no_changed_proof_of_a_past_block_holds(count: int, data: st.DataObject) -> None:
    ids = [hash_bytes("test", bytes([number])) for number in range(count)]
    index = data.draw(st.integers(0, count - 1))
    assert_no_variant_holds(
        prove_mountain_range_leaf(ids, index), lambda changed: changed.compute_root(ids[index]), naive_history_root(ids)
    )


def test_a_past_block_is_proven_for_one_history_alone() -> None:
    ids = [hash_bytes("test", bytes([number])) for number in range(40)]
    roots = [naive_history_root(ids[:count]) for count in range(41)]
    for count in range(8, 41):
        proof = prove_mountain_range_leaf(ids[:count], 7)
        for other in range(1, 41):
            moved = replace(proof, count=other)
            assert (get_root(moved.compute_root, ids[7]) in roots) == (other == count)


@given(numbers=st.sets(st.integers(0, 60)), data=st.data())
def test_every_key_of_a_tree_is_proven_to_be_there_or_not(numbers: set[int], data: st.DataObject) -> None:
    """Of any two answers about a key, the proof of one is no proof of the other."""
    tree = SparseMerkleTree().update({b"key %d" % number: Usage(number, 0) for number in sorted(numbers)})
    for number in range(61):
        key, value = b"key %d" % number, Usage(number, 0).encode()
        proof = tree.prove(key)
        present = value if number in numbers else None
        assert proof.compute_root(key, present) == tree.root
        for wrong in (None, value, Usage(number, 1).encode(), b""):
            if wrong != present:
                assert get_root(proof.compute_root, key, wrong) != tree.root
    number = data.draw(st.integers(0, 60))
    key, present = b"key %d" % number, Usage(number, 0).encode() if number in numbers else None
    assert_no_variant_holds(tree.prove(key), lambda changed: changed.compute_root(key, present), tree.root)


def test_no_key_of_a_tree_is_proven_absent_by_the_proof_of_another() -> None:
    tree = SparseMerkleTree().update({b"key %d" % number: Usage(number, 0) for number in range(40)})
    there = [b"key %d" % number for number in range(40)]
    absent = [tree.prove(b"key %d" % number) for number in range(40, 120)]
    for proof in absent:
        assert all(get_root(proof.compute_root, key, None) != tree.root for key in there)
    # A proof of presence turned into one of absence, by showing the leaf itself or that of a neighbour.
    for key in there:
        proof = tree.prove(key)
        for other in there:
            shown = ConflictingLeaf(
                compute_path(other).to_bytes(32, "big"), hash_bytes("value", tree_value(tree, other))
            )
            forged = replace(proof, conflicting=shown)
            assert get_root(forged.compute_root, key, None) != tree.root


def tree_value(tree: SparseMerkleTree, key: bytes) -> bytes:
    record = tree.get(key)
    assert record is not None
    return record.encode()


def test_a_branch_of_a_tree_is_no_leaf_and_a_leaf_no_branch() -> None:
    tree = SparseMerkleTree().update({b"a": Usage(1, 0), b"b": Usage(2, 0)})
    proof = tree.prove(b"a")
    (fork,) = proof.branches
    own = hash_bytes("leaf", compute_path(b"a").to_bytes(32, "big"), hash_bytes("value", Usage(1, 0).encode()))
    for path, value in ((own, fork.sibling), (fork.sibling, own)):
        forged = TreeProof((), ConflictingLeaf(path, value))
        assert get_root(forged.compute_root, b"c", None) != tree.root


def test_forks_stand_in_order_on_the_path_of_the_key() -> None:
    with pytest.raises(ProofError, match="out of order"):
        TreeProof((Branch(5, OTHER), Branch(5, OTHER)), None).compute_root(b"a", b"x")
    with pytest.raises(ProofError, match="what stands in place"):
        TreeProof((Branch(5, OTHER),), None).compute_root(b"a", None)
    with pytest.raises(ProofError, match="to be absent"):
        TreeProof((), ConflictingLeaf(OTHER, OTHER)).compute_root(b"a", b"x")
    own = compute_path(b"a")
    with pytest.raises(ProofError, match="to be there"):
        TreeProof((), ConflictingLeaf(own.to_bytes(32, "big"), OTHER)).compute_root(b"a", None)
    strayed = ConflictingLeaf((own ^ (1 << (255 - 3))).to_bytes(32, "big"), OTHER)
    assert TreeProof((Branch(2, OTHER),), strayed).compute_root(b"a", None)
    with pytest.raises(ProofError, match="does not stand on the path"):
        TreeProof((Branch(3, OTHER),), strayed).compute_root(b"a", None)


def test_the_empty_tree_holds_nothing() -> None:
    assert SparseMerkleTree().prove(b"a") == TreeProof((), None)
    assert TreeProof((), None).compute_root(b"a", None) == EMPTY_ROOT
    assert TreeProof((), None).compute_root(b"a", b"") != EMPTY_ROOT
