"""The completion bytes of an answer depend on its content alone, however it is written, framed and cut."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.openai.answers import EVENT_STREAM, AnswerInspector
from serving.openai.content import MESSAGES, AnswerForm, decode_body, decode_event, make_end
from serving.openai.endpoints import CHAT, COMPLETIONS, ENDPOINTS
from serving.openai.requests import MAX_CHOICES
from tests.chain.specification.answers import count_completion_bytes

TEXTS = ("content", "reasoning", "reasoning_content")
DONE = b"data: [DONE]\n\n"
VECTORS = Path(__file__).parents[2] / "vectors" / "answers.json"

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
white_space = st.text(" \t\n\r", max_size=3)
names = ("message", "delta", "text", "content", "choices", "arguments", "usage", "index", "x")
unknown = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(names), inner, max_size=2),
    max_leaves=4,
)


def make_message(pieces: dict[str, str]) -> dict[str, Any]:
    """A message of texts by their names, in which ``tool_calls`` and ``function_call`` are arguments."""
    message: dict[str, Any] = {name: piece for name, piece in pieces.items() if name in TEXTS}
    if "tool_calls" in pieces:
        message["tool_calls"] = [{"index": 0, "function": {"name": "find", "arguments": pieces["tool_calls"]}}]
    if "function_call" in pieces:
        message["function_call"] = {"name": "find", "arguments": pieces["function_call"]}
    return message


def measure(pieces: dict[str, str]) -> int:
    """What they are worth."""
    counted = {**pieces, "reasoning_content": pieces.get("reasoning") or pieces.get("reasoning_content", "")}
    counted.pop("reasoning", None)
    names = 4 * ("tool_calls" in pieces) + 4 * ("function_call" in pieces)
    return names + sum(len(piece.encode()) for piece in counted.values())


messages = st.dictionaries(st.sampled_from((*TEXTS, "tool_calls", "function_call")), text, max_size=5)


@st.composite
def write(draw: st.DrawFn, value: Any, is_line: bool = False) -> str:
    """JSON with white space, escapes, orders of names, unknown names and repeated names as they come."""

    def space() -> str:
        found = draw(white_space)
        return found.replace("\n", " ").replace("\r", " ") if is_line else found

    def write_text(string: str) -> str:
        if draw(st.booleans()):
            return json.dumps(string, ensure_ascii=draw(st.booleans()))
        units = string.encode("utf-16-be")
        return '"' + "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)) + '"'

    def write_value(value: Any) -> str:
        if isinstance(value, str):
            return write_text(value)
        if isinstance(value, list):
            return "[" + ",".join(space() + write_value(item) + space() for item in value) + "]"
        if not isinstance(value, dict):
            return json.dumps(value)
        fields = [(name, write_value(item)) for name, item in draw(st.permutations(list(value.items())))]
        others = draw(st.dictionaries(st.sampled_from(("x", "y", "logprobs")), unknown, max_size=2))
        fields += [(name, json.dumps(item)) for name, item in others.items()]
        repeated = [(name, '"worth nothing"') for name, item in fields if draw(st.booleans()) and item.startswith('"')]
        inside = ",".join(f"{space()}{write_text(name)}{space()}:{space()}{item}" for name, item in repeated + fields)
        return "{" + inside + space() + "}"

    return space() + write_value(value) + space()


def inspect(
    content_type: str, choices: int, *chunks: bytes, has_tools: bool = True, form: AnswerForm = MESSAGES
) -> int:
    """The completion bytes that an inspector finds."""
    inspector = AnswerInspector(content_type.startswith(EVENT_STREAM), form=form, choices=choices, has_tools=has_tools)
    for chunk in chunks:
        inspector.feed(chunk)
    inspector.finish()
    assert inspector.error is None
    return inspector.completion_bytes


def cut(data: st.DataObject, body: bytes) -> list[bytes]:
    """The body in chunks that end at any byte."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    return [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]


@given(st.lists(messages, min_size=1, max_size=3), st.data())
def test_the_framing_of_a_whole_answer_is_worth_nothing(pieces: list[dict[str, str]], data: st.DataObject) -> None:
    choices = [{"index": at, "message": make_message(piece)} for at, piece in enumerate(pieces)]
    body = data.draw(write({"choices": choices, "usage": {"completion_tokens": 9_999}})).encode()
    count = inspect("application/json", len(pieces), *cut(data, body))
    assert count == sum(map(measure, pieces)) == count_completion_bytes("application/json", len(pieces), True, body)
    assert count <= len(body)


