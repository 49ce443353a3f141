"""In which number format the weights of a model are served: what a name says of it, and OpenRouter's classes. Pure.

A *label* is what an owner declares or a server tells: ``w4a16-kv16``, ``Q4_K_M``, ``fp8``. Users ask for a class of
labels (``provider.quantizations``), and announcements say one. A label of none of these classes, such as ``Q6_K``, is
unknown to both, for nobody should be told that it is as good as another.
"""

from __future__ import annotations

import re
from functools import lru_cache

from chain.codec import is_printable_ascii

NUMBER_FORMATS = ("int4", "int8", "fp4", "fp6", "fp8", "fp16", "bf16", "fp32")
"""The classes, in the order of their bits in an announcement."""
UNKNOWN = "unknown"
"""What users call a format that is not told."""
MAX_LABEL_CHARS = 64
"""Longest label."""

_LABEL = re.compile(
    r"(?<![a-z0-9])"
    r"(i?q[1-8](?:_[0-9a-z]+)*|fp8|fp4|nvfp4|mxfp4|int[48]|awq|gptq|bf16|f16|w\d+a\d+|[48]bit)"
    r"(?![a-z0-9])"
)
_CLASSES = (
    (r"(nv|mx)?fp4", {"fp4"}),
    (r"fp6", {"fp6"}),
    (r"fp8|float8", {"fp8"}),
    (r"bf16|bfloat16", {"bf16"}),
    (r"fp16|f16|float16|half", {"fp16"}),
    (r"fp32|f32|float32", {"fp32"}),
    (r"w16a\d+", {"fp16", "bf16"}),
    (r"int4|w4a\d+|i?q4|nf4|4bit|awq", {"int4"}),
    (r"int8|w8a\d+|i?q8|8bit", {"int8"}),
)
"""Beginnings of labels in small letters. ``w16`` does not say which of two formats of 16 bits it is."""
_CLASSIFIED = tuple((re.compile(rf"(?:{pattern})(?![a-z0-9])"), frozenset(names)) for pattern, names in _CLASSES)


@lru_cache(maxsize=1024)  # the same few names are asked for with every request
def find_label(text: str) -> str:
    """The label in the name of a model or of its weights, in small letters; empty if there is none.

    Of several the last: ``X-bf16-AWQ`` was made of ``X-bf16``.
    """
    found = _LABEL.findall(text.lower())
    return found[-1] if found else ""


def is_label(text: str) -> bool:
    """Whether ``text`` can be declared as a label."""
    return 0 < len(text) <= MAX_LABEL_CHARS and is_printable_ascii(text)


@lru_cache(maxsize=1024)
def classify(label: str) -> frozenset[str]:
    """The classes that the weights of a label may be of; none if it is not known."""
    text = label.lower()
    return next((names for pattern, names in _CLASSIFIED if pattern.match(text)), frozenset())
