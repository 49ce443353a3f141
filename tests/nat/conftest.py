"""Tests in network namespaces. They take root and some minutes, so that only ``make test-nat`` runs them."""

from __future__ import annotations

import pytest

from tests.nat.namespaces import find_obstacle


def pytest_sessionstart(session: pytest.Session) -> None:
    obstacle = find_obstacle()
    if obstacle is not None:
        pytest.exit(f"the tests in network namespaces are skipped: {obstacle}", returncode=0)
