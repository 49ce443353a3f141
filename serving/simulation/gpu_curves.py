"""How fast a GPU serves a model: curves fitted to measurements.

A step of the engine takes

    overhead + (weights + context · kv_bytes) / bandwidth + streams · stream_cost + prefill

where ``context`` counts the tokens in the caches of all running streams and ``prefill`` is the time for the prompt
tokens taken up in that step; and never less than the host needs to send its tokens out. A prompt token costs its share
of the weights, and attention to all tokens before it: ``attention_scale`` of them cost as much as the weights.

The numbers, and where each comes from, are in ``gpu_parameters.toml``. One card is measured; others scale by what is
published of them. ``benchmarks/evaluation/gpu_model.py`` compares the curves with the measurements.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

H100 = "H100 SXM"
"""The card of the measurements."""
ELEMENT_BYTES = 2
"""Of a weight and of an element of the cache (bf16)."""
GIB = 2**30


@dataclass(frozen=True, slots=True)
class GpuCurve:
    """One model on one card. Times in seconds, sizes in bytes, rates per second."""

    model: str
    card: str
    weights: float
    kv_bytes: float  # of cache per token of context
    bandwidth: float
    overhead: float  # per step
    stream_cost: float  # per running stream and step
    prefill_rate: float  # prompt tokens, without attention
    attention_scale: float  # tokens of context
    kv_capacity: int  # tokens of context that all running streams may hold together
    context_length: int  # tokens of one request
    host_rate: float  # tokens that one server process sends
    request_seconds: float  # of the server's HTTP process per request, one after the other
    arrival_seconds: float  # from there to the engine
    max_running: int
    prefill_budget: int  # tokens per step
    block: int  # tokens in a block of cache

    def step_seconds(self, streams: int, context: int, prefill: float = 0.0) -> float:
        """Duration of one step: ``streams`` decode over ``context`` tokens, and prompts add ``prefill`` seconds."""
        read = self.weights + context * self.kv_bytes
        gpu = self.overhead + read / self.bandwidth + streams * self.stream_cost + prefill
        return max(gpu, streams / self.host_rate)

    def decode_seconds(self, steps: int, streams: int, context: int) -> float:
        """Duration of ``steps`` steps in a row without prefill, the context growing by a token per stream and step."""
        growth = streams * steps * (steps - 1) / 2
        step = self.overhead + (self.weights + context * self.kv_bytes) / self.bandwidth + streams * self.stream_cost
        gpu = steps * step + growth * self.kv_bytes / self.bandwidth
        return max(gpu, steps * streams / self.host_rate)

    def prefill_seconds(self, start: int, tokens: int) -> float:
        """Time to take up ``tokens`` of a prompt whose first ``start`` tokens are in the cache."""
        return tokens * (1 + (start + tokens / 2) / self.attention_scale) / self.prefill_rate


@cache
def load_parameters() -> Mapping[str, Any]:
    """The data file."""
    return tomllib.loads((files("serving.simulation") / "gpu_parameters.toml").read_text())


def load_curve(model: str, card: str = H100, server: str = "vllm") -> GpuCurve:
    """The curve of a model on a card: as measured, else scaled from the nearest measurement.

    Raises:
        KeyError: the data file does not know the model, the card or the server.
        ValueError: the model does not fit into the memory of the card.
    """
    parameters = load_parameters()
    shape, place, host = parameters["models"][model], parameters["cards"][card], parameters["servers"][server]
    fit, is_measured = _find_fit(model, card)
    reference_shape, reference_place = parameters["models"][fit["model"]], parameters["cards"][fit["card"]]
    work = shape["parameters"] / reference_shape["parameters"]
    compute = place["compute"] / reference_place["compute"]
    weights = shape["parameters"] * ELEMENT_BYTES
    kv_bytes = 2 * shape["layers"] * shape["kv_heads"] * shape["head_size"] * ELEMENT_BYTES
    room = (place["memory"] * host["memory_share"] - host["reserve"]) * GIB - weights
    if room < host["block"] * kv_bytes:
        raise ValueError(f"{model} does not fit into {card}")
    return GpuCurve(
        model=model,
        card=card,
        weights=weights,
        kv_bytes=kv_bytes,
        bandwidth=place["bandwidth"] * host["bandwidth_share"],
        overhead=fit["overhead"] * shape["layers"] / reference_shape["layers"],
        stream_cost=fit["stream_cost"] * work / compute,
        prefill_rate=fit["prefill_rate"] * compute / work,
        attention_scale=shape["parameters"] / (2 * shape["layers"] * shape["heads"] * shape["head_size"]),
        kv_capacity=fit["kv_capacity"] if is_measured else int(room / kv_bytes),
        context_length=shape["context"],
        host_rate=host["host_rate"],
        request_seconds=host["request_seconds"],
        arrival_seconds=host["arrival_seconds"],
        max_running=host["max_running"],
        prefill_budget=host["prefill_budget"],
        block=host["block"],
    )


def _find_fit(model: str, card: str) -> tuple[Mapping[str, Any], bool]:
    """The measurements of a model on a card, or the nearest to it, and which of the two."""
    fits = load_parameters()["fits"]
    of_model = [fit for fit in fits if fit["model"] == model] or fits
    fit = next((fit for fit in of_model if fit["card"] == card), of_model[0])
    return fit, (fit["model"], fit["card"]) == (model, card)


QWEN3_8B = load_curve("qwen3-8b")
"""Qwen3 with 8 billion parameters on the measured card."""
QWEN3_4B = load_curve("qwen3-4b")
"""Qwen3 with 4 billion parameters on the measured card."""
QWEN3_0_6B = load_curve("qwen3-0.6b")
"""Qwen3 with 0.6 billion parameters on the measured card."""
H100_BYTES_PER_S = QWEN3_8B.bandwidth
"""Effective memory bandwidth of that card."""
