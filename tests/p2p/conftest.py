"""Trio shuffles tasks on purpose; here it does so the same way in every run."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import trio

from p2p.simulation.runtime import SimulatedClock


@pytest.fixture(autouse=True)
def deterministic_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    trio._core._run._r.seed(0)


@pytest.fixture(autouse=True)
def nothing_fails_behind_the_scenes(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A task that fails ends nothing else, so it would fail no test. A test that means one to fail clears the log."""
    yield
    services = ("p2p.discovery.service", "p2p.discovery.plumtree", "p2p.discovery.peer_tasks")
    records = caplog.get_records("call")
    failed = [record for record in records if record.name in services and record.levelno >= logging.ERROR]
    assert not failed, failed[0].getMessage()


@pytest.fixture
def simulated_clock() -> SimulatedClock:
    """The clock of a test whose network is in memory: pytest-trio runs a test by the clock that it asks for."""
    return SimulatedClock()
