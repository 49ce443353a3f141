"""Which requests can be checked: those whose tokens are drawn from the model's own distribution at a known temperature.

A grammar, a penalty or a bias makes an honest backend choose tokens that its weights find unlikely, and parts of a
message that are no text are not in its tokens. A request that speaks of log-probabilities goes to the backend as it is,
and what that reports may not name tokens by their ids; of a stream without a report of its usage it is not known
whether tokens are missing. Cutting the distribution off (``top_p``, ``top_k``, ``min_p``) only makes the chosen tokens
more likely, and is allowed.
"""

from __future__ import annotations

import json
from typing import Any

from serving.quality.same_model.logprob_tap import ASKED_FIELDS

BIASES = (
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
    "grammar",
    "json_schema",
    "regex",
    "ebnf",
    "min_tokens",
    "bad_words",
)
"""Fields that change what is drawn, unless they are absent, empty or zero."""
NEUTRAL_ONE = ("repetition_penalty", "repeat_penalty")
"""Fields that change it unless they are absent or 1."""
DEFAULT_TEMPERATURE = 1.0
"""Temperature of a request that names none. Engines have defaults of their own, which are not above it."""


def read_temperature(body: bytes) -> float | None:
    """The temperature at which the answer to a chat completion is drawn; None if it cannot be checked."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not _is_plain(content):
        return None
    temperature = content.get("temperature")
    if temperature is None:
        return DEFAULT_TEMPERATURE
    if type(temperature) not in (int, float) or not 0 <= temperature <= 1:
        return None
    return float(temperature)


def _is_plain(content: dict[str, Any]) -> bool:
    if any(content.get(name) for name in BIASES) or any(content.get(name, 1) not in (None, 1) for name in NEUTRAL_ONE):
        return False
    if content.get("n") not in (None, 1) or content.get("tool_choice") not in (None, "none", "auto"):
        return False
    if any(name in content for name in ASKED_FIELDS):
        return False
    options = content.get("stream_options")
    if content.get("stream") and not (isinstance(options, dict) and options.get("include_usage")):
        return False
    form = content.get("response_format")
    if form is not None and (not isinstance(form, dict) or form.get("type") != "text"):
        return False
    messages = content.get("messages")
    return isinstance(messages, list) and all(map(_is_text, messages))


def _is_text(message: Any) -> bool:
    if not isinstance(message, dict):
        return False
    parts = message.get("content")
    if isinstance(parts, list):
        return all(isinstance(part, dict) and part.get("type") == "text" for part in parts)
    return parts is None or isinstance(parts, str)