@given(st.lists(st.lists(messages, min_size=1, max_size=3), max_size=4), st.data())
def test_the_framing_of_a_stream_is_worth_nothing(events: list[list[dict[str, str]]], data: st.DataObject) -> None:
    noise = st.sampled_from(["", ": " + " " * 40 + "\n\n", "\n\n", "event: x\n", ": x\n", "id: 1\n", "retry: 5\n"])
    body = ""
    for pieces in events:
        choices = [{"index": at, "delta": make_message(piece)} for at, piece in enumerate(pieces)]
        line = data.draw(write({"choices": choices, "usage": {"completion_tokens": 9_999}}, is_line=True))
        body += data.draw(noise) + data.draw(st.sampled_from(["data:", "data: "])) + line + "\n\n"
    raw = (body + data.draw(noise) + "\n").encode() + DONE
    raw = raw.replace(b"\n", data.draw(st.sampled_from([b"\n", b"\r\n"])))
    count = inspect(EVENT_STREAM, 3, *cut(data, raw))
    assert count == sum(measure(piece) for pieces in events for piece in pieces)
    assert count == count_completion_bytes(EVENT_STREAM, 3, True, raw) <= len(raw)


@pytest.mark.parametrize(
    "case", json.loads(VECTORS.read_text())["answers"], ids=lambda case: case["what"].replace(" ", "-")
)
def test_an_answer_of_every_form(case: dict[str, Any]) -> None:
    body = case["body"].encode("latin-1")
    for size in (len(body) + 1, 1, 7):
        chunks = [body[at : at + size] for at in range(0, len(body), size)]
        count = inspect(
            case["content_type"], case["n"], *chunks, has_tools=case["has_tools"], form=ENDPOINTS[case["path"]].form
        )
        assert count == case["completion_bytes"]
    specified = count_completion_bytes(case["content_type"], case["n"], case["has_tools"], body, case["path"])
    assert specified == case["completion_bytes"]


soup = st.lists(
    st.sampled_from(
        [
            b"data:",
            b"\n",
            b"\r",
            b" ",
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b":",
            b'"',
            b"\\",
            b"[DONE]",
            b"null",
            b"1",
            b"\xff",
        ]
        + [b'"%s":' % name.encode() for name in (*names, *TEXTS, "tool_calls", "function")]
        + [
            b'{"choices":[{"message":{"content":"ab"}}]}',
            b'{"choices":[{"delta":{"content":"ab"}}]}',
            b'"ab"',
            b"\\ud83d",
        ]
    ),
    max_size=12,
).map(b"".join)
values = st.recursive(
    unknown,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from((*names, *TEXTS, "tool_calls", "function_call", "function")), inner, max_size=3
        )
    ),
    max_leaves=12,
)
shaped = st.fixed_dictionaries(
    {"choices": values | st.lists(values, max_size=3)}, optional=dict.fromkeys(("usage", "id", "object"), unknown)
)


@given(
    soup | (shaped | values).map(lambda value: json.dumps(value).encode()), st.integers(1, 3), st.booleans(), st.data()
)
def test_the_count_is_that_of_the_document_for_any_bytes(
    body: bytes, choices: int, has_tools: bool, data: st.DataObject
) -> None:
    kinds = (("application/json", body), (EVENT_STREAM, b"data: " + body + b"\n\n"), (EVENT_STREAM, body))
    for (kind, raw), path in product(kinds, (CHAT.path, COMPLETIONS.path)):
        form = ENDPOINTS[path].form
        inspector = AnswerInspector(kind == EVENT_STREAM, form=form, choices=choices, has_tools=has_tools)
        for chunk in cut(data, raw):
            inspector.feed(chunk)
        inspector.finish()
        if inspector.error is None:
            assert inspector.completion_bytes == count_completion_bytes(kind, choices, has_tools, raw, path)
        assert 0 <= inspector.completion_bytes <= len(raw)


@pytest.mark.parametrize("decode", [decode_body, decode_event])
@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"x":' * 100_000, b'{"choices":[{"text":' + b"[" * 100_000])
def test_deep_nesting_is_no_answer(decode: Any, raw: bytes) -> None:
    assert decode(raw) is None


@pytest.mark.parametrize("choices", [1, 2, MAX_CHOICES])
def test_the_end_that_is_made_has_the_form_of_the_stream(choices: int) -> None:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choice = {"index": 0, "delta": {"role": "assistant", "content": "abc"}, "finish_reason": None}
    event = {**head, "choices": [choice], "usage": {"completion_tokens": 1}, "x": "x" * 1_000}
    last, done = make_end(json.dumps(event).encode(), choices).split(b"\n\n", 1)
    assert done == DONE
    end = json.loads(last.removeprefix(b"data: "))
    assert [choice.pop("index") for choice in end["choices"]] == list(range(choices))
    assert end == {**head, "choices": [{"delta": {}, "finish_reason": "length"}] * choices}


def test_the_end_of_a_completion_has_its_form() -> None:
    event = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": [{"text": "abc"}]}
    last, _ = make_end(json.dumps(event).encode(), 2, COMPLETIONS.form).split(b"\n\n", 1)
    ends = [{"index": index, "text": "", "finish_reason": "length"} for index in range(2)]
    assert json.loads(last.removeprefix(b"data: ")) == {**event, "choices": ends}


def test_the_end_that_is_made_is_short() -> None:
    assert len(make_end(json.dumps({"id": "x" * 100_000, "choices": []}).encode(), MAX_CHOICES)) < 2_000
