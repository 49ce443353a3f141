"""The wheel in empty environments: built from the sources, installed by pip where no compiler is, run and asked.

It takes PyPI, or what pip is told to use in its place. An environment is made with each interpreter that is found.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ports import reserve_ports
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools" / "bin" / "python"
"""What has pip, which the environment of the tests need not have."""
PYTHON = str(TOOLS) if TOOLS.exists() else sys.executable
CACHE = Path.home() / ".cache" / "pip"
"""Where pip keeps what it fetched before."""
VERSIONS = ("3.11", "3.12")  # for 3.13 nobody has built plyvel: pip compiles it, which takes LevelDB


def find_interpreter(version: str) -> str | None:
    """An interpreter of that version that can make environments."""
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    found = [*map(str, pyenv), shutil.which(f"python{version}")]
    for path in filter(None, found):
        if subprocess.run([path, "-c", "import ensurepip, venv"], capture_output=True, check=False).returncode == 0:
            return path
    return None


def build(source: Path, place: Path) -> Path:
    """The wheel of a source tree or of an archive of one."""
    subprocess.run(
        [PYTHON, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(place), str(source)], check=True
    )
    (found,) = place.glob("wwwserve-*.whl")
    return found


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel, and that of the weights."""
    place = tmp_path_factory.mktemp("dist")
    build(ROOT, place)
    command = [PYTHON, "-m", "serving.distribution.weights", str(place)]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return place


@pytest.fixture(scope="module", params=VERSIONS)
def environment(request: pytest.FixtureRequest, dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An environment with the wheel, installed while nothing but the interpreter was on the path."""
    interpreter = find_interpreter(request.param)
    if interpreter is None:
        pytest.skip(f"there is no Python {request.param}")
    place = tmp_path_factory.mktemp(f"python{request.param}")
    subprocess.run([interpreter, "-m", "venv", str(place)], check=True)
    bare = {name: value for name, value in os.environ.items() if name.lower().startswith(("pip_", "http", "no_proxy"))}
    subprocess.run(
        [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--find-links", str(dist), "wwwserve[embedded]"],
        check=True, env={"PIP_CACHE_DIR": str(CACHE), **bare, "PATH": str(place / "bin"), "HOME": str(place)},
    )  # fmt: skip
    yield place
    shutil.rmtree(place)


def run(environment: Path, *arguments: object, home: Path) -> str:
    """What the installed command prints, in an environment that knows nothing of the sources."""
    command = [str(environment / "bin" / "wwwserve"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=home, env={"HOME": str(home)})
    assert done.returncode == 0, done
    return done.stdout


def test_the_wheel_does_not_depend_on_where_and_when_it_is_built(dist: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    subprocess.run([PYTHON, "-m", "venv", str(tools)], check=True)
    subprocess.run([str(tools / "bin" / "pip"), "install", "--quiet", "setuptools>=77"], check=True)
    program = f"from serving.distribution.backend import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([str(tools / "bin" / "python"), "-c", program], check=True, cwd=ROOT, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    (first,) = dist.glob("wwwserve-*.whl")
    second = build(archive, tmp_path)
    with zipfile.ZipFile(first) as one, zipfile.ZipFile(second) as two:
        assert {name: one.read(name) for name in one.namelist()} == {name: two.read(name) for name in two.namelist()}
    assert first.read_bytes() == second.read_bytes()


def test_it_brings_one_package_and_two_commands(environment: Path, tmp_path: Path) -> None:
    (packages,) = environment.glob("lib/python*/site-packages")
    names = {path.name for path in packages.iterdir()}
    assert "wwwserve" in names
    assert not names & {"chain", "consensus", "p2p", "serving", "node.py", "libp2p", "docs", "interop", "stubs"}
    commands = {path.name for path in (environment / "bin").iterdir()}
    assert {"wwwserve", "chain"} <= commands and not [name for name in commands if name.endswith("-demo")]
    assert run(environment, "--version", home=tmp_path).startswith("wwwserve ")


def test_from_nothing_to_an_answer(environment: Path, tmp_path: Path) -> None:
    run(environment, "init", "--new-chain", "home", "-d", "node", home=tmp_path)
    config = tmp_path / "node" / "config.yaml"
    peer_port, api_port, admin_port = reserve_ports(3)
    text = config.read_text()
    for old, new in (("tcp/4001", f"tcp/{peer_port}"), ("8000", str(api_port)), ("8001", str(admin_port))):
        assert old in text
        text = text.replace(old, new)
    config.write_text(text)
    with (tmp_path / "log").open("wb") as log:
        node = subprocess.Popen(
            [str(environment / "bin" / "wwwserve"), "run", "-d", "node"],
            cwd=tmp_path, env={"HOME": str(tmp_path)}, stdout=log, stderr=log,
        )  # fmt: skip
    try:

        def is_ready() -> bool:
            assert node.poll() is None, (tmp_path / "log").read_text()
            return "Stop with Ctrl-C" in (tmp_path / "log").read_text()

        wait_until(is_ready, "it is not ready")
        answer = json.loads(
            run(environment, "ask", "What do bees make?", "--max-tokens", 24, "-d", "node", "--json", home=tmp_path)
        )
        assert answer["text"] and answer["served_by"] == "local", answer
    finally:
        node.terminate()
        assert node.wait(60) == 0
