"""``wwwserve backup`` and ``restore``: what is in the file, what is not, and what is refused."""

from __future__ import annotations

import json
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chain.crypto import KeyPair
from chain.genesis import load_genesis
from p2p.runtime import RealRuntime
from serving.cli.app import build_wwwserve_app
from serving.cli.ledger.stopped_node import PASSPHRASE_VARIABLE, open_stopped_node
from serving.config.backup_file import Backup, BackupError, decode_backup
from serving.config.data_directory import lock_data_dir
from serving.keys.keyring import open_keyring
from tests.support.commands import Outcome, run_cli

MADE = "2026-11-29T02:10:00Z"


async def run_nothing(*_: object) -> None:
    """Stands for running a node."""


def run(*arguments: object) -> Outcome:
    return run_cli(build_wwwserve_app(run_nothing), *arguments)


def read_names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name != "lock")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    assert run("init", "-d", tmp_path / "home", "--new-chain", "test").code == 0
    return tmp_path / "home"


@pytest.fixture
def file(home: Path, tmp_path: Path) -> Path:
    assert run("backup", tmp_path / "file", "-d", home).code == 0
    return tmp_path / "file"


def test_a_node_comes_back_with_everything_but_its_votes(home: Path, tmp_path: Path) -> None:
    (home / "prompt.txt").write_text("Judge!")
    config = (home / "config.yaml").read_text()
    (home / "config.yaml").write_text(config.replace("prompt_file:", "prompt_file: prompt.txt  #"))
    secret = run("keys", "create", "alice", "--budget", "3", "-d", home).stdout.strip()
    file, there = tmp_path / "file", tmp_path / "there"
    shown = run("backup", file, "-d", home)
    assert shown.code == 0 and "whoever reads it has your account" in shown.stdout, shown
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and secret not in file.read_text()
    shown = run("restore", file, "-d", there)
    assert shown.code == 0 and "began with this validator alone" in shown.stdout and "wwwserve run -d" in shown.stdout
    assert read_names(there) == ["config.yaml", "genesis.json", "key", "keys", "prompt.txt"]
    assert stat.S_IMODE(there.stat().st_mode) == 0o700
    for name in ("key", "config.yaml", "genesis.json", "prompt.txt"):
        assert (there / name).read_bytes() == (home / name).read_bytes()
        assert stat.S_IMODE((there / name).stat().st_mode) == 0o600
    with closing(open_keyring(there / "keys", RealRuntime())) as keys:
        assert keys.identify([(b"authorization", f"Bearer {secret}".encode())]) == "alice"
        assert keys.get_left("alice") == 3_000_000
    with open_stopped_node(home) as (opened, _):
        assert opened.vote_store is not None and not opened.vote_store.lockout.is_locked
    for _ in range(2):  # whatever happens between, it waits
        with open_stopped_node(there) as (opened, _):
            assert opened.vote_store is not None and opened.vote_store.lockout.is_locked


def test_a_backup_under_a_passphrase(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "correct horse")
    file = tmp_path / "file"
    assert json.loads(run("backup", file, "-d", home, "--json").stdout)["sealed"] is True
    raw = file.read_bytes()
    with pytest.raises(BackupError, match="the passphrase is wrong"):
        decode_backup(raw, "file", "battery staple")
    monkeypatch.delenv(PASSPHRASE_VARIABLE)
    refused = run("restore", file, "-d", tmp_path / "there")
    assert refused.code == 1 and PASSPHRASE_VARIABLE in refused.stderr and not (tmp_path / "there").exists()
    assert decode_backup(raw, "file", "correct horse").files["key"] == (home / "key").read_bytes()


def test_nothing_is_overwritten_unless_forced(home: Path, file: Path, tmp_path: Path) -> None:
    before = file.read_bytes()
    refused = run("backup", file, "-d", home)
    assert refused.code == 1 and "--force" in refused.stderr and file.read_bytes() == before
    assert run("backup", file, "-d", home, "--force").code == 0
    names = read_names(home)
    refused = run("restore", file, "-d", home)
    assert refused.code == 1 and "has a node already" in refused.stderr and read_names(home) == names
    with lock_data_dir(home):
        running = run("restore", file, "-d", home, "--force")
    assert running.code == 1 and "in use" in running.stderr and read_names(home) == names
    votes, key = (home / "votes.journal").read_bytes(), (home / "key").read_bytes()
    moved = json.loads(run("restore", file, "-d", home, "--force", "--json").stdout)["moved_aside_to"]
    assert (Path(moved) / "votes.journal").read_bytes() == votes and (Path(moved) / "key").read_bytes() == key
    assert (home / "key").read_bytes() == key and not (home / "votes.journal").exists()
    with open_stopped_node(home) as (opened, _):
        assert opened.vote_store is not None and opened.vote_store.lockout.is_locked


def test_a_file_with_one_changed_byte_is_refused(file: Path, tmp_path: Path) -> None:
    raw = file.read_bytes()
    for place in (*range(40), *range(40, len(raw), 97), len(raw) - 2):
        changed = bytearray(raw)
        changed[place] ^= 1
        with pytest.raises(BackupError):
            decode_backup(bytes(changed), "file", None)
    for size in (0, 1, 17, 18, 200, len(raw) - 70, len(raw) - 3):
        with pytest.raises(BackupError):
            decode_backup(raw[:size], "file", None)
    file.write_bytes(raw[:-40])
    refused = run("restore", file, "-d", tmp_path / "there")
    assert refused.code == 1 and refused.stderr.count("\n") == 1 and "damaged" in refused.stderr
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("name", ["votes.journal", "../escaped", "/tmp/escaped", "chain", "admin.token"])
def test_a_backup_brings_no_other_file(home: Path, name: str) -> None:
    files = {each: (home / each).read_bytes() for each in ("key", "config.yaml", "genesis.json")}
    with pytest.raises(BackupError, match="does not name"):
        Backup({**files, name: b"x"}, ()).encode(MADE, None)
    files["config.yaml"] = f"judge: {{prompt_file: {name}}}".encode()
    with pytest.raises(BackupError, match="does not name"):
        Backup({**files, name: b"x"}, ()).encode(MADE, None)


def test_what_cannot_be_restored_is_not_written(home: Path, tmp_path: Path) -> None:
    files: dict[str, Any] = {each: (home / each).read_bytes() for each in ("key", "config.yaml", "genesis.json")}
    for name in files:
        rest = {each: content for each, content in files.items() if each != name}
        with pytest.raises(BackupError, match="missing"):
            Backup(rest, ()).encode(MADE, None)
        (home / name).write_bytes(b"nonsense: [")
        failed = run("backup", tmp_path / "file", "-d", home)
        assert failed.code == 1 and "Traceback" not in failed.stderr and not (tmp_path / "file").exists()
        (home / name).write_bytes(files[name])
    with pytest.raises(BackupError, match="API keys"):
        Backup(files, ({"record": "{}", "spent": 0},)).encode(MADE, None)
    assert run("backup", tmp_path / "file", "-d", tmp_path).code == 1


def test_the_warning_of_a_lone_validator_is_for_lone_validators(file: Path, home: Path, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    assert run("init", "-d", stranger, "--genesis", home / "genesis.json").code == 0
    assert run("backup", tmp_path / "other", "-d", stranger).code == 0
    shown = run("restore", tmp_path / "other", "-d", tmp_path / "there")
    assert shown.code == 0 and "alone" not in shown.stdout
    assert load_genesis(tmp_path / "there" / "genesis.json").chain_id == load_genesis(home / "genesis.json").chain_id
    assert KeyPair(bytes(32)).address not in shown.stdout
