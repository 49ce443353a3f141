"""Chains that do not begin with genesis: pruned in bounded steps, or begun from a snapshot; audited, and crash-safe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chain.audit.audit import audit_chain
from chain.audit.export import export_chain
from chain.audit.report import Report
from chain.audit.sources import StoreSource
from chain.cli.app import build_app
from chain.cli.report_text import describe_report
from chain.exceptions import StoreError
from chain.genesis import compute_serving_table
from chain.light.client import Checkpoint, LightClientUpdate
from chain.merkle.mountain_range import MountainRange
from chain.merkle.snapshot import Entry, LargeEntry, add_chunk, make_chunk
from chain.state.beacon import Beacon
from chain.state.keys import BEACON_KEY, HISTORY_KEY, PERIODS_KEY, TOTALS_KEY, account_key, committee_key, table_key
from chain.state.lottery import ServingPeriod, ServingPeriods
from chain.state.records import Account, Totals
from chain.state.state import State
from chain.store.kv import LevelStore, MemoryStore, Store
from chain.store.layout import BASE_KEY, FORMAT, FORMAT_KEY, GENESIS_KEY, HEIGHT_KEY, SLOT_KEY, UNDO_KEY, encode_number
from chain.store.reader import ChainReader, FinalHeader
from chain.store.writer import ChainStore
from chain.transition.epochs import get_last_height
from chain.types.validators import ValidatorSet
from chain.types.votes import VoteKind, make_certificate, sign_vote
from tests.support.chain_builder import PARAMETERS, Chain
from tests.support.commands import run_cli
from tests.support.keys import make_key

E = PARAMETERS.epoch_heights
LENGTH = 30


def make_chain(length: int = LENGTH) -> Chain:
    chain = Chain()
    one, other = chain.users
    for height in range(length):
        chain.append([chain.transfer(one, other, 1_000 + height)] if height % 3 else ())
    return chain


CHAIN = make_chain()


def append(blocks: ChainStore, upto: int = LENGTH, chain: Chain = CHAIN) -> None:
    """Append the blocks up to a height, each with its certificate."""
    from chain.transition.block import apply_block

    for block in chain.blocks[blocks.height : upto]:
        transition = apply_block(chain.genesis, blocks.header, blocks.state, block)
        blocks.append([(block, transition)], chain.finality(block))


def audit(store: Store) -> Report:
    report = audit_chain(StoreSource(store), threads=1)
    assert report.fault is None, report.fault
    return report


def get_ends(first: int = 0, last: int = 6) -> list[LightClientUpdate]:
    """The ends of epochs, as an archive has them."""
    blocks = ChainStore(MemoryStore(), CHAIN.genesis)
    append(blocks)
    found = [blocks.light_client_update(epoch) for epoch in range(first, last + 1)]
    assert None not in found
    return [end for end in found if end is not None]


ENDS = get_ends()


class CrashingStore(MemoryStore):
    """Fails at its write number ``last`` and ever after, as if the process had ended there."""

    def __init__(self, last: int | None = None) -> None:
        super().__init__()
        self.last = last
        self.sizes: list[int] = []

    def write(self, changes: Mapping[bytes, bytes | None], is_synced: bool = True) -> None:
        if self.last is not None and len(self.sizes) >= self.last:
            raise StoreError("crashed")
        self.sizes.append(len(changes))
        super().write(changes)

    def reopen(self) -> CrashingStore:
        """What is on disk, in another process."""
        fresh = CrashingStore()
        fresh.write(dict(self.items(b"")))
        fresh.sizes.clear()
        return fresh


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_old_epochs_go_and_what_a_light_client_needs_stays(keep: int) -> None:
    store = MemoryStore()
    blocks = ChainStore(store, CHAIN.genesis, keep)
    append(blocks)
    base = get_last_height(PARAMETERS, 7 - keep - 1)
    assert blocks.base == CHAIN.blocks[base - 1].header and base == (7 - keep) * E
    for block in CHAIN.blocks:
        is_kept = block.height > base
        assert (blocks.block(block.height) == block) == is_kept
        assert (blocks.certificate(block.height) is not None) == (is_kept or block.height % E == 0)
        assert (blocks.height_of_block(block.id) is not None) == (is_kept or block.height == base)
        assert all((blocks.find_operation(operation.id) is not None) == is_kept for operation in block.body.operations)
        header = blocks.find_header(block.height)
        assert header == (block.header if is_kept or block.height % E == 0 else None)
    assert [blocks.light_client_update(epoch) for epoch in range(8)] == [*ENDS, None]
    assert blocks.validators(7) == CHAIN.epoch.validators
    assert store.get(b"u" + base.to_bytes(8, "big")) is None and not blocks.prunable
    again = ChainStore(store, CHAIN.genesis, keep)
    assert again.header == CHAIN.head and again.state.root == CHAIN.state.root
    report = audit(store)
    assert (report.base_height, report.base_id, report.is_proven) == (base, CHAIN.blocks[base - 1].id, True)
    assert report.height == LENGTH and report.state_root == CHAIN.state.root
    assert f"{base} on; the blocks before are not here" in describe_report(report)


def test_it_takes_a_bounded_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chain.store.writer.PRUNE_BATCH_ENTRIES", 6)
    store = CrashingStore()
    append(ChainStore(store, CHAIN.genesis), 25)
    append(ChainStore(store, CHAIN.genesis, 1), LENGTH)  # it is asked to prune only now
    blocks = ChainStore(store, CHAIN.genesis, 1)
    assert blocks.base.height == 24 and list(blocks.prunable)
    audit(store)
    writes = len(store.sizes)
    while blocks.prunable:
        blocks.prune()
        audit(store)
    assert all(size <= 6 + 6 for size in store.sizes[writes:]) and len(store.sizes) - writes >= 8
    assert [height for height in range(LENGTH + 1) if blocks.raw_block(height) is not None] == [*range(25, 31)]


def test_an_archive_prunes_as_far_as_it_can_go_back() -> None:
    """The state at the new base comes from undo entries, which an archive has for two epochs only."""
    store = MemoryStore()
    append(ChainStore(store, CHAIN.genesis), 21)
    assert ChainReader(store).undo_floor == 21 - 2 * E
    blocks = ChainStore(store, CHAIN.genesis, 3)
    append(blocks, 23)
    assert blocks.base.height == 0
    append(blocks, LENGTH)
    assert blocks.base.height == (7 - 3) * E
    assert audit(store).base_height == 16


def test_what_is_gone_does_not_come_back_but_the_rest_stays() -> None:
    store = MemoryStore()
    append(ChainStore(store, CHAIN.genesis, 1), 20)
    blocks = ChainStore(store, CHAIN.genesis)
    append(blocks)
    assert blocks.base.height == 16 and blocks.raw_block(17) is not None
    assert audit(store).base_height == 16
    with pytest.raises(StoreError, match="not here any more"):
        export_chain(StoreSource(store), Path("never written"))


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("is_reopened", [False, True])
def test_the_states_at_the_last_two_ends_are_at_hand(keep: int, is_reopened: bool) -> None:
    store = MemoryStore()
    blocks = ChainStore(store, CHAIN.genesis, keep)
    for height in range(1, LENGTH + 1):
        append(blocks, height)
        if is_reopened:
            blocks = ChainStore(store, CHAIN.genesis, keep)
        ended = height // E * E
        for end in range(height + 2):
            state = blocks.find_epoch_end_state(end)
            if end and end in (ended, ended - E):
                assert state is not None and state.root == CHAIN.blocks[end - 1].header.state_root
            else:
                assert state is None


# Snapshots.


def stage(blocks: ChainStore, height: int, chunk_size: int = 700) -> State:
    """Fetch the state after a block into the staging of a store, from a tree in memory."""
    header, source = CHAIN.blocks[height - 1].header, CHAIN.states[height]
    snapshot_import = blocks.snapshot_import
    if snapshot_import.header != header:
        snapshot_import.begin(header)
    while not snapshot_import.is_complete:
        frontier = snapshot_import.frontier
        chunk = make_chunk(source.tree, None if frontier is None else frontier.path)
        assert chunk is not None
        advanced = add_chunk(frontier, chunk, header.state_root)
        for entry in chunk.entries:
            if isinstance(entry, LargeEntry):
                record = source.get(entry.key)
                assert record is not None
                snapshot_import.put({entry.key: record.encode()})
        entries = {entry.key: entry.value for entry in chunk.entries if isinstance(entry, Entry)}
        snapshot_import.add(entries, advanced, chunk.is_last)
    return snapshot_import.load()


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chain.merkle.snapshot.MAX_CHUNK_BYTES", 700)
    monkeypatch.setattr("chain.merkle.snapshot.MAX_INLINE_BYTES", 120)


@pytest.mark.parametrize("before", [0, 6, 12])
def test_a_chain_goes_on_from_a_snapshot(before: int, small_chunks: None) -> None:
    store = MemoryStore()
    blocks = ChainStore(store, CHAIN.genesis)
    append(blocks, before)
    state = stage(blocks, 20)
    blocks.adopt_snapshot(ENDS[2:5], state, (9, bytes(32)))
    assert blocks.header == blocks.base == CHAIN.blocks[19].header and blocks.height == 20
    assert blocks.state.root == CHAIN.states[20].root and blocks.journal_mark == (9, bytes(32))
    assert blocks.certificate(20) == CHAIN.finality(CHAIN.blocks[19])
    assert blocks.height_of_block(CHAIN.blocks[19].id) == 20
    audit(store)
    assert ChainStore(store, CHAIN.genesis).state.root == CHAIN.states[20].root
    append(blocks)
    assert [height for height in range(LENGTH + 1) if blocks.raw_block(height) is not None] == [*range(21, 31)]
    assert next(store.items(b"s"), None) is None, "the place of the old state is empty"
    report = audit(store)
    assert (report.base_height, report.height) == (20, LENGTH)
    assert report.is_proven == (before == 12), "the ends go back to genesis, or only to the checkpoint"
    assert report.ok == report.is_proven, "nothing vouches for what it begins with"
    assert ("NOT PROVEN" in describe_report(report)) != report.is_proven
    # And another one on top, with the places of the states exchanged once more.
    chain = ChainReader(store)
    assert chain.stored_state() == {leaf.key: leaf.encoded for leaf in CHAIN.state.entries()}


@pytest.fixture
def begun(small_chunks: None) -> MemoryStore:
    """A chain that begins with the state after block 20, and knows the ends of the epochs from block 12 on."""
    store = MemoryStore()
    blocks = ChainStore(store, CHAIN.genesis)
    blocks.adopt_snapshot(ENDS[2:5], stage(blocks, 20))
    append(blocks)
    return store


@pytest.mark.parametrize(
    ("height", "doubt"),
    [
        (None, "block 20, with which this chain begins, may be invented"),
        (10, "not among the blocks and epoch ends that are here"),
        (12, None),
        (16, None),
        (18, "not among"),
        (20, None),
        (23, None),
        (LENGTH, None),
        (LENGTH + 1, f"ends at block {LENGTH}, before the checkpoint"),
    ],
)
def test_a_chain_that_begins_with_a_state_is_in_doubt_until_a_checkpoint_is_met(
    begun: MemoryStore, height: int | None, doubt: str | None
) -> None:
    """As the end of an epoch before the base, as the base, or as a block above it, which has the base for ancestor."""
    checkpoint = None
    if height is not None:
        checkpoint = Checkpoint(height, CHAIN.blocks[height - 1].id if height <= LENGTH else bytes(32))
    report = audit_chain(StoreSource(begun), threads=1, checkpoint=checkpoint)
    assert report.fault is None and not report.is_proven
    assert report.ok == (doubt is None) and (doubt or "") in (report.doubt or "")
    assert report.checkpoint == (checkpoint if doubt is None else None)
    assert (report.supply, report.treasury) == (CHAIN.genesis.supply, CHAIN.state.totals.treasury)


@pytest.mark.parametrize("height", [12, 16, 20, 21, 24, LENGTH])
def test_a_checkpoint_that_is_another_block_is_a_fault(begun: MemoryStore, height: int) -> None:
    whole = MemoryStore()
    append(ChainStore(whole, CHAIN.genesis))
    for store in (begun, whole):
        report = audit_chain(StoreSource(store), threads=1, checkpoint=Checkpoint(height, bytes(32)))
        assert report.fault is not None and report.fault.height == height
        assert "checkpoint" in f"{report.fault.field} {report.fault.reason}" and report.checkpoint is None


def test_a_checkpoint_older_than_the_unbonding_time_vouches_for_nothing(small_chunks: None) -> None:
    store = MemoryStore()
    blocks = ChainStore(store, CHAIN.genesis)
    blocks.adopt_snapshot(ENDS[2:6], stage(blocks, 24))
    for height, is_young in ((12, False), (16, True)):
        checkpoint = Checkpoint(height, CHAIN.blocks[height - 1].id)
        report = audit_chain(StoreSource(store), threads=1, checkpoint=checkpoint)
        assert report.ok == is_young and ("too old" in (report.doubt or "")) != is_young


def test_a_whole_chain_needs_no_checkpoint_but_has_the_one_that_is_named() -> None:
    store = MemoryStore()
    append(ChainStore(store, CHAIN.genesis))
    assert audit(store).checkpoint is None
    checkpoint = Checkpoint(7, CHAIN.blocks[6].id)
    report = audit_chain(StoreSource(store), threads=1, checkpoint=checkpoint)
    assert report.ok and report.checkpoint == checkpoint
    assert not audit_chain(StoreSource(store), threads=1, checkpoint=Checkpoint(31, bytes(32))).ok


def make_up(credit: int) -> dict[bytes, bytes | None]:
    """A database of the same genesis, whose only validator and only account is unknown to all others."""
    genesis, thief, epoch = CHAIN.genesis, make_key("thief"), 5
    committee = ValidatorSet.of([(thief.public_key, 1)])
    accounts = {account_key(thief.public_key): Account(available=credit)}
    table = compute_serving_table(State().update(accounts), genesis.parameters, bytes(32))
    state = State().update(
        {
            **accounts,
            TOTALS_KEY: Totals(0, credit),
            HISTORY_KEY: MountainRange(0, ()),
            BEACON_KEY: Beacon(epoch + 1, bytes(32), bytes(32), bytes(32)),
            **{committee_key(number): committee for number in range(epoch, epoch + 3)},
            table_key(0): table,
            PERIODS_KEY: ServingPeriods(None, (ServingPeriod(0, bytes(32)),)),
        }
    )
    header = replace(
        CHAIN.blocks[23].header,
        proposer=thief.public_key,
        state_root=state.root,
        validators_hash=committee.hash,
        next_validators_hash=committee.hash,
    )
    vote = sign_vote(thief, genesis.chain_id, VoteKind.FINALIZE, epoch, header.view, header.id)
    return {
        FORMAT_KEY: FORMAT,
        GENESIS_KEY: genesis.encode(),
        HEIGHT_KEY: encode_number(header.height),
        SLOT_KEY: b"s",
        UNDO_KEY: encode_number(header.height),
        BASE_KEY: header.encode(),
        b"l" + encode_number(epoch): FinalHeader(header, make_certificate([vote], committee)).encode(),
        **{b"c" + encode_number(number): committee.encode() for number in range(epoch, epoch + 3)},
        **{b"s" + leaf.key: leaf.encoded for leaf in state.entries()},
    }


def test_an_invented_chain_is_not_in_order(tmp_path: Path) -> None:
    """The end of an epoch that no genesis leads to must not be what everything after it is trusted by."""
    store = LevelStore(tmp_path / "chain")
    store.write(make_up(CHAIN.genesis.supply))
    store.close()
    genesis, config = tmp_path / "genesis.json", []
    genesis.write_text(CHAIN.genesis.to_json())
    app = build_app(find_checkpoint=lambda path: config.append(path))
    result = CliRunner().invoke(app, ["verify", str(tmp_path), "--genesis", str(genesis)])
    assert result.exit_code == 6 and result.stdout.startswith(
        "NOT PROVEN: block 24, with which this chain begins, may be invented"
    )
    assert "ok" not in result.stdout.split() and "--checkpoint HEIGHT:BLOCKID" in result.stdout
    assert "proved by nothing" in result.stdout and not config, "a reader that names a genesis trusts no other file"
    result = CliRunner().invoke(app, ["verify", str(tmp_path), "--json"])
    report = json.loads(result.stdout)
    assert result.exit_code == 6 and not report["ok"] and report["fault"] is None and report["checkpoint"] is None
    assert "may be invented" in report["doubt"] and not report["base"]["is_proven"]
    assert config == [tmp_path]
    true = f"24:{CHAIN.blocks[23].id.hex()}"
    result = CliRunner().invoke(app, ["verify", str(tmp_path), "--checkpoint", true])
    assert result.exit_code == 5 and result.stdout.startswith("FAULT at height 24, ")
    assert "consistent" in result.stdout and "sound" not in result.stdout


def test_a_state_with_more_credit_than_there_can_be_is_a_fault() -> None:
    for credit in (CHAIN.genesis.supply + 1, CHAIN.genesis.supply - 1):
        store = MemoryStore()
        store.write(make_up(credit))
        fault = audit_chain(StoreSource(store), threads=1).fault
        assert fault is not None and (fault.height, fault.field) == (24, "supply")


def test_the_checkpoint_that_a_node_was_given_serves_for_its_own_directory(begun: MemoryStore, tmp_path: Path) -> None:
    store = LevelStore(tmp_path / "chain")
    store.write(dict(begun.items(b"")))
    store.close()
    checkpoint = Checkpoint(20, CHAIN.blocks[19].id)
    app = build_app(find_checkpoint=lambda path: checkpoint if path == tmp_path else None)
    result = CliRunner().invoke(app, ["verify", str(tmp_path)])
    assert result.exit_code == 0 and f"trusted because of the checkpoint {checkpoint}" in " ".join(
        result.stdout.split()
    )
    assert CliRunner().invoke(build_app(), ["verify", str(tmp_path)]).exit_code == 6
    words = ["verify", str(tmp_path), "--checkpoint"]
    assert CliRunner().invoke(build_app(), [*words, str(checkpoint)]).exit_code == 0
    assert CliRunner().invoke(build_app(), [*words, "20"]).exit_code == 1


@pytest.mark.parametrize(
    ("height", "is_known"), [(3, False), (8, False), (12, True), (18, False), (20, True), (25, True), (31, True)]
)
def test_a_store_says_whether_it_can_tell_a_checkpoint(begun: MemoryStore, height: int, is_known: bool) -> None:
    """One within an epoch below the base is not here any more: that no other stands in its place says nothing."""
    blocks = ChainStore(begun, CHAIN.genesis)
    block_id = CHAIN.blocks[height - 1].id if height <= LENGTH else bytes(32)
    assert blocks.check_checkpoint(Checkpoint(height, block_id)) == is_known
    if is_known and height <= LENGTH:
        with pytest.raises(StoreError, match="contradicts block"):
            blocks.check_checkpoint(Checkpoint(height, bytes(32)))
    elif not is_known:
        assert not blocks.check_checkpoint(Checkpoint(height, bytes(32)))


def test_only_the_staged_state_is_adopted(small_chunks: None) -> None:
    blocks = ChainStore(MemoryStore(), CHAIN.genesis)
    state = stage(blocks, 20)
    for ends, wrong in ((ENDS[:4], state), (ENDS[:6], state), (ENDS[:5], CHAIN.states[19])):
        with pytest.raises(ValueError, match="not the staged"):
            blocks.adopt_snapshot(ends, wrong)
    assert blocks.height == 0
    append(blocks, 21)
    with pytest.raises(ValueError, match="not the staged"):
        blocks.adopt_snapshot(ENDS[:5], state)


def test_a_staged_state_is_checked_again_when_it_is_loaded(small_chunks: None) -> None:
    store = MemoryStore()
    blocks = ChainStore(store, CHAIN.genesis)
    stage(blocks, 20)
    key = b"z" + account_key(CHAIN.users[0].public_key)
    raw = store.get(key)
    assert raw is not None
    for damage in (None, raw[:-1], store.get(b"z" + account_key(CHAIN.users[1].public_key))):
        store.write({key: damage})
        with pytest.raises(StoreError):
            ChainStore(store, CHAIN.genesis).snapshot_import.load()


def test_another_snapshot_leaves_nothing_of_the_one_before(small_chunks: None) -> None:
    store = MemoryStore()
    blocks = ChainStore(store, CHAIN.genesis)
    stage(blocks, 16)
    store.write({b"z" + account_key(bytes(32)): b"what the other state does not have"})
    state = stage(blocks, 20)
    blocks.adopt_snapshot(ENDS[:5], state)
    assert audit(store).base_height == 20


def test_a_crash_at_any_write_leaves_a_whole_chain(small_chunks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some blocks, a snapshot, more blocks, and pruning in small steps; killed before every single write in turn."""
    monkeypatch.setattr("chain.store.writer.PRUNE_BATCH_ENTRIES", 5)
    monkeypatch.setattr("chain.store.snapshot_import.GARBAGE_BATCH_ENTRIES", 4)

    def play(store: Store) -> ChainStore:
        blocks = ChainStore(store, CHAIN.genesis, 1)
        append(blocks, 6)
        if blocks.height < 16:
            blocks.adopt_snapshot(ENDS[:4], stage(blocks, 16))
        append(blocks)
        while blocks.prunable or blocks.snapshot_import.garbage:
            blocks.prune()
        return blocks

    whole = CrashingStore()
    expected = dict(play(whole)._store.items(b""))
    audit(whole)
    for last in range(1, len(whole.sizes)):
        store = CrashingStore(last)
        with pytest.raises(StoreError, match="crashed"):
            play(store)
        fresh = store.reopen()
        report = audit(fresh)
        assert report.height in {0, 1, 2, 3, 4, 5, 6, *range(16, 31)}
        play(fresh)
        assert dict(fresh.items(b"")) == expected, last
    assert len(whole.sizes) > 30


