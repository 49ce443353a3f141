"""Requests that force a call, for llama.cpp: its grammar lets text come first, and knows no named function. Pure.

An answer that has begun with the mark of a call goes on as a call, with arguments that satisfy their schema.
"""

from __future__ import annotations

from typing import Any

from serving.openai.bodies import parse_json
from serving.openai.requests import encode_body

CALL_MARK = "<tool_call>\n"
"""How a call begins in the template of the embedded model."""
CALL_END = "</tool_call>"
"""How it ends."""


def force_call(body: bytes) -> bytes:
    """A chat completion whose answer begins with a call, if ``tool_choice`` asks for one; else ``body`` as it is."""
    if b'"tool_choice"' not in body:
        return body
    content = parse_json(body)
    if not isinstance(content, dict):
        return body
    tools, messages = _find_tools(content), content.get("messages")
    if not tools or not isinstance(messages, list):
        return body
    begun = {"role": "assistant", "content": CALL_MARK}
    forced: dict[str, Any] = {"tools": tools, "tool_choice": "required", "messages": [*messages, begun]}
    if content.get("parallel_tool_calls") is not True:  # the grammar allows any number, and a small model finds no end
        stop = content.get("stop") or []
        forced["stop"] = [*(stop if isinstance(stop, list) else [stop]), CALL_END]
    return encode_body({**content, **forced})


def _find_tools(content: dict[str, Any]) -> list[Any]:
    """The tools of which one must be called; none if none must."""
    choice, tools = content.get("tool_choice"), content.get("tools")
    if not isinstance(tools, list):
        return []
    if choice == "required":
        return tools
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return [tool for tool in tools if name is not None and _get_name(tool) == name]


def _get_name(tool: Any) -> Any:
    function = tool.get("function") if isinstance(tool, dict) else None
    return function.get("name") if isinstance(function, dict) else None
