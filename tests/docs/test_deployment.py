"""The files in examples/deployment: by systemd's own checks where it is installed, and by what they say."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENT = ROOT / "examples" / "deployment"
UNITS = ("wwwserve.service", "wwwserve-user.service")
MAX_EXPOSURE = 2.0
"""Of systemd's score from 0, which is closed, to 10."""
NEEDS_SYSTEMD = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def read_unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOYMENT / name)
    return parser


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_waits_until_the_node_is_ready_and_watches_it(name: str) -> None:
    service = read_unit(name)["Service"]
    assert (service["Type"], service["NotifyAccess"], service["Restart"]) == ("notify", "main", "on-failure")
    assert int(service["WatchdogSec"]) >= 30 and int(service["TimeoutStopSec"]) >= 30
    assert service["ExecStart"].endswith("/wwwserve run") and service["NoNewPrivileges"] == "yes"


@NEEDS_SYSTEMD
@pytest.mark.parametrize("name", UNITS)
def test_systemd_takes_the_unit(name: str, tmp_path: Path) -> None:
    text = (DEPLOYMENT / name).read_text()
    (tmp_path / name).write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    scope = ["--user"] if "user" in name else []
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *scope, str(tmp_path / name)],
        capture_output=True, text=True, check=False, env={"XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done


@NEEDS_SYSTEMD
def test_the_service_of_the_machine_is_closed() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(DEPLOYMENT / UNITS[0])],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None and float(found[1]) <= MAX_EXPOSURE, done


def load_services() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOYMENT / "compose.yaml").read_text())["services"])


def test_the_compose_file_runs_a_node_a_model_server_and_what_watches_them() -> None:
    services = load_services()
    assert set(services) == {"node", "vllm", "prometheus", "grafana"}
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"] and service["restart"] == "unless-stopped", name
        assert name == "node" or re.search(r":\S*[0-9]", service["image"]), "an image without a version"
    assert services["node"]["read_only"] and services["node"]["stop_grace_period"] == "60s"


def test_every_file_that_is_mounted_or_copied_is_there() -> None:
    mounted = [volume.split(":")[0] for service in load_services().values() for volume in service.get("volumes", ())]
    for name in [name for name in mounted if name.startswith(".")]:
        assert (DEPLOYMENT / name).resolve().is_file(), name
    ignored = (DEPLOYMENT / "Dockerfile.dockerignore").read_text().splitlines()
    for name in (line[1:] for line in ignored if line.startswith("!")):
        assert (ROOT / name).exists(), name


def test_the_image_runs_without_rights_and_installs_without_a_compiler() -> None:
    text = (DEPLOYMENT / "Dockerfile").read_text().replace("\\\n", " ")
    last = text[text.rindex("\nFROM ") :]
    lines = [line.split(maxsplit=1) for line in last.splitlines() if line and not line.startswith("#")]
    kinds = [kind for kind, _ in lines]
    assert kinds.index("USER") < kinds.index("ENTRYPOINT") and ["USER", "10001"] in lines
    assert "slim" in lines[0][1] and "apt" not in text and "HEALTHCHECK" in kinds, "no compiler comes in"
    assert ["ENTRYPOINT", '["wwwserve"]'] in lines and ["CMD", '["run"]'] in lines
