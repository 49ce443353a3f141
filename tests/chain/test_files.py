"""Atomic writes: the old content or the new one, nothing else in the directory, and the access mode asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chain.files import SECRET_MODE, write_atomically


def test_a_file_is_made_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"first, and longer", b"second", b""):
        write_atomically(path, content)
        assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path], "no temporary file is left"


@pytest.mark.parametrize("mode", [SECRET_MODE, 0o400])
def test_the_mode_is_that_of_the_new_file(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"readable by all")
    path.chmod(0o666)
    write_atomically(path, b"content", mode=mode)
    assert path.stat().st_mode & 0o777 == mode


def test_what_is_there_stays_unless_it_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"here first")
    with pytest.raises(FileExistsError):
        write_atomically(path, b"content", replace=False)
    assert path.read_bytes() == b"here first"
    assert list(tmp_path.iterdir()) == [path]
    write_atomically(tmp_path / "other", b"content", replace=False)
    assert (tmp_path / "other").read_bytes() == b"content"


def test_what_is_there_stays_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"here first")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"content")
    assert path.read_bytes() == b"here first"
    assert list(tmp_path.iterdir()) == [path]


def test_content_and_name_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())), sync(fd)))
    write_atomically(tmp_path / "file", b"content")
    content, directory = synced
    assert content.startswith(f"{tmp_path}/.file.")
    assert directory == str(tmp_path)
