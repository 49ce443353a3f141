"""What a user is told of each model: context, price, features and nodes, in the fields that OpenRouter made common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import trio

from chain.parameters.parameters import CREDIT, Price
from serving.dispatcher import Dispatcher
from serving.openai.endpoints import ENDPOINTS
from serving.openai.errors import model_not_found
from serving.openai.nearest_names import find_nearest
from serving.openai.provider_rules import FORMATS
from serving.prediction.predicted_time import BYTES_PER_TOKEN, ServiceSpeed
from serving.quality.model_reports import ModelReports

LIST_INTERVAL_S = 1.0
"""Seconds for which the nodes of each model are not looked up again."""

PARAMETERS = (
    "frequency_penalty", "logit_bias", "max_completion_tokens", "max_tokens", "n", "presence_penalty",
    "response_format", "seed", "stop", "stream", "structured_outputs", "temperature", "top_p",
)  # fmt: skip
"""Parameters that every backend is expected to know."""
FEATURE_PARAMETERS = {
    "tools": ("parallel_tool_calls", "tool_choice", "tools"),
    "logprobs": ("logprobs", "top_logprobs"),
}
"""Those that come with a feature."""


class ModelList:
    """The models that this node serves or can offload to others.

    ``reports`` has what the ledger says of the executors of a model.
    """

    def __init__(self, dispatcher: Dispatcher, reports: ModelReports | None = None) -> None:
        self._dispatcher = dispatcher
        self._reports = reports
        self._found_at = float("-inf")
        self._found: dict[str, list[ServiceSpeed]] = {}

    def describe_all(self, models: Iterable[str]) -> dict[str, Any]:
        """The list of ``models``, as OpenAI has it."""
        return {"object": "list", "data": [self._describe(model) for model in models]}

    def describe(self, model: str, models: Sequence[str]) -> dict[str, Any]:
        """One of ``models``.

        Raises:
            ApiError: 404, for another.
        """
        if model not in models:
            raise model_not_found(model, find_nearest(model, models))
        return self._describe(model)

    def _describe(self, model: str) -> dict[str, Any]:
        dispatcher = self._dispatcher
        cap, model_caps = dispatcher.get_token_caps()
        speeds = self._find_speeds(model)
        features = frozenset[str]().union(*(speed.features for speed in speeds))
        formats = {key: _list_formats(speeds, part) for key, part in FORMATS.items()}
        context_length = max((speed.context_length for speed in speeds), default=0) or None
        inputs = ["text", "image"] if "vision" in features else ["text"]
        described: dict[str, Any] = {
            "id": model,
            "object": "model",
            "created": 0,
            "owned_by": "wwwserve",
            "name": model,
            "context_length": context_length,
            "architecture": {
                "modality": f"{'+'.join(inputs)}->text",
                "input_modalities": inputs,
                "output_modalities": ["text"],
            },
            "quantization": self._find_quantization(model, formats["quantizations"]),
            **formats,
            "pricing": describe_price(dispatcher.originator.get_price(model)),
            "top_provider": {
                "context_length": context_length,
                "max_completion_tokens": model_caps.get(model, cap),
                "is_moderated": False,
            },
            "supported_parameters": list_parameters(features),
            "endpoints": [each.path for each in ENDPOINTS.values() if each.feature is None or each.feature in features],
            "nodes": len(speeds),
        }
        if self._reports is not None:
            described["wwwserve"] = self._reports.find(model).to_plain()
        return described

    def _find_quantization(self, model: str, formats: Sequence[str]) -> str | None:
        """The label of this node's own backend; without one, the class of the others, if all that say one agree."""
        own = self._dispatcher.backend_pool.find(model)
        if own is not None:
            return own.backend.get_limits(model).quantization or None
        return formats[0] if len(formats) == 1 else None

    def _find_speeds(self, model: str) -> list[ServiceSpeed]:
        """What is known of each node that serves a model and is present, this one among them."""
        now = trio.current_time()
        if now - self._found_at >= LIST_INTERVAL_S:
            self._found_at, self._found = now, self._dispatcher.originator.directory.find_speeds()
        own = self._dispatcher.backend_pool.find(model)
        return ([] if own is None else [own.get_speed(model)]) + self._found.get(model, [])


def _list_formats(speeds: Iterable[ServiceSpeed], part: str) -> list[str]:
    """The classes of which a part of a model may be, wherever it is served."""
    return sorted(frozenset[str]().union(*(getattr(speed.number_formats, part) for speed in speeds)))


def list_parameters(features: Iterable[str]) -> list[str]:
    """The parameters that requests to a model with ``features`` may have, as far as is known; others pass through."""
    more = (name for feature in features for name in FEATURE_PARAMETERS.get(feature, ()))
    return sorted({*PARAMETERS, *more})


def describe_price(price: Price) -> dict[str, str]:
    """The price of an offloaded request in credits: per request, per byte (which is what counts), and per token of
    :data:`~serving.prediction.predicted_time.BYTES_PER_TOKEN` bytes, for comparison. What a node serves itself is free.
    """
    return {
        "unit": "credit",
        "request": _format(price.per_request),
        "prompt": _format(price.per_prompt_byte * BYTES_PER_TOKEN),
        "completion": _format(price.per_completion_byte * BYTES_PER_TOKEN),
        "prompt_byte": _format(price.per_prompt_byte),
        "completion_byte": _format(price.per_completion_byte),
    }


def _format(micro_credits: int) -> str:
    """An amount in credits, without an exponent."""
    return f"{micro_credits / CREDIT:.6f}".rstrip("0").rstrip(".") or "0"
