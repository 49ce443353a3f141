"""How many connections a node takes in where descriptors are few."""

from __future__ import annotations

import logging

import pytest

from p2p.host import descriptors
from p2p.host.connection_gater import ConnectionLimits
from p2p.host.descriptors import MIN_CONNECTIONS, SPARE_DESCRIPTORS, fit_to_descriptors

LIMITS = ConnectionLimits(max_connections=1000, max_half_open=128)


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Soft and hard limit of a pretended process."""
    state = [256, 4096]

    def set_limits(kind: int, limits: tuple[int, int]) -> None:
        state[:] = limits

    monkeypatch.setattr(descriptors.resource, "getrlimit", lambda kind: tuple(state))
    monkeypatch.setattr(descriptors.resource, "setrlimit", set_limits)
    return state


def test_the_limit_is_raised_to_what_the_system_allows(system: list[int]) -> None:
    assert fit_to_descriptors(LIMITS, 256) == LIMITS
    assert system == [4096, 4096]


def test_fewer_are_taken_in_where_that_is_too_few(system: list[int], caplog: pytest.LogCaptureFixture) -> None:
    system[1] = 1024
    with caplog.at_level(logging.WARNING):
        assert fit_to_descriptors(LIMITS, 256).max_connections == 1024 - SPARE_DESCRIPTORS - 256 - 128
    assert "descriptors" in caplog.text
    system[:] = [64, 64]
    assert fit_to_descriptors(LIMITS, 256).max_connections == MIN_CONNECTIONS


def test_a_limit_that_cannot_be_raised_is_kept_to(system: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(kind: int, limits: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(descriptors.resource, "setrlimit", refuse)
    system[0] = 1024
    assert fit_to_descriptors(LIMITS, 256).max_connections == 1024 - SPARE_DESCRIPTORS - 256 - 128


def test_without_a_limit_all_are_taken_in(system: list[int]) -> None:
    system[:] = [descriptors.resource.RLIM_INFINITY] * 2
    assert fit_to_descriptors(LIMITS, 256) == LIMITS
