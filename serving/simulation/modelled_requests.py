"""What a modelled server makes of a request: its size in tokens, the names of its blocks, and the bytes of its answer.

A token is four bytes of text, in prompts and in answers, so that an answer that comes back in the next prompt of a
conversation is found in the prefix cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.openai.errors import bad_request, model_not_found
from serving.simulation.gpu_curves import GpuCurve

BYTES_PER_TOKEN = 4
"""Bytes of text in a token: the usual rule of thumb for English."""
TOKEN = "tok "
"""Text of every token of an answer."""

OutputLength = Callable[[Sequence[Mapping[str, Any]]], int]
"""From the messages of a request to the tokens that the model would say if it were not cut off."""


@dataclass(frozen=True, slots=True)
class Call:
    """What the model needs to know of a request. ``names``: of its blocks, see ``ContinuousBatch.submit``."""

    model: str
    prompt: int
    output: int
    is_cut: bool  # by the limit of the request
    stream: bool
    include_usage: bool
    names: Sequence[int]


def parse_call(
    body: bytes, models: Sequence[str], curve: GpuCurve, default_tokens: int, output_length: OutputLength | None
) -> Call:
    """Read a chat completion request. Without ``output_length`` an answer is as long as the request allows.

    Raises:
        ApiError: it is not a chat completion of one of the models that fits.
    """
    try:
        call: dict[str, Any] = json.loads(body)
        model, messages = call["model"], call["messages"]
        text = "".join(str(message.get("content") or "") for message in messages).encode()
        output = call.get("max_completion_tokens") or call.get("max_tokens") or default_tokens
        include_usage = (call.get("stream_options") or {}).get("include_usage") is True
    except (ValueError, TypeError, KeyError, AttributeError):
        raise bad_request("The body is not a chat completion request.") from None
    if model not in models:
        raise model_not_found(str(model))
    if type(output) is not int or output < 1:
        raise bad_request("max_tokens is not a positive integer.", param="max_tokens")
    prompt = max(1, -(-len(text) // BYTES_PER_TOKEN))
    if prompt + output > min(curve.context_length, curve.kv_capacity - curve.block):
        raise bad_request("The request is longer than the context.", code="context_length_exceeded")
    natural = output if output_length is None else output_length(messages)
    is_cut = natural >= output
    output = min(natural, output)
    names = name_blocks(text, output, curve.block)
    return Call(model, prompt, output, is_cut, call.get("stream") is True, include_usage, names)


def name_blocks(text: bytes, output: int, block: int) -> Sequence[int]:
    """A hash for each full block of a prompt and of the ``output`` tokens that follow it, each of all up to its end.

    The hashes differ from process to process; only whether two are equal matters.
    """
    size = block * BYTES_PER_TOKEN
    text += TOKEN.encode() * output
    names, name = [], 0
    for start in range(0, len(text) - size + 1, size):
        name = hash((name, text[start : start + size]))
        names.append(name)
    return names


def make_usage(call: Call, tokens: int, cached: int) -> dict[str, Any]:
    """The ``usage`` of an answer of ``tokens``, with ``cached`` tokens of its prompt from the prefix cache."""
    return {
        "prompt_tokens": call.prompt,
        "completion_tokens": tokens,
        "total_tokens": call.prompt + tokens,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def make_metrics_page(
    model: str, running: int, waiting: int, cache_usage: float, preemptions: int, cache_tokens: int
) -> str:
    """The lines of vLLM's metrics page (Prometheus text) that say how busy it is."""
    label = f'{{engine="0",model_name="{model}"}}'
    return (
        "# TYPE vllm:num_requests_running gauge\n"
        f"vllm:num_requests_running{label} {running:.1f}\n"
        "# TYPE vllm:num_requests_waiting gauge\n"
        f"vllm:num_requests_waiting{label} {waiting:.1f}\n"
        "# TYPE vllm:kv_cache_usage_perc gauge\n"
        f"vllm:kv_cache_usage_perc{label} {cache_usage!r}\n"
        "# TYPE vllm:num_preemptions_total counter\n"
        f"vllm:num_preemptions_total{label} {preemptions:.1f}\n"
        "# TYPE vllm:cache_config_info gauge\n"
        f'vllm:cache_config_info{{engine="0",kv_cache_size_tokens="{cache_tokens}"}} 1.0\n'
    )
