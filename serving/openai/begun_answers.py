"""Requests whose answer is begun already, and is to be gone on with: by a user, or by a node whose executor was cut.

A chat says so as vLLM reads it: the last message is the assistant's, with the text so far, and
``continue_final_message`` is true. llama.cpp takes every such message for a beginning, and ignores the field. A
completion needs no more than a prompt that ends in the text so far. Pure.
"""

from __future__ import annotations

from typing import Any

CONTINUES = "continue_final_message"
"""The field by which a chat asks for it."""
CONTINUED = {CONTINUES: True, "add_generation_prompt": False}
"""What a chat that asks for it has: no turn of the assistant begins, since one has."""


def find_begun(content: Any) -> str | None:
    """The beginning of the answer in a chat that is to be gone on with; None if it has none."""
    messages = content.get("messages") if isinstance(content, dict) and content.get(CONTINUES) is True else None
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict) or last.get("role") != "assistant":
        return None
    text = last.get("content")
    return text if isinstance(text, str) else None


def begin_answer(content: dict[str, Any], text: str) -> dict[str, Any] | None:
    """A request whose answer is to go on from ``text``; None if it cannot be said.

    A last message of the assistant that was not to be gone on with is a turn of its own to some servers, and a
    beginning to others.
    """
    if "prompt" in content:
        prompt = content["prompt"]
        if isinstance(prompt, list) and len(prompt) == 1:
            prompt = prompt[0]
        return {**content, "prompt": prompt + text} if isinstance(prompt, str) else None
    messages = content.get("messages")
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return None
    if messages[-1].get("role") == "assistant":
        begun = find_begun(content)
        if begun is None:
            return None
        messages, text = messages[:-1], begun + text
    return {**content, **CONTINUED, "messages": [*messages, {"role": "assistant", "content": text}]}
