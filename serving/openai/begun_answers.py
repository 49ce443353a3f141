"""Requests to continue an answer: from a user, or from a node whose executor was cut. Pure.

A chat says so in the way of vLLM: the last message is the assistant's, with the text so far, and
``continue_final_message`` is true. llama.cpp continues every such message, and ignores the field. For a completion, the
prompt ends with the text so far.
"""

from __future__ import annotations

from typing import Any

CONTINUES = "continue_final_message"
"""The field by which a chat asks to continue."""
CONTINUED = {CONTINUES: True, "add_generation_prompt": False}
"""The fields of a chat that asks to continue. No new turn of the assistant begins."""


def find_begun(content: Any) -> str | None:
    """The beginning of the answer in a chat that asks to continue it; None if there is none."""
    messages = content.get("messages") if isinstance(content, dict) and content.get(CONTINUES) is True else None
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict) or last.get("role") != "assistant":
        return None
    text = last.get("content")
    return text if isinstance(text, str) else None


def begin_answer(content: dict[str, Any], text: str) -> dict[str, Any] | None:
    """The request to continue an answer from ``text``; None if that cannot be expressed.

    If the last message is the assistant's without that field, some servers read it as a complete turn, and others as a
    beginning.
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
