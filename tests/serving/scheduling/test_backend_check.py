"""A backend that gave a stranger an error is asked for one token by its own node, and that decides."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from serving.prediction.speed import SpeedMeter
from serving.scheduling.backend_check import CHECK_TIMEOUT_S, check_backend
from serving.scheduling.circuit_breaker import FIRST_OPEN_S, OPEN_AFTER, CircuitBreaker
from tests.support.market.scripted_backend import MODEL, Script, ScriptedBackend


def check(script: Script, breaker: CircuitBreaker, content_at: float | None = None) -> float:
    """Check a backend with a breaker. Returns how long that took."""
    meter, took = SpeedMeter(), 0.0

    async def main() -> None:
        nonlocal took
        began_at = trio.current_time()
        if content_at is not None:
            meter.content_at = began_at + content_at
        await check_backend(ScriptedBackend("", script), MODEL, breaker, meter)
        took = trio.current_time() - began_at

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return took


def make_doubted(failures: int = 0) -> CircuitBreaker:
    breaker = CircuitBreaker(failures=failures)
    breaker.note_doubt()
    assert breaker.take_doubt()
    return breaker


@pytest.mark.parametrize("failures", [0, OPEN_AFTER - 1])
@pytest.mark.parametrize("fields", [{}, {"status": 400}, {"status": 404}, {"status": 429}])
def test_one_that_answers_works(fields: dict[str, Any], failures: int) -> None:
    breaker = make_doubted(failures)
    check(Script(**fields), breaker)
    assert breaker.failures == 0


@pytest.mark.parametrize("fields", [{"status": 500}, {"status": 401}, {"refuses": True}, {"first_delay": 1e6}])
def test_one_that_does_not_is_broken_at_once(fields: dict[str, Any]) -> None:
    breaker = make_doubted()
    assert check(Script(**fields), breaker) <= CHECK_TIMEOUT_S
    assert breaker.is_broken


def test_one_that_is_slow_and_answers_others_works() -> None:
    breaker = make_doubted()
    assert check(Script(first_delay=1e6), breaker, content_at=1.0) == CHECK_TIMEOUT_S
    assert not breaker.is_broken


def test_one_check_is_made_at_a_time() -> None:
    breaker = make_doubted()
    breaker.note_doubt()
    assert not breaker.take_doubt()
    breaker.note_check_failed(0.0)
    assert breaker.is_open(FIRST_OPEN_S - 0.1) and breaker.take_doubt()
    breaker.note_doubt()
    breaker.note_answer()
    assert not breaker.take_doubt(), "an answer to anybody ends all doubt"
