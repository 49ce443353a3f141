"""Settings of every test: hypothesis draws the same examples in every run, and no example has a time limit."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nacl.bindings
import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis.internal.conjecture import providers

# Hypothesis also draws from the constants in the modules that are imported by then, so that what a test sees would
# depend on which other tests were collected, and on every edit of the code.
providers._get_local_constants = lambda: providers._local_constants

# One process plays all nodes of a network, which have the same keys in every test and check the same signatures.
for name in ("crypto_sign_seed_keypair", "crypto_sign_open"):
    setattr(nacl.bindings, name, functools.lru_cache(maxsize=1 << 14)(getattr(nacl.bindings, name)))

ROOT = Path(__file__).parent
SPREAD = ("tests/adversarial/quality/test_duel_strategies.py",)
"""Files whose tests share nothing, and take so long that one worker should not have them all."""

settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate, Phase.target, Phase.shrink],  # explaining traces every line: far too slow
)
# For mutants: whether there is a failing example, not which is the smallest.
settings.register_profile("find", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate])
settings.load_profile("ci")


@pytest.fixture(autouse=True)
def _default_logs() -> Iterator[None]:
    """Leave no level of logs behind: a test that counts warnings may follow one that silenced them."""
    yield
    structlog.reset_defaults()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests marked long too; with -m long: them alone")


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """Two more than there are cores: tests of processes and of real time wait for half of theirs."""
    return len(os.sched_getaffinity(0)) + 2


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker whole files, but the tests of a file in :data:`SPREAD` one by one."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler.loadfile import LoadFileScheduling

    class FileScheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            scope = super()._split_scope(nodeid)
            return nodeid if scope in SPREAD else scope

    return FileScheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Have each worker import a share of its own of the tests first, and so share the work of rewriting assertions.

    Rewriting takes ten seconds in a fresh checkout. What one worker has written, the others read. Nothing of all this
    is garbage.
    """
    gc.disable()
    worker = getattr(session.config, "workerinput", None)
    if worker is None or not all(map(os.path.isdir, session.config.args)):
        return
    number, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
    paths = sorted(path for directory in session.config.args for path in Path(directory).resolve().rglob("test_*.py"))
    others = [ROOT.parent / folder for folder in session.config.getini("norecursedirs")]
    for path in [path for path in paths if not any(map(path.is_relative_to, others))][number::count]:
        with contextlib.suppress(Exception):  # which is reported when the file is collected
            importlib.import_module(".".join(path.relative_to(ROOT.parent).with_suffix("").parts))


def pytest_collection_finish() -> None:
    """Spare the collector of garbage the thousands of collected tests, and an eighth of the time."""
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


WAITING = ("adversarial/overlay/test_abuse", "docs/test_pages", "p2p/host/", "p2p/nat/", "processes/")
"""Tests that wait for sockets and processes for more than half of their time."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is long, unless it is asked for. Begin with what takes longest, so that all workers end soon.

    Files whose tests wait are spread among the others, so that while one worker waits another computes.
    """
    if not config.getoption("--long"):
        long = [item for item in items if item.get_closest_marker("long") is not None]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item.get_closest_marker("long") is None]
    for folder in ("processes", "adversarial", "simulation"):  # the longest files last here, so first of all
        items.sort(key=lambda item, first=ROOT / folder: not item.path.is_relative_to(first))
    waiting, computing = {}, {}
    for path in dict.fromkeys(item.path for item in items):
        part = waiting if str(path.relative_to(ROOT)).startswith(WAITING) else computing
        part[path] = len(part)
    places = {path: place / len(part) for part in (waiting, computing) for path, place in part.items()}
    items.sort(key=lambda item: places[item.path])
