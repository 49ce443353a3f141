"""The default policy: its probabilities, and how it is replaced."""

from __future__ import annotations

import random
from collections import Counter
from importlib.metadata import EntryPoint

import pytest

from serving.scheduling.policy import Decision, DefaultPolicy, LoadSnapshot, PolicyParameters, load_policy

COUNT = 4000


def decide(kind: str, load: LoadSnapshot, parameters: PolicyParameters) -> dict[Decision, float]:
    """Shares of the decisions over many draws."""
    policy, chance = DefaultPolicy(parameters), random.Random("policy")
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


def test_the_default_is_found_by_name() -> None:
    parameters = PolicyParameters(max_queue=7)
    policy = load_policy("default", parameters)
    assert isinstance(policy, DefaultPolicy) and policy.parameters is parameters


def test_an_unknown_policy_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"no policy called 'mine'.*default"):
        load_policy("mine", PolicyParameters())


class Miser(DefaultPolicy):
    """An owner's policy."""


def test_an_installed_policy_is_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("miser", f"{__name__}:Miser", "wwwserve.policies")
    monkeypatch.setattr("serving.scheduling.policy.entry_points", lambda group: [point] if group == point.group else [])
    assert type(load_policy("miser", PolicyParameters())).__name__ == "Miser"
    with pytest.raises(ValueError, match="default, miser"):
        load_policy("other", PolicyParameters())
