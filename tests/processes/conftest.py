"""One network of four validators for all tests that want one: starting four processes is what costs most here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.processes.cluster import Cluster, run_cluster

ENTRY = 0
"""Number of the node that offloads every request of its users; the others accept every offer."""


def _configure(number: int) -> dict[str, Any]:
    if number == ENTRY:
        return {"policy": {"target_utilization": 0.0, "offload_frequency": 1.0}}
    return {"policy": {"accept_frequency": 1.0}}


@pytest.fixture(scope="package")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("cluster")
    with run_cluster(directory, users=14, backend=("--token-delay", "0.1"), config=_configure) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """Four validators that run and see each other, whatever the test before has done to them."""
    shared_cluster.restore()
    return shared_cluster
