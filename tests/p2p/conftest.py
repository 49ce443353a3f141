"""Trio shuffles tasks on purpose; here it does so the same way in every run."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import trio

from p2p.simulation.runtime import SimulatedClock, simulate_with
from tests.support.hosts import be_patient


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


@pytest.fixture(autouse=True)
def patient_hosts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test by the real clock depends on how fast this machine is; one of a time limit sets that itself."""
    if request.node.get_closest_marker("trio") is not None and "simulated_clock" not in request.fixturenames:
        be_patient(monkeypatch)


@pytest.fixture
def simulated_clock() -> Iterator[SimulatedClock]:
    """The clock of a test whose network is in memory: pytest-trio runs a test by the clock that it asks for."""
    clock = SimulatedClock()
    with simulate_with(clock):
        yield clock
