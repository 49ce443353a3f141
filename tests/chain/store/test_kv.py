"""The stores: both behave alike, batches are whole or absent, damage is refused."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import plyvel
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chain.exceptions import StoreDamaged, StoreError, StoreInUse
from chain.store.kv import LevelStore, MemoryStore, WriteTimer
from tests.support.chains.chain_store import DAMAGES, damage_file

KEYS = [b"", b"a", b"ab", b"abc", b"b", b"b\xff", b"\xff", b"\xff\xff"]
PREFIXES = [*KEYS, b"none", b"b\xff\xff"]


class Alike(RuleBasedStateMachine):
    """The store in memory is the model of the one on disk."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(mkdtemp(prefix="store-"))
        self.memory, self.level = MemoryStore(), LevelStore(self.path / "db")
        self.readers: list[tuple[Iterator[tuple[bytes, bytes]], Iterator[tuple[bytes, bytes]]]] = []

    def teardown(self) -> None:
        self.level.close()
        shutil.rmtree(self.path)

    @rule(batch=st.dictionaries(st.sampled_from(KEYS), st.none() | st.binary(max_size=8), max_size=5))
    def write(self, batch: dict[bytes, bytes | None]) -> None:
        self.memory.write(batch)
        self.level.write(batch)

    @rule(prefix=st.sampled_from(PREFIXES))
    def begin_to_read(self, prefix: bytes) -> None:
        """What comes later is that of this moment, whatever is written in between."""
        memory, level = self.memory.items(prefix), self.level.items(prefix)
        assert next(memory, None) == next(level, None)
        self.readers.append((memory, level))

    @precondition(lambda self: self.readers)
    @rule()
    def finish_reading(self) -> None:
        memory, level = self.readers.pop()
        assert list(memory) == list(level)

    @rule()
    def reopen(self) -> None:
        self.readers.clear()
        self.level.close()
        self.level.close()  # twice does no harm
        self.level = LevelStore(self.path / "db", create=False)

    @invariant()
    def same_content(self) -> None:
        for key in (*KEYS, b"none"):
            assert self.memory.get(key) == self.level.get(key)
        for prefix in PREFIXES:
            assert list(self.memory.items(prefix)) == list(self.level.items(prefix))


TestBothStoresBehaveAlike = Alike.TestCase
TestBothStoresBehaveAlike.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)


WRITER = """
import sys
from pathlib import Path
from chain.store.kv import LevelStore
store = LevelStore(Path(sys.argv[1]))
round = int(store.get(b"000") or -1) + 1
while True:
    store.write({b"%03d" % key: None if key and key % 7 == round % 7 else b"%d" % round for key in range(200)})
    print(round, flush=True)
    round += 1
"""


