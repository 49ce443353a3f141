"""The completion bytes of an answer (section 19.1)."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.chain.specification.notation import Malformed


def count_completion_bytes(content_type: str, n: int, body: bytes) -> int:
    """Section 19.1, for bodies of the sizes that count."""
    if not content_type.startswith("text/event-stream"):
        return _count_content(body, n, "message")
    count = 0
    for event in re.split(rb"\r?\n\r?\n", body):
        data = b"\n".join(line[5:] for line in re.split(rb"\r\n|\r|\n", event) if line.startswith(b"data:"))
        if data.lstrip().startswith(b"[DONE]"):
            break
        count += _count_content(data, n, "delta")
    return count


def _count_content(raw: bytes, n: int, message_name: str) -> int:
    try:
        content = json.loads(raw.decode(), parse_constant=_refuse)
        json.dumps(content, ensure_ascii=False).encode()  # which half of a surrogate pair is not
    except ValueError:
        return 0
    count = 0
    try:
        for number, choice in enumerate(_get(content, "choices", list)):
            texts = [_get(choice, "text", str)]
            message = _get(choice, message_name, dict)
            texts.append(_get(message, "content", str))
            texts.append(_get(message, "reasoning", str) or _get(message, "reasoning_content", str))
            calls = [_get(call, "function", dict) for call in _get(message, "tool_calls", list)]
            calls.append(_get(message, "function_call", dict))
            texts += [_get(call, "arguments", str) for call in calls]
            count += sum(len(text.encode()) for text in texts) * (number < n)
    except Malformed:
        return 0
    return count


def _get(value: Any, name: str, kind: type[Any]) -> Any:
    """A field; empty if it is missing, null, or another thing than a string where one is counted."""
    if type(value) is not dict:
        raise Malformed
    found = value.get(name)
    if found is None or (kind is str and type(found) is not str):
        return kind()
    if type(found) is not kind:
        raise Malformed
    return found


def _refuse(constant: str) -> None:
    raise ValueError(constant)
