"""A request of Anthropic's Messages API, read as a chat completion. Pure.

Tools that run at the server, files and citations are refused by name. What only tunes the service of others (prompt
caching, the budget of thinking) is left out. Fields that are not listed here pass through.
"""

from __future__ import annotations

import json
from typing import Any

from serving.openai.errors import bad_request
from serving.translation.fields import get_list, get_object, get_text, join_parts, pick, refuse, wrong

REFUSED = {
    "container": "there is no code execution here.",
    "mcp_servers": "tools run where you are, not at this node.",
    "context_management": "a conversation is taken as it is sent.",
}
"""Fields that are refused unless they are null, empty or missing, and why."""
TRANSLATED = frozenset(
    {
        *REFUSED, "model", "messages", "system", "stream", "tools", "tool_choice", "stop_sequences", "metadata",
        "thinking", "service_tier", "cache_control", "output_config", "output_format", "diagnostics", "inference_geo",
        "n",
    }
)  # fmt: skip
"""Fields that do not pass through under their names."""
TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
"""What to call, and how chats say it."""
REASONING = ("thinking", "redacted_thinking")
"""Blocks of earlier turns that models do not get."""


def read_messages_request(sent: dict[str, Any], *, needs_limit: bool = True) -> dict[str, Any]:
    """Translate a request. One that only asks for a count (not ``needs_limit``) has no ``max_tokens``.

    Raises:
        ApiError: 400, naming what cannot be done.
    """
    for name, reason in REFUSED.items():
        if sent.get(name):
            raise refuse(name, reason)
    if needs_limit and sent.get("max_tokens") is None:
        raise bad_request("'max_tokens' is missing.", param="max_tokens")
    chat = {name: value for name, value in sent.items() if name not in TRANSLATED and value is not None}
    chat["model"] = sent.get("model")
    chat["messages"] = _read_messages(sent)
    if sent.get("stream") is not None:
        chat["stream"] = sent["stream"]
    if sent.get("stream"):
        chat["stream_options"] = {"include_usage": True}
    stops = sent.get("stop_sequences")
    if not isinstance(stops, list | None):
        raise wrong("stop_sequences", "a list of texts")
    if stops:
        chat["stop"] = stops
    user = get_object(sent, "metadata").get("user_id")
    if isinstance(user, str):
        chat["user"] = user
    if chat["messages"][-1]["role"] == "assistant":  # go on with it, for servers that have to be told
        chat |= {"continue_final_message": True, "add_generation_prompt": False}
    return chat | _read_tools(sent) | _read_format(sent)


