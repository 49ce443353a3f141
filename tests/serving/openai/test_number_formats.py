"""Which class of number formats a label means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.openai.number_formats import (
    NOT_KNOWN,
    NUMBER_FORMATS,
    NumberFormats,
    classify,
    complete_label,
    find_label,
    is_label,
    join_formats,
)


@pytest.mark.parametrize(
    ("label", "names"),
    [
        ("Q4_K_M", {"int4"}), ("q4_1-kv16", {"int4"}), ("IQ4_XS", {"int4"}), ("w4a16-kv16", {"int4"}),
        ("awq", {"int4"}), ("4bit", {"int4"}), ("Q8_0", {"int8"}), ("w8a8", {"int8"}), ("int8", {"int8"}),
        ("fp8", {"fp8"}), ("fp8_e5m2", {"fp8"}), ("nvfp4", {"fp4"}), ("mxfp4", {"fp4"}), ("bfloat16", {"bf16"}),
        ("BF16", {"bf16"}), ("F16", {"fp16"}), ("float32", {"fp32"}), ("w16a16-kv16", {"fp16", "bf16"}),
        ("Q6_K", set()), ("compressed-tensors", set()), ("fp80", set()), ("q40", set()), ("", set()),
    ],
)  # fmt: skip
def test_a_label_is_of_a_class_or_of_none(label: str, names: set[str]) -> None:
    assert classify(label).weights == names


@pytest.mark.parametrize(
    ("label", "activations", "cache"),
    [
        ("w4a16-kv16", {"fp16", "bf16"}, {"fp16", "bf16"}), ("w8a8-kvfp8_e4m3", {"int8", "fp8"}, {"fp8"}),
        ("w4afp8", {"fp8"}, set()), ("fp8-a16-kv8", {"fp16", "bf16"}, {"int8", "fp8"}),
        ("Q4_K_M-kvq8_0", set(), {"int8"}),
        ("q4_1-kv16", set(), {"fp16", "bf16"}), ("bf16-abf16-kvbf16", {"bf16"}, {"bf16"}), ("kvfp8", set(), {"fp8"}),
        ("w16a32-kv32", {"fp32"}, {"fp32"}), ("fp8", set(), set()), ("kv", set(), set()),
        ("awq-a100-kvx", set(), set()),
    ],
)  # fmt: skip
def test_a_label_may_say_what_activations_and_cache_are_of(label: str, activations: set[str], cache: set[str]) -> None:
    assert (classify(label).activations, classify(label).cache) == (activations, cache)


@pytest.mark.parametrize(
    ("label", "activations", "cache", "completed"),
    [
        ("fp8", "", "fp8_e5m2", "fp8-kvfp8_e5m2"), ("bf16", "torch.bfloat16", "auto", "bf16-abf16-kvbf16"),
        ("awq", "float16", "auto", "awq-afp16-kvfp16"), ("w16a16", "bfloat16", "auto", "w16a16-kv16"),
        ("bf16", "", "auto", "bf16-kvbf16"), ("fp8", "", "auto", "fp8"), ("", "", "fp8", "kvfp8"), ("", "", "auto", ""),
        ("w4a16-kv16", "", "fp8", "w4a16-kv16"), ("x" * 64, "", "fp8", "x" * 64),
        ("Q4_K_M", "strange", "strange", "Q4_K_M"),
    ],
)  # fmt: skip
def test_what_a_label_leaves_open_is_as_the_server_tells(
    label: str, activations: str, cache: str, completed: str
) -> None:
    assert complete_label(label, activations, cache) == completed


def test_one_of_several_may_answer_with_what_any_of_them_has() -> None:
    joined = join_formats(map(classify, ["w4a16-kv16", "fp8-abf16", "bf16-a16-kvfp8"]))
    assert joined == NumberFormats(frozenset({"int4", "fp8", "bf16"}), frozenset({"fp16", "bf16"}), frozenset())
    assert (
        join_formats([]) == NOT_KNOWN
        and NOT_KNOWN.describe() == "weights: unknown, activations: unknown, KV cache: unknown"
    )


def test_a_name_may_say_it() -> None:
    assert find_label("/models/SmolLM2-135M-Instruct.Q4_1.gguf smollm2") == "q4_1"
    assert find_label("/cache/SmolLM2-135M-Instruct.Q4_1-bf16 smollm2") == "bf16", "made of the other"
    assert find_label("Qwen/Qwen3-8B-FP8") == "fp8" and find_label("Qwen/Qwen3-8B") == ""


@given(st.text(max_size=80))
def test_any_text_is_read(text: str) -> None:
    for label in (text, f"kv{text}", f"w4a{text}", f"-a{text}-kv{text}"):
        found = classify(label)
        assert found.weights | found.activations | found.cache <= set(NUMBER_FORMATS)
    assert classify(complete_label(text, text, text)).weights == classify(text).weights
    label = find_label(text)
    assert not label or is_label(label)
