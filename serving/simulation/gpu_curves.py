"""How fast a GPU serves a model: curves fitted to measurements.

The reference points are vLLM 0.24 serving Qwen3 in bf16 on one H100 80GB (closed loop, prompt 512, output 128, 1 to 64
streams, through its HTTP server). A step of the engine takes

    overhead + weights / bandwidth + streams · stream_cost + context · kv_bytes / bandwidth + prefill / prefill_rate

where ``context`` counts the tokens in the caches of all running streams and ``prefill`` the prompt tokens taken up in
that step; and never less than the host needs to send its tokens out. The curves of the 8B and 4B models are within a
ninth of every measured throughput. The 0.6B model is bound by its host sooner than by the GPU, which a single rate
describes only roughly: within a fifth at prompt 512 up to 128 streams, a third low at worst.
"""

from __future__ import annotations

from dataclasses import dataclass

H100 = "H100 SXM"
"""The card of the measurements."""
H100_BYTES_PER_S = 2.7e12
"""Effective memory bandwidth of that card; 3.35e12 is published."""


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
    host_rate: float = 12_000  # tokens a second that one server process sends
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


QWEN3_8B = GpuCurve("qwen3-8b", H100, 16.38e9, 144 * 1024, H100_BYTES_PER_S, 0.70e-3, 4e-6, 42_000, kv_capacity=385_200)
"""Qwen3 with 8 billion parameters."""
QWEN3_4B = GpuCurve("qwen3-4b", H100, 8.04e9, 144 * 1024, H100_BYTES_PER_S, 1.40e-3, 9e-6, 68_000, kv_capacity=444_864)
"""Qwen3 with 4 billion parameters."""
QWEN3_0_6B = GpuCurve(
    "qwen3-0.6b", H100, 1.19e9, 112 * 1024, H100_BYTES_PER_S, 1.80e-3, 0.0, 260_000, kv_capacity=636_720
)
"""Qwen3 with 0.6 billion parameters."""
