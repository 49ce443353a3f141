"""The stores: both behave alike, batches are whole or absent, damage is refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.exceptions import StoreDamaged, StoreError, StoreInUse
from chain.store import LevelStore, MemoryStore

keys = st.sampled_from([b"a", b"ab", b"abc", b"b", b"b\xff", b"\xff"])
batches = st.lists(st.dictionaries(keys, st.none() | st.binary(max_size=8), max_size=4), max_size=6)


@given(batches)
@settings(max_examples=25)
def test_both_stores_behave_alike(tmp_path_factory: pytest.TempPathFactory, written: list[dict[bytes, bytes]]) -> None:
    path = tmp_path_factory.mktemp("store") / "db"
    memory, level = MemoryStore(), LevelStore(path)
    for batch in written:
        memory.write(batch)
        level.write(batch)
    level.close()
    level = LevelStore(path, create=False)
    for prefix in (b"", b"a", b"b", b"\xff", b"none"):
        assert list(level.items(prefix)) == list(memory.items(prefix))
    for key in (b"a", b"abc", b"none"):
        assert level.get(key) == memory.get(key)
    level.close()
    level.close()


WRITER = """
import sys
from pathlib import Path
from chain.store import LevelStore
store, round = LevelStore(Path(sys.argv[1])), 0
while True:
    store.write({b"%03d" % key: b"%d" % round for key in range(200)})
    print(round, flush=True)
    round += 1
"""


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.1])
def test_a_batch_is_whole_or_absent_after_kill_9(tmp_path: Path, delay: float) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "db")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(5):
        process.stdout.readline()
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    said = [4, *map(int, process.stdout.read().split())]
    process.wait()
    store = LevelStore(tmp_path / "db", create=False)
    rounds = {int(value) for _, value in store.items(b"")}
    assert len(rounds) == 1 and len(list(store.items(b""))) == 200
    assert rounds.pop() >= said[-1], "what was said to be written is there"
    store.close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "db")], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(StoreInUse, match="in use by another process"):
            LevelStore(tmp_path / "db")
    finally:
        process.kill()
        process.wait()


def test_a_missing_database_is_not_made_where_none_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no database"):
        LevelStore(tmp_path / "db", create=False)
    assert not (tmp_path / "db").exists()


def make_filled(path: Path) -> dict[bytes, bytes]:
    store = LevelStore(path)
    content = {os.urandom(16): os.urandom(100) for _ in range(500)}
    store.write(content)
    store.close()
    LevelStore(path).close()  # reopening moves the log into a table
    return content


@pytest.mark.parametrize("position", range(0, 100, 5))
def test_a_flipped_bit_is_never_served(tmp_path: Path, position: int) -> None:
    content = make_filled(tmp_path / "db")
    for name in sorted(path.name for path in (tmp_path / "db").iterdir()):
        raw = bytearray((tmp_path / "db" / name).read_bytes())
        if not raw or name.startswith("LOG"):
            continue
        copy = tmp_path / f"{name} damaged"
        shutil.copytree(tmp_path / "db", copy)
        raw[len(raw) * position // 100] ^= 1
        (copy / name).write_bytes(raw)
        with suppress(StoreError):
            store = LevelStore(copy, create=False)
            found = dict(store.items(b""))
            store.close()
            assert found in ({}, content), f"{name}: the batch is there as a whole, or not at all"


def test_a_lost_pointer_is_not_a_new_database(tmp_path: Path) -> None:
    """LevelDB would begin anew and delete the tables."""
    make_filled(tmp_path / "db")
    (tmp_path / "db" / "CURRENT").unlink()
    with pytest.raises(StoreDamaged, match="CURRENT is missing"):
        LevelStore(tmp_path / "db")
    assert list((tmp_path / "db").glob("*.ldb"))
