"""Trio shuffles tasks on purpose; here it does so the same way in every run."""

from __future__ import annotations

import pytest
import trio


@pytest.fixture(autouse=True)
def deterministic_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    trio._core._run._r.seed(0)
