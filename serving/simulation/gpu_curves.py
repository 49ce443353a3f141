"""How fast a GPU serves a model: curves fitted to measurements, and scaled to cards that were not measured.

The reference points are vLLM 0.24 serving Qwen3 in bf16 on one H100 80GB (closed loop, prompt 512, output 128, 1 to 64
streams, through its HTTP server). A step of the engine takes

    overhead + weights / bandwidth + streams · stream_cost + context · kv_bytes / bandwidth + prefill / prefill_rate

where ``context`` counts the tokens in the caches of all running streams and ``prefill`` the prompt tokens taken up in
that step; and never less than the host needs to send its tokens out. The curves of the 8B and 4B models are within a
ninth of every measured throughput. The 0.6B model is bound by its host sooner than by the GPU, which a single rate
describes only roughly: within a fifth at prompt 512 up to 128 streams, a third low at worst.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

H100_BYTES_PER_S = 2.7e12  # bytes/s, effective; 3.35e12 is published
GIB = 2**30
MEMORY_SHARE = 0.88  # of a card's memory, for weights and key-value cache, in the measurements


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
    prefill_rate: float  # prompt tokens
    kv_capacity: int  # tokens of context that all running streams may hold together
    host_rate: float = 12_000  # tokens that one server process streams out
    max_running: int = 256
    prefill_budget: int = 8192  # prompt tokens per step

    def step_seconds(self, streams: int, context: int, prefill: int = 0) -> float:
        """Duration of one step in which ``streams`` decode over ``context`` tokens and ``prefill`` are taken up."""
        read = self.weights + context * self.kv_bytes
        gpu = self.overhead + read / self.bandwidth + streams * self.stream_cost + prefill / self.prefill_rate
        return max(gpu, streams / self.host_rate)

    def decode_seconds(self, steps: int, streams: int, context: int) -> float:
        """Duration of ``steps`` steps in a row without prefill, the context growing by a token per stream and step."""
        growth = streams * steps * (steps - 1) / 2
        step = self.overhead + (self.weights + context * self.kv_bytes) / self.bandwidth + streams * self.stream_cost
        gpu = steps * step + growth * self.kv_bytes / self.bandwidth
        return max(gpu, steps * streams / self.host_rate)


@dataclass(frozen=True, slots=True)
class Card:
    """Published figures of a card: memory in bytes, bandwidth in bytes/s, dense bf16 rate in FLOP/s."""

    name: str
    memory: float
    bandwidth: float
    flops: float


H100 = Card("H100 SXM", 80 * GIB, 3.35e12, 989e12)
A100 = Card("A100 80GB", 80 * GIB, 2.0e12, 312e12)
L40S = Card("L40S", 48 * GIB, 0.86e12, 362e12)
RTX_6000_ADA = Card("RTX 6000 Ada", 48 * GIB, 0.96e12, 364e12)
RTX_4090 = Card("RTX 4090", 24 * GIB, 1.01e12, 165e12)
RTX_3090 = Card("RTX 3090", 24 * GIB, 0.94e12, 71e12)

QWEN3_8B = GpuCurve(
    "qwen3-8b", H100.name, 16.38e9, 144 * 1024, H100_BYTES_PER_S, 0.70e-3, 4e-6, 42_000, kv_capacity=385_200
)
QWEN3_4B = GpuCurve(
    "qwen3-4b", H100.name, 8.04e9, 144 * 1024, H100_BYTES_PER_S, 1.40e-3, 9e-6, 68_000, kv_capacity=444_864
)
QWEN3_0_6B = GpuCurve(
    "qwen3-0.6b", H100.name, 1.19e9, 112 * 1024, H100_BYTES_PER_S, 1.80e-3, 0.0, 260_000, kv_capacity=636_720
)


def scale(curve: GpuCurve, card: Card) -> GpuCurve:
    """``curve`` (an H100's) on another card, by its published bandwidth, arithmetic rate and memory.

    Scaling, not measurement: the overhead of the host is taken as the same, and the same share of the published figures
    as reached.

    Raises:
        ValueError: the model does not fit into the card's memory.
    """
    kv_capacity = curve.kv_capacity + int(MEMORY_SHARE * (card.memory - H100.memory) / curve.kv_bytes)
    if kv_capacity <= 0:
        raise ValueError(f"{curve.model} does not fit into {card.name}")
    return replace(
        curve,
        card=card.name,
        bandwidth=curve.bandwidth * card.bandwidth / H100.bandwidth,
        prefill_rate=curve.prefill_rate * card.flops / H100.flops,
        kv_capacity=kv_capacity,
    )
