"""Networks of validators: each test that disturbs one has its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, offload_at_entry, run_cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Four validators for one test; the first offloads, the others accept. A test may define another in its place."""
    with run_cluster(tmp_path / "cluster", users=4, config=offload_at_entry) as cluster:
        yield cluster
