"""Which requests can be checked: those whose tokens are drawn from the model's own distribution at a known temperature.

A grammar, a penalty or a bias makes an honest backend choose tokens that its weights find unlikely. Each engine has
more such fields than can be listed, so a request with any field that is not known to be harmless is not checked.
Otherwise a payer could make an honest executor fail. Cutting the distribution off (``top_p``, ``top_k``, ``min_p``)
only makes the chosen tokens more likely, and is allowed. Two more kinds of requests are not checked: those with parts
that are no text, because these are not among the tokens; and streams that do not report their usage, because missing
tokens would not be noticed.
"""

from __future__ import annotations

import json
from typing import Any

from serving.openai.begun_answers import CONTINUED, find_begun

HARMLESS = frozenset(
    {
        "model", "messages", "stream", "stream_options", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "n",
        "max_tokens", "max_completion_tokens", "tools", "tool_choice", "parallel_tool_calls", "response_format",
        "reasoning_effort", "chat_template_kwargs", "user", "metadata", "store", "service_tier", "safety_identifier",
        "prompt_cache_key",
    }
)  # fmt: skip
"""Fields that a request may have, with the values that :func:`read_temperature` allows."""
BIASES = frozenset({"frequency_penalty", "presence_penalty", "logit_bias"})
"""Fields that it may have too if they are empty or zero."""
PENALTIES = frozenset({"repetition_penalty", "repeat_penalty"})
"""Fields that it may have too if they are 1."""
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
    if find_begun(content) is not None:
        content = {name: value for name, value in content.items() if CONTINUED.get(name) is not value}
    if not content.keys() <= HARMLESS | BIASES | PENALTIES:
        return False
    if any(content.get(name) for name in BIASES) or any(content.get(name, 1) not in (None, 1) for name in PENALTIES):
        return False
    if content.get("n") not in (None, 1) or content.get("tool_choice") not in (None, "none", "auto"):
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


def read_beginning(body: bytes) -> str:
    """The text of the last message of a chat completion, if it is the assistant's: servers may go on from it."""
    message = json.loads(body)["messages"][-1:]
    if not message or message[0].get("role") != "assistant":
        return ""
    content = message[0].get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    return "".join(part["text"] for part in parts if isinstance(part.get("text"), str))


def read_stops(body: bytes) -> tuple[str, ...]:
    """The sequences that end the answer to a chat completion, and are not in its text."""
    stop = json.loads(body).get("stop")
    return tuple(each for each in (stop if isinstance(stop, list) else [stop]) if isinstance(each, str))
