"""Changes of a configuration file by a program: they say what they should, and every comment stays."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.config.edit import edit_config
from serving.config.fields import ConfigError
from serving.config.file import format_config, parse_config
from serving.config.schema import NodeConfig

BY_HAND = """\
# my node
listen: []   # dials out only
policy:
  # half of them
  offload_frequency: 0.5   # was 0.8
  schedule:
    - Mon-Fri 18:00-08:00
    - Sat-Sun  # all day
  # the end of the policy

log: {level: debug}
"""


def test_a_value_is_replaced_where_it_stands() -> None:
    edited = edit_config(BY_HAND, {("policy", "offload_frequency"): 0.25})
    assert edited == BY_HAND.replace("offload_frequency: 0.5", "offload_frequency: 0.25")


def test_a_list_of_several_lines_is_replaced_as_a_whole() -> None:
    edited = edit_config(BY_HAND, {("policy", "schedule"): ["Sat-Sun"]})
    assert parse_config(edited).policy.schedule == ("Sat-Sun",)
    assert "# the end of the policy\n\nlog: {level: debug}\n" in edited and "Mon-Fri" not in edited


def test_a_list_that_is_not_indented_below_its_key_is_replaced() -> None:
    """As many write lists, and PyYAML does."""
    text = "listen:\n- /ip4/0.0.0.0/tcp/1\n# the API\napi:\n  allowed_hosts:\n  - a.example.org\n  port: 1\n"
    edited = edit_config(text, {("listen",): [], ("api", "allowed_hosts"): ["b.example.org"]})
    config = parse_config(edited)
    assert (config.listen, config.api.allowed_hosts, config.api.port) == ((), ("b.example.org",), 1)
    assert "\n# the API\napi:\n" in edited


def test_a_key_is_added_to_its_section() -> None:
    edited = edit_config(BY_HAND, {("policy", "max_queue"): 5, ("log", "format"): "json"})
    assert edited == BY_HAND.replace("# all day\n", "# all day\n  max_queue: 5\n").replace(
        "{level: debug}", "{level: debug, format: json}"
    )


@pytest.mark.parametrize(
    "text",
    ["", "# nothing yet", "policy:\n", "policy: {}\n", "policy:   # none\nlisten: []\n", "policy: {max_queue: 1}"],
)
def test_a_section_is_made_where_there_is_none(text: str) -> None:
    changes = {("policy", "models", "Qwen/Qwen3-8B", "max_own"): 2, ("policy", "models", "b: c", "accept"): False}
    policy = parse_config(edit_config(text, changes)).policy
    assert policy.models["Qwen/Qwen3-8B"].max_own == 2 and not policy.models["b: c"].accept
    assert policy.max_queue == parse_config(text).policy.max_queue


def test_a_bad_value_is_refused_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"mine:5: policy\.offload_frequency: must be at most 1.0, got 2"):
        edit_config(BY_HAND, {("policy", "offload_frequency"): 2}, "mine")
    with pytest.raises(ConfigError, match=r"policy\.max_cue: is unknown: did you mean 'max_queue'"):
        edit_config(BY_HAND, {("policy", "max_cue"): 2})


def test_what_cannot_be_changed_safely_is_refused() -> None:
    shared = "policy: &p {max_queue: 1}\n"
    assert parse_config(edit_config(shared, {("policy", "max_queue"): 2})).policy.max_queue == 2
    merged = "policy:\n  <<: {max_queue: 1}\n"
    with pytest.raises(ConfigError, match="edit it by hand"):
        edit_config("policy:\n  models: &m\n    a: {}\n    b: &x {max_own: 1}\n    c: *x\n", LAST)
    assert parse_config(edit_config(merged, {("policy", "max_queue"): 2})).policy.max_queue == 2


LAST = {("policy", "models", "c", "max_own"): 3}

values: dict[tuple[str, ...], st.SearchStrategy[Any]] = {
    ("policy", "max_queue"): st.integers(0, 1000) | st.none(),
    ("policy", "target_utilization"): st.floats(0, 1),
    ("policy", "prioritize_own"): st.booleans(),
    ("policy", "schedule"): st.lists(st.sampled_from(["Sat-Sun", "Mon 08:00-09:00"]), max_size=3),
    ("policy", "name"): st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    ("policy", "models", "m", "max_tokens"): st.integers(1, 99) | st.none(),
    ("policy", "models", "a.b/c", "accept"): st.booleans(),
}
changes = st.fixed_dictionaries({}, optional=values)


@given(changes, st.sampled_from([BY_HAND, format_config(NodeConfig()), "", "policy:\n  models:\n    m:\n"]))
def test_every_change_is_read_back_and_all_comments_stay(changed: dict[tuple[str, ...], Any], text: str) -> None:
    edited = edit_config(text, changed)
    policy = parse_config(edited).policy
    for path, value in changed.items():
        section: Any = policy.models[path[2]] if path[1] == "models" else policy
        found = getattr(section, path[-1])
        if value is not None:
            assert (list(found) if isinstance(found, tuple) else found) == value
    kept = [line for line in text.splitlines() if line.lstrip().startswith("#")]
    assert [line for line in edited.splitlines() if line in kept] == kept
    assert edit_config(edited, changed) == edited
