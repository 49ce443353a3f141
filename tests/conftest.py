"""Settings of every test: hypothesis draws the same examples in every run, and no example has a time limit."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.internal.conjecture import providers

# Hypothesis also draws from the constants in the modules that are imported by then, so that what a test sees would
# depend on which other tests were collected, and on every edit of the code.
providers._get_local_constants = lambda: providers._local_constants

ROOT = Path(__file__).parent

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests marked long too; with -m long: them alone")


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """Two more than there are cores: tests of processes and of real time wait for half of theirs."""
    return len(os.sched_getaffinity(0)) + 2


def pytest_collection_finish() -> None:
    """Spare the collector of garbage the thousands of collected tests, and an eighth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is long, unless it is asked for. Begin with what takes longest, so that all workers end soon."""
    if not config.getoption("--long"):
        long = [item for item in items if item.get_closest_marker("long") is not None]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item.get_closest_marker("long") is None]
    items.sort(key=lambda item: not item.path.is_relative_to(ROOT / "adversarial"))
    items.sort(key=lambda item: not item.path.is_relative_to(ROOT / "simulation"))
