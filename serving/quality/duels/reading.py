"""What a judge reads of a request and of an answer: plain text out of the JSON that went over the wire. Pure.

A judge reads what a user sees: of the request the messages and the tools, or the prompt; of the answer the text and the
calls. Reasoning is no part of an answer. If the request already contains the beginning of the answer, that stands in
front of each answer, and not in the question. A body that is no answer is shown unchanged: so the judge finds it
unusable, and no one else has to decide.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from serving.openai.answers import AnswerInspector
from serving.openai.begun_answers import find_begun
from serving.openai.bodies import parse_json, read_contents
from serving.openai.endpoints import EMBEDDINGS
from serving.openai.errors import ApiError
from serving.openai.requests import read_request

CHOICE_BREAK = "\n\n--- another answer to the same question ---\n\n"
"""What stands between several answers (``n``) to one request."""


def read_question(body: bytes) -> str:
    """What the user asked: a prompt or one message as it is, a conversation with the role in front of each message."""
    content = parse_json(body)
    if isinstance(content, dict) and isinstance(content.get("prompt"), str) and "messages" not in content:
        return str(content["prompt"])
    messages = content.get("messages") if isinstance(content, dict) else None
    if not isinstance(messages, list):
        return body.decode(errors="replace")
    if find_begun(content) is not None:
        messages = messages[:-1]
    tools = content.get("tools") or content.get("functions")
    if len(messages) == 1 and not tools:
        return _read_message(messages[0])
    parts = [f"{_get_role(message)}: {_read_message(message)}" for message in messages]
    if tools:
        parts.insert(0, f"tools: {_write(tools)}")
    return "\n\n".join(parts)


def read_answer(body: bytes) -> str:
    """What the user got: the text of each choice, and its calls as JSON."""
    choices = _join_choices(read_contents(body))
    if not choices:
        return body.decode(errors="replace")
    return CHOICE_BREAK.join(text for _, text in sorted(choices.items()))


def read_continued(request: bytes, body: bytes) -> str:
    """The text of an answer to ``request``, after the beginning that the request contained.

    Some servers repeat that beginning; it is shown once.
    """
    begun, answer = find_begun(parse_json(request)) or "", read_answer(body)
    return answer if answer.lstrip().startswith(begun.strip()) else begun + answer


def are_vectors(request: bytes, answer: bytes) -> bool:
    """Whether the answer to a request for embeddings has one for each text."""
    try:
        asked = read_request(EMBEDDINGS.path, request)
    except ApiError:
        return False
    inspector = AnswerInspector(stream=False, form=EMBEDDINGS.form, choices=asked.choices)
    inspector.feed(answer)
    inspector.finish()
    return inspector.is_complete


def _write(value: Any) -> str:
    """A value as JSON."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "[something nested too deeply]"


def _join_choices(contents: Iterable[Any]) -> dict[int, str]:
    """The text of each choice, by its index, out of the pieces that it came in."""
    texts: dict[int, list[str]] = {}
    calls: dict[int, dict[int, dict[str, str]]] = {}
    for content in contents:
        choices = content.get("choices") if isinstance(content, dict) else None
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            index = choice.get("index")
            index = index if isinstance(index, int) else 0
            message = choice.get("delta") or choice.get("message")
            text = texts.setdefault(index, [])
            if isinstance(message, dict):
                if message.get("content"):
                    text.append(_read_content(message["content"]))
                _add_calls(calls.setdefault(index, {}), message)
            elif isinstance(choice.get("text"), str):
                text.append(choice["text"])
    return {index: _write_choice("".join(parts), calls.get(index, {})) for index, parts in texts.items()}


def _write_choice(text: str, calls: dict[int, dict[str, str]]) -> str:
    """A text, and below it the calls in their order, as JSON."""
    written = [_write(call) for _, call in sorted(calls.items())]
    return "\n".join([text, *written] if text else written)


def _add_calls(calls: dict[int, dict[str, str]], message: dict[str, Any]) -> None:
    """Add the calls of a message, or pieces of them, to those of its choice."""
    listed = message.get("tool_calls")
    found = listed if isinstance(listed, list) else [{"function": message.get("function_call")}]
    for place, entry in enumerate(found):
        function = entry.get("function") if isinstance(entry, dict) else None
        if not isinstance(function, dict):
            continue
        number = entry.get("index")
        call = calls.setdefault(number if isinstance(number, int) else place, {"name": "", "arguments": ""})
        for name in call:
            if isinstance(function.get(name), str):
                call[name] += function[name]


def _get_role(message: Any) -> str:
    role = message.get("role") if isinstance(message, dict) else None
    return role if isinstance(role, str) else "?"


def _read_message(message: Any) -> str:
    """The text of a message of a request, with its calls."""
    if not isinstance(message, dict):
        return _write(message)
    calls = message.get("tool_calls") or message.get("function_call")
    text = _read_content(message.get("content"))
    return f"{text}\n{_write(calls)}".strip("\n") if calls else text


def _read_content(content: Any) -> str:
    """The text of a message's content: the text of its text parts, and the kind of each other part."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return _write(content)
    return "\n".join(map(_read_part, content))


def _read_part(part: Any) -> str:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else None
    return f"[{kind if isinstance(kind, str) else 'something that is no text'}]"
