"""The vote journal: a cut last record is forgotten, anything else that is not what was written is damage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.crypto import KeyPair, hash_bytes
from chain.exceptions import StoreError, StoreInUse
from chain.store.kv import MemoryStore
from chain.types.votes import NO_BLOCK, Vote, VoteKind, sign_vote
from consensus.voting import journal as journal_module
from consensus.voting.journal import RECORD_BYTES, DiskFile, Journal, JournalDamaged, make_start
from consensus.voting.vote_store import VoteStore
from consensus.voting.vote_support import VoteSupportStore
from tests.support.memory_file import MemoryFile

KEY = KeyPair(hash_bytes("journal test"))
CHAIN = hash_bytes("journal chain")


def make_vote(view: int, epoch: int = 0, key: KeyPair = KEY) -> Vote:
    return sign_vote(key, CHAIN, VoteKind.NULLIFY, epoch, view, NO_BLOCK)


VOTES = [make_vote(view) for view in range(1, 6)]


def fill(file: MemoryFile, votes: list[Vote] = VOTES) -> Journal:
    journal = Journal(file, CHAIN, KEY.public_key)
    for vote in votes:
        journal.append(vote)
    return journal


def reopen(content: bytes | bytearray) -> tuple[Journal, MemoryFile]:
    file = MemoryFile()
    file.content = bytearray(content)
    return Journal(file, CHAIN, KEY.public_key), file


def test_what_was_appended_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "votes.journal"
    journal = Journal.open(path, CHAIN, KEY.public_key)
    for vote in VOTES[:3]:
        journal.append(vote)
    length, head = journal.length, journal.head_hash
    journal.close()

    journal = Journal.open(path, CHAIN, KEY.public_key)
    assert (journal.length, journal.head_hash) == (length, head) == (3, head)
    assert journal.votes(0) == VOTES[:3]
    journal.append(VOTES[3])
    journal.close()
    assert path.stat().st_size == 5 * RECORD_BYTES
    assert path.stat().st_mode & 0o777 == 0o600


def test_every_append_is_synced_before_it_returns() -> None:
    file = MemoryFile()
    journal = Journal(file, CHAIN, KEY.public_key)
    for count, vote in enumerate(VOTES, start=1):
        journal.append(vote)
        assert file.syncs == count
        assert file.durable == len(file.content) == (1 + count) * RECORD_BYTES


@pytest.mark.parametrize("cut", range(1, RECORD_BYTES))
def test_a_cut_last_record_was_never_sent(cut: int) -> None:
    file = MemoryFile()
    fill(file)
    journal, left = reopen(file.content[:-cut])
    assert journal.length == len(VOTES) - 1
    assert journal.votes(0) == VOTES[:-1]
    assert len(left.content) == len(VOTES) * RECORD_BYTES
    journal.append(VOTES[-1])
    assert left.content == file.content


@settings(max_examples=300, deadline=None)
@given(st.integers(0, (1 + len(VOTES)) * RECORD_BYTES * 8 - 1))
def test_a_flipped_bit_is_damage_at_its_record(bit: int) -> None:
    file = MemoryFile()
    fill(file)
    file.content[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(JournalDamaged) as caught:
        reopen(file.content)
    assert caught.value.offset == bit // 8 // RECORD_BYTES * RECORD_BYTES


@pytest.mark.parametrize(
    "alter",
    [
        lambda raw: raw[RECORD_BYTES:],
        lambda raw: raw[:RECORD_BYTES] + raw[2 * RECORD_BYTES :],
        lambda raw: raw[:RECORD_BYTES] + raw,
        lambda raw: raw[: RECORD_BYTES // 2],
        lambda raw: bytes(len(raw)),
        lambda raw: raw[: 2 * RECORD_BYTES] + raw[3 * RECORD_BYTES :],
        lambda raw: raw[RECORD_BYTES : 2 * RECORD_BYTES] + raw[:RECORD_BYTES] + raw[2 * RECORD_BYTES :],
        lambda raw: raw + bytes(2 * RECORD_BYTES),
        lambda raw: raw + bytes(RECORD_BYTES) + b"\0",
        lambda raw: raw + raw[-RECORD_BYTES:],
        lambda raw: b"\0" + raw,
    ],
)
def test_missing_swapped_and_foreign_records_are_damage(alter) -> None:  # type: ignore[no-untyped-def]
    file = MemoryFile()
    fill(file)
    with pytest.raises(JournalDamaged):
        reopen(alter(bytes(file.content)))


def test_a_last_record_of_zeros_was_never_synced_and_is_cut() -> None:
    file = MemoryFile()
    whole = fill(file)
    journal, after = reopen(file.content + bytes(RECORD_BYTES))
    assert (journal.length, journal.head_hash) == (whole.length, whole.head_hash)
    assert after.content == file.content and after.durable == len(file.content)
    journal.append(make_vote(99))
    empty, _ = reopen(file.content[:RECORD_BYTES] + bytes(RECORD_BYTES))
    assert empty.length == 0 and not empty.is_blank  # it might have held the only vote, if the database is lost too


@pytest.mark.parametrize("is_remembered", [True, False])
def test_a_vote_that_was_zeroed_after_it_was_sent_is_not_forgotten(is_remembered: bool) -> None:
    """The database knows of it: it is put back, or missed."""
    file, store = MemoryFile(), MemoryStore()
    vote_store = VoteStore(KEY, Journal(file, CHAIN, KEY.public_key), VoteSupportStore(store))
    for vote in VOTES:
        vote_store.persist(vote, None)
    mark = vote_store.mark
    if not is_remembered:
        store.write({b"mvote": VOTES[0].encode()})
    content = file.content[:-RECORD_BYTES] + bytes(RECORD_BYTES)
    journal, _ = reopen(content)
    assert journal.length == len(VOTES) - 1
    again = VoteStore(KEY, journal, VoteSupportStore(store))
    if is_remembered:
        again.reconcile(mark)
        assert again.mark == mark and journal.votes(VOTES[-1].epoch)[-1] == VOTES[-1]
    else:
        with pytest.raises(JournalDamaged):
            again.reconcile(mark)


def test_the_journal_of_another_chain_or_key_is_refused() -> None:
    file = MemoryFile()
    fill(file)
    with pytest.raises(JournalDamaged, match="another chain or key"):
        Journal(file, hash_bytes("other chain"), KEY.public_key)
    with pytest.raises(JournalDamaged, match="another chain or key"):
        Journal(file, CHAIN, KeyPair(hash_bytes("other key")).public_key)
    with pytest.raises(ValueError, match="one key"):
        fill(MemoryFile(), [make_vote(1, key=KeyPair(hash_bytes("other key")))])


def test_a_journal_cut_at_a_whole_record_does_not_reach_what_the_ledger_noted() -> None:
    file = MemoryFile()
    journal = fill(file)
    for length in range(len(VOTES) + 1):
        noted = fill(MemoryFile(), VOTES[:length])
        journal.validate_mark(noted.length, noted.head_hash)
    shorter, _ = reopen(file.content[:-RECORD_BYTES])
    with pytest.raises(JournalDamaged, match="4 votes where there were 5"):
        shorter.validate_mark(journal.length, journal.head_hash)
    other = fill(MemoryFile(), [make_vote(9), *VOTES[1:]])
    with pytest.raises(JournalDamaged, match="not the votes"):
        other.validate_mark(journal.length, journal.head_hash)


class MeteredFile(MemoryFile):
    """Counts the bytes read."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes_read = 0

    def read(self, offset: int, size: int) -> bytes:
        data = super().read(offset, size)
        self.bytes_read += len(data)
        return data


