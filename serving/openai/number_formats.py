"""The number formats in which a model is served: weights, activations and key-value cache, by OpenRouter's classes.
Pure.

A *label* is declared by an owner or reported by a server. Its parts are separated by hyphens: the weights (``Q4_K_M``,
``fp8``), or both they and the activations (``w4a16``); the activations alone (``a16``, ``afp8``); the cache (``kv16``,
``kvfp8``, ``kvq8_0``). So ``w4a16-kv16``, ``fp8-a16-kvfp8`` or ``Q4_K_M``, which leaves the other two open.

Users ask for classes of labels (:mod:`serving.openai.provider_rules`), and announcements name the possible classes. A
format of none of these classes, such as ``Q6_K``, counts as unknown: calling it one of the classes would be misleading.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import lru_cache

from chain.codec import is_printable_ascii

NUMBER_FORMATS = ("int4", "int8", "fp4", "fp6", "fp8", "fp16", "bf16", "fp32")
"""The classes, in the order of their bits in an announcement."""
QUANTIZED = frozenset({"int4", "int8", "fp4", "fp6", "fp8"})
"""Classes of quantized weights: the model computes in another format."""
UNKNOWN = "unknown"
"""What users call a format that is not told."""
MAX_LABEL_CHARS = 64
"""Longest label."""
AS_MODEL = "auto"
"""Name of vLLM and SGLang for a cache in the format in which the model computes."""

_LABEL = re.compile(
    r"(?<![a-z0-9])"
    r"(i?q[1-8](?:_[0-9a-z]+)*|fp8|fp4|nvfp4|mxfp4|int[48]|awq|gptq|bf16|f16|w\d+a(?:fp|int)?\d+|[48]bit)"
    r"(?![a-z0-9])"
)
_CLASSES = (
    (r"(nv|mx)?fp4", {"fp4"}),
    (r"fp6", {"fp6"}),
    (r"fp8|float8|w8a8_fp8", {"fp8"}),
    (r"bf16|bfloat16", {"bf16"}),
    (r"fp16|f16|float16|half", {"fp16"}),
    (r"fp32|f32|float32", {"fp32"}),
    (r"w16a(?:fp|int)?\d+", {"fp16", "bf16"}),
    (r"int4|w4a(?:fp|int)?\d+|i?q4|nf4|4bit|awq", {"int4"}),
    (r"int8|w8a(?:fp|int)?\d+|i?q8|8bit", {"int8"}),
)
"""Beginnings of labels in small letters. ``w16`` does not say which of two formats of 16 bits it is."""
_CLASSIFIED = tuple((re.compile(rf"(?:{pattern})(?![a-z0-9])"), frozenset(names)) for pattern, names in _CLASSES)
_OF_BITS = {
    "4": frozenset({"int4", "fp4"}),
    "8": frozenset({"int8", "fp8"}),
    "16": frozenset({"fp16", "bf16"}),
    "32": frozenset({"fp32"}),
}
"""Possible classes of activations and caches for which only the number of bits is given."""
_ACTIVATIONS = re.compile(r"(?:^w\d+|(?:^|-))a((?:bf|fp|int)?\d+)(?![a-z0-9])")
_CACHE = re.compile(r"(?:^|-)kv([a-z0-9_]+)")


@dataclass(frozen=True, slots=True)
class NumberFormats:
    """The possible classes of weights, activations and key-value cache; an empty set: not known."""

    weights: frozenset[str] = frozenset()
    activations: frozenset[str] = frozenset()
    cache: frozenset[str] = frozenset()

    def describe(self) -> str:
        """The three in words."""
        named = (self.weights, "weights"), (self.activations, "activations"), (self.cache, "KV cache")
        return ", ".join(f"{what}: {'/'.join(sorted(each)) or UNKNOWN}" for each, what in named)


NOT_KNOWN = NumberFormats()
"""Those of which nothing is said."""


@lru_cache(maxsize=1024)  # the same few names are asked for with every request
def find_label(text: str) -> str:
    """The label in the name of a model or of its weights, in small letters; empty if there is none.

    If there are several, the last one: ``X-bf16-AWQ`` was made from ``X-bf16``.
    """
    found = _LABEL.findall(text.lower())
    return found[-1] if found else ""


def is_label(text: str) -> bool:
    """Whether ``text`` can be declared as a label."""
    return 0 < len(text) <= MAX_LABEL_CHARS and is_printable_ascii(text)


@lru_cache(maxsize=1024)
def classify(label: str) -> NumberFormats:
    """What a label says."""
    text = label.lower()
    activations, cache = _ACTIVATIONS.search(text), _CACHE.search(text)
    return NumberFormats(
        _find_class(text), _find_part(activations[1] if activations else ""), _find_part(cache[1] if cache else "")
    )


@lru_cache(maxsize=1024)
def complete_label(label: str, activations: str = "", cache: str = "") -> str:
    """A label, completed with the activations and cache that a server reports, where it does not name them itself.

    Formats of no known class are omitted. A cache :data:`AS_MODEL` has the format of the activations, or else of
    unquantized weights; for a quantized model its format is unknown.
    """
    known, parts = classify(label), [label] if label else []
    if not known.activations and classify(f"a{_shorten(activations)}").activations:
        parts.append(f"a{_shorten(activations)}")
    if cache == AS_MODEL:
        computed = classify("-".join(parts))
        cache = _name_part(computed.activations) or _name_part(computed.weights - QUANTIZED)
    if not _CACHE.search(label.lower()) and classify(f"kv{cache}").cache:
        parts.append(f"kv{cache}")
    completed = "-".join(parts)
    return completed if is_label(completed) else label


def join_formats(several: Iterable[NumberFormats]) -> NumberFormats:
    """The possible formats if any of several backends may answer. A part that is unknown for one of them is unknown."""
    found = list(several)
    parts = ([getattr(each, part.name) for each in found] for part in fields(NumberFormats))
    return NumberFormats(*(frozenset[str]().union(*sets) if all(sets) else frozenset() for sets in parts))


def _find_class(text: str) -> frozenset[str]:
    return next((names for pattern, names in _CLASSIFIED if pattern.match(text)), frozenset())


def _find_part(text: str) -> frozenset[str]:
    """The classes of activations or of a cache, by their bits or by their format."""
    return _OF_BITS.get(text) or _find_class(text)


def _name_part(names: frozenset[str]) -> str:
    """The part of a label that :func:`_find_part` reads as these classes; empty if there is none."""
    if len(names) == 1:
        return next(iter(names))
    return next((bits for bits, same in _OF_BITS.items() if same == names), "")


def _shorten(name: str) -> str:
    """The name in labels of a format of PyTorch: ``bf16`` for ``bfloat16``."""
    return name.lower().removeprefix("torch.").replace("bfloat", "bf").replace("float", "fp")