def start_writer(path: Path) -> subprocess.Popen[str]:
    """A process that writes or deletes all keys again and again, and says which round is on disk."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline()
    return process


def test_a_batch_is_whole_or_absent_after_kill_9(tmp_path: Path) -> None:
    last = -1
    for delay in (0.0, 0.02, 0.05, 0.1):
        process = start_writer(tmp_path / "db")
        assert process.stdout is not None
        said = int(process.stdout.readline())
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        said = max(said, *map(int, process.stdout.read().split()), 0)
        process.wait()
        store = LevelStore(tmp_path / "db", create=False)
        found = {int(key): int(value) for key, value in store.items(b"")}
        store.close()
        (round_,) = set(found.values())
        assert set(found) == {key for key in range(200) if not key or key % 7 != round_ % 7}
        assert round_ >= said > last, "what was said to be on disk is there"
        last = round_


def test_one_process_at_a_time(tmp_path: Path) -> None:
    process = start_writer(tmp_path / "db")
    try:
        with pytest.raises(StoreInUse, match="in use by another process"):
            LevelStore(tmp_path / "db")
    finally:
        process.kill()
        process.wait()
    LevelStore(tmp_path / "db").close()


def test_a_missing_database_is_not_made_where_none_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no database"):
        LevelStore(tmp_path / "db", create=False)
    assert not (tmp_path / "db").exists()


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    for path in (tmp_path / "file", tmp_path / "file" / "db"):
        with pytest.raises(StoreError, match="cannot open"):
            LevelStore(path)


def test_a_failed_write_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    store = LevelStore(tmp_path / "db")
    store.write({b"a": b"1"})
    with pytest.raises(TypeError):
        store.write({b"a": b"2", b"b": "not bytes"})  # type: ignore[dict-item]
    assert dict(store.items(b"")) == {b"a": b"1"}
    store.close()


def make_history(path: Path) -> list[dict[bytes, bytes]]:
    """A database of sixty batches, in several tables and a log, and its content after each."""
    rng = random.Random(1)
    store, content, history = LevelStore(path), {}, [{}]
    for number in range(60):
        batch = {
            b"k%03d" % rng.randrange(100): rng.randbytes(rng.randrange(300)) if rng.random() < 0.8 else None
            for _ in range(8)
        }
        batch[b"number"] = b"%d" % number
        store.write(batch)
        content = {key: value for key, value in {**content, **batch}.items() if value is not None}
        history.append(content)
        if number in (20, 40):  # reopening moves the log into a table
            store.close()
            store = LevelStore(path)
    store.close()
    return history


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[bytes, bytes]]]:
    path = tmp_path_factory.mktemp("blockchain") / "db"  # "lock" in a path is no lock
    return path, make_history(path)


def read_in_order(store: LevelStore) -> dict[bytes, bytes]:
    content = dict(store.items(b""))
    for prefix in (b"k", b"k0", b"k05", b"number"):
        assert dict(store.items(prefix)) == {k: v for k, v in content.items() if k.startswith(prefix)}
    return content


def read_one_by_one(store: LevelStore) -> dict[bytes, bytes]:
    found = {key: store.get(key) for key in (b"number", *(b"k%03d" % number for number in range(100)))}
    return {key: value for key, value in found.items() if value is not None}


def check_message(error: StoreError, path: Path) -> bool:
    """It names the database, and does not blame another process."""
    assert not isinstance(error, StoreInUse)
    assert str(path) in str(error) and "b'" not in str(error)
    return True


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_one_file_is_refused_or_takes_the_last_batches(
    history: tuple[Path, list[dict[bytes, bytes]]], tmp_path: Path, damage: str
) -> None:
    """No wrong value is ever read. (A cut manifest may leave a hole: see test_blockstore.)"""
    path, contents = history
    names = [file.name for file in sorted(path.iterdir())]
    assert sum(name.endswith(".ldb") for name in names) >= 2 and any(name.endswith(".log") for name in names)
    refused = 0
    for name in names:
        rng = random.Random(f"{damage} {name}")
        for _ in range(1 if damage == "deleted" else 12):
            copy = tmp_path / "copy"
            shutil.copytree(path, copy)
            damage_file(copy / name, damage, rng)
            for read in (read_in_order, read_one_by_one):
                try:
                    store = LevelStore(copy, create=False)
                except StoreError as error:
                    refused += check_message(error, copy)
                    continue
                try:
                    assert read(store) in contents, name
                except StoreError as error:
                    refused += check_message(error, copy)
                finally:
                    store.close()
            shutil.rmtree(copy)
    assert refused >= 4


def test_a_lost_pointer_is_not_a_new_database(history: tuple[Path, object], tmp_path: Path) -> None:
    """LevelDB would begin anew and delete the tables."""
    copy = tmp_path / "db"
    shutil.copytree(history[0], copy)
    (copy / "CURRENT").unlink()
    with pytest.raises(StoreDamaged, match="CURRENT is missing"):
        LevelStore(copy)
    assert list(copy.glob("*.ldb"))


def test_damage_that_a_read_comes_across_is_remembered(
    history: tuple[Path, list[dict[bytes, bytes]]], tmp_path: Path
) -> None:
    """For the code that must end the node, though other code had to handle the failed read."""
    copy = tmp_path / "db"
    shutil.copytree(history[0], copy)
    table = min(copy.glob("*.ldb"))
    content = bytearray(table.read_bytes())
    content[100] ^= 1
    table.write_bytes(content)
    store = LevelStore(copy, create=False)
    assert store.fault is None
    with pytest.raises(StoreDamaged) as caught:
        list(store.items(b""))
    assert store.fault is caught.value and "checksum" in caught.value.fault
    store.close()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOSPC, errno.EMFILE])
def test_a_system_in_trouble_is_no_damage(tmp_path: Path, number: int) -> None:
    class Broken:
        def get(self, *arguments: object, **options: object) -> None:
            raise plyvel.IOError(f"IO error: db/000005.ldb: {os.strerror(number)}".encode())

    store = LevelStore(tmp_path / "db")
    real, store._db = store._db, Broken()
    with pytest.raises(StoreError, match=os.strerror(number)) as caught:
        store.get(b"a")
    assert not isinstance(caught.value, StoreDamaged) and store.fault is None
    store._db = real
    store.close()


def test_each_batch_that_reaches_the_disk_is_timed(tmp_path: Path) -> None:
    class Broken:
        def write_batch(self, **options: object) -> None:
            raise plyvel.IOError(b"IO error: no space")

    timer = WriteTimer(iter((1.0, 1.25, 2.0, 2.5, 3.0)).__next__)
    store = LevelStore(tmp_path / "db", timer=timer)
    for value in (b"1", b"2"):
        store.write({b"a": value})
    real, store._db = store._db, Broken()
    with pytest.raises(StoreError):
        store.write({b"a": b"3"})
    store._db = real
    store.close()
    assert (timer.times.count, timer.times.sum) == (2, 0.75)
