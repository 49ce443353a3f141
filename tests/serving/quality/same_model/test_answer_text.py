"""Whether a transcript is that of an answer."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.quality.same_model.answer_text import (
    SLACK,
    WrittenAnswer,
    count_needed,
    is_transcript_of,
    list_written,
    read_written,
)
from serving.quality.same_model.transcript import MAX_TOKENS
from tests.support.openai_answers import DONE, make_chunk, make_event, make_usage, make_whole

GRIN = "\N{GRINNING FACE}"


def write(text: str, reasoning: str = "") -> WrittenAnswer:
    return WrittenAnswer(reasoning, text, has_calls=False)


def test_an_answer_reads_the_same_streamed_and_whole() -> None:
    pieces = ("It is ", "fun", "\n")
    stream = b"".join(make_chunk("m", piece) for piece in pieces) + make_usage("m", 3) + DONE
    assert read_written(stream) == read_written(make_whole("m", "".join(pieces), 3, "stop")) == write("It is fun\n")
    delta = {"reasoning_content": "Hm", "reasoning": "Hm", "content": "42"}
    assert read_written(make_event({"choices": [{"index": 0, "delta": delta}]})) == write("42", "Hm")


@pytest.mark.parametrize(
    "content",
    [{}, [], 7, {"choices": [{"index": 1, "message": {"content": "a"}}]}, {"choices": [{"index": 0, "message": {}}]}],
)
def test_what_is_no_text_of_one_choice_is_none(content: object) -> None:
    assert read_written(json.dumps(content).encode()) is None


def test_calls_are_noted() -> None:
    written = read_written(json.dumps({"choices": [{"message": {"tool_calls": [{"function": {}}]}}]}).encode())
    assert written is not None and written.has_calls


@given(st.binary(max_size=200))
def test_anything_can_be_read(body: bytes) -> None:
    read_written(body)


@pytest.mark.parametrize("engine", ["vllm", "llamacpp"])
def test_its_tokens_say_the_answer_but_for_marks_and_white_space(engine: str) -> None:
    answer = write(" It is\nfun. ", "Let me think.")
    told = "<think>\nLet me think.\n</think>\n\nIt is\nfun.<|im_end|>"
    assert is_transcript_of(answer, told, 12, engine)
    assert not is_transcript_of(answer, told.replace("fun", "sad"), 12, engine)
    assert not is_transcript_of(answer, told[:30], 12, engine), "a part of it"
    assert not is_transcript_of(answer, told + "x" * (SLACK + 1), 12, engine), "and more than it"
    assert is_transcript_of(answer, told + "x" * SLACK, 12, engine)


def test_what_ended_an_answer_is_in_the_transcript_alone() -> None:
    answer, stop = write("It is fun."), "##" * SLACK
    assert is_transcript_of(answer, "It is fun." + stop, 12, "vllm", ["x", stop])
    assert not is_transcript_of(answer, "It is fun." + stop, 12, "vllm", ["x"])


def test_of_a_longer_answer_than_a_transcript_can_have_it_says_the_beginning() -> None:
    answer = write("ab" * MAX_TOKENS)
    assert is_transcript_of(answer, "a" + "ba" * 4000, MAX_TOKENS, "vllm")
    assert not is_transcript_of(answer, "a" + "ba" * 4000, MAX_TOKENS - 1, "vllm")
    assert not is_transcript_of(answer, "b" * 4000, MAX_TOKENS, "vllm")


def test_an_engine_that_lists_no_parts_of_characters_may_end_before_the_first_that_has_some() -> None:
    answer = write(f"So {GRIN} it is")
    assert (count_needed(answer, "llamacpp"), count_needed(answer, "vllm")) == (2, 7)
    assert is_transcript_of(answer, "So", 1, "llamacpp") and not is_transcript_of(answer, "So", 1, "vllm")
    assert is_transcript_of(answer, f"So {GRIN} it is", 5, "llamacpp"), "or have all of it"
    assert not is_transcript_of(answer, "S", 1, "llamacpp")
    assert count_needed(write(GRIN), "llamacpp") == 0 and count_needed(write(GRIN), "vllm") == 1


def test_of_an_answer_that_was_begun_the_beginning_may_be_repeated() -> None:
    assert list_written(write(" two"), "One,") == (write(" two"),) == list_written(write(" two"), "")
    assert list_written(write("One, two"), " One,\n") == (write("One, two"), write(" two"))
    assert list_written(write("a boy"), "a") == (write("a boy"), write(" boy")), "or it is by chance, and no repetition"