def test_damage_to_what_a_pruned_chain_rests_on_is_found() -> None:
    def number(value: int) -> bytes:
        return value.to_bytes(8, "big")

    store = MemoryStore()
    append(ChainStore(store, CHAIN.genesis, 1))
    other = MemoryStore()
    append(ChainStore(other, CHAIN.genesis, 1), 25)
    cases: dict[str, tuple[bytes, bytes | None]] = {
        "no undo": (b"u" + number(27), None),
        "an undo of another block": (b"u" + number(27), store.get(b"u" + number(26))),
        "an undo that is nonsense": (b"u" + number(27), b"\x93\x01\x02\x03"),
        "another base": (b"mbase", CHAIN.blocks[19].header.encode()),
        "a base within an epoch": (b"mbase", CHAIN.blocks[24].header.encode()),
        "no base": (b"mbase", None),
        "no end": (b"l" + number(3), None),
        "another end": (b"l" + number(3), store.get(b"l" + number(4))),
        "no end of the last epoch": (b"l" + number(6), None),
        "no validators": (b"c" + number(3), None),
        "no validators to come": (b"c" + number(8), None),
        "a block below the base": (b"b" + number(3), CHAIN.blocks[2].encoded),
        "an undo below the base": (b"u" + number(3), b"\x90"),
    }
    for name, (key, value) in cases.items():
        damaged = MemoryStore()
        damaged.write(dict(store.items(b"")))
        damaged.write({key: value})
        try:
            fault = audit_chain(StoreSource(damaged), threads=1).fault
        except StoreError:
            continue  # refused at once
        assert fault is not None, name
    audit(store)


def test_a_pruned_chain_in_leveldb(tmp_path: Path) -> None:
    store = LevelStore(tmp_path / "db")
    append(ChainStore(store, CHAIN.genesis, 2), 26)
    store.close()
    store = LevelStore(tmp_path / "db", create=False)
    append(ChainStore(store, CHAIN.genesis, 2))
    assert audit(store).base_height == 20
    store.close()
    for words, code, output in (
        (["verify", str(tmp_path / "db")], 0, "FROM BLOCK   20 on; the blocks before are not here"),
        (["show", "21", "-d", str(tmp_path / "db")], 0, CHAIN.blocks[20].id.hex()),
        (["show", "19", "-d", str(tmp_path / "db")], 1, "this node keeps those after 20"),
        (["export", str(tmp_path / "file"), "-d", str(tmp_path / "db")], 1, "not here any more"),
    ):
        result = run_cli(build_app(), *words)
        assert result.code == code and output in result.stdout + result.stderr, result
    assert not (tmp_path / "file").exists()
