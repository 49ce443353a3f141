"""The completion bytes of an answer (section 19.1)."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.chain.specification.notation import Malformed


def count_completion_bytes(
    content_type: str, n: int, has_tools: bool, body: bytes, path: str = "/v1/chat/completions"
) -> int:
    """Section 19.1, for bodies of the sizes that count."""
    if path == "/v1/embeddings":
        return 0
    is_text = path == "/v1/completions"
    if not content_type.startswith("text/event-stream"):
        return _count_texts(body, n) if is_text else _count_content(body, n, has_tools, "message")
    count = 0
    for event in re.split(rb"\r?\n\r?\n", body):
        data = b"\n".join(line[5:] for line in re.split(rb"\r\n|\r|\n", event) if line.startswith(b"data:"))
        if data.lstrip().startswith(b"[DONE]"):
            break
        count += _count_texts(data, n) if is_text else _count_content(data, n, has_tools, "delta")
    return count


def _count_texts(raw: bytes, n: int) -> int:
    count = 0
    try:
        content = _read_json(raw)
        _get(content, "usage", dict)
        for number, choice in enumerate(_get(content, "choices", list)):
            _get(choice, "finish_reason", str)
            count += len(_get(choice, "text", str).encode()) * (number < n)
    except (ValueError, Malformed):
        return 0
    return count


def _read_json(raw: bytes) -> Any:
    content = json.loads(raw.decode(), parse_constant=_refuse)
    json.dumps(content, ensure_ascii=False).encode()  # which half of a surrogate pair is not
    return content


def _count_content(raw: bytes, n: int, has_tools: bool, message_name: str) -> int:
    try:
        content = _read_json(raw)
    except ValueError:
        return 0
    count = 0
    try:
        _get(content, "usage", dict)
        for number, choice in enumerate(_get(content, "choices", list)):
            _get(choice, "finish_reason", str)
            message = _get(choice, message_name, dict)
            reasoning = [_get(message, name, str) for name in ("reasoning", "reasoning_content")]
            texts = [_get(message, "content", str), reasoning[0] or reasoning[1]]
            calls = [_get(call, "function", dict) for call in _get(message, "tool_calls", list)]
            calls.append(_get(message, "function_call", dict))
            call_texts = [_get(call, name, str) for call in calls for name in ("name", "arguments")]
            texts += call_texts if has_tools else []
            count += sum(len(text.encode()) for text in texts) * (number < n)
    except Malformed:
        return 0
    return count


def _get(value: Any, name: str, kind: type[Any]) -> Any:
    """A field; empty if it is missing or null."""
    if type(value) is not dict:
        raise Malformed
    found = value.get(name)
    if found is None:
        return kind()
    if type(found) is not kind:
        raise Malformed
    return found


def _refuse(constant: str) -> None:
    raise ValueError(constant)
