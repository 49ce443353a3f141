"""Which class of number formats a label means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.openai.number_formats import NUMBER_FORMATS, classify, find_label, is_label


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
    assert classify(label) == names


def test_a_name_may_say_it() -> None:
    assert find_label("/models/SmolLM2-135M-Instruct.Q4_1.gguf smollm2") == "q4_1"
    assert find_label("/cache/SmolLM2-135M-Instruct.Q4_1-bf16 smollm2") == "bf16", "made of the other"
    assert find_label("Qwen/Qwen3-8B-FP8") == "fp8" and find_label("Qwen/Qwen3-8B") == ""


@given(st.text(max_size=80))
def test_any_text_is_read(text: str) -> None:
    assert classify(text) <= set(NUMBER_FORMATS)
    label = find_label(text)
    assert not label or is_label(label)
