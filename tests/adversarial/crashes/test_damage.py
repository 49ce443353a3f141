"""Damage to what a node keeps on disk, everywhere and of every kind: it is refused or repaired, and never believed.

A validator's data directory is damaged in one place and opened the way a node opens it. Either what it finds is the
chain as it was after some batch, to the last bit, or the database is set aside; and unless the journal holds every
vote, the validator waits. Then it takes what it lacks of the chain from another node, and ends with the same state.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from chain.exceptions import StoreDamaged
from chain.store.kv import CHAIN_DIRECTORY, LevelStore
from chain.transition.block import Transition
from chain.types.blocks import Block
from chain.types.votes import NO_BLOCK, Vote, VoteKind, sign_vote
from consensus.voting.disk import JOURNAL_FILE, DataDisk, NodeStorage, open_storage
from consensus.voting.journal import Journal
from tests.support.chain_builder import Chain
from tests.support.chains.busy_chain import make_busy_chain
from tests.support.chains.chain_store import Finals, get_transitions

LENGTH = 24
places_in_all = pytest.mark.parametrize("count", [25, pytest.param(400, marks=pytest.mark.long)])
NOW = 1_700_000_000_000


@dataclass(frozen=True)
class Home:
    """A validator's data directory, and what is in it."""

    path: Path
    chain: Chain
    finals: Finals
    transitions: Sequence[tuple[Block, Transition]]
    votes: list[Vote]

    def open(self, disk: DataDisk) -> NodeStorage:
        return open_storage(disk, self.chain.genesis, self.chain.validators[0], random.Random(1), votes=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Some blocks and votes at a time, so that there are several tables, a log and a manifest."""
    chain, finals = make_busy_chain(LENGTH)
    path = tmp_path_factory.mktemp("home")
    disk = DataDisk(path, lambda: NOW)
    key, transitions = chain.validators[0], get_transitions(chain)
    made = Home(path, chain, finals, transitions, [])
    disk.open_journal().close()
    journal = open_journal(made)
    journal.close()
    for last in (8, 16, LENGTH):
        opened = made.open(disk)
        assert opened.vote_store is not None and not opened.vote_store.lockout.is_locked
        for height in (height for height in sorted(finals) if opened.blocks.height < height <= last):
            for block in chain.blocks[opened.blocks.height : height]:
                epoch, view = block.header.epoch, block.header.view
                vote = sign_vote(key, chain.genesis.chain_id, VoteKind.NOTARIZE, epoch, view, block.id)
                opened.vote_store.persist(vote, block)
                made.votes.append(vote)
            opened.blocks.append(transitions[opened.blocks.height : height], finals[height], opened.vote_store.mark)
        head = chain.blocks[last - 1].header
        made.votes.append(sign_vote(key, chain.genesis.chain_id, VoteKind.NULLIFY, head.epoch, head.view + 1, NO_BLOCK))
        opened.vote_store.persist(made.votes[-1], None)
        opened.close()
    return made


def open_journal(home: Home) -> Journal:
    return Journal.open(home.path / JOURNAL_FILE, home.chain.genesis.chain_id, home.chain.validators[0].public_key)


def check(home: Home, copy: Path) -> str:
    """Open a damaged copy. Returns what became of it."""
    has_journal = (copy / JOURNAL_FILE).exists() and (copy / JOURNAL_FILE).stat().st_size > 0
    opened = open_copy(home, copy)
    try:
        read_all(home, opened)
    except StoreDamaged as error:  # the node ends, and is started again
        opened.close()
        DataDisk(copy, lambda: NOW).note_fault(error)
        opened = open_copy(home, copy)
        assert opened.blocks.height == 0
        read_all(home, opened)
    aside = {path.name.split(".damaged-")[0] for path in copy.iterdir() if ".damaged-" in path.name}
    blocks, vote_store = opened.blocks, opened.vote_store
    assert vote_store is not None
    height = blocks.height
    if not vote_store.lockout.is_locked:
        assert [vote for epoch in range(LENGTH // 4 + 1) for vote in vote_store.journal.votes(epoch)] == home.votes
    else:
        assert aside or height == 0 or not has_journal
    for final in sorted(home.finals):
        if final > blocks.height:
            blocks.append(home.transitions[blocks.height : final], home.finals[final], vote_store.mark)
    assert blocks.state.root == home.chain.state.root
    opened.close()
    opened = open_copy(home, copy)  # and what was repaired stays so
    assert opened.blocks.height == LENGTH and opened.vote_store is not None
    assert opened.vote_store.lockout.is_locked == vote_store.lockout.is_locked
    opened.close()
    return "+".join(sorted(aside)) or ("whole" if height == LENGTH else "shorter")


def open_copy(home: Home, copy: Path) -> NodeStorage:
    return home.open(DataDisk(copy, lambda: NOW))


def read_all(home: Home, opened: NodeStorage) -> None:
    """Everything that a node serves to others is what was written."""
    blocks, chain = opened.blocks, home.chain
    assert blocks.height == 0 or blocks.height in home.finals, "a batch is whole"
    assert blocks.state.root == chain.states[blocks.height].root
    for height, block in enumerate(chain.blocks[: blocks.height], start=1):
        assert blocks.block(height) == block
        certificate = blocks.certificate(height)
        assert (certificate is None or certificate.block_id == block.id) and (certificate or height not in home.finals)
        assert blocks.height_of_block(block.id) == height
        for index, operation in enumerate(block.body.operations):
            assert blocks.find_operation(operation.id) == (height, index)


def damage_each(home: Home, tmp_path: Path, damages: Sequence[tuple[str, Callable[[Path], None]]]) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    for name, damage in damages:
        copy = tmp_path / "copy"
        shutil.copytree(home.path, copy)
        damage(copy)
        try:
            outcomes[check(home, copy)] += 1
        except Exception as error:
            error.add_note(f"damage: {name}")
            raise
        shutil.rmtree(copy)
    return outcomes


def flip(name: str, place: int, bit: int) -> Callable[[Path], None]:
    def damage(copy: Path) -> None:
        content = bytearray((copy / name).read_bytes())
        content[place] ^= 1 << bit
        (copy / name).write_bytes(content)

    return damage


def cut(name: str, place: int, fill: bool) -> Callable[[Path], None]:
    """The rest of the file is gone, or zeros."""

    def damage(copy: Path) -> None:
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content[:place] + bytes(len(content) - place if fill else 0))

    return damage


def remove(name: str) -> Callable[[Path], None]:
    return lambda copy: (copy / name).unlink()


def get_files(home: Home) -> list[tuple[str, int]]:
    """Names and sizes of the database's files."""
    paths = sorted(
        path for path in (home.path / CHAIN_DIRECTORY).iterdir() if path.name not in ("LOCK", "LOG", "LOG.old")
    )
    return [(f"{CHAIN_DIRECTORY}/{path.name}", path.stat().st_size) for path in paths]


def spread(files: Sequence[tuple[str, int]], count: int) -> list[tuple[str, int]]:
    """``count`` places at equal distances in all files together."""
    places, total, before = [], sum(size for _, size in files), 0
    for name, size in files:
        places += [(name, at - before) for at in range(0, total, total // count) if before <= at < before + size]
        before += size
    return places


def test_the_directory_is_what_the_tests_need(home: Home, tmp_path: Path) -> None:
    names = [name for name, _ in get_files(home)]
    assert sum(name.endswith(".ldb") for name in names) >= 2 and any(name.endswith(".log") for name in names)
    assert damage_each(home, tmp_path, [("none", lambda copy: None)]) == {"whole": 1}


@places_in_all
def test_a_bit_flipped_anywhere_in_the_database(home: Home, tmp_path: Path, count: int) -> None:
    rng = random.Random(1)
    places = spread(get_files(home), count)
    damages = [(f"bit at {place} of {name}", flip(name, place, rng.randrange(8))) for name, place in places]
    outcomes = damage_each(home, tmp_path, damages)
    assert outcomes.total() >= count and outcomes["chain"] > count * 0.8
    assert set(outcomes) <= {"chain", "whole", "shorter"}


@places_in_all
def test_a_bit_flipped_anywhere_in_the_journal(home: Home, tmp_path: Path, count: int) -> None:
    rng = random.Random(2)
    places = spread([(JOURNAL_FILE, (home.path / JOURNAL_FILE).stat().st_size)], count)
    damages = [(f"bit at {place}", flip(name, place, rng.randrange(8))) for name, place in places]
    outcomes = damage_each(home, tmp_path, damages)
    assert set(outcomes) == {JOURNAL_FILE} and outcomes[JOURNAL_FILE] >= count


@pytest.mark.parametrize("parts", [4, pytest.param(16, marks=pytest.mark.long)])
@pytest.mark.parametrize("fill", [False, True], ids=["cut", "zeroed"])
def test_the_end_of_a_file_is_gone(home: Home, tmp_path: Path, fill: bool, parts: int) -> None:
    files = [*get_files(home), (JOURNAL_FILE, (home.path / JOURNAL_FILE).stat().st_size)]
    places = [(name, size * part // parts) for name, size in files for part in range(parts)]
    damages = [(f"{name} from {place}", cut(name, place, fill)) for name, place in places]
    outcomes = damage_each(home, tmp_path, damages)
    assert outcomes["chain"] > parts and outcomes[JOURNAL_FILE] > (parts // 2 if fill else parts // 4)


def test_a_batch_is_gone_between_others(home: Home, tmp_path: Path) -> None:
    """As after the end of a manifest was lost, and with it a table; the state does not show it."""

    def damage(copy: Path) -> None:
        store = LevelStore(copy / CHAIN_DIRECTORY)
        height = (5).to_bytes(8, "big")
        store.write({b"b" + height: None, b"f" + height: None, b"n" + home.chain.blocks[4].id: None})
        store.close()

    assert damage_each(home, tmp_path, [("a hole", damage)]) == {"chain": 1}


def test_a_file_is_gone(home: Home, tmp_path: Path) -> None:
    names = [name for name, _ in get_files(home)] + [JOURNAL_FILE]
    outcomes = damage_each(home, tmp_path, [(name, remove(name)) for name in names])
    assert outcomes["chain"] >= 3
    gone: list[tuple[str, Callable[[Path], None]]] = [("all", lambda copy: shutil.rmtree(copy / CHAIN_DIRECTORY))]
    assert damage_each(home, tmp_path, gone) == {"shorter": 1}
