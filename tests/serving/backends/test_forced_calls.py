"""What is sent to llama.cpp so that it answers with a call."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving.backends.forced_calls import CALL_END, CALL_MARK, force_call

F, G = ({"type": "function", "function": {"name": name, "parameters": {}}} for name in "fg")
USER = {"role": "user", "content": "hi"}


def make(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [USER], "tools": [F, G], **fields}).encode()


@pytest.mark.parametrize(
    ("choice", "tools"), [("required", [F, G]), ({"type": "function", "function": {"name": "g"}}, [G])]
)
def test_a_forced_call_is_begun(choice: Any, tools: list[Any]) -> None:
    forced = json.loads(force_call(make(tool_choice=choice, seed=1)))
    assert forced["messages"] == [USER, {"role": "assistant", "content": CALL_MARK}]
    assert (forced["tools"], forced["tool_choice"], forced["seed"]) == (tools, "required", 1)
    assert forced["stop"] == [CALL_END]
    assert json.loads(force_call(make(tool_choice=choice, stop="x")))["stop"] == ["x", CALL_END]
    assert "stop" not in json.loads(force_call(make(tool_choice=choice, parallel_tool_calls=True)))


@pytest.mark.parametrize(
    "body",
    [
        make(),
        make(tool_choice="auto"),
        make(tool_choice="none"),
        make(tool_choice={"type": "function", "function": {"name": "x"}}),
        make(tool_choice={"function": 5}),
        make(tool_choice="required", tools=None),
        make(tool_choice="required", messages=5),
        b'{"tool_choice"',
    ],
)
def test_any_other_request_is_left_as_it_is(body: bytes) -> None:
    assert force_call(body) is body
