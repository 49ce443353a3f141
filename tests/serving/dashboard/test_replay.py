"""What another policy would have done to past requests."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from serving.dashboard.replay import count_offloads
from serving.scheduling.policy import AdaptivePolicy, Decision, LoadSnapshot, PolicyParameters, ProbabilisticPolicy

CHANCE = random.Random(4)
LOADS = [
    LoadSnapshot("m", CHANCE.random() * 2, 0, 0, here_s=CHANCE.random(), there_s=CHANCE.random(), price=0.01)
    for _ in range(200)
]


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_higher_frequency_offloads_what_a_lower_one_does_and_more(first: float, second: float) -> None:
    low, high = sorted((first, second))
    policy = ProbabilisticPolicy(PolicyParameters())
    counts = [count_offloads(policy, PolicyParameters(offload_frequency=each), LOADS) for each in (low, high)]
    assert counts == sorted(counts)
    assert count_offloads(policy, PolicyParameters(offload_frequency=low), LOADS) == counts[0], (
        "it draws the same again"
    )
    assert policy.parameters == PolicyParameters()


def test_the_ends_offload_all_or_nothing() -> None:
    paper, adaptive = ProbabilisticPolicy(PolicyParameters()), AdaptivePolicy(PolicyParameters())
    everything = PolicyParameters(target_utilization=0, offload_frequency=1)
    assert count_offloads(paper, everything, LOADS) == len(LOADS)
    assert count_offloads(paper, PolicyParameters(offload_frequency=0), LOADS) == 0
    assert count_offloads(adaptive, PolicyParameters(credit_price_s=1e9), LOADS) == 0
    faster = sum(load.here_s > (load.there_s or 0) for load in LOADS)
    assert count_offloads(adaptive, PolicyParameters(credit_price_s=0), LOADS) == faster


def test_conversations_stay_where_they_are() -> None:
    loads = [LoadSnapshot("m", 1, 0, 0, here_s=9, there_s=1, conversation=Decision.SERVE)]
    assert count_offloads(AdaptivePolicy(PolicyParameters()), PolicyParameters(), loads) == 0
