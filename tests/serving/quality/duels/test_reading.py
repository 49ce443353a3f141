"""What a judge reads: the text that a user saw, streamed or not, and never a failure on what is no answer."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from serving.quality.duels.reading import CHOICE_BREAK, are_vectors, read_answer, read_question
from tests.support.openai_answers import (
    DONE,
    make_chunk,
    make_event,
    make_text_chunk,
    make_texts,
    make_usage,
    make_vectors,
    make_whole,
)


def make_stream(*pieces: str) -> bytes:
    return b"".join(make_chunk("m", piece) for piece in pieces) + make_chunk("m", finish_reason="stop") + DONE


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_a_streamed_answer_reads_as_the_same_text_in_one_piece(pieces: list[str]) -> None:
    text = "".join(pieces)
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    whole = make_whole("m", text, 3, "stop")
    assert read_answer(make_stream(*pieces)) == read_answer(whole) == text
    assert read_answer(make_stream(*pieces).replace(b"\n", b"\r\n")) == text
    assert read_answer(make_stream(*pieces) + make_usage("m", 3)) == text


def test_a_completion_reads_as_its_text_and_its_prompt() -> None:
    whole = make_texts("m", ["one", "two"], 3, "stop")
    assert read_answer(whole) == f"one{CHOICE_BREAK}two"
    stream = make_text_chunk("m", "on") + make_text_chunk("m", "e") + make_text_chunk("m", "", "stop") + DONE
    assert read_answer(stream) == "one"
    assert read_question(b'{"model":"m","prompt":"why?"}') == "why?"


def test_text_beside_a_message_is_no_part_of_an_answer() -> None:
    assert read_answer(b'{"choices":[{"message":{"content":"one"},"text":"two"}]}') == "one"


def test_embeddings_are_there_or_not() -> None:
    request = json.dumps({"model": "m", "input": ["a", "b"]}).encode()
    assert are_vectors(request, make_vectors("m", 2))
    assert not any(are_vectors(request, answer) for answer in (make_vectors("m", 1), b"{}", b'{"data":5}', b"", b"["))
    assert not are_vectors(b'{"model":"m"}', make_vectors("m", 1))


def test_reasoning_is_no_part_of_an_answer() -> None:
    message = {"content": "42", "reasoning_content": "let me think", "reasoning": "let me think"}
    assert read_answer(json.dumps({"choices": [{"index": 0, "message": message}]}).encode()) == "42"


def test_calls_are_read_in_pieces_and_whole() -> None:
    whole = {"tool_calls": [{"function": {"name": "find", "arguments": '{"x":1}'}}]}
    first = {"tool_calls": [{"index": 0, "function": {"name": "find", "arguments": '{"x"'}}]}
    second = {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}
    streamed = b"".join(make_event({"choices": [{"index": 0, "delta": delta}]}) for delta in (first, second)) + DONE
    found = read_answer(json.dumps({"choices": [{"message": whole}]}).encode())
    assert read_answer(streamed) == found == json.dumps({"name": "find", "arguments": '{"x":1}'})


def test_choices_are_read_by_their_index() -> None:
    events = [{"choices": [{"index": index, "delta": {"content": text}}]} for index, text in ((1, "b"), (0, "a"))]
    assert read_answer(b"".join(map(make_event, events))) == f"a{CHOICE_BREAK}b"


def test_a_single_message_is_the_question_and_a_conversation_names_its_roles() -> None:
    user = {"role": "user", "content": "why?"}
    parts = {"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {}}]}
    assert read_question(json.dumps({"messages": [user]}).encode()) == "why?"
    assert read_question(json.dumps({"messages": [parts]}).encode()) == "look\n[image_url]"
    system = {"role": "system", "content": "be brief"}
    assert read_question(json.dumps({"messages": [system, user]}).encode()) == "system: be brief\n\nuser: why?"
    tools = [{"type": "function", "function": {"name": "find"}}]
    read = read_question(json.dumps({"messages": [user], "tools": tools}).encode())
    assert read == f"tools: {json.dumps(tools)}\n\nuser: why?"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "delta",
                    "content",
                    "tool_calls",
                    "function",
                    "index",
                    "messages",
                    "role",
                    "tools",
                ]
            ),
            inner,
        )
    ),
    max_leaves=20,
)


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_anything_at_all_can_be_read(body: bytes) -> None:
    for raw in (body, b"data: " + body + b"\n\n"):
        assert isinstance(read_answer(raw), str) and isinstance(read_question(raw), str)


def test_what_is_nested_too_deeply_can_be_read() -> None:
    for depth in (900, 100_000):
        deep = b"[" * depth + b"]" * depth
        for raw in (deep, b'{"messages":[{"content":%s}]}' % deep, b'{"choices":[{"message":{"content":%s}}]}' % deep):
            assert read_question(raw) and read_answer(raw)
