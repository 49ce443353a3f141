"""``doctor --bundle``: findings, reports and log in one archive, and none of the secrets of a node."""

from __future__ import annotations

import json
import re
import stat
import tarfile
from pathlib import Path

import pytest
import yaml

from serving.cli.app import build_wwwserve_app
from serving.cli.doctor import bundle
from serving.cli.doctor.bundle import HIDDEN, hide_secrets
from serving.logs.file import LogFile
from tests.support.commands import run_cli

SECRETS = {name: f"SECRET-{name}-1234567890" for name in ("user", "backend", "option", "url", "token", "pass")}
CONFIG = {
    "api": {"keys": [{"name": "bob", "key": SECRETS["user"]}], "tls_key": "tls.pem"},
    "models": [
        {"kind": "openai", "base_url": f"http://me:{SECRETS['url']}@127.0.0.1:9/v1", "api_key": SECRETS["backend"]},
        {
            "kind": "vllm",
            "arguments": ["--api-key", SECRETS["option"], f"--hf-token={SECRETS['token']}", "--port", "1"],
        },
    ],
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    assert run_cli(build_wwwserve_app(), "init", "-d", home, "--new-chain", "test", "--api-key").code == 0
    (home / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (home / "admin.token").write_text(SECRETS["token"])
    file = LogFile(home, 1 << 20)
    file.write(json.dumps({"event": "ready", "level": "info"}))
    file.close()
    return home


def read(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        return {entry.name: archive.extractfile(entry).read().decode() for entry in archive}  # type: ignore[union-attr]


def test_it_has_what_helps_and_no_secret(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WWWSERVE_PASSPHRASE", SECRETS["pass"])
    path = tmp_path / "bundle.tar.gz"
    outcome = run_cli(build_wwwserve_app(), "doctor", "-d", home, "--bundle", path)
    assert outcome.code == 1 and str(path) in outcome.stdout, "the configuration has faults, which are told"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = {name.removeprefix("wwwserve-doctor/"): text for name, text in read(path).items()}
    assert set(found) >= {"doctor.json", "machine.json", "config.yaml", "status.json", "node.log"}
    assert json.loads(found["doctor.json"])["problems"] >= 1
    assert "no node runs" in json.loads(found["status.json"])["error"]
    whole = "\n".join(found.values())
    private = re.findall(r"[0-9a-f]{64}", (home / "key").read_text())
    assert [name for name, secret in SECRETS.items() if secret in whole] == []
    assert private and not any(word in whole for word in private)
    assert "bob" in found["config.yaml"] and "--port" in found["config.yaml"]


def test_a_file_that_is_there_is_left_alone(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "there"
    path.write_text("mine")
    outcome = run_cli(build_wwwserve_app(), "doctor", "-d", home, "--bundle", path)
    assert outcome.code == 1 and "exists" in outcome.stderr and path.read_text() == "mine"


def test_a_configuration_that_cannot_be_read_is_left_out(home: Path, tmp_path: Path) -> None:
    (home / "config.yaml").write_text(f"api: [{SECRETS['user']}")
    path = tmp_path / "bundle"
    run_cli(build_wwwserve_app(), "doctor", "-d", home, "--bundle", path)
    found = read(path)
    assert "wwwserve-doctor/config.yaml" not in found and SECRETS["user"] not in "".join(found.values())


def test_what_is_hidden_and_what_is_not() -> None:
    assert hide_secrets({"api_key": "x", "api_key_env": "NAME", "hf-token": "y", "keys": [{"key": "z"}]}) == {
        "api_key": HIDDEN,
        "api_key_env": "NAME",
        "hf-token": HIDDEN,
        "keys": [{"key": HIDDEN}],
    }
    assert hide_secrets(["--key", "a", "b", "--token=c", "https://u:p@host/x"]) == [
        "--key",
        HIDDEN,
        "b",
        f"--token={HIDDEN}",
        f"https://{HIDDEN}@host/x",
    ]
    assert bundle.hide_secrets({"port": 1, "on": True, "none": None}) == {"port": 1, "on": True, "none": None}
