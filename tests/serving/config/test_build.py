"""What a configuration describes: backends, policy and network."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2p.runtime import RealRuntime
from serving.backends.embedded import EmbeddedBackend
from serving.backends.openai_compatible import OpenAICompatibleBackend
from serving.config.build import build_backends, build_judge, build_policy
from serving.config.fields import ConfigError
from serving.config.file import parse_config
from serving.quality.judging.ballot import ReplyForm
from serving.quality.judging.prompt import load_default_prompt
from serving.scheduling.policy import AdaptivePolicy, ProbabilisticPolicy


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
    assert isinstance(policy, AdaptivePolicy) and policy.parameters.max_queue == 9
    with pytest.raises(ConfigError, match=r"policy\.name: .*'greedy'.*known: adaptive, paper"):
        build_policy(parse_config("policy: {name: greedy}"))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("{}", AdaptivePolicy),
        ("{name: default}", AdaptivePolicy),
        ("{name: default, offload_frequency: 0.8, target_utilization: 0.7}", AdaptivePolicy),
        ("{target_utilization: 0.5}", ProbabilisticPolicy),
        ("{name: default, accept_frequency: 1.0}", ProbabilisticPolicy),
        ("{name: paper}", ProbabilisticPolicy),
        ("{name: paper, queue_frequency: 0.0}", ProbabilisticPolicy),
        ("{name: adaptive, credit_price_s: 1.0}", AdaptivePolicy),
    ],
)
def test_without_a_name_the_numbers_say_which_policy_is_meant(text: str, kind: type) -> None:
    assert type(build_policy(parse_config(f"policy: {text}"))) is kind


def test_numbers_of_another_policy_than_the_named_one_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"2: policy\.target_utilization: is for the policy 'paper', .* 'adaptive'"):
        parse_config("policy: {name: adaptive,\n  target_utilization: 0.5}")
    with pytest.raises(ConfigError, match=r"policy\.credit_price_s: is for the policy 'adaptive', .* 'paper'"):
        parse_config("policy: {name: paper, credit_price_s: 1.0}")
    with pytest.raises(
        ConfigError,
        match=r"policy\.max_offer_wait_s: is for the policy 'adaptive', and .* makes this one 'paper'; set name",
    ):
        parse_config("policy: {accept_frequency: 1.0, max_offer_wait_s: 1.0}")


def test_a_node_judges_only_if_it_is_told_to(tmp_path: Path) -> None:
    assert build_judge(parse_config("judge: {model: some}"), tmp_path) is None
    judge = build_judge(parse_config("judge: {enabled: true, model: some, form: letter, both_orders: true}"), tmp_path)
    assert judge is not None and (judge.model, judge.form, judge.is_weak) == ("some", ReplyForm.LETTER, True)
    plain = build_judge(parse_config("judge: {enabled: true}"), tmp_path)
    assert plain is not None and (plain.model, plain.form, plain.is_weak) == (None, None, False)
    (tmp_path / "judge.txt").write_bytes(load_default_prompt() + b"\n")
    own = build_judge(parse_config("judge: {enabled: true, prompt_file: judge.txt}"), tmp_path)
    assert own is not None and own.prompt.digest != plain.prompt.digest
    with pytest.raises(ConfigError, match=r"none\.txt"):
        build_judge(parse_config("judge: {enabled: true, prompt_file: none.txt}"), tmp_path)
    with pytest.raises(ConfigError, match=r"judge\.enabled.*no backend"):
        parse_config("{judge: {enabled: true}, models: []}")
