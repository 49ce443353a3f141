"""Several backends of one model on one node: who gets the next request, and what is said of their weights."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from serving.backends.backend import ModelLimits
from serving.failover.local import Begun, inspect_answer
from serving.openai.answers import Answer, AnswerInspector
from serving.openai.number_formats import NOT_KNOWN, NumberFormats
from serving.prediction.output_length import AnswerLength, OutputLengths
from serving.scheduling.admission import Demand, Origin
from serving.scheduling.backend_pool import BackendPool
from serving.scheduling.policy import PolicyParameters, ProbabilisticPolicy
from tests.support.market.scripted_backend import ScriptedBackend
from tests.support.market_world import MODEL
from tests.support.openai_answers import DONE, make_chunk

DEMAND = Demand(Origin.OWN, MODEL, 1.0, 1.0)


@dataclass
class Weighted(ScriptedBackend):
    weight: float = field(default=1.0, kw_only=True)


class Loading(ScriptedBackend):
    """Its model takes longer to load than a node waits for servers."""

    async def wait_loaded(self) -> None:
        await trio.sleep(100)


class Away(ScriptedBackend):
    """A server that is not there."""

    async def wait_alive(self) -> None:
        await trio.sleep_forever()


def make_pool(*backends: tuple[ScriptedBackend, int]) -> BackendPool:
    return BackendPool(list(backends), ProbabilisticPolicy(PolicyParameters()))


def share_out(pool: BackendPool, requests: int) -> dict[str, int]:
    """Which backend gets how many of so many requests that all stay."""
    counts: dict[str, int] = {}

    async def main() -> None:
        async with AsyncExitStack() as stack:
            for _ in range(requests):
                first = pool.order(MODEL)[0]
                await stack.enter_async_context(first.admission.slot(DEMAND))
                assert isinstance(first.backend, ScriptedBackend)
                counts[first.backend.name] = counts.get(first.backend.name, 0) + 1

    trio.run(main)
    return counts


def test_requests_are_shared_out_by_weight_and_capacity() -> None:
    heavy, light = Weighted("heavy", weight=3.0), Weighted("light")
    assert share_out(make_pool((light, 16), (heavy, 16)), 16) == {"heavy": 12, "light": 4}
    assert share_out(make_pool((ScriptedBackend("small"), 4), (ScriptedBackend("large"), 12)), 8) == {
        "large": 6,
        "small": 2,
    }


def test_one_that_does_not_answer_gets_nothing_whatever_its_weight() -> None:
    heavy, light = Weighted("heavy", weight=100.0), Weighted("light")
    heavy.script.is_alive = False
    assert share_out(make_pool((light, 8), (heavy, 8)), 4) == {"light": 4}


def test_a_node_says_of_a_model_what_any_of_its_backends_may_answer_with() -> None:
    def find(*labels: str) -> NumberFormats:
        backends = [ScriptedBackend(label, limits=ModelLimits(quantization=label)) for label in labels]
        return make_pool(*((backend, 1) for backend in backends)).get_number_formats(MODEL)

    assert find("fp8") == find("fp8", "fp8_e4m3") == NumberFormats(frozenset({"fp8"}))
    cache = frozenset({"fp16", "bf16"})
    assert find("fp8-kv16", "Q4_K_M-kvbf16") == NumberFormats(frozenset({"fp8", "int4"}), cache=cache)
    assert find("fp8", "") == find("") == find() == NOT_KNOWN


@pytest.mark.parametrize(("running", "gathering_s"), [(0, 0.0), (31, 0.0), (32, 0.008), (64, 0.016), (1_000, 0.02)])
def test_streams_are_gathered_for_longer_the_more_there_are(running: int, gathering_s: float) -> None:
    scheduled = make_pool((ScriptedBackend("one"), 2_000)).scheduled[0]
    scheduled.admission.running = running
    assert scheduled.gathering_s == pytest.approx(gathering_s)


def test_a_stream_is_gathered_after_its_beginning() -> None:
    scheduled = make_pool((ScriptedBackend("one"), 2_000)).scheduled[0]
    first, second, end = make_chunk(MODEL, "one"), make_chunk(MODEL, "two"), make_chunk(MODEL, None, "stop") + DONE
    intervals: list[float] = []

    def gather(seconds: float) -> bool:
        intervals.append(seconds)
        return True

    async def write() -> AsyncIterator[bytes]:
        assert intervals == []
        scheduled.admission.running = 64
        yield second
        assert intervals == [0.016]
        yield end

    async def main() -> None:
        inspector = AnswerInspector(stream=True)
        answer = Answer(200, "text/event-stream", write(), gather=gather)
        begun = Begun(scheduled, answer, first, inspector, inspector.feed(first), True)
        timer = scheduled.meter.start_timer(MODEL, 1, 0.0, is_stream=True)
        length = AnswerLength(OutputLengths(), MODEL, 1, 4, is_limited=False)
        assert [chunk async for chunk in inspect_answer(begun, timer, length)] == [first, second, end]

    trio.run(main)


def test_a_model_is_waited_for_until_it_is_loaded_and_a_server_that_is_away_for_a_moment() -> None:
    async def main() -> None:
        began = trio.current_time()
        await make_pool((Away("away"), 1), (Loading("embedded"), 1)).wait_alive(10.0)
        assert trio.current_time() - began == 110.0

    trio.run(main, clock=MockClock(autojump_threshold=0))
