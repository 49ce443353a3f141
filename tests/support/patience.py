"""Time limits of clients that share a process with their servers: it may stand still for longer than a node waits."""

from __future__ import annotations

from typing import Any

from serving.backends.openai_compatible import BackendTimeouts
from serving.http.client import HttpPool, HttpTimeouts
from tests.support.waiting import PATIENCE

PATIENT_BACKEND = BackendTimeouts(PATIENCE, PATIENCE, PATIENCE, PATIENCE)
"""For a backend that has no limit to keep."""


def make_patient_pool(url: str, **options: Any) -> HttpPool:
    """A client that waits for its server as long as tests do, and keeps connections as long."""
    return HttpPool(url, **{"timeouts": HttpTimeouts(PATIENCE, PATIENCE, PATIENCE), "max_age": PATIENCE, **options})
