"""For how long a hold is good: an honest executor that is slow is paid to the end, and a silent one keeps little."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from chain.types.operations import Hold
from serving.offload.originator.hold_time import CAPTURE_S, LEDGER_SHARE, compute_hold_time
from serving.offload.settings import ExecutorSettings, OriginatorSettings
from tests.support.market.announced_loads import announce, make_load
from tests.support.market.scripted_backend import compute_stream, compute_text
from tests.support.market_world import DRAWN, Options, World, ask, get_script, make_request, simulate

SETTINGS = OriginatorSettings()
HOUR_MS = 3_600_000
TOKENS, TOKEN_S = 40, 2.0
"""Of a slow answer: 80 s, where the shortest hold is good for 110 s less 60 s for the capture."""
SHORT = replace(DRAWN, hold_time_ms=110_000)


@given(st.floats(0.0, 1e12), st.floats(0.0, 1e12), st.integers(600_000, HOUR_MS))
def test_it_grows_with_the_longest_answer_within_both_limits(one_s: float, more_s: float, ledger_ms: int) -> None:
    found = compute_hold_time(SETTINGS, one_s, ledger_ms)
    limit = int(min(SETTINGS.max_hold_time_ms, LEDGER_SHARE * ledger_ms))
    assert min(SETTINGS.hold_time_ms, limit) <= found <= limit
    assert found <= compute_hold_time(SETTINGS, one_s + more_s, ledger_ms)
    assert found == limit or found >= 1000 * (one_s + CAPTURE_S), "there is time to capture"


def test_what_executors_leave_for_the_capture_is_counted() -> None:
    assert ExecutorSettings().capture_time_s <= CAPTURE_S
    assert compute_hold_time(SETTINGS, 0.0, HOUR_MS) == SETTINGS.hold_time_ms, "short answers are as they were"


def test_a_slow_answer_is_paid_to_its_end() -> None:
    async def play(world: World) -> None:
        script = get_script(world.members[1])
        script.tokens, script.token_delay = TOKENS, TOKEN_S
        announce(world, m1=make_load(rate=1.0))
        result = await ask(world.gateway, make_request())
        assert result.broken is None and result.body == compute_stream("m1-", script)
        await world.settle(60)
        (item,) = world.captured
        assert item.receipt is not None and item.delivery.usage.completion_bytes == len(compute_text("m1-", TOKENS))

    simulate(play, Options(executors=1, originator=SHORT, executor=ExecutorSettings(min_hold_time_s=100.0)))


def test_an_executor_that_announces_to_be_slow_keeps_the_credits_of_its_payer_no_longer_than_the_owner_says() -> None:
    async def play(world: World) -> None:
        announce(world, m1=make_load(rate=0.001))
        started = world.gateway.engine.chain_time()
        await ask(world.gateway, make_request())
        (hold,) = world.operations(Hold)
        assert hold.deadline - started == settings.max_hold_time_ms

    settings = replace(DRAWN, max_hold_time_ms=900_000)
    simulate(play, Options(executors=1, originator=settings))
