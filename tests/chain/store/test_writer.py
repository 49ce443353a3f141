"""The final chain on disk: what was appended is there after reopening, and nothing else passes for it."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from chain.audit.audit import audit_chain
from chain.audit.sources import StoreSource
from chain.codec import MAX_INT, pack
from chain.exceptions import StoreDamaged, StoreError
from chain.state.keys import account_key
from chain.state.state import StateOverlay
from chain.store.kv import LevelStore, MemoryStore
from chain.store.layout import FAILURES_PREFIX, encode_number
from chain.store.reader import MAX_FAILURES_BYTES, ChainReader, load_stored_genesis
from chain.store.writer import ChainStore
from chain.transition.block import apply_block
from chain.transition.context import BlockContext
from chain.transition.operations import process_operation
from chain.types.blocks import MAX_BLOCK_BYTES, Block
from chain.types.votes import Certificate
from tests.chain.store.samples import append, make_chain
from tests.support.chain_builder import PARAMETERS, Chain
from tests.support.chains.busy_chain import make_busy_chain
from tests.support.chains.chain_store import DAMAGES, Finals, damage_file, fill_store, flip


class CountingStore(MemoryStore):
    """Counts the batches, each of which a database syncs to the disk."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def write(self, changes: Mapping[bytes, bytes | None], is_synced: bool = True) -> None:
        self.writes += 1
        super().write(changes)


