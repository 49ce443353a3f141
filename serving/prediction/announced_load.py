"""How the speed of a model is said in an announcement, and read from one. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache

from p2p.peers.announcement import MAX_RATE, MAX_TOKENS, RATE_SCALE, ModelLoad
from serving.backends.backend import FEATURES
from serving.openai.number_formats import NUMBER_FORMATS, NumberFormats
from serving.prediction.predicted_time import ServiceSpeed

DIGITS = 2
"""Significant digits of an announced rate or cache: a change that would change no choice is not announced, and the
exact size of a cache would tell one machine from others alike."""
MAX_COUNT = 1_000_000
"""Largest number of requests that can be announced."""
MAX_REMEMBERED = 1024
"""Results that each of two caches keeps. Announced loads are read with every request, and made twice a second."""


@lru_cache(MAX_REMEMBERED)
def make_model_load(model: str, speed: ServiceSpeed) -> ModelLoad:
    """What a node announces of one of its models."""
    formats = speed.number_formats
    return ModelLoad(
        model,
        min(speed.running, MAX_COUNT),
        min(speed.waiting, MAX_COUNT),
        min(speed.slots, MAX_COUNT),
        _encode_rate(speed.prefill_rate),
        _encode_rate(speed.decode_rate),
        speed.context_length,
        _encode_set(FEATURES, speed.features),
        _encode_set(NUMBER_FORMATS, formats.weights),
        _encode_set(NUMBER_FORMATS, formats.activations),
        _encode_set(NUMBER_FORMATS, formats.cache),
        min(_round(speed.cache_tokens), MAX_TOKENS),
    )


@lru_cache(MAX_REMEMBERED)
def read_model_load(load: ModelLoad) -> ServiceSpeed:
    """What a node said of one of its models."""
    formats = (load.weight_formats, load.activation_formats, load.cache_formats)
    return ServiceSpeed(
        load.running,
        load.waiting,
        load.slots,
        load.prefill_rate / RATE_SCALE,
        load.decode_rate / RATE_SCALE,
        load.context_length,
        _decode_set(FEATURES, load.features),
        NumberFormats(*(_decode_set(NUMBER_FORMATS, bits) for bits in formats)),
        load.cache_tokens,
    )


def _encode_set(names: Sequence[str], chosen: Collection[str]) -> int:
    """A bit for each of ``names`` that is chosen, the lowest for the first."""
    return sum(1 << bit for bit, name in enumerate(names) if name in chosen)


def _decode_set(names: Sequence[str], bits: int) -> frozenset[str]:
    return frozenset(name for bit, name in enumerate(names) if bits >> bit & 1)


def _encode_rate(rate: float) -> int:
    return min(MAX_RATE, _round(rate * RATE_SCALE))


def _round(number: float) -> int:
    """To :data:`DIGITS`."""
    return round(float(f"{number:.{DIGITS - 1}e}"))
