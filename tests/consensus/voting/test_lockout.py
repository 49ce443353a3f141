"""After a loss of votes: what is damaged is set aside, and no validator votes before the chain has proven its age."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import plyvel
import pytest
import structlog
import trio

from chain.crypto import KeyPair
from chain.exceptions import StoreDamaged, StoreError, StoreInUse
from chain.genesis import Genesis
from chain.store.kv import CHAIN_DIRECTORY, LevelStore
from chain.store.layout import VOTE_SUPPORT_PREFIX
from chain.store.writer import ChainStore
from chain.types.operations import Transfer
from chain.types.votes import NO_BLOCK, Vote, VoteKind, sign_vote
from consensus.voting.disk import JOURNAL_FILE, DataDisk, NodeStorage, open_storage
from consensus.voting.journal import RECORD_BYTES, Journal
from consensus.voting.lockout import VotingLockout
from p2p.simulation.runtime import SimulatedRuntime, run_simulation
from tests.adversarial.crashes.crash import CrashWorld, MemoryDisk
from tests.support.chain_builder import Chain
from tests.support.consensus_world import make_equal_genesis
from tests.support.keys import make_key

NOW = SimulatedRuntime.EPOCH_MS
STAMP = "20231114T221320Z"


# The rule.

MEMO = b"m" * 32


def make_chain() -> Chain:
    chain = Chain()
    me, other = chain.users
    for signer, amount, memo in (
        (other, 0, MEMO),
        (me, 0, b"another"),
        (me, 0, b""),
        (me, 1, MEMO),
        (me, 1, b"o" * 32),
    ):
        chain.append([chain.sign(signer, Transfer(chain.account(signer).nonce, signer.public_key, amount, memo))])
    return chain


def test_only_an_own_operation_with_the_memo_ends_the_wait() -> None:
    chain = make_chain()
    me = chain.users[0].public_key
    recovery = VotingLockout(me, 0, MEMO)
    assert recovery.foresee(chain.blocks) == recovery.rights
    assert recovery.is_locked and not any(recovery.may_vote(epoch) for epoch in range(9))
    operation = recovery.make_unlock_operation(chain.account(chain.users[0]).nonce)
    assert (operation.recipient, operation.amount, operation.memo) == (me, 0, MEMO)
    while chain.next_epoch < 2:
        chain.append()
    block = chain.append([chain.sign(chain.users[0], operation)])
    assert chain.failures[-1] == (None,)
    recovery.rights = recovery.foresee([block])
    assert not recovery.is_locked
    assert [recovery.may_vote(epoch) for epoch in range(5)] == [False, False, False, True, True]


def test_without_a_memo_only_the_floor_counts() -> None:
    recovery = VotingLockout(bytes(32), 3, b"")
    assert [recovery.may_vote(epoch) for epoch in range(5)] == [False, False, False, True, True]
    assert recovery.foresee(make_chain().blocks) == recovery.rights


# Opening a data directory.

KEY = make_key(1)
GENESIS = make_equal_genesis(4)
OTHER_GENESIS = make_equal_genesis(3)


@pytest.fixture
def logs() -> Iterator[list[dict[str, object]]]:
    with structlog.testing.capture_logs() as entries:
        yield entries  # type: ignore[misc]


def init(path: Path, key: KeyPair = KEY) -> None:
    Journal.open(path / JOURNAL_FILE, GENESIS.chain_id, key.public_key).close()


def open_path(path: Path, seed: int = 1, genesis: Genesis = GENESIS, votes: bool = True) -> NodeStorage:
    disk = DataDisk(path, lambda: NOW)
    return open_storage(disk, genesis, KEY, random.Random(seed), votes=votes, kept=(b"w",))


def vote(opened: NodeStorage, view: int, epoch: int = 0) -> Vote:
    assert opened.vote_store is not None
    signed = sign_vote(KEY, GENESIS.chain_id, VoteKind.NULLIFY, epoch, view, NO_BLOCK)
    opened.vote_store.persist(signed, None)
    return signed


def make_voter(path: Path, votes: int = 3) -> list[Vote]:
    """A data directory whose validator has voted."""
    init(path)
    opened = open_path(path)
    signed = [vote(opened, view) for view in range(1, votes + 1)]
    opened.close()
    return signed


def is_locked(opened: NodeStorage) -> bool:
    assert opened.vote_store is not None
    assert opened.vote_store.lockout.is_locked != opened.vote_store.lockout.may_vote(0)
    return opened.vote_store.lockout.is_locked


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_a_fresh_validator_votes_at_once_and_after_every_restart(tmp_path: Path, logs: list[dict[str, object]]) -> None:
    votes = make_voter(tmp_path)
    for _ in range(2):
        opened = open_path(tmp_path)
        assert opened.vote_store is not None and not is_locked(opened)
        assert opened.vote_store.journal.votes(0) == votes
        assert opened.blocks.journal_mark == opened.vote_store.mark == (3, opened.vote_store.journal.head_hash)
        opened.close()
    assert names(tmp_path) == [CHAIN_DIRECTORY, JOURNAL_FILE] and logs == []


def lose_journal(path: Path) -> None:
    (path / JOURNAL_FILE).unlink()


def empty_journal(path: Path) -> None:
    (path / JOURNAL_FILE).write_bytes(b"")


def cut_journal(path: Path) -> None:
    (path / JOURNAL_FILE).write_bytes((path / JOURNAL_FILE).read_bytes()[: 2 * RECORD_BYTES])


def cut_to_the_start(path: Path) -> None:
    (path / JOURNAL_FILE).write_bytes((path / JOURNAL_FILE).read_bytes()[:RECORD_BYTES])


def cut_into_the_start(path: Path) -> None:
    (path / JOURNAL_FILE).write_bytes((path / JOURNAL_FILE).read_bytes()[:100])


def flip_journal(path: Path) -> None:
    content = bytearray((path / JOURNAL_FILE).read_bytes())
    content[RECORD_BYTES + 3] ^= 1
    (path / JOURNAL_FILE).write_bytes(content)


def swap_journal(path: Path) -> None:
    (path / JOURNAL_FILE).unlink()
    init(path, make_key(2))


def lose_chain(path: Path) -> None:
    (path / CHAIN_DIRECTORY).rename(path / "gone")


def damage_chain(path: Path) -> None:
    (path / CHAIN_DIRECTORY / "CURRENT").write_bytes(b"MANIFEST-000099\n")


def mark_damaged(path: Path) -> None:
    disk = DataDisk(path, lambda: NOW)
    disk.note_fault(StoreDamaged("a block was not what it should be"))


LOSSES = {
    "no journal": (lose_journal, []),
    "empty journal": (empty_journal, []),
    "journal cut": (cut_journal, [JOURNAL_FILE]),
    "journal cut to its start": (cut_to_the_start, [JOURNAL_FILE]),
    "journal cut into its start": (cut_into_the_start, [JOURNAL_FILE]),
    "bit flipped in the journal": (flip_journal, [JOURNAL_FILE]),
    "journal of another key": (swap_journal, [JOURNAL_FILE]),
    "no chain": (lose_chain, []),
    "chain does not open": (damage_chain, [CHAIN_DIRECTORY]),
    "chain found damaged while it ran": (mark_damaged, [CHAIN_DIRECTORY]),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_set_aside_and_makes_the_validator_wait(
    tmp_path: Path, logs: list[dict[str, object]], name: str
) -> None:
    lose, aside = LOSSES[name]
    votes = make_voter(tmp_path)
    before = {file: (tmp_path / file).read_bytes() for file in (JOURNAL_FILE,)}
    lose(tmp_path)
    damaged = (tmp_path / JOURNAL_FILE).read_bytes() if JOURNAL_FILE in aside else b""
    memos = set()
    for seed in range(1, 4):  # a restart does not forget it, and does not begin again
        opened = open_path(tmp_path, seed)
        assert opened.vote_store is not None and is_locked(opened)
        memos.add(opened.vote_store.lockout.nonce)
        assert opened.blocks.height == 0
        if "chain" in name:
            assert opened.vote_store.journal.votes(0) == votes, "what is known is kept"
        opened.close()
    assert len(memos) == 1 and len(memos.pop()) == 32
    assert [entry["log_level"] for entry in logs].count("error") == len(aside) + 3
    for kind in aside:
        assert f"{kind}.damaged-{STAMP}" in names(tmp_path)
        assert any(entry.get("kept_as") == f"{kind}.damaged-{STAMP}" for entry in logs)
    assert len([entry for entry in names(tmp_path) if ".damaged-" in entry]) == len(aside)
    if damaged:
        assert (tmp_path / f"{JOURNAL_FILE}.damaged-{STAMP}").read_bytes() == damaged
    assert before[JOURNAL_FILE]


def test_two_losses_within_a_second_are_both_kept(tmp_path: Path) -> None:
    make_voter(tmp_path)
    for _ in range(3):
        flip = bytearray((tmp_path / JOURNAL_FILE).read_bytes())
        flip[40] ^= 1
        (tmp_path / JOURNAL_FILE).write_bytes(flip)
        opened = open_path(tmp_path)
        assert is_locked(opened)
        opened.close()
    assert len([name for name in names(tmp_path) if name.startswith(f"{JOURNAL_FILE}.damaged-")]) == 3


def test_each_loss_has_a_memo_of_its_own(tmp_path: Path) -> None:
    init(tmp_path)
    memos = set()
    for seed in range(4):
        (tmp_path / JOURNAL_FILE).unlink()
        opened = open_path(tmp_path, seed)
        assert opened.vote_store is not None
        memos.add(opened.vote_store.lockout.nonce)
        opened.close()
    assert len(memos) == 4


def test_what_no_other_node_has_is_carried_over(tmp_path: Path, logs: list[dict[str, object]]) -> None:
    init(tmp_path)
    opened = open_path(tmp_path)
    entries = {b"wseq": b"\x07", VOTE_SUPPORT_PREFIX + bytes(17): b"evidence"}
    opened.store.write(entries)
    opened.store.write({b"mheight": b"bad"})  # which the checks find, and LevelDB does not
    opened.close()
    opened = open_path(tmp_path)
    assert {key: opened.store.get(key) for key in entries} == entries
    assert opened.blocks.height == 0 and is_locked(opened) is False, "it never voted"
    (entry,) = logs
    assert (entry["entries_carried_over"], entry["lost_unless_put_back"]) == (2, [])
    opened.close()


def test_what_cannot_be_carried_over_is_named(tmp_path: Path, logs: list[dict[str, object]]) -> None:
    make_voter(tmp_path)
    damage_chain(tmp_path)
    open_path(tmp_path).close()
    entry = logs[0]
    assert entry["log_level"] == "error" and "fetched from other nodes" in str(entry["event"])
    assert entry["entries_carried_over"] == 0
    lost = ["blocks that own votes rest on", "numbers of own holds that were not final"]
    assert entry["lost_unless_put_back"] == lost
    assert "MANIFEST-000099" in str(entry["fault"])


def test_a_chain_that_was_followed_without_voting_proves_nothing(tmp_path: Path) -> None:
    make_voter(tmp_path)
    lose_chain(tmp_path)
    opened = open_path(tmp_path, votes=False)
    assert opened.vote_store is None
    opened.close()
    opened = open_path(tmp_path)
    assert is_locked(opened)
    opened.close()


def test_the_wait_ends_for_good(tmp_path: Path) -> None:
    make_voter(tmp_path)
    lose_journal(tmp_path)
    opened = open_path(tmp_path)
    assert opened.vote_store is not None
    opened.vote_store.journal.unlock(2)
    opened.close()
    for _ in range(2):
        opened = open_path(tmp_path)
        assert opened.vote_store is not None and not opened.vote_store.lockout.is_locked
        assert [opened.vote_store.lockout.may_vote(epoch) for epoch in range(4)] == [False, False, True, True]
        opened.close()


@pytest.mark.parametrize("at", range(4))
def test_a_journal_cut_at_a_whole_record_is_found_or_completed(tmp_path: Path, at: int) -> None:
    """The database holds the last vote too, so that losing just this one costs nothing."""
    votes = make_voter(tmp_path)
    path = tmp_path / JOURNAL_FILE
    path.write_bytes(path.read_bytes()[: (1 + at) * RECORD_BYTES])
    opened = open_path(tmp_path)
    assert opened.vote_store is not None
    assert is_locked(opened) == (at < 2)
    assert opened.vote_store.journal.votes(0) == (votes if at >= 2 else [])
    opened.close()


# What is no damage.


def test_a_database_in_use_is_an_error(tmp_path: Path) -> None:
    make_voter(tmp_path)
    opened = open_path(tmp_path)
    with pytest.raises(StoreInUse):
        DataDisk(tmp_path, lambda: NOW).open_journal()
    opened.store.close()
    with pytest.raises(StoreInUse):  # the journal still is
        open_path(tmp_path)
    opened.close()
    assert names(tmp_path) == [CHAIN_DIRECTORY, JOURNAL_FILE]
    open_path(tmp_path).close()


def test_another_chain_is_an_error(tmp_path: Path) -> None:
    make_voter(tmp_path)
    with pytest.raises(StoreError, match="belongs to chain"):
        open_path(tmp_path, genesis=OTHER_GENESIS)
    assert names(tmp_path) == [CHAIN_DIRECTORY, JOURNAL_FILE]
    open_path(tmp_path).close()


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EROFS])
def test_a_disk_in_trouble_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    make_voter(tmp_path)

    trouble = os.strerror(number)

    def fail(*arguments: object, **options: object) -> None:
        raise plyvel.IOError(f"IO error: {tmp_path}/chain/000005.log: {trouble}".encode())

    with monkeypatch.context() as patch:
        patch.setattr(plyvel, "DB", fail)
        with pytest.raises(StoreError, match=trouble) as caught:
            open_path(tmp_path)
        assert not isinstance(caught.value, StoreDamaged)
    store = LevelStore(tmp_path / CHAIN_DIRECTORY)
    store.close()

    class Broken:
        get = iterator = write_batch = fail

        def close(self) -> None:
            pass

    store._db = Broken()
    for use in (lambda: store.get(b"a"), lambda: list(store.items(b"")), lambda: store.write({b"a": b""})):
        with pytest.raises(StoreError, match=trouble) as caught:
            use()
        assert not isinstance(caught.value, StoreDamaged) and store.fault is None

    def fail_to_rename(*arguments: object) -> None:
        raise OSError(number, trouble)

    damage_chain(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail_to_rename)
        with pytest.raises(StoreError, match=trouble):
            open_path(tmp_path)
    assert names(tmp_path) == [CHAIN_DIRECTORY, JOURNAL_FILE]


# In a network.

VICTIM = 4
FOUR = (1, 2, 3, 4)
SHORT = make_equal_genesis(4, others=1, epoch_heights=3)


async def pay(world: CrashWorld, count: int, at: int = 1) -> None:
    for _ in range(count):
        operation = world.transfer(5, 2, 5)
        await world.engine(at).submit(operation)
        await world.engine(at).wait_final(operation.id, 60.0)


def damage_memory(disk: MemoryDisk, name: str) -> None:
    match name:
        case "journal flipped":
            disk.file.content[len(disk.file.content) // 2] ^= 1
        case "journal cut":
            disk.file.truncate(2 * RECORD_BYTES)
        case "journal gone":
            disk.file.truncate(0)
        case "chain damaged":
            disk.fault = "found damaged"
        case "chain gone":
            disk.quarantine_store()
        case "both gone":
            disk.quarantine_store()
            disk.file.truncate(0)


@pytest.mark.parametrize(
    ("name", "aside"),
    [
        ("journal flipped", "votes.journal"),
        ("journal cut", "votes.journal"),
        ("journal gone", ""),
        ("chain damaged", "chain"),
        ("chain gone", "chain"),
        ("both gone", "chain"),
    ],
)
def test_a_validator_comes_back_from_a_loss(name: str, aside: str) -> None:
    """It catches up, has its operation made final, waits for the next epoch, and votes."""
    seen: list[int] = []

    async def play() -> None:
        async with trio.open_nursery() as nursery:
            world = CrashWorld(SHORT, nursery)
            await nursery.start(world.hub.run)
            disk = MemoryDisk()
            world.add_disk(VICTIM, disk)
            await world.start(*FOUR)
            await pay(world, 4)
            await world.kill(VICTIM)
            me = make_key(VICTIM).public_key
            forgotten = {(epoch, view) for signer, epoch, view in world.votes.votes if signer == me}
            assert forgotten
            damage_memory(disk, name)
            world.declare_loss(VICTIM, *filter(None, [aside]))
            await pay(world, 1)  # others go on
            await world.start(VICTIM)
            vote_store = world.engine(VICTIM)._vote_store
            assert vote_store is not None and vote_store.lockout.is_locked
            voted_before = set(world.votes.votes)
            with trio.fail_after(60):
                while vote_store.lockout.is_locked:
                    await trio.sleep(0.05)
            floor = vote_store.lockout.first_epoch
            assert disk.file.content and Journal(disk.file, SHORT.chain_id, me).start.first_epoch == floor
            await pay(world, 9)
            fresh = {epoch for signer, epoch, _ in set(world.votes.votes) - voted_before if signer == me}
            assert fresh and min(fresh) >= floor > max(epoch for epoch, _ in forgotten)
            seen.append(floor)
            world.check_same_chain()
            assert world.violations == []
            nursery.cancel_scope.cancel()

    run_simulation(1, play)
    assert len(seen) == 1


def test_block_store_is_what_comes_back(tmp_path: Path) -> None:
    """Damage found by a read while the node runs is remembered for the next start."""
    make_voter(tmp_path)
    disk = DataDisk(tmp_path, lambda: NOW)
    opened = open_storage(disk, GENESIS, KEY, random.Random(1), votes=True)
    assert disk.fault is None

    class Broken:
        def get(self, *arguments: object, **options: object) -> None:
            raise plyvel.CorruptionError(b"Corruption: block checksum mismatch")

    whole = opened.store._db  # type: ignore[attr-defined]
    opened.store._db = Broken()  # type: ignore[attr-defined]
    with pytest.raises(StoreDamaged, match=r"checksum mismatch$"):
        opened.blocks.block(1)
    assert disk.fault is not None
    opened.store._db = whole
    disk.note_fault(disk.fault)
    opened.close()
    opened = open_path(tmp_path)
    assert isinstance(opened.blocks, ChainStore) and is_locked(opened)
    opened.close()
    assert "checksum mismatch" in (tmp_path / f"{CHAIN_DIRECTORY}.damaged-{STAMP}" / "DAMAGED").read_text()