def test_the_votes_of_an_epoch_cost_no_more_than_themselves() -> None:
    """A node whose chain was lost passes every epoch again: each must not read the whole journal."""
    file = MeteredFile()
    votes = [make_vote(view, epoch) for epoch in range(6) for view in (1, 2, 3)]
    votes.insert(12, make_vote(4, 2))  # one that came late, from the epoch before
    for journal in (fill(file, votes), Journal(file, CHAIN, KEY.public_key)):
        for epoch in range(8):
            file.bytes_read = 0
            assert journal.votes(epoch) == [vote for vote in votes if vote.epoch == epoch]
            assert file.bytes_read <= 8 * RECORD_BYTES


def test_a_journal_that_changes_while_it_is_open_is_damaged() -> None:
    file = MemoryFile()
    journal = fill(file, [make_vote(view, epoch) for epoch in range(3) for view in (1, 2)])
    file.content[4 * RECORD_BYTES + 20] ^= 1
    with pytest.raises(JournalDamaged) as caught:
        journal.votes(1)
    assert caught.value.offset == 4 * RECORD_BYTES
    assert len(journal.votes(0)) == 2
    del file.content[6 * RECORD_BYTES :]
    with pytest.raises(JournalDamaged):
        journal.votes(2)


def test_a_second_process_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "votes.journal"
    journal = Journal.open(path, CHAIN, KEY.public_key)
    journal.append(VOTES[0])
    code = (
        "import sys; from pathlib import Path; from consensus.voting.journal import Journal\n"
        f"Journal.open(Path(sys.argv[1]), {CHAIN!r}, {KEY.public_key!r})"
    )
    other = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert other.returncode == 1
    assert "StoreInUse" in other.stderr
    with pytest.raises(StoreInUse):  # another open file of this process counts as much
        Journal.open(path, CHAIN, KEY.public_key)
    journal.close()
    Journal.open(path, CHAIN, KEY.public_key).close()


