"""What the owner of a validator is kept from signing when a chain is restarted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chain.crypto import KeyPair
from chain.exceptions import RestartError
from chain.store.kv import MemoryStore
from chain.store.writer import ChainStore
from chain.transition.restart_file import RestartFile
from consensus.voting.disk import NodeStorage
from consensus.voting.journal import Journal
from consensus.voting.vote_store import VoteStore
from consensus.voting.vote_support import VoteSupportStore
from p2p.runtime import RealRuntime
from serving.cli.errors import CommandError
from serving.cli.ledger.restart import build_restart_app
from tests.support.chain_builder import Chain
from tests.support.chains.chain_store import fill_store
from tests.support.chains.restarted_chain import make_halted, propose
from tests.support.memory_file import MemoryFile

Command = Callable[..., BaseException | None]
Sign = Callable[[RestartFile], BaseException | None]


@pytest.fixture
def chain_and_command() -> tuple[Chain, Command]:
    """A halted chain, and ``chain restart`` in the hands of one that remains; returns what it raised."""
    chain = make_halted()
    store = MemoryStore()
    fill_store(store, chain, {6: chain.finality(chain.blocks[5])})
    key = chain.validators[1]
    journal = Journal(MemoryFile(), chain.genesis.chain_id, key.public_key)
    opened = NodeStorage(store, ChainStore(store, chain.genesis), VoteStore(key, journal, VoteSupportStore(store)))

    @contextmanager
    def open_stopped_node(_: Path | None) -> Iterator[tuple[NodeStorage, KeyPair]]:
        yield opened, key

    def command(*arguments: object) -> BaseException | None:
        app = build_restart_app(open_stopped_node, lambda *_: pytest.fail("signing changes no genesis file"))
        return CliRunner().invoke(app, [str(argument) for argument in arguments]).exception

    return chain, command


@pytest.fixture
def chain_and_sign(chain_and_command: tuple[Chain, Command], tmp_path: Path) -> tuple[Chain, Sign]:
    chain, command = chain_and_command

    def sign(file: RestartFile) -> BaseException | None:
        path = tmp_path / "restart.file"
        path.write_bytes(file.encode())
        return command("sign", path)

    return chain, sign


def test_a_restart_from_the_future_is_not_signed(chain_and_sign: tuple[Chain, Sign]) -> None:
    """Every later block would have to be later still: the chain would halt again, until that time comes."""
    chain, sign = chain_and_sign
    error = sign(propose(chain, timestamp=RealRuntime().now() + 3_600_000))
    assert isinstance(error, RestartError) and "ahead of the clock" in str(error)
    assert sign(propose(chain)) is None


def test_two_restarts_are_not_signed(chain_and_sign: tuple[Chain, Sign]) -> None:
    chain, sign = chain_and_sign
    one, other = propose(chain), propose(chain, timestamp=chain.head.timestamp + 6_000)
    assert sign(one) is None and sign(one) is None
    error = sign(other)
    assert isinstance(error, RestartError) and "signed another restart" in str(error)


def test_a_proposal_that_cannot_be_written_binds_no_validator(
    chain_and_command: tuple[Chain, Command], tmp_path: Path
) -> None:
    chain, command = chain_and_command
    removed = [part for key in chain.validators[2:] for part in ("--remove", key.address)]
    error = command("propose", tmp_path / "missing" / "file", *removed)
    assert isinstance(error, CommandError) and "cannot write" in str(error)
    assert command("propose", tmp_path / "file", *removed) is None
    file = RestartFile.read((tmp_path / "file").read_bytes())
    assert [vote.signer for vote in file.votes] == [chain.validators[1].public_key]


def test_a_file_with_a_vote_twice_is_not_applied(chain_and_command: tuple[Chain, Command], tmp_path: Path) -> None:
    """It would leave a block whose certificate no node accepts, this one included: nothing may be written."""
    chain, command = chain_and_command
    file = propose(chain)
    for key in chain.validators[:2]:
        file = file.add(file.make_vote(key))
    (tmp_path / "file").write_bytes(replace(file, votes=(*file.votes, file.votes[1])).encode())
    error = command("apply", tmp_path / "file", "--yes")
    assert isinstance(error, RestartError) and "two votes of one validator" in str(error)
    (tmp_path / "file").write_bytes(file.encode())
    assert command("show", tmp_path / "file") is None, "the chain is where it was"
