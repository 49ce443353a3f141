"""The token of the admin listener: made once, kept private, and the only thing that lets anyone in."""

from __future__ import annotations

import os
from pathlib import Path

from serving.admin.token import is_authorized, load_or_create_token


def test_token_is_made_once_and_kept_private(tmp_path: Path) -> None:
    path = tmp_path / "admin.token"
    before = os.umask(0)
    try:
        token = load_or_create_token(path)
    finally:
        os.umask(before)
    assert len(token) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    assert load_or_create_token(path) == token
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("")  # what a crash of another program's making may leave
    assert load_or_create_token(path) not in ("", token)
    assert [entry.name for entry in tmp_path.iterdir()] == ["admin.token"]


def test_only_a_bearer_of_the_token_is_authorized() -> None:
    assert is_authorized("Bearer token", "token")
    assert is_authorized("bearer  token ", "token")
    for header in ("", "Bearer", "Bearer ", "Bearer tokenx", "Bearer toke", "Basic token", "token", "Bearer \xe9"):
        assert not is_authorized(header, "token"), header
