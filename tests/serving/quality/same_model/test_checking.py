"""Checks of the real small model: of itself in another server, and of other weights made from it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
import trio

from benchmarks.model_variants import get_variant
from p2p.runtime import RealRuntime
from serving.backends.embedded import MODEL, EmbeddedBackend
from serving.quality.same_model.checking import make_request, record_answer, run_checks
from serving.quality.same_model.engines import find_scorer
from serving.quality.same_model.prompts import draw_prompts
from serving.quality.same_model.statistics import Measurement

pytestmark = pytest.mark.long


def check(executor: EmbeddedBackend, prompts: int = 6) -> Sequence[Measurement]:
    """Check answers of ``executor`` with a server of its own that has the weights as they are shipped."""

    async def main() -> Sequence[Measurement]:
        own = EmbeddedBackend(RealRuntime(), parallel=2)
        async with trio.open_nursery() as nursery:
            for backend in (own, executor):
                nursery.start_soon(backend.run)
                await backend.wait_alive()
            scorer = await find_scorer(own, MODEL)
            assert scorer.engine == "llamacpp"
            requests = [make_request(MODEL, each, max_tokens=24, temperature=0) for each in draw_prompts(7, prompts)]
            run = await run_checks(partial(record_answer, executor), scorer, requests, 7, parallel=2, note=lambda: None)
            nursery.cancel_scope.cancel()
        assert len(run.measurements) >= prompts - 1
        return run.measurements

    return trio.run(main)


def test_another_server_of_the_same_weights_differs_little() -> None:
    measurements = check(EmbeddedBackend(RealRuntime(), parallel=4))
    assert max(each.distance for each in measurements) < 0.02
    assert max(each.shortfall for each in measurements) < 2


@pytest.mark.parametrize("variant", ["q4_0", "28 layers"])
def test_other_weights_differ_in_every_answer(variant: str) -> None:
    measurements = check(EmbeddedBackend(RealRuntime(), weights=get_variant(variant)))
    assert min(each.distance for each in measurements) > 0.02
