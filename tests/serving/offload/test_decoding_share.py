"""An executor whose answers take long to decode is read no faster than its share allows; others are not affected."""

from __future__ import annotations

from heapq import heappop, heappush

import pytest
import trio

from p2p.simulation.runtime import SimulatedClock
from serving.offload.originator.decoding_share import DECODING_BURST_S, DECODING_SHARE, DecodingShare
from serving.openai.answers import AnswerInspector
from tests.support.market_world import Options, World, ask, make_request, simulate

EXECUTOR, OTHER = b"e" * 32, b"o" * 32


def test_an_executor_waits_once_its_burst_is_used_up() -> None:
    share = DecodingShare()
    assert share.charge(EXECUTOR, DECODING_BURST_S, 0.0) == 0.0
    assert share.charge(EXECUTOR, 0.01, 0.0) == pytest.approx(0.01 / DECODING_SHARE)
    assert share.charge(OTHER, DECODING_BURST_S / 2, 0.0) == 0.0
    assert share.charge(EXECUTOR, 0.0, 0.01 / DECODING_SHARE) == 0.0


def test_answers_side_by_side_have_one_share() -> None:
    share, step, used, now = DecodingShare(), 0.004, 0.0, 0.0
    due = [(0.0, number) for number in range(8)]
    while now < 100.0:
        now, number = heappop(due)
        used += step
        heappush(due, (now + share.charge(EXECUTOR, step, now), number))
    assert used == pytest.approx(DECODING_BURST_S + DECODING_SHARE * now, abs=8 * step)


def test_a_payer_reads_on_later_when_events_are_slow_to_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, used = 0.0, 0.0

    class SlowInspector(AnswerInspector):
        def feed(self, chunk: bytes) -> bytes:
            nonlocal used
            clock = trio.lowlevel.current_clock()
            assert isinstance(clock, SimulatedClock)
            clock.jump(slow)
            used += slow
            return super().feed(chunk)

    monkeypatch.setattr("serving.offload.originator.received_answer.AnswerInspector", SlowInspector)
    times = []

    async def play(world: World) -> None:
        nonlocal slow
        for duration in (0.0, DECODING_BURST_S):
            slow = duration
            for member in world.members[1:]:
                assert member.backend is not None
                member.backend.script.token_delay = 0.1
            started = trio.current_time()
            result = await ask(world.gateway, make_request())
            assert result.status == 200 and result.broken is None
            times.append(trio.current_time() - started)

    simulate(play, Options(executors=1))
    assert times[1] > times[0] + (used - 2 * DECODING_BURST_S) / DECODING_SHARE
