"""How the speed of a model is said in an announcement, and read from one. Pure."""

from __future__ import annotations

from p2p.peers.announcement import MAX_RATE, RATE_SCALE, ModelLoad
from serving.backends.backend import FEATURES
from serving.scheduling.prediction import ServiceSpeed

RATE_DIGITS = 2
"""Significant digits of an announced rate: a change that would change no choice is not announced."""
MAX_COUNT = 1_000_000
"""Largest number of requests that can be announced."""


def make_model_load(model: str, speed: ServiceSpeed) -> ModelLoad:
    """What a node announces of one of its models."""
    return ModelLoad(
        model,
        min(speed.running, MAX_COUNT),
        min(speed.waiting, MAX_COUNT),
        min(speed.slots, MAX_COUNT),
        _encode_rate(speed.prefill_rate),
        _encode_rate(speed.decode_rate),
        speed.context_length,
        sum(1 << bit for bit, feature in enumerate(FEATURES) if feature in speed.features),
    )


def read_model_load(load: ModelLoad) -> ServiceSpeed:
    """What a node said of one of its models."""
    return ServiceSpeed(
        load.running,
        load.waiting,
        load.slots,
        load.prefill_rate / RATE_SCALE,
        load.decode_rate / RATE_SCALE,
        load.context_length,
        frozenset(feature for bit, feature in enumerate(FEATURES) if load.features >> bit & 1),
    )


def _encode_rate(rate: float) -> int:
    return min(MAX_RATE, round(float(f"{rate * RATE_SCALE:.{RATE_DIGITS - 1}e}")))
