"""The same-model check across two engines: vLLM and llama.cpp, with the same weights in bfloat16."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import trio

from benchmarks.quality.check_histories import count_failed, find_after, get_network_limits
from benchmarks.quality.substitution_servers import VLLM, VLLM_BATCH, Bench, Node
from chain.parameters.checks import DEFAULT_CHECKS
from serving.quality.same_model.statistics import Measurement

LIMITS = get_network_limits(DEFAULT_CHECKS)
TOKENS = 48
OF_VLLM = Node("vLLM", VLLM, slots=VLLM_BATCH, threads=0, parallel=4)
OF_LLAMA = Node("llama.cpp", "bf16", parallel=4)


def check(node: Node, scorer: str, url: str, answers: int) -> list[Measurement]:
    """One check of each of so many answers, half of them drawn at temperature 0."""

    async def main() -> list[Measurement]:
        async with AsyncExitStack() as stack:
            found = await Bench(stack, scorer, TOKENS, 7, url).measure(node, answers, 1)
            return [answer[0] for answer in found]

    return trio.run(main)


@pytest.mark.parametrize(("node", "scorer"), [(OF_VLLM, "bf16"), (OF_LLAMA, VLLM), (OF_VLLM, VLLM)])
def test_honest_nodes_keep_the_default_limits_whichever_engine_writes_and_scores(
    smollm2_url: str, node: Node, scorer: str
) -> None:
    measurements = check(node, scorer, smollm2_url, 12)
    assert len(measurements) == 12
    shortfalls, distances = count_failed(LIMITS, measurements)
    assert distances == 0
    assert shortfalls <= 1


@pytest.mark.parametrize(
    ("node", "most"),
    [
        (Node("rounded", "q4_0", parallel=4), 16),
        (Node("two layers less", "28 layers", parallel=4), 12),
        (Node("forged", "28 layers", parallel=4, temperatures=(0.0,), is_forging=True), 24),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_vllm_finds_other_weights_that_llama_serves(smollm2_url: str, node: Node, most: int) -> None:
    measurements = check(node, VLLM, smollm2_url, most)
    assert find_after(LIMITS, measurements) is not None