def _read_messages(sent: dict[str, Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    system = sent.get("system")
    if isinstance(system, list):
        blocks = get_list(sent, "system")
        system = "\n\n".join(get_text(block, "text", f"system[{place}].") for place, block in enumerate(blocks))
    elif system is not None:
        system = get_text(sent, "system")
    if system:
        messages.append({"role": "system", "content": system})
    given = get_list(sent, "messages")
    if not given:
        raise bad_request("'messages' must have at least one message.", param="messages")
    for number, message in enumerate(given):
        place = f"messages[{number}]."
        role = message.get("role")
        if role == "assistant":
            messages.append(_read_assistant(message, place))
        elif role in ("user", "system"):
            messages += _read_user(message, role, place)
        else:
            raise wrong(f"{place}role", "user or assistant")
    return messages


def _read_user(message: dict[str, Any], role: str, place: str) -> list[dict[str, Any]]:
    """A turn of the user: the results of tools first, each a message of its own, then what else there is."""
    results, parts = [], []
    for number, block in enumerate(_get_blocks(message, place)):
        where = f"{place}content[{number}]."
        if block.get("type") == "tool_result":
            content = [
                _read_part(part, f"{where}content[{at}].")
                for at, part in enumerate(_get_blocks(block, where, "content"))
            ]
            call = get_text(block, "tool_use_id", where)
            results.append({"role": "tool", "tool_call_id": call, "content": join_parts(content) or ""})
        else:
            parts.append(_read_part(block, where))
    return [*results, *([{"role": role, "content": join_parts(parts)}] if parts or not results else [])]


def _read_assistant(message: dict[str, Any], place: str) -> dict[str, Any]:
    texts, calls = [], []
    for number, block in enumerate(_get_blocks(message, place)):
        where, kind = f"{place}content[{number}].", block.get("type")
        if kind == "text":
            texts.append(get_text(block, "text", where))
        elif kind == "tool_use":
            arguments = json.dumps(get_object(block, "input", where), ensure_ascii=False)
            function = {"name": get_text(block, "name", where), "arguments": arguments}
            calls.append({"id": get_text(block, "id", where), "type": "function", "function": function})
        elif kind not in REASONING:
            raise refuse(f"{where}type", f"{_show(kind)}: such blocks are not supported.")
    content = "".join(texts)
    if calls:
        return {"role": "assistant", "content": content or None, "tool_calls": calls}
    return {"role": "assistant", "content": content}


def _get_blocks(message: dict[str, Any], place: str, name: str = "content") -> list[dict[str, Any]]:
    content = message.get(name)
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return get_list(message, name, place)


def _read_part(block: dict[str, Any], place: str) -> dict[str, Any]:
    kind = block.get("type")
    if kind == "text":
        return {"type": "text", "text": get_text(block, "text", place)}
    source, where = get_object(block, "source", place), f"{place}source."
    if kind == "image" and source.get("type") == "url":
        return {"type": "image_url", "image_url": {"url": get_text(source, "url", where)}}
    if kind == "image" and source.get("type") == "base64":
        media, data = get_text(source, "media_type", where), get_text(source, "data", where)
        return {"type": "image_url", "image_url": {"url": f"data:{media};base64,{data}"}}
    if kind == "document" and source.get("type") == "text":
        return {"type": "text", "text": get_text(source, "data", where)}
    if kind in ("image", "document"):
        raise refuse(f"{where}type", f"{_show(source.get('type'))}: such sources are not supported.")
    raise refuse(f"{place}type", f"{_show(kind)}: such blocks are not supported.")


def _read_tools(sent: dict[str, Any]) -> dict[str, Any]:
    tools: list[dict[str, Any]] = []
    for number, tool in enumerate(get_list(sent, "tools")):
        if tool.get("type") not in (None, "custom"):
            raise refuse(
                f"tools[{number}].type", f"{_show(tool.get('type'))}: tools run where you are, not at this node."
            )
        function = {"name": get_text(tool, "name", f"tools[{number}]."), **pick(tool, "description", "strict")}
        tools.append({"type": "function", "function": {**function, "parameters": get_object(tool, "input_schema")}})
    found: dict[str, Any] = {"tools": tools} if tools else {}
    choice = get_object(sent, "tool_choice")
    if choice:
        kind = choice.get("type")
        if kind == "tool":
            name = get_text(choice, "name", "tool_choice.")
            found["tool_choice"] = {"type": "function", "function": {"name": name}}
        elif isinstance(kind, str) and kind in TOOL_CHOICES:
            found["tool_choice"] = TOOL_CHOICES[kind]
        else:
            raise wrong("tool_choice.type", "one of auto, any, tool and none")
        if choice.get("disable_parallel_tool_use"):
            found["parallel_tool_calls"] = False
    return found


def _read_format(sent: dict[str, Any]) -> dict[str, Any]:
    """How the answer is to be written, and with how much effort."""
    config = get_object(sent, "output_config")
    form = get_object(config, "format", "output_config.") or get_object(sent, "output_format")
    found: dict[str, Any] = {}
    if config.get("effort"):
        found["reasoning_effort"] = config["effort"]
    if form:
        if form.get("type") != "json_schema":
            raise refuse("output_config.format.type", f"{_show(form.get('type'))}: such formats are not supported.")
        schema = {"name": "answer", "schema": get_object(form, "schema", "output_config.format."), "strict": True}
        found["response_format"] = {"type": "json_schema", "json_schema": schema}
    return found


def _show(value: Any) -> str:
    return json.dumps(value)[:80]
