"""A request of OpenAI's Responses API, read as a chat completion. Pure.

What needs a store (responses kept for later, background work) or tools that run at the server is refused by name.
Fields that are not listed here pass through.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from serving.openai.errors import bad_request
from serving.translation.fields import get_list, get_object, get_text, join_parts, pick, refuse, wrong

NO_STORE = "this node keeps no responses"
"""Why what needs kept responses is refused."""
REFUSED = {
    "previous_response_id": f"{NO_STORE}: send the whole conversation in 'input'.",
    "conversation": f"{NO_STORE}: send the whole conversation in 'input'.",
    "background": f"{NO_STORE}, so an answer cannot be fetched later.",
    "store": f"{NO_STORE}. Send 'store': false, or leave it out.",
    "prompt": "prompts that are kept at the server are not supported.",
}
"""Fields that are refused unless they are null, false or missing, and why."""
TRANSLATED = frozenset(
    {
        *REFUSED, "model", "input", "instructions", "stream", "stream_options", "tools", "tool_choice", "text",
        "reasoning",
        "max_output_tokens", "max_tool_calls", "truncation", "include", "metadata", "top_logprobs", "n",
    }
)  # fmt: skip
"""Fields that do not pass through under their names."""
LOGPROBS = "message.output_text.logprobs"
"""What a request includes to have log probabilities."""
ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
"""Roles of messages, and what they are called in chats."""


@dataclass(frozen=True, slots=True)
class ResponsesRequest:
    """A request as it was sent, and as a chat completion."""

    sent: dict[str, Any]
    chat: dict[str, Any]


def read_responses_request(sent: dict[str, Any]) -> ResponsesRequest:
    """Translate a request.

    Raises:
        ApiError: 400, naming what cannot be done.
    """
    for name, reason in REFUSED.items():
        if sent.get(name):
            raise refuse(name, reason)
    if sent.get("truncation") not in (None, "disabled"):
        raise refuse("truncation", "a prompt that is too long is refused by the model, not cut.")
    chat = {name: value for name, value in sent.items() if name not in TRANSLATED and value is not None}
    chat["model"] = sent.get("model")
    chat["messages"] = _read_messages(sent)
    if sent.get("stream") is not None:
        chat["stream"] = sent["stream"]
    if sent.get("stream"):
        chat["stream_options"] = {"include_usage": True}
    if sent.get("max_output_tokens") is not None:
        chat["max_tokens"] = sent["max_output_tokens"]
    chat |= _read_tools(sent) | _read_format(sent)
    reasoning = get_object(sent, "reasoning")
    if reasoning.get("effort"):
        chat["reasoning_effort"] = reasoning["effort"]
    include = sent.get("include")
    if not isinstance(include, list | None):
        raise wrong("include", "a list of texts")
    if sent.get("top_logprobs") or LOGPROBS in (include or ()):
        chat |= {"logprobs": True, **pick(sent, "top_logprobs")}
    return ResponsesRequest(sent, chat)


def _read_messages(sent: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of a chat: the instructions, and what ``input`` lists."""
    messages: list[dict[str, Any]] = []
    if sent.get("instructions") is not None:
        messages.append({"role": "system", "content": get_text(sent, "instructions")})
    given = sent.get("input")
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise bad_request("'input' must be a text or a list of items.", param="input")
    for number, item in enumerate(given):
        place = f"input[{number}]"
        if not isinstance(item, dict):
            raise wrong(place, "an object")
        _add_item(messages, item, f"{place}.")
    return messages


def _add_item(messages: list[dict[str, Any]], item: dict[str, Any], place: str) -> None:
    kind = item.get("type")
    if kind is None or kind == "message":
        role = ROLES.get(get_text(item, "role", place))
        if role is None:
            raise wrong(f"{place}role", "one of user, assistant, system and developer")
        messages.append({"role": role, "content": _read_content(item, "content", place)})
    elif kind == "function_call":
        function = {"name": get_text(item, "name", place), "arguments": get_text(item, "arguments", place)}
        call = {"id": get_text(item, "call_id", place), "type": "function", "function": function}
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": None})
        messages[-1].setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        content = _read_content(item, "output", place)
        messages.append({"role": "tool", "tool_call_id": get_text(item, "call_id", place), "content": content})
    elif kind != "reasoning":  # models do not get the reasoning of earlier turns
        reason = f"{NO_STORE}." if kind == "item_reference" else "such items are not supported."
        raise refuse(f"{place}type", f"{_show(kind)}: {reason}")


def _read_content(item: dict[str, Any], name: str, place: str) -> Any:
    """The content of a message: a text, or parts."""
    content = item.get(name)
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong(place + name, "a text or a list of parts")
    parts = get_list(item, name, place)
    return join_parts([_read_part(part, f"{place}{name}[{number}].") for number, part in enumerate(parts)]) or ""


def _read_part(part: dict[str, Any], place: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": get_text(part, "text", place)}
    if kind == "refusal":
        return {"type": "text", "text": get_text(part, "refusal", place)}
    if kind == "input_image":
        if part.get("file_id"):
            raise refuse(f"{place}file_id", "this node keeps no files: send the image in 'image_url'.")
        return {"type": "image_url", "image_url": {"url": get_text(part, "image_url", place), **pick(part, "detail")}}
    if kind == "input_file" and part.get("file_data"):
        return {"type": "file", "file": pick(part, "file_data", "filename")}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": get_object(part, "input_audio", place)}
    raise refuse(f"{place}type", f"{_show(kind)}: such parts are not supported.")


def _read_tools(sent: dict[str, Any]) -> dict[str, Any]:
    """The tools of a chat, and which to call."""
    tools: list[dict[str, Any]] = []
    for number, tool in enumerate(get_list(sent, "tools")):
        if tool.get("type") != "function":
            raise refuse(f"tools[{number}].type", f"{_show(tool.get('type'))}: functions are the only tools here.")
        get_text(tool, "name", f"tools[{number}].")
        tools.append({"type": "function", "function": pick(tool, "name", "description", "parameters", "strict")})
    choice = sent.get("tool_choice")
    if isinstance(choice, dict):
        kind = choice.get("type")
        if kind == "allowed_tools":
            allowed = [tool.get("name") for tool in get_list(choice, "tools", "tool_choice.")]
            tools = [tool for tool in tools if tool["function"]["name"] in allowed]
            choice = choice.get("mode")
        elif kind == "function":
            choice = {"type": "function", "function": {"name": get_text(choice, "name", "tool_choice.")}}
        else:
            raise refuse("tool_choice.type", f"{_show(kind)}: functions are the only tools here.")
    found: dict[str, Any] = {"tools": tools} if tools else {}
    if choice is not None and (tools or choice != "auto"):
        found["tool_choice"] = choice
    return found


def _read_format(sent: dict[str, Any]) -> dict[str, Any]:
    """How the answer is to be written."""
    text = get_object(sent, "text")
    found = pick(text, "verbosity")
    form = get_object(text, "format", "text.")
    kind = form.get("type")
    if kind == "json_schema":
        schema = pick(form, "name", "description", "schema", "strict")
        return {**found, "response_format": {"type": kind, "json_schema": schema}}
    if kind == "json_object":
        return {**found, "response_format": {"type": kind}}
    if kind not in (None, "text"):
        raise refuse("text.format.type", f"{_show(kind)}: such formats are not supported.")
    return found


def _show(value: Any) -> str:
    return json.dumps(value)[:80]
