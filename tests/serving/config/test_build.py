"""What a configuration describes: backends, policy and network."""

from __future__ import annotations

import pytest

from p2p.runtime import RealRuntime
from serving.backends.embedded import EmbeddedBackend
from serving.backends.openai_compatible import OpenAICompatibleBackend
from serving.config.build import build_backends, build_policy
from serving.config.file import parse_config
from serving.config.schema import ConfigError
from serving.scheduling.policy import DefaultPolicy


def test_backends_with_their_capacities() -> None:
    config = parse_config(
        "models: [{kind: embedded, capacity: 2}, {kind: openai, base_url: 'http://127.0.0.1:1', capacity: 7}]"
    )
    (embedded, first), (other, second) = build_backends(config, RealRuntime())
    assert (type(embedded), first) == (EmbeddedBackend, 2)
    assert (type(other), second) == (OpenAICompatibleBackend, 7)


def test_an_api_key_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    config = parse_config("models: [{kind: openai, base_url: 'http://127.0.0.1:1', api_key_env: NO_SUCH_KEY}]")
    with pytest.raises(ConfigError, match="NO_SUCH_KEY is not set"):
        build_backends(config, RealRuntime())


def test_policy_by_name() -> None:
    policy = build_policy(parse_config("policy: {max_queue: 9}"))
    assert isinstance(policy, DefaultPolicy) and policy.parameters.max_queue == 9
    with pytest.raises(ConfigError, match=r"policy\.name: .*'greedy'.*known: default"):
        build_policy(parse_config("policy: {name: greedy}"))
