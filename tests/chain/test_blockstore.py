"""The final chain on disk: what was appended is there after reopening, and nothing else passes for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from chain.blockstore import BlockStore, load_stored_genesis
from chain.exceptions import StoreError
from chain.state import account_key
from chain.store import LevelStore, MemoryStore
from chain.transition import apply_block
from tests.chain.builders import Chain


def append(blocks: BlockStore, chain: Chain, upto: int, mark: tuple[int, bytes] | None = None) -> None:
    """Append the blocks of ``chain`` after the last one up to a height, under one certificate."""
    parent, state, pairs = blocks.header, blocks.state, []
    for block in chain.blocks[blocks.height : upto]:
        transition = apply_block(chain.genesis, parent, state, block)
        pairs.append((block, transition))
        parent, state = block.header, transition.state
    blocks.append(pairs, chain.finality(chain.blocks[upto - 1]), mark)


def make_chain() -> Chain:
    chain = Chain()
    one, other = chain.users
    chain.append([chain.transfer(one, other, 1_000)])
    chain.append([chain.transfer(one, other, 10**12), chain.bond(other, 5_000)])  # the first fails, and pays its fee
    chain.append([chain.hold(one, 0)])
    chain.append()
    return chain


def test_what_was_appended_is_there_after_reopening(tmp_path: Path) -> None:
    chain = make_chain()
    blocks = BlockStore(LevelStore(tmp_path / "db"), chain.genesis)
    assert (blocks.height, blocks.header, blocks.journal_mark) == (0, chain.genesis.header, None)
    append(blocks, chain, 1)
    append(blocks, chain, 3, (7, b"\x07" * 32))
    append(blocks, chain, 4)
    blocks.close()
    store = LevelStore(tmp_path / "db", create=False)
    assert load_stored_genesis(store) == chain.genesis
    blocks = BlockStore(store, chain.genesis)
    assert blocks.header == chain.head and blocks.state.root == chain.state.root
    assert [blocks.block(height) for height in range(1, 5)] == chain.blocks
    assert blocks.block(0) is None and blocks.block(5) is None
    assert [blocks.certificate(height) is not None for height in range(1, 5)] == [True, False, True, True]
    nearest = blocks.nearest_certificate(2)
    assert nearest is not None and nearest[0] == 3 and nearest[1] == chain.finality(chain.blocks[2])
    assert blocks.nearest_certificate(5) is None
    assert blocks.journal_mark == (7, b"\x07" * 32), "a batch without a mark keeps the one before"
    for block in chain.blocks:
        assert blocks.height_of_block(block.id) == block.height
        for index, operation in enumerate(block.body.operations):
            assert blocks.find_operation(operation.id) == (block.height, index)
    assert blocks.height_of_block(bytes(32)) is None and blocks.find_operation(bytes(32)) is None
    failures = blocks.failures(2)
    assert failures[0] is not None and "available" in failures[0] and failures[1] is None
    assert blocks.failures(1) == []
    store.close()


def test_blocks_must_follow_one_another() -> None:
    chain = make_chain()
    blocks = BlockStore(MemoryStore(), chain.genesis)
    transition = apply_block(chain.genesis, chain.genesis.header, chain.genesis.state, chain.blocks[0])
    with pytest.raises(ValueError, match="does not follow"):
        blocks.append([(chain.blocks[1], transition)], chain.finality(chain.blocks[1]))
    assert blocks.height == 0


def test_another_chain_is_refused() -> None:
    store = MemoryStore()
    BlockStore(store, make_chain().genesis)
    with pytest.raises(StoreError, match="belongs to chain"):
        BlockStore(store, Chain(name="another").genesis)


def test_a_database_of_something_else_is_refused() -> None:
    store = MemoryStore()
    store.write({b"x": b"y"})
    with pytest.raises(StoreError, match="no genesis"):
        BlockStore(store, make_chain().genesis)


def test_state_and_last_block_belong_together() -> None:
    """Whatever damage leaves behind, a node never goes on from a state that is not its last block's."""
    chain = make_chain()
    entry = b"s" + account_key(chain.users[0].public_key)
    for damage in ({entry: None}, {b"mheight": (3).to_bytes(8, "big")}, {b"b" + (4).to_bytes(8, "big"): None}):
        store = MemoryStore()
        append(BlockStore(store, chain.genesis), chain, 4)
        store.write(damage)
        with pytest.raises(StoreError):
            BlockStore(store, chain.genesis)