class FullDisk(MemoryFile):
    def sync(self) -> None:
        raise OSError(28, "No space left on device")


def test_after_a_failed_sync_nothing_more_is_taken() -> None:
    journal = Journal(FullDisk(), CHAIN, KEY.public_key)
    with pytest.raises(StoreError, match="No space left"):
        journal.append(VOTES[0])
    assert journal.length == 0
    with pytest.raises(StoreError, match="open it again"):
        journal.append(VOTES[0])


EPOCHS = [make_vote(view, epoch) for epoch in range(6) for view in (1, 2, 3)]


def test_old_votes_are_dropped_and_the_rest_stays_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "PRUNE_AT_RECORDS", 6)
    file = MemoryFile()
    journal = fill(file, EPOCHS)
    marks = [(fill(MemoryFile(), EPOCHS[:count])) for count in range(len(EPOCHS) + 1)]
    journal.prune(1)
    assert journal.start == make_start(CHAIN, KEY.public_key), "not worth a write"
    journal.prune(4)
    for either in (journal, reopen(file.content)[0]):
        assert (either.length, either.head_hash) == (marks[-1].length, marks[-1].head_hash)
        assert (either.start.first, either.start.first_epoch) == (12, 4)
        assert [either.votes(epoch) for epoch in range(4)] == [[]] * 4
        assert either.votes(4) + either.votes(5) == EPOCHS[12:]
        for mark in marks:  # what was noted before the first vote that is left is taken for reached
            either.validate_mark(mark.length, mark.head_hash)
        with pytest.raises(JournalDamaged):
            either.validate_mark(marks[-1].length + 1, marks[-1].head_hash)
        with pytest.raises(JournalDamaged):
            either.validate_mark(15, marks[14].head_hash)
    assert len(file.content) == 7 * RECORD_BYTES
    late = make_vote(9, 5)
    journal.append(late)
    assert journal.head_hash == fill(MemoryFile(), [*EPOCHS, late]).head_hash
    assert reopen(file.content)[0].votes(5) == [*EPOCHS[15:], late]


def test_a_vote_that_came_late_keeps_nothing_of_its_epoch_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among later ones it stays where it is, and its epoch is over all the same."""
    monkeypatch.setattr(journal_module, "PRUNE_AT_RECORDS", 1)
    votes = [*EPOCHS[:4], make_vote(4, 0), *EPOCHS[4:8]]
    file = MemoryFile()
    journal = fill(file, votes)
    journal.prune(1)
    for either in (journal, reopen(file.content)[0]):
        assert either.start.first_epoch == 1 and either.votes(0) == [votes[4]]
        assert either.votes(1) + either.votes(2) == EPOCHS[3:8]
    journal.prune(9)
    assert (journal.length, journal.start.first, len(file.content)) == (9, 9, RECORD_BYTES)
    journal.append(make_vote(1, 9))
    assert reopen(file.content)[0].votes(9) == [make_vote(1, 9)]


def test_what_a_journal_cannot_answer_for_is_remembered() -> None:
    file = MemoryFile()
    journal = fill(file, [])
    assert journal.is_blank
    journal.lock(b"m" * 32)
    assert reopen(file.content)[0].start.nonce == b"m" * 32 and not journal.is_blank
    journal.append(VOTES[0])
    journal.unlock(7)
    for either in (journal, reopen(file.content)[0]):
        assert (either.start.nonce, either.start.first_epoch) == (b"", 7) and not either.is_blank
        assert either.votes(0) == VOTES[:1]
    journal.unlock(3)
    assert journal.start.first_epoch == 7, "a floor never sinks"
    with pytest.raises(JournalDamaged, match="0 votes"):
        Journal(file, CHAIN, KEY.public_key, make_start(CHAIN, KEY.public_key)).validate_mark(1, journal.head_hash)


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_rewrite_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "votes.journal"
    journal = Journal.open(path, CHAIN, KEY.public_key)
    journal.append(VOTES[0])
    before = path.read_bytes()

    def fail(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path if call == "replace" else journal_module.os, call, fail)
        with pytest.raises(StoreError, match="No space left"):
            journal.lock(bytes(32))
    with pytest.raises(StoreError, match="open it again"):
        journal.append(VOTES[1])
    journal.close()
    assert path.read_bytes() == before
    journal = Journal.open(path, CHAIN, KEY.public_key)
    journal.lock(b"m" * 32)
    with pytest.raises(StoreInUse):  # the lock is on the file that is there now
        DiskFile(path)
    journal.append(VOTES[1])
    journal.close()
    journal = Journal.open(path, CHAIN, KEY.public_key)
    assert journal.votes(0) == VOTES[:2] and journal.start.nonce == b"m" * 32
    assert sorted(other.name for other in tmp_path.iterdir()) == ["votes.journal"]
    journal.close()
