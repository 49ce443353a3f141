"""LiteLLM as a client."""

from __future__ import annotations

from pathlib import Path

from tests.clients.conftest import Endpoint
from tests.clients.installed import run_suite


def test_it_gets_what_it_asks_for(endpoint: Endpoint, tmp_path: Path) -> None:
    outcomes = run_suite("litellm_suite.py", endpoint, tmp_path)
    assert not outcomes.failed and not outcomes.skipped and outcomes.passed, outcomes
