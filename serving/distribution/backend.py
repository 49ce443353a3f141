"""The build backend (PEP 517): setuptools' wheel, arranged so that it installs anywhere without a compiler.

Two things are wrong with setuptools' own wheel of this repository, whose top level is fixed. It puts packages with
names such as ``chain`` and ``node`` into everybody's site-packages. And it depends on libp2p, whose wheel brings
``docs``, ``examples`` and 27 commands beside its package, and asks for a fastecdsa that has no wheels.

So the packages go into one directory ``wwwserve``, unchanged, which :mod:`serving.distribution.launcher` puts on the
path. With them goes libp2p's own package, at the pinned version and digest, with its metadata and licences; what it
depends on becomes what the wheel depends on, with a fastecdsa that has wheels. An editable installation is setuptools'
own.

The same sources give the same bytes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
)

from serving.distribution.wheels import LIBP2P, LIBP2P_DIGEST, arrange, fetch, read_wheel, write_wheel

__all__ = [
    "build_editable", "build_sdist", "build_wheel", "get_requires_for_build_editable", "get_requires_for_build_sdist",
    "get_requires_for_build_wheel", "prepare_metadata_for_build_editable",
]  # fmt: skip


def get_requires_for_build_wheel(config_settings: Mapping[str, Any] | None = None) -> list[str]:
    """What building takes: pip too, to fetch what is carried."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), "pip>=23"]


def build_wheel(
    wheel_directory: str, config_settings: Mapping[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """Build the wheel into a directory. Returns its name."""
    shutil.rmtree("build", ignore_errors=True)  # setuptools would take over what an earlier build left there
    with tempfile.TemporaryDirectory() as place:
        plain = Path(place, str(build_meta.build_wheel(place, config_settings)))
        carried = fetch(Path(place) / "carried", LIBP2P, LIBP2P_DIGEST)
        files = arrange(read_wheel(plain), read_wheel(carried))
        target = Path(wheel_directory) / plain.name
        write_wheel(target, files)
        return target.name
