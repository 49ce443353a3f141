"""The policies: what the adaptive one compares, the probabilities of the paper's, and how they are replaced."""

from __future__ import annotations

import random
from collections import Counter
from importlib.metadata import EntryPoint

import pytest

from serving.scheduling.policy import (
    AdaptivePolicy,
    Decision,
    LoadSnapshot,
    PolicyParameters,
    ProbabilisticPolicy,
    load_policy,
)

COUNT = 4000


def decide(kind: str, load: LoadSnapshot, parameters: PolicyParameters) -> dict[Decision, float]:
    """Shares of the decisions over many draws."""
    policy, chance = ProbabilisticPolicy(parameters), random.Random("policy")
    method = getattr(policy, kind)
    counts = Counter(method(load, chance) for _ in range(COUNT))
    return {decision: count / COUNT for decision, count in counts.items()}


def load(utilization: float, delegated: int = 0, own: int = 0) -> LoadSnapshot:
    return LoadSnapshot("m", utilization, own, delegated)


def test_a_request_is_served_here_below_the_target() -> None:
    assert decide("decide_request", load(0.69), PolicyParameters()) == {Decision.SERVE: 1.0}


@pytest.mark.parametrize("frequency", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("utilization", [0.7, 1.0, 5.0])
def test_a_request_is_offloaded_above_the_target_as_often_as_wished(frequency: float, utilization: float) -> None:
    shares = decide("decide_request", load(utilization), PolicyParameters(offload_frequency=frequency))
    assert shares.get(Decision.OFFLOAD, 0.0) == pytest.approx(frequency, abs=0.03)
    assert shares.get(Decision.SERVE, 0.0) == pytest.approx(1 - frequency, abs=0.03)


@pytest.mark.parametrize("frequency", [0.0, 0.5, 1.0])
def test_an_offer_is_served_below_the_target_as_often_as_wished(frequency: float) -> None:
    shares = decide("decide_offer", load(0.5), PolicyParameters(accept_frequency=frequency))
    assert shares.get(Decision.SERVE, 0.0) == pytest.approx(frequency, abs=0.03)
    assert shares.get(Decision.DECLINE, 0.0) == pytest.approx(1 - frequency, abs=0.03)


@pytest.mark.parametrize("frequency", [0.0, 0.2, 1.0])
def test_an_offer_is_queued_above_the_target_as_often_as_wished(frequency: float) -> None:
    shares = decide("decide_offer", load(0.9), PolicyParameters(queue_frequency=frequency))
    assert shares.get(Decision.QUEUE, 0.0) == pytest.approx(frequency, abs=0.03)
    assert shares.get(Decision.DECLINE, 0.0) == pytest.approx(1 - frequency, abs=0.03)


@pytest.mark.parametrize("utilization", [0.0, 1.0])
def test_a_full_queue_declines(utilization: float) -> None:
    parameters = PolicyParameters(accept_frequency=1.0, queue_frequency=1.0, max_queue=3)
    assert decide("decide_offer", load(utilization, delegated=3), parameters) == {Decision.DECLINE: 1.0}
    assert Decision.DECLINE not in decide("decide_offer", load(utilization, delegated=2), parameters)
    assert Decision.DECLINE not in decide("decide_offer", load(utilization, own=9), parameters)


def test_a_node_without_a_queue_serves_what_finds_a_slot() -> None:
    parameters = PolicyParameters(accept_frequency=1.0, max_queue=0)
    for kind in (AdaptivePolicy, ProbabilisticPolicy):
        assert kind(parameters).decide_offer(load(0.0), random.Random(0)) is Decision.SERVE
        assert kind(parameters).decide_offer(load(0.0, delegated=1), random.Random(0)) is Decision.DECLINE


def decide_once(there_s: float | None, conversation: Decision | None = None, price: float = 0.0) -> Decision:
    snapshot = LoadSnapshot("m", 0.0, 0, 0, here_s=10.0, there_s=there_s, price=price, conversation=conversation)
    return AdaptivePolicy(PolicyParameters(credit_price_s=5.0)).decide_request(snapshot, random.Random(0))


def test_the_adaptive_policy_offloads_what_comes_sooner_by_more_than_its_price_is_worth() -> None:
    assert decide_once(9.9) is Decision.OFFLOAD and decide_once(10.0) is Decision.SERVE
    assert decide_once(7.4, price=0.5) is Decision.OFFLOAD and decide_once(7.6, price=0.5) is Decision.SERVE
    assert decide_once(None) is decide_once(None, Decision.OFFLOAD) is Decision.SERVE


def test_the_adaptive_policy_leaves_a_conversation_where_it_is_kept() -> None:
    assert decide_once(1.0, Decision.SERVE) is Decision.SERVE
    assert decide_once(12.0, Decision.OFFLOAD) is Decision.OFFLOAD


def test_the_adaptive_policy_accepts_offers_as_long_as_they_wait_for_a_short_time() -> None:
    policy = AdaptivePolicy(PolicyParameters(max_offer_wait_s=10.0, max_queue=3))
    cases = [(0.0, 0, Decision.SERVE), (0.1, 0, Decision.QUEUE), (10.0, 2, Decision.QUEUE)]
    cases += [(10.1, 0, Decision.DECLINE), (0.0, 3, Decision.DECLINE)]
    for wait_s, queue, decision in cases:
        assert policy.decide_offer(LoadSnapshot("m", 5.0, 0, queue, wait_s), random.Random(0)) is decision


def test_those_that_come_with_the_node_are_found_by_name() -> None:
    parameters = PolicyParameters(max_queue=7)
    for name, kind in (("adaptive", AdaptivePolicy), ("paper", ProbabilisticPolicy)):
        policy = load_policy(name, parameters)
        assert isinstance(policy, kind) and policy.parameters is parameters


def test_an_unknown_policy_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"no policy called 'mine'.*adaptive, paper"):
        load_policy("mine", PolicyParameters())


class Miser(ProbabilisticPolicy):
    """An owner's policy."""


def test_an_installed_policy_is_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("miser", f"{__name__}:Miser", "wwwserve.policies")
    monkeypatch.setattr("serving.scheduling.policy.entry_points", lambda group: [point] if group == point.group else [])
    assert type(load_policy("miser", PolicyParameters())).__name__ == "Miser"
    with pytest.raises(ValueError, match="adaptive, paper, miser"):
        load_policy("other", PolicyParameters())
