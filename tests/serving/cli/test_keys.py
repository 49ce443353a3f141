"""``wwwserve keys``: on the files of a node that is stopped, and through one that runs."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from p2p.runtime import RealRuntime
from serving.cli.app import build_wwwserve_app
from serving.cli.errors import CommandError
from serving.cli.running.keys import parse_expiry
from serving.config.data_directory import KEYS_DIRECTORY, lock_data_dir
from serving.keys.keyring import open_keyring
from serving.keys.records import KeyLimits
from serving.keys.usage import Usage

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


async def run_nothing(*_: object) -> None:
    """Stands for running a node."""


def run(*arguments: str) -> str:
    result = CliRunner().invoke(build_wwwserve_app(run_nothing), arguments)
    if isinstance(result.exception, CommandError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def home(tmp_path: Path) -> Path:
    run("init", "-d", str(tmp_path / "home"), "--new-chain", "test")
    return tmp_path / "home"


def test_keys_of_a_stopped_node(home: Path) -> None:
    there = ("-d", str(home))
    assert "no key" in run("keys", "list", *there) and "no key was used yet" in run("keys", "usage", *there)
    limits = ("--models", "a,b", "--requests-per-minute", "60", "--concurrency", "2", "--budget", "2.5")
    secret = run("keys", "create", "alice", *there, *limits, "--expires", "30d").strip()
    keys = open_keyring(home / KEYS_DIRECTORY, RealRuntime())
    assert keys.identify([(b"authorization", f"Bearer {secret}".encode())]) == "alice"
    (record,) = keys.get_records()
    expires = record.limits.expires
    assert expires is not None and record.limits == KeyLimits(("a", "b"), 60, 0, 2, 2_500_000, expires)
    assert 29 < (expires - RealRuntime().now()) / 86_400_000 <= 30
    keys._note("alice", Usage(3, 1, 40, 50, 6, 700))
    keys.close()
    shown = run("keys", "list", *there)
    assert "alice" in shown and f"…{secret[-4:]}" in shown and "2.500000 of 2.500000" in shown
    assert "a, b; 60 requests/min; 2 at a time" in shown and secret not in shown
    rows = list(csv.DictReader(io.StringIO(run("keys", "usage", *there, "--csv"))))
    assert [(row["key"], row["requests"], row["spent"]) for row in rows] == [("alice", "3", "0.000700")]
    assert json.loads(run("keys", "usage", *there, "--json"))["usage"][0]["completion_tokens"] == 6
    assert "alice is revoked" in run("keys", "revoke", "alice", *there)
    (entry,) = json.loads(run("keys", "list", *there, "--json"))["keys"]
    assert entry["revoked"] is not None and "digest" not in entry and "key" not in entry
    for arguments, reason in (
        (("create", "alice"), "a key called alice already"),
        (("create", "a b"), "letters, digits"),
        (("create", "bob", "--models", "\x07"), "printable ASCII"),
        (("create", "bob", "--budget", "much"), "not an amount of credits"),
        (("revoke", "carol"), "no key called 'carol'"),
    ):
        with pytest.raises(CommandError, match=reason):
            run("keys", *arguments, *there)


def test_keys_of_a_running_node_are_asked_of_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, Any]] = []

    def ask_node(data_dir: Path | None, method: str, path: str, content: Any = None) -> Any:
        asked.append((method, path, content))
        return {"key": "sk-made", "keys": [], "usage": []}

    monkeypatch.setattr("serving.cli.running.keys.ask_node", ask_node)
    with lock_data_dir(home):
        assert run("keys", "create", "bob", "-d", str(home), "--tokens-per-minute", "9").strip() == "sk-made"
        run("keys", "revoke", "bob", "-d", str(home))
        run("keys", "list", "-d", str(home))
    assert [(method, path) for method, path, _ in asked] == [
        ("POST", "/keys"),
        ("POST", "/keys/revoke"),
        ("GET", "/keys"),
    ]
    assert asked[0][2]["tokens_per_minute"] == 9 and asked[1][2] == {"name": "bob"}


def test_when_a_key_expires() -> None:
    hour = 3_600_000
    now = round(NOW.timestamp() * 1000)
    assert parse_expiry("12h", NOW) == now + 12 * hour
    assert parse_expiry("8w", NOW) == now + 8 * 7 * 24 * hour
    assert parse_expiry("2030-01-02", NOW) == now + 12 * hour
    for text in ("", "0d", "1y", "-1d", "2030-13-01", "2029-12-31", "soon"):
        with pytest.raises(CommandError, match="--expires"):
            parse_expiry(text, NOW)
