"""A data directory belongs to one process at a time, and to one user."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chain.exceptions import StoreInUse
from serving.cli.app import build_wwwserve_app
from serving.config.data_directory import (
    LOCK_FILE,
    OTHERS,
    DirectoryNotPrivate,
    close_to_others,
    lock_data_dir,
    make_data_dir,
)


def get_mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def find_open(directory: Path) -> list[Path]:
    """What of a directory other users may access."""
    return [path for path in (directory, *directory.rglob("*")) if get_mode(path) & OTHERS]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The directory of a node that was made without a care for other users."""
    directory = tmp_path / "node"
    directory.mkdir()
    for name in ("key", "config.yaml", LOCK_FILE, "chain"):
        path = directory / name
        path.mkdir(0o755) if name == "chain" else path.touch(0o644)
        path.chmod(0o755 if name == "chain" else 0o644)
    directory.chmod(0o755)
    return directory


def test_a_second_holder_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    with lock_data_dir(tmp_path), pytest.raises(StoreInUse, match="stop it first"), lock_data_dir(tmp_path):
        pass
    with lock_data_dir(tmp_path):
        pass


def test_a_directory_that_was_open_is_closed_with_all_that_is_in_it(old: Path) -> None:
    assert len(find_open(old)) == 5
    with lock_data_dir(old):
        assert find_open(old) == []
        (old / "peers.db").write_text("written while it is held")
    assert find_open(old) == []
    assert (get_mode(old), get_mode(old / LOCK_FILE)) == (0o700, 0o600)


def test_whether_others_had_access_is_told(old: Path) -> None:
    assert close_to_others(old)
    assert not close_to_others(old)
    (old / "config.yaml").chmod(0o644)
    assert not close_to_others(old), "they cannot get to it"
    assert find_open(old) == []


def test_the_mask_of_the_process_is_as_before(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with lock_data_dir(tmp_path):
            pass
        (tmp_path / "after").touch()
        assert get_mode(tmp_path / "after") == 0o644
    finally:
        os.umask(before)


def test_what_belongs_to_another_user_is_refused_by_name(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(old / "config.yaml", 65534, 65534)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 65534)
    with pytest.raises(DirectoryNotPrivate, match="belongs to another user"), lock_data_dir(old):
        pass
    assert not (old / "peers.db").exists()


def test_a_shared_directory_is_refused(old: Path) -> None:
    old.chmod(0o1777)
    with pytest.raises(DirectoryNotPrivate, match="users share"):
        make_data_dir(old)
    assert get_mode(old / "config.yaml") == 0o644


def test_a_directory_of_other_things_is_not_closed(old: Path) -> None:
    (old / "key").unlink()
    with pytest.raises(DirectoryNotPrivate, match=r"has other files in it.*chmod 700"):
        make_data_dir(old)
    assert get_mode(old) == 0o755
    old.chmod(0o700)
    make_data_dir(old)
    assert find_open(old) == []


def test_a_lock_that_is_a_link_is_not_followed(old: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("kept")
    (old / LOCK_FILE).unlink()
    (old / LOCK_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"), lock_data_dir(old):
        pass
    assert (tmp_path / "elsewhere").read_text() == "kept"


async def run_nothing(*_: object) -> None:
    """Stands for running a node."""


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "empty"])
def test_init_makes_a_directory_for_its_owner_alone(tmp_path: Path, is_there: bool) -> None:
    directory = tmp_path / "parent" / "node"
    if is_there:
        directory.mkdir(parents=True)
    result = CliRunner().invoke(build_wwwserve_app(run_nothing), ["init", "--new-chain", "home", "-d", str(directory)])
    assert result.exit_code == 0, result.exception
    assert len(list(directory.iterdir())) == 5
    assert find_open(directory) == []
