"""A chat completion, written as a response of OpenAI's Responses API. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from serving.openai.errors import ApiError
from serving.translation.chat import CallPiece, ChatPiece, ChatUsage

INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why an answer is not complete, by the reason for which a chat completion ended."""
ECHOED = ("instructions", "max_output_tokens", "max_tool_calls", "safety_identifier", "prompt_cache_key", "user")
"""Fields of a request that its response repeats, null if they are missing."""


def make_id(kind: str, name: str) -> str:
    """The id of a response or an item, from that of the chat completion."""
    return f"{kind}_{name.removeprefix('chatcmpl-')}"


def make_response(
    sent: Mapping[str, Any],
    name: str,
    created: int,
    *,
    model: str = "",
    output: Sequence[dict[str, Any]] = (),
    finish_reason: str | None = None,
    usage: ChatUsage | None = None,
    error: ApiError | None = None,
) -> dict[str, Any]:
    """A response to the request ``sent``: in progress without ``finish_reason`` or ``error``."""
    reason = INCOMPLETE.get(finish_reason or "")
    status = "in_progress" if finish_reason is None else "incomplete" if reason else "completed"
    reasoning, text = sent.get("reasoning") or {}, sent.get("text") or {}
    return {
        "id": make_id("resp", name),
        "object": "response",
        "created_at": created,
        "status": "failed" if error is not None else status,
        "background": False,
        "error": None if error is None else {"code": "server_error", "message": error.message},
        "incomplete_details": {"reason": reason} if reason else None,
        **{field: sent.get(field) for field in ECHOED},
        "model": model or sent.get("model"),
        "output": list(output),
        "parallel_tool_calls": sent.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": None},
        "store": False,
        "temperature": sent.get("temperature", 1.0),
        "text": {"format": {"type": "text"}, **text},
        "tool_choice": sent.get("tool_choice") or "auto",
        "tools": sent.get("tools") or [],
        "top_logprobs": sent.get("top_logprobs") or 0,
        "top_p": sent.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": None if usage is None else make_usage(usage),
        "metadata": sent.get("metadata") or {},
    }


def make_usage(usage: ChatUsage) -> dict[str, Any]:
    """The usage of a response."""
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }


def make_output(piece: ChatPiece, name: str) -> list[dict[str, Any]]:
    """The items of a whole answer."""
    status = "incomplete" if piece.finish_reason in INCOMPLETE else "completed"
    items = []
    if piece.reasoning:
        items.append(make_reasoning(make_id("rs", name), piece.reasoning, status))
    if piece.text or piece.refusal or not piece.calls:
        items.append(make_message(make_id("msg", name), make_content(piece), status))
    items += [make_call(make_id("fc", f"{name}_{call.index}"), call, status) for call in piece.calls]
    return items


def make_content(piece: ChatPiece) -> list[dict[str, Any]]:
    """The parts of a message."""
    if piece.refusal and not piece.text:
        return [{"type": "refusal", "refusal": piece.refusal}]
    return [make_text_part(piece.text, piece.logprobs)]


def make_text_part(text: str, logprobs: Sequence[Any] = ()) -> dict[str, Any]:
    """A part of a message that is text."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def make_message(item_id: str, content: Sequence[dict[str, Any]], status: str) -> dict[str, Any]:
    """A message of the assistant."""
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": list(content)}


def make_reasoning(item_id: str, text: str, status: str) -> dict[str, Any]:
    """The reasoning of a model, empty when it begins."""
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {"id": item_id, "type": "reasoning", "summary": [], "content": content, "status": status}


def make_call(item_id: str, call: CallPiece, status: str) -> dict[str, Any]:
    """A call of a function."""
    return {
        "id": item_id,
        "type": "function_call",
        "call_id": call.id or item_id,
        "name": call.name,
        "arguments": call.arguments,
        "status": status,
    }


def encode(content: Mapping[str, Any]) -> bytes:
    """A JSON body."""
    return json.dumps(content, separators=(",", ":")).encode()
