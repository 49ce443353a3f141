"""The field ``provider`` of a request: what is followed, and that nothing else passes unnoticed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.crypto import KeyPair
from serving.openai.errors import ApiError
from serving.openai.number_formats import classify
from serving.openai.provider_rules import ANYBODY, FOLLOWED, ProviderRules, has_rules, take_rules

ALICE, BOB = KeyPair(b"1" * 32), KeyPair(b"2" * 32)


def read(rules: Any) -> ProviderRules:
    found, rest = take_rules({"model": "m", "provider": rules}, lambda rules: "chosen")
    assert rest == {"model": "m"}
    return found


def test_who_may_answer() -> None:
    assert read(None) is ANYBODY and ANYBODY.allows_here and ANYBODY.allows(ALICE.public_key)
    only = read({"only": [ALICE.address]})
    assert only.allows(ALICE.public_key) and not only.allows(BOB.public_key) and not only.allows_here
    here = read({"only": ["local"]})
    assert here.allows_here and not here.allows(ALICE.public_key)
    others = read({"ignore": ["local", BOB.address]})
    assert others.allows(ALICE.public_key) and not others.allows(BOB.public_key) and not others.allows_here
    both = read({"only": [ALICE.address, BOB.address], "ignore": [BOB.address]})
    assert both.allows(ALICE.public_key) and not both.allows(BOB.public_key)


@pytest.mark.parametrize(
    ("key", "part"),
    [("quantizations", "weights"), ("activation_quantizations", "activations"), ("kv_cache_quantizations", "cache")],
)
def test_which_number_formats_may_answer(key: str, part: str) -> None:
    def allows(rules: ProviderRules, *classes: str) -> bool:
        return rules.allows_formats(replace(classify("w4a8-kv4"), **{part: frozenset(classes)}))

    assert allows(ANYBODY) and allows(ANYBODY, "int4") and not ANYBODY.has_formats
    rules = read({key: ["bf16", "fp8"]})
    assert allows(rules, "fp8") and not allows(rules, "int4") and rules.has_formats
    assert not allows(rules), "nothing is said of it"
    assert not allows(rules, "bf16", "fp16"), "it may be either"
    assert allows(read({key: ["unknown"]}))
    for anything in ("auto", ["auto"], ["fp8", "auto"]):
        assert read({key: anything}) == ANYBODY


def test_each_part_of_the_number_formats_has_a_rule_of_its_own() -> None:
    rules = read(
        {"quantizations": ["int4"], "kv_cache_quantizations": ["fp16", "bf16"], "activation_quantizations": "auto"}
    )
    assert rules.allows_formats(classify("w4a16-kv16")) and rules.allows_formats(classify("Q4_K_M-kvbf16"))
    assert not rules.allows_formats(classify("w4a16-kv8")) and not rules.allows_formats(classify("w8a16-kv16"))
    assert not rules.allows_formats(classify("w4a16"))


def test_what_may_be_said_and_changes_nothing() -> None:
    idle = {"require_parameters": True, "allow_fallbacks": True, "activation_quantizations": "auto"}
    assert read(idle) == read({"sort": None}) == read({"quantizations": None}) == ProviderRules()
    assert read({"sort": "latency"}).sort == "latency"
    assert read({"max_price": 0.5}).max_price == 500_000 and read({"max_price": 0}).max_price == 0


@pytest.mark.parametrize(
    ("rules", "param"),
    [
        ("fast", "provider"),
        ([], "provider"),
        ({"quantizations": ["fp17"]}, "provider.quantizations"),
        ({"quantizations": []}, "provider.quantizations"),
        ({"quantizations": "fp8"}, "provider.quantizations"),
        ({"quantizations": ["auto", "fp17"]}, "provider.quantizations"),
        ({"activation_quantizations": ["a16"]}, "provider.activation_quantizations"),
        ({"kv_cache_quantizations": ["kv8"]}, "provider.kv_cache_quantizations"),
        ({"only": [ALICE.address], "ignore": [BOB.address, ALICE.address]}, "provider.only"),
        ({"quantizations": [["fp8"]]}, "provider.quantizations"),
        ({"sort": ["price"]}, "provider.sort"),
        ({"order": [ALICE.address]}, "provider.order"),
        ({"allow_fallbacks": False}, "provider.allow_fallbacks"),
        ({"sort": "price-ish"}, "provider.sort"),
        ({"require_parameters": "yes"}, "provider.require_parameters"),
        ({"only": "local"}, "provider.only"),
        ({"only": ["nobody"]}, "provider.only"),
        ({"ignore": [5]}, "provider.ignore"),
        ({"only": ["local"] * 65}, "provider.only"),
        ({"max_price": {"prompt": 1}}, "provider.max_price"),
        ({"max_price": -1}, "provider.max_price"),
        ({"max_price": float("nan")}, "provider.max_price"),
        ({"max_price": True}, "provider.max_price"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_its_name(rules: Any, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        read(rules)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert param in str(caught.value)


def test_what_is_not_known_is_told_what_is() -> None:
    for rules, known in (
        ({"order": []}, "kv_cache_quantizations"),
        ({"quantizations": ["q4"]}, "int4"),
        ({"sort": "cheap"}, "throughput"),
    ):
        with pytest.raises(ApiError, match=known):
            read(rules)


def test_a_model_that_is_left_open_is_chosen() -> None:
    assert take_rules({"model": "auto", "n": 1}, lambda rules: "chosen") == (ANYBODY, {"model": "chosen", "n": 1})


def test_bodies_without_either_are_not_read_for_it() -> None:
    assert not has_rules(b'{"model":"m","messages":[]}')
    assert has_rules(b'{"model": "auto"}') and has_rules(b'{"provider" : {}}')


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*FOLLOWED, "x"]), JSON))
def test_whatever_it_says_is_followed_or_refused(rules: dict[str, Any]) -> None:
    try:
        read(rules)
    except ApiError as error:
        assert error.status == 400 and error.param is not None
