"""Which requests can be checked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving.quality.same_model.sampling import DEFAULT_TEMPERATURE, read_beginning, read_stops, read_temperature

BEGUN = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"}]


def read(**fields: Any) -> float | None:
    return read_temperature(json.dumps({"messages": [{"role": "user", "content": "Hi"}], **fields}).encode())


def test_the_temperature_is_that_of_the_request() -> None:
    assert read() == read(temperature=None) == DEFAULT_TEMPERATURE
    assert read(temperature=0) == 0
    assert read(temperature=0.7, top_p=0.9, top_k=40, min_p=0.1, seed=3) == 0.7


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 1.5},
        {"temperature": -1},
        {"temperature": "0"},
        {"frequency_penalty": 0.5},
        {"logit_bias": {"5": 3}},
        {"repeat_penalty": 1.1},
        {"repetition_penalty": 1.05},
        {"n": 2},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function"}},
        {"response_format": {"type": "json_object"}},
        {"grammar": "root ::= [a-z]"},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
        {"xtc_probability": 1.0},
        {"allowed_token_ids": [5]},
        {"anything_else": None},
        {"logprobs": True},
        {"logprobs": False},
        {"top_logprobs": None},
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": False}},
        {"continue_final_message": True, "add_generation_prompt": False},
        {"messages": BEGUN, "continue_final_message": True, "add_generation_prompt": True},
        {"messages": BEGUN, "continue_final_message": 1, "add_generation_prompt": 0},
        {"messages": "Hi"},
        {"messages": ["Hi"]},
    ],
)
def test_requests_that_change_what_is_drawn_cannot_be_checked(fields: dict[str, Any]) -> None:
    assert read(**fields) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "repeat_penalty": 1.0},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"tool_choice": "auto", "tools": [{"type": "function"}], "response_format": {"type": "text"}, "n": 1},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, {"role": "assistant"}]},
        {"messages": BEGUN, "continue_final_message": True},
        {"messages": BEGUN, "continue_final_message": True, "add_generation_prompt": False},
    ],
)
def test_fields_that_change_nothing_do_not_matter(fields: dict[str, Any]) -> None:
    assert read(**fields) == DEFAULT_TEMPERATURE


def test_a_body_that_is_no_request_cannot_be_checked() -> None:
    assert read_temperature(b"{") is None and read_temperature(b"[]") is None and read_temperature(b"[" * 9999) is None


def test_the_beginning_of_an_answer_is_the_last_message_of_the_assistant() -> None:
    def read_last(**message: Any) -> str:
        return read_beginning(json.dumps({"messages": [*BEGUN, message]}).encode())

    assert read_last(role="assistant", content="One, ") == "One, "
    parts = [{"type": "text", "text": text} for text in ("One", "!")]
    assert read_last(role="assistant", content=parts) == "One!"
    assert read_last(role="user", content="One") == read_last(role="assistant", content=None) == ""
    assert read_beginning(b'{"messages": []}') == ""


def test_the_sequences_that_end_an_answer_are_read_in_any_form() -> None:
    for stop, stops in ((None, ()), ("end", ("end",)), (["end", "##"], ("end", "##")), ([1, "x"], ("x",)), (7, ())):
        assert read_stops(json.dumps({"stop": stop}).encode()) == stops
