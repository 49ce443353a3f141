"""A database that its holder lends: read by another connection as if it were its own, and never written."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.cli.app import build_app
from chain.crypto import format_address
from chain.exceptions import StoreDamaged, StoreError
from chain.files import short_path
from chain.store import lending
from chain.store.kv import LevelStore, MemoryStore, Store
from chain.store.lending import SOCKET_FILE, LentStore, lend
from tests.support.chains.busy_chain import make_busy_chain
from tests.support.chains.chain_store import fill_store
from tests.support.commands import run_cli

BUSY, FINALS = make_busy_chain(24)
USER = format_address(BUSY.users[0].public_key)
OPERATION = BUSY.blocks[21].body.operations[0].id.hex()
SINCE = ("--checkpoint", f"20:{BUSY.blocks[19].id.hex()}")


@contextmanager
def lending_to_all(directory: Path, store: Store) -> Iterator[None]:
    """Lend a store to whoever connects, each in a thread."""
    listener = socket.socket(socket.AF_UNIX)
    with short_path(directory / SOCKET_FILE) as path:
        listener.bind(path)
    listener.listen()
    threads: list[threading.Thread] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=lend, args=(connection, store)))
            threads[-1].start()

    threads.append(threading.Thread(target=accept))
    threads[0].start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join()
        (directory / SOCKET_FILE).unlink()


COMMANDS = (
    ("show", "head"), ("show", "9"), ("show", "--duels"), ("show", "--checks"), ("show", OPERATION), ("blocks",),
    ("blocks", "--limit", "3", "--before", "9"), ("account", USER), ("history", USER), ("validators",), ("verify",),
    ("checkpoint",), ("prove", "balance", USER, *SINCE), ("prove", "operation", OPERATION, *SINCE), ("export", "OUT"),
    ("show", "999"), ("prove", "operation", "00" * 32),
)  # fmt: skip


def test_every_command_prints_the_same_of_a_node_that_runs_as_of_one_that_has_stopped(tmp_path: Path) -> None:
    store = LevelStore(tmp_path / "chain")
    blocks = fill_store(store, BUSY, FINALS)
    blocks.index_accounts = True
    while blocks.extend_index():
        pass

    def run_all(name: str) -> list[tuple[int, str, str]]:
        found = []
        for words in COMMANDS:
            for extra in ((), ("--json",)):
                out = tmp_path / f"{name}{len(found)}"
                given = [out if word == "OUT" else word for word in words]
                outcome = run_cli(build_app(), *given, "-d", tmp_path, *extra)
                if extra:
                    json.loads(outcome.stdout)
                found.append((outcome.code, *(text.replace(str(out), "OUT") for text in outcome[1:])))
        return found

    with lending_to_all(tmp_path, store):
        running = run_all("running")
    store.close()
    stopped = run_all("stopped")
    assert running == stopped
    assert [code for code, _, _ in running] == [*[0] * (2 * len(COMMANDS) - 4), 1, 1, 1, 1]
    number = 2 * COMMANDS.index(("export", "OUT"))
    assert (tmp_path / f"running{number}").read_bytes() == (tmp_path / f"stopped{number}").read_bytes()


@given(
    st.dictionaries(st.binary(min_size=1, max_size=3), st.binary(max_size=5), max_size=30),
    st.binary(max_size=2),
    st.binary(max_size=3),
    st.integers(1, 40),
)
def test_a_lent_store_reads_as_the_store_itself(
    entries: dict[bytes, bytes], prefix: bytes, stop: bytes, page: int
) -> None:
    store = MemoryStore()
    store.write(entries)
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=lend, args=(ours, store))
    thread.start()
    lent = LentStore(Path("here"), theirs)
    whole = lending.PAGE_BYTES
    lending.PAGE_BYTES = page
    try:
        assert list(lent.items(prefix)) == list(store.items(prefix))
        assert list(lent.items(prefix, prefix + stop)) == list(store.items(prefix, prefix + stop))
        assert lent.last_keys(prefix, stop, page) == store.last_keys(prefix, stop, page)
        assert all(lent.get(key) == entries.get(key) for key in {*entries, prefix, stop})
        with pytest.raises(StoreError, match="cannot be written to"):
            lent.write({b"k": b"v"})
        store.write({b"later": b"1"})
        assert lent.get(b"later") is None
    finally:
        lending.PAGE_BYTES = whole
        lent.close()
        thread.join()


class Damaged(MemoryStore):
    def get(self, key: bytes) -> bytes | None:
        raise StoreDamaged("block 3 is gone")

    @contextmanager
    def snapshot(self) -> Iterator[MemoryStore]:
        yield self


def test_damage_that_the_lender_finds_is_damage_to_the_reader(tmp_path: Path) -> None:
    with lending_to_all(tmp_path, Damaged()):
        lent = LentStore(tmp_path)
        with pytest.raises(StoreDamaged, match="block 3 is gone"):
            lent.get(b"k")
        lent.close()


def test_a_lender_that_goes_is_an_error_and_nonsense_ends_the_connection(tmp_path: Path) -> None:
    for sent in (b"\xff" * 8, b"\0\0\0\1\xc1", b"\0\0\0\1\x90", b"\0\0\0\2\x91\xa0", b"\0\0"):
        ours, theirs = socket.socketpair()
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        lend(ours, MemoryStore())
        with suppress(ConnectionResetError):
            assert theirs.recv(10) == b""
        theirs.close()
    ours, theirs = socket.socketpair()
    lent = LentStore(Path("here"), theirs)
    ours.close()
    with pytest.raises(StoreError, match=r"does not answer|has ended"):
        lent.get(b"k")
    lent.close()


def test_a_socket_in_a_deep_directory_is_reached(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    assert len(os.fsencode(deep)) > 108
    store = MemoryStore()
    store.write({b"k": b"v"})
    with lending_to_all(deep, store):
        lent = LentStore(deep)
        assert lent.get(b"k") == b"v"
        lent.close()
