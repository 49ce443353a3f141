"""Identities: only equal ones have one digest, by which they are compared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chain.exceptions import CodecError
from serving.quality.same_model.identity import ModelIdentity

OURS = ModelIdentity("smollm2-135m", bytes(32), "q4_1", "llamacpp")


def test_equal_declarations_have_one_digest() -> None:
    assert OURS.digest == replace(OURS).digest
    assert ModelIdentity.decode(OURS.encode()) == OURS


@pytest.mark.parametrize(
    "change", [{"model": "smollm2"}, {"weights": bytes(31) + b"1"}, {"quantization": "q8_0"}, {"engine": "vllm"}]
)
def test_declarations_that_differ_in_anything_have_others(change: dict[str, str]) -> None:
    other = replace(OURS, **change)
    assert OURS.digest != other.digest


def test_weights_are_named_by_a_digest() -> None:
    with pytest.raises(CodecError):
        replace(OURS, weights=b"short").encode()
