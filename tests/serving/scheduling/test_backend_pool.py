"""Several backends of one model on one node: who gets the next request, and what is said of their weights."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import trio

from serving.backends.backend import ModelLimits
from serving.openai.number_formats import NOT_KNOWN, NumberFormats
from serving.scheduling.admission import Demand, Origin
from serving.scheduling.backend_pool import BackendPool
from serving.scheduling.policy import PolicyParameters, ProbabilisticPolicy
from tests.support.market_world import MODEL, ScriptedBackend

DEMAND = Demand(Origin.OWN, MODEL, 1.0, 1.0)


@dataclass
class Weighted(ScriptedBackend):
    weight: float = field(default=1.0, kw_only=True)


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