def test_the_longest_reasons_of_a_full_block_are_read_and_what_is_longer_is_damage() -> None:
    chain, store = make_chain(), MemoryStore()
    append(ChainStore(store, chain.genesis), chain, 4)
    (key, *_), overlay = chain.users, StateOverlay(chain.state)
    overlay.put_account(key.public_key, replace(chain.account(key), bonded=MAX_INT - 1))
    signed = chain.unbond(key, MAX_INT)
    context = BlockContext.after(chain.genesis, chain.head)
    reason = process_operation(overlay, context, signed)
    assert reason is not None and len(pack(reason)) < len(signed.encoded)
    place = FAILURES_PREFIX + encode_number(4)
    longest = [reason] * (MAX_BLOCK_BYTES // len(signed.encoded))
    for reasons in (longest, [reason, "x" * (MAX_FAILURES_BYTES - 1 - len(pack(reason)) - 5)]):
        store.write({place: pack(reasons)})
        assert ChainReader(store).failures(4) == reasons
    assert len(store.get(place) or b"") == MAX_FAILURES_BYTES
    store.write({place: pack([*reasons[:-1], reasons[-1] + "x"])})
    with pytest.raises(StoreDamaged, match="the failures of block 4"):
        ChainReader(store).failures(4)


def certify_by_quorum(chain: Chain, block: Block) -> Certificate:
    """A finality certificate without the signature of one validator."""
    certificate = chain.finality(block)
    return replace(certificate, signers=certificate.signers[:-1], signatures=certificate.signatures[:-1])


def test_a_final_block_costs_one_synced_write() -> None:
    chain, store = make_chain(), CountingStore()
    chain.append_epochs(4)
    blocks = ChainStore(store, chain.genesis, keep_epochs=1)
    weaker = [certify_by_quorum(chain, block) for block in chain.blocks]
    for block, certificate in zip(chain.blocks, weaker, strict=True):
        transition = apply_block(chain.genesis, blocks.header, blocks.state, block)
        before = store.writes
        blocks.append([(block, transition)], certificate)
        blocks.strengthen(chain.finality(block))  # signed by all, as it arrives a moment later
        assert store.writes == before + 1, "the deletions and the stronger certificate before ride along"
        assert blocks.certificate(block.height) == chain.finality(block)
    assert blocks.base.height and not blocks.prunable, "something was deleted"
    reopened = ChainReader(store)
    assert reopened.certificate(blocks.height) == weaker[-1], "the last one is not written yet"
    assert reopened.certificate(blocks.height - 1) == chain.finality(chain.blocks[-2])


def test_what_was_appended_is_there_after_reopening(tmp_path: Path) -> None:
    chain = make_chain()
    blocks = ChainStore(LevelStore(tmp_path / "db"), chain.genesis)
    assert (blocks.height, blocks.header, blocks.journal_mark) == (0, chain.genesis.header, None)
    append(blocks, chain, 1)
    append(blocks, chain, 3, (7, b"\x07" * 32))
    assert blocks.journal_mark == (7, b"\x07" * 32)
    append(blocks, chain, 4)
    blocks.close()
    store = LevelStore(tmp_path / "db", create=False)
    assert load_stored_genesis(store) == chain.genesis
    blocks = ChainStore(store, chain.genesis)
    assert blocks.header == chain.head and blocks.state.root == chain.state.root
    assert [blocks.block(height) for height in range(1, 5)] == chain.blocks
    assert blocks.block(0) is None and blocks.block(5) is None
    assert [blocks.certificate(height) is not None for height in range(1, 5)] == [True, False, True, True]
    nearest = blocks.nearest_certificate(2)
    assert nearest is not None and nearest[0] == 3 and nearest[1] == chain.finality(chain.blocks[2])
    assert blocks.nearest_certificate(5) is None
    assert blocks.journal_mark is None, "a batch without a mark takes away the one before"
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
    blocks = ChainStore(MemoryStore(), chain.genesis)
    transition = apply_block(chain.genesis, chain.genesis.header, chain.genesis.state, chain.blocks[0])
    with pytest.raises(ValueError, match="does not follow"):
        blocks.append([(chain.blocks[1], transition)], chain.finality(chain.blocks[1]))
    assert blocks.height == 0


def test_another_chain_is_refused() -> None:
    store = MemoryStore()
    ChainStore(store, make_chain().genesis)
    with pytest.raises(StoreError, match="belongs to chain"):
        ChainStore(store, Chain(name="another").genesis)


def test_a_database_of_something_else_is_refused() -> None:
    store = MemoryStore()
    store.write({b"x": b"y"})
    with pytest.raises(StoreError, match="no genesis"):
        ChainStore(store, make_chain().genesis)


def test_state_and_last_block_belong_together() -> None:
    """Whatever damage leaves behind, a node never goes on from a state that is not its last block's."""
    chain = make_chain()
    entry = b"s" + account_key(chain.users[0].public_key)
    for damage in ({entry: None}, {b"mheight": (3).to_bytes(8, "big")}, {b"b" + (4).to_bytes(8, "big"): None}):
        store = MemoryStore()
        append(ChainStore(store, chain.genesis), chain, 4)
        store.write(damage)
        with pytest.raises(StoreError):
            ChainStore(store, chain.genesis)


def test_an_append_that_fails_changes_nothing() -> None:
    class FullDisk(MemoryStore):
        full = False

        def write(self, changes, is_synced=True):  # type: ignore[no-untyped-def]
            if self.full:
                raise StoreError("the disk is full")
            super().write(changes)

    chain, store = make_chain(), FullDisk()
    blocks = ChainStore(store, chain.genesis)
    append(blocks, chain, 1)
    before = (blocks.header, blocks.state.root, blocks.height, dict(store.items(b"")))
    store.full = True
    with pytest.raises(StoreError, match="full"):
        append(blocks, chain, 3)
    assert (blocks.header, blocks.state.root, blocks.height, dict(store.items(b""))) == before
    store.full = False
    append(blocks, chain, 4)
    assert ChainStore(store, chain.genesis).height == 4


def test_the_certificate_must_be_of_the_last_block() -> None:
    chain, store = make_chain(), MemoryStore()
    blocks = ChainStore(store, chain.genesis)
    transition = apply_block(chain.genesis, chain.genesis.header, chain.genesis.state, chain.blocks[0])
    before = dict(store.items(b""))
    with pytest.raises(ValueError, match="not of the last block"):
        blocks.append([(chain.blocks[0], transition)], chain.finality(chain.blocks[1]))
    with pytest.raises(ValueError, match="not of the last block"):
        blocks.append([], chain.finality(chain.blocks[0]))
    assert blocks.height == 0 and dict(store.items(b"")) == before


@pytest.mark.parametrize("key", [b"mheight", b"mformat", b"mgenesis"])
@pytest.mark.parametrize("value", [None, b"", b"garbage"])
def test_the_beginning_of_a_store_is_damaged(key: bytes, value: bytes | None) -> None:
    chain, store = make_chain(), MemoryStore()
    append(ChainStore(store, chain.genesis), chain, 4)
    store.write({key: value})
    with pytest.raises(StoreError):
        ChainStore(store, chain.genesis)
    with pytest.raises(StoreError):
        ChainReader(store)


def test_damaged_entries_are_named_when_they_are_read() -> None:
    chain, store = make_chain(), MemoryStore()
    blocks = ChainStore(store, chain.genesis)
    append(blocks, chain, 4)
    two = (2).to_bytes(8, "big")
    store.write({b"b" + two: b"garbage", b"f" + two: b"garbage", b"x" + two: b"garbage"})
    for read in (blocks.block, blocks.certificate, blocks.nearest_certificate, blocks.failures):
        with pytest.raises(StoreError, match="block 2"):
            read(2)
    assert blocks.raw_block(2) == blocks.raw_certificate(2) == b"garbage"


def test_a_state_entry_that_was_changed_is_refused() -> None:
    chain, store = make_chain(), MemoryStore()
    append(ChainStore(store, chain.genesis), chain, 4)
    for key, value in list(store.items(b"s")):
        for changed in (None, flip(value, len(value) // 2), b""):
            store.write({key: changed})
            with pytest.raises(StoreError):
                ChainStore(store, chain.genesis)
        store.write({key: value})
    for key in (b"s", b"s?", b"s" + account_key(bytes(32))):
        store.write({key: replace(chain.account(chain.users[0]), nonce=9).encode()})
        with pytest.raises(StoreError):
            ChainStore(store, chain.genesis)
        store.write({key: None})
    assert ChainStore(store, chain.genesis).height == 4


LENGTH = 40


@pytest.fixture(scope="module")
def busy() -> tuple[Chain, Finals]:
    return make_busy_chain(LENGTH)


@pytest.fixture(scope="module")
def directory(busy: tuple[Chain, Finals], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of a busy chain, in several tables and a log."""
    chain, finals = busy
    path = tmp_path_factory.mktemp("chain") / "db"
    for last in (10, 25, LENGTH):
        store = LevelStore(path)
        fill_store(store, chain, {height: final for height, final in finals.items() if height <= last})
        store.close()
    return path


def check_whatever_is_left(path: Path, chain: Chain, finals: dict[int, Certificate]) -> str:
    """Either it is refused, or the audit finds fault, or it is the chain as it was after some batch."""
    try:
        store = LevelStore(path, create=False)
    except StoreError:
        return "refused"
    try:
        report = audit_chain(StoreSource(store), threads=1)
        if not report.ok:
            return "at fault"
        blocks = ChainStore(store, chain.genesis)
        height = blocks.height
        assert height == 0 or height in finals, "a batch is whole"
        assert [blocks.block(number) for number in range(1, height + 1)] == chain.blocks[:height]
        assert blocks.state.root == report.state_root == chain.states[height].root
        mark = blocks.journal_mark
        assert mark == ((height, mark[1]) if mark else None)
        return "whole" if height == LENGTH else "shorter"
    except StoreError:
        return "refused"
    finally:
        store.close()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_never_silent(busy: tuple[Chain, Finals], directory: Path, tmp_path: Path, damage: str) -> None:
    chain, finals = busy
    names = [file.name for file in sorted(directory.iterdir())]
    assert sum(name.endswith(".ldb") for name in names) >= 2
    outcomes = []
    for name in names:
        rng = random.Random(f"{damage} {name}")
        for _ in range(1 if damage == "deleted" else 4):
            copy = tmp_path / "copy"
            shutil.copytree(directory, copy)
            damage_file(copy / name, damage, rng)
            outcomes.append(check_whatever_is_left(copy, chain, finals))
            shutil.rmtree(copy)
    assert "refused" in outcomes and "whole" in outcomes  # LevelDB's log for people holds nothing


def test_a_hole_that_the_state_does_not_show_is_found_by_the_audit(tmp_path: Path) -> None:
    """The end of a manifest is lost, and with it a table: its blocks are gone, later ones are there.

    All blocks are empty and by one validator, so that each overwrites what the one before changed in the state.
    """
    chain = Chain(1, parameters=replace(PARAMETERS, epoch_heights=100))
    for _ in range(30):
        chain.append()
    path = tmp_path / "db"
    store = LevelStore(path)
    append(ChainStore(store, chain.genesis), chain, 10)
    store.close()
    store = LevelStore(path)
    (manifest,) = path.glob("MANIFEST-*")
    size = manifest.stat().st_size
    append(ChainStore(store, chain.genesis), chain, 20)
    store._db.compact_range()  # the log of this session becomes a table, of which only the manifest knows
    append(ChainStore(store, chain.genesis), chain, 30)
    store.close()
    manifest.write_bytes(manifest.read_bytes()[:size])
    store = LevelStore(path, create=False)
    blocks = ChainStore(store, chain.genesis)
    assert blocks.height == 30 and blocks.block(30) == chain.blocks[-1]
    assert blocks.block(15) is None
    fault = audit_chain(StoreSource(store)).fault
    assert fault is not None and (fault.height, fault.reason) == (11, "block 11 is missing")
    store.close()


APPENDER = """
import sys
from pathlib import Path
from chain.store.writer import ChainStore
from chain.store.kv import LevelStore
from tests.support.chains.busy_chain import make_busy_chain
from tests.support.chains.chain_store import get_transitions
chain, finals = make_busy_chain(40)
blocks = ChainStore(LevelStore(Path(sys.argv[1])), chain.genesis)
transitions = get_transitions(chain)
for height in sorted(finals):
    if height > blocks.height:
        blocks.append(transitions[blocks.height : height], finals[height], (height, bytes(32)))
        print(height, flush=True)
        sys.stdin.readline()
"""


def test_a_chain_is_whole_after_kill_9(busy: tuple[Chain, Finals], tmp_path: Path) -> None:
    """The process is killed right after it was told to go on, at some point of its next batch."""
    chain, finals = busy
    path, said = tmp_path / "db", 0
    for delay in (0.0, 0.0005, 0.002):
        process = subprocess.Popen(
            [sys.executable, "-c", APPENDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdin is not None and process.stdout is not None
        for _ in range(3):
            said = int(process.stdout.readline())
            process.stdin.write("\n")
            process.stdin.flush()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        store = LevelStore(path, create=False)
        report = audit_chain(StoreSource(store))
        assert report.ok and report.height >= said and report.height in finals, report.fault
        assert ChainStore(store, chain.genesis).journal_mark == (report.height, bytes(32))
        store.close()
