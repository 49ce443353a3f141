"""How the speed of a model is said in an announcement, and read from one. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache

from p2p.peers.announcement import MAX_RATE, RATE_SCALE, ModelLoad
from serving.backends.backend import FEATURES
from serving.openai.number_formats import NUMBER_FORMATS, NumberFormats
from serving.scheduling.prediction import ServiceSpeed

RATE_DIGITS = 2
"""Significant digits of an announced rate: a change that would change no choice is not announced."""
MAX_COUNT = 1_000_000
"""Largest number of requests that can be announced."""
MAX_READ = 1024
"""What was announced of so many models is remembered as it was read: it is asked for with every request."""


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
    )


@lru_cache(MAX_READ)
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
    )


def _encode_set(names: Sequence[str], chosen: Collection[str]) -> int:
    """A bit for each of ``names`` that is chosen, the lowest for the first."""
    return sum(1 << bit for bit, name in enumerate(names) if name in chosen)


def _decode_set(names: Sequence[str], bits: int) -> frozenset[str]:
    return frozenset(name for bit, name in enumerate(names) if bits >> bit & 1)


def _encode_rate(rate: float) -> int:
    return min(MAX_RATE, round(float(f"{rate * RATE_SCALE:.{RATE_DIGITS - 1}e}")))
