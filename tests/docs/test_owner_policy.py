"""The example of an owner's policy: it is found as an installed package is, and decides as it says."""

from __future__ import annotations

import tomllib
from pathlib import Path
from random import Random

import pytest

from serving.config.build import build_policy
from serving.config.file import parse_config
from serving.scheduling.policy import Decision, LoadSnapshot

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "owner_policy"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example on the path with the metadata that an installer writes of its ``pyproject.toml``."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    metadata = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
        for group, points in project["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(groups))
    (module,) = EXAMPLE.glob("*.py")
    (tmp_path / module.name).write_text(module.read_text())
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("installed")
def test_the_example_is_found_by_its_name_and_keeps_half_for_the_owner() -> None:
    policy = build_policy(parse_config("policy: {name: students-first, accept_frequency: 1, queue_frequency: 1}"))
    assert type(policy).__name__ == "StudentsFirst"
    loads = {
        LoadSnapshot("m", 0.0, 0, 0): Decision.SERVE,
        LoadSnapshot("m", 0.4, 0, 3): Decision.SERVE,
        LoadSnapshot("m", 0.5, 0, 0): Decision.DECLINE,
        LoadSnapshot("m", 0.4, 1, 0): Decision.DECLINE,
    }
    assert {load: policy.decide_offer(load, Random(1)) for load in loads} == loads
    assert policy.decide_request(LoadSnapshot("m", 0.5, 0, 0), Random(1)) is Decision.SERVE
