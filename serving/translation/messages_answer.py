"""A chat completion, written as a message of Anthropic's Messages API. Pure."""

from __future__ import annotations

from typing import Any

from serving.openai.bodies import parse_json
from serving.translation.chat import ChatPiece, ChatUsage

STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
"""Why an answer ended, by the reason of the chat completion."""


def make_id(name: str) -> str:
    """The id of a message, from that of the chat completion."""
    return f"msg_{name.removeprefix('chatcmpl-')}"


def make_message(name: str, model: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    """A message that has not ended."""
    return {
        "id": make_id(name),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": make_usage(None),
    }


def make_whole(piece: ChatPiece, name: str) -> dict[str, Any]:
    """A whole answer."""
    content: list[dict[str, Any]] = []
    if piece.reasoning:
        content.append({"type": "thinking", "thinking": piece.reasoning, "signature": ""})
    if piece.text or piece.refusal:
        content.append({"type": "text", "text": piece.text or piece.refusal})
    for call in piece.calls:
        arguments = parse_json(call.arguments.encode("utf-8", "replace")) if call.arguments else {}
        given = arguments if isinstance(arguments, dict) else {"arguments": call.arguments}
        content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": given})
    message = make_message(piece.id or name, piece.model, content)
    end = make_end(piece.finish_reason, piece.stop, has_calls=bool(piece.calls))
    return {**message, **end, "usage": make_usage(piece.usage)}


def make_end(finish_reason: str, stop: str | None, *, has_calls: bool) -> dict[str, Any]:
    """Why an answer ended. Servers differ in what they say of one that ends in calls."""
    reason = STOP_REASONS.get(finish_reason, "end_turn")
    if reason == "end_turn" and (has_calls or stop is not None):
        reason = "tool_use" if has_calls else "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": stop if reason == "stop_sequence" else None}


def make_usage(usage: ChatUsage | None) -> dict[str, Any]:
    """The usage of a message. Tokens of the prompt that were in the cache count apart."""
    usage = usage or ChatUsage()
    return {
        "input_tokens": max(0, usage.prompt - usage.cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
    }
