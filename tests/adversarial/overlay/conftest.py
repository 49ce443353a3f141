"""The victim of the abuse in this folder: one node for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.adversarial.overlay.attackers import SCALES, choose_sources
from tests.adversarial.overlay.victim import Victim, running_victim


@pytest.fixture(scope="module", params=SCALES)
def is_long(request: pytest.FixtureRequest) -> bool:
    """Whether the victim is as it is shipped, and the floods are in full."""
    return bool(request.param)


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory, is_long: bool) -> Iterator[Victim]:
    with running_victim(tmp_path_factory.mktemp("victim"), [], {}, shipped=is_long) as one:
        yield one


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attackers choose the addresses that their connections come from."""
    choose_sources(monkeypatch)
