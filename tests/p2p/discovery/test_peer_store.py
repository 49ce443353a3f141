"""The peers of earlier runs: kept, bounded, and no obstacle when damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2p.discovery.peer_store import MAX_AGE_MS, MAX_STORED, PeerStore, StoredPeer

NOW = 1_700_000_000_000


def make(number: int, connections: int = 1, seen: int = NOW) -> StoredPeer:
    return StoredPeer(number.to_bytes(32, "big"), (f"/ip4/10.0.0.1/tcp/{number}",), (), seen, connections)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "peers.db"


def test_what_is_saved_is_loaded_by_the_next_run(path: Path) -> None:
    PeerStore(path).save([make(1), make(2)], NOW)
    assert PeerStore(path).load() == [make(1), make(2)]
    assert [found.name for found in path.parent.iterdir()] == ["peers.db"]


def test_the_incarnation_is_kept(path: Path) -> None:
    store = PeerStore(path)
    assert store.load() == [] and store.incarnation == 0
    store.incarnation = NOW
    store.save([], NOW)
    again = PeerStore(path)
    again.load()
    assert again.incarnation == NOW


def test_a_missing_file_is_empty(path: Path) -> None:
    assert PeerStore(path).load() == []


@pytest.mark.parametrize("where", [0, 40, -1])
def test_a_damaged_file_is_said_and_begun_anew(path: Path, where: int, caplog: pytest.LogCaptureFixture) -> None:
    PeerStore(path).save([make(1)], NOW)
    raw = bytearray(path.read_bytes())
    raw[where] ^= 1
    path.write_bytes(raw)
    store = PeerStore(path)
    assert store.load() == []
    assert "begun anew" in caplog.text
    store.save([make(2)], NOW)
    assert PeerStore(path).load() == [make(2)]


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"SQLite format 3"])
def test_a_file_of_something_else_is_no_obstacle(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert PeerStore(path).load() == []


def test_a_directory_in_its_place_is_no_obstacle(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.mkdir()
    store = PeerStore(path)
    assert store.load() == []
    store.save([make(1)], NOW)
    assert "cannot be written" in caplog.text


def test_those_connected_in_most_runs_stay_when_there_are_too_many(path: Path) -> None:
    for run in range(3):
        store = PeerStore(path)
        store.load()
        for _ in range(2):  # a run counts once
            store.save([make(number, seen=NOW + run) for number in range(10 - run)], NOW + run)
    store.save([make(1000 + number, 0, NOW + 10) for number in range(2 * MAX_STORED)], NOW + 10)
    stored = PeerStore(path).load()
    assert len(stored) == MAX_STORED
    assert [(one.connections, one.last_seen) for one in stored[:10]] == [(3, NOW + 2)] * 8 + [(2, NOW + 1), (1, NOW)]


def test_who_was_not_seen_for_a_month_is_forgotten(path: Path) -> None:
    store = PeerStore(path)
    store.save([make(1), make(2, seen=NOW - MAX_AGE_MS - 1)], NOW)
    assert store.load() == [make(1)]
