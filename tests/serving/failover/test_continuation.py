"""The request for the rest of an answer, and the seam where it is joined to the beginning."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.backends.backend import CONTINUATION
from serving.failover.continuation import make_continuation
from serving.failover.seam import MIN_REPEATED_CHARS, BegunAgain, Seam
from serving.openai.answers import AnswerInspector
from serving.openai.begun_answers import find_begun
from serving.openai.bodies import read_events
from serving.openai.content import TEXTS
from serving.openai.endpoints import CHAT, COMPLETIONS
from serving.openai.requests import Request, parse_request
from serving.quality.duels.reading import read_continued, read_question
from tests.support.openai_answers import DONE, make_chunk, make_event, make_text_chunk, make_usage

ASKED: dict[str, Any] = {"role": "user", "content": "Count."}
BEGUN = "One, two, three, "
REASONING = make_event({"choices": [{"index": 0, "delta": {"reasoning_content": "Hm."}}]})
CALL = make_event({"choices": [{"index": 0, "delta": {"tool_calls": [{"function": {"arguments": "{"}}]}}]})


def ask(path: str = CHAT.path, **fields: Any) -> Request:
    texts = {"messages": [ASKED]} if path == CHAT.path else {"prompt": "Count: "}
    return parse_request(
        path, json.dumps({"model": "m", "stream": True, "max_tokens": 50, **texts, **fields}).encode(), 99
    )


def write(*pieces: str | bytes) -> AnswerInspector:
    """An answer of which so much has come."""
    inspector = AnswerInspector(stream=True, has_tools=True)
    for piece in pieces:
        inspector.feed(piece if isinstance(piece, bytes) else make_chunk("m", piece))
    return inspector


def join(seam: Seam, *pieces: str) -> str:
    """What a user gets of the text of the rest."""
    passed = b"".join([*(seam.feed(make_chunk("other", piece)) for piece in pieces), seam.feed(DONE)])
    return "".join(event["choices"][0]["delta"].get("content", "") for event in read_events(passed) if event)


def test_the_rest_is_asked_for_as_vllm_reads_it_with_the_tokens_that_are_left() -> None:
    rest = make_continuation(ask(max_completion_tokens=60, min_tokens=2), write("One, ", "two, ", "three, "))
    assert rest is not None
    assert json.loads(rest.body) == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [ASKED, {"role": "assistant", "content": BEGUN.rstrip()}],
        "continue_final_message": True,
        "add_generation_prompt": False,
        "max_tokens": 47,
        "max_completion_tokens": 57,
        "min_tokens": 0,
    }
    assert rest.max_tokens == 57 and CONTINUATION in rest.features and rest.wants_usage


def test_a_completion_goes_on_from_its_prompt_at_any_backend_that_completes() -> None:
    inspector = AnswerInspector(stream=True, form=TEXTS)
    inspector.feed(make_text_chunk("m", "one two"))
    rest = make_continuation(ask(COMPLETIONS.path), inspector)
    assert rest is not None and json.loads(rest.body)["prompt"] == "Count: one two"
    assert rest.max_tokens == 49 and rest.features == {"completions"}


def test_a_beginning_of_the_users_own_is_gone_on_with() -> None:
    own = {"role": "assistant", "content": "Zero, "}
    rest = make_continuation(ask(messages=[ASKED, own], continue_final_message=True), write("one"))
    assert rest is not None and find_begun(json.loads(rest.body)) == "Zero, one"
    assert make_continuation(ask(messages=[ASKED, own]), write("one")) is None, "some servers take it for a turn"


def test_tokens_are_counted_by_bytes_where_events_have_several() -> None:
    rest = make_continuation(ask(), write("x" * 80))
    assert rest is not None and rest.max_tokens == 40


def test_white_space_alone_is_no_beginning() -> None:
    request = ask()
    rest = make_continuation(request, write("\n\n"))
    assert rest is not None and find_begun(json.loads(rest.body)) is None and rest.features == request.features


@pytest.mark.parametrize(
    ("fields", "written"),
    [
        ({"n": 2}, ["one"]),
        ({"logprobs": True}, ["one"]),
        ({"response_format": {"type": "json_object"}}, ["{"]),
        ({"guided_json": {}, "structured_outputs": {"json": {}}}, ["{"]),
        ({"tools": [{}], "tool_choice": "required"}, ["one"]),
        ({"tools": [{}]}, ["one", CALL]),
        ({}, [REASONING, "one"]),
        ({}, ["one", b"data: {torn\n\n"]),
    ],
    ids=str,
)
def test_what_nobody_can_go_on_with_is_not_asked_for(fields: dict[str, Any], written: list[str | bytes]) -> None:
    inspector = write(*written)
    if fields.get("n"):
        inspector = AnswerInspector(stream=True, choices=2)
        inspector.feed(make_chunk("m", "one"))
    assert make_continuation(ask(**fields), inspector) is None


def test_the_events_of_the_rest_look_like_those_of_the_beginning_and_the_usage_adds_up() -> None:
    first = {"id": "a", "object": "o", "created": 7, "model": "m", "system_fingerprint": "f"}
    seam = Seam(BEGUN, 3, json.dumps({**first, "choices": []}).encode())
    role = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}]}
    passed = seam.feed(make_event({"id": "b", **role}) + make_chunk("other", "four") + make_usage("other", 4) + DONE)
    text, usage, end = read_events(passed)
    assert end is None and passed.endswith(DONE)
    assert {name: text[name] for name in first} == {name: usage[name] for name in first} == first
    assert text["choices"][0]["delta"] == {"content": "four"}
    assert usage["usage"] == {"prompt_tokens": 2, "completion_tokens": 7, "total_tokens": 9}


@given(st.text("ab \n", max_size=30), st.text("ab \n", max_size=30), st.data())
def test_white_space_at_the_seam_stands_there_once(begun: str, rest: str, data: st.DataObject) -> None:
    # The model got the beginning without its last white space, and so may write that first.
    space = begun[len(begun.rstrip()) :]
    written = space + rest if data.draw(st.booleans()) else rest.lstrip()
    pieces, at = [], 0
    while at < len(written):
        size = data.draw(st.integers(1, 5))
        pieces.append(written[at : at + size])
        at += size
    seam = Seam(begun, 1, b"{}")
    seam._may_repeat = False
    got = join(seam, *pieces, "!")
    assert (begun + got) in (begun + rest + "!", begun + rest.lstrip() + "!")


def test_an_answer_that_is_begun_again_is_not_shown() -> None:
    seam = Seam(BEGUN + "four", 4, b"{}")
    assert join(seam, "\n", "One, ", "two, three, fo") == ""
    with pytest.raises(BegunAgain):
        join(seam, "ty")
    with pytest.raises(BegunAgain):
        Seam(BEGUN, 4, b"{}").feed(REASONING)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_beginning_that_a_server_repeats_is_taken_away(size: int) -> None:
    seam, rest = Seam(BEGUN, 3, b"{}"), "\n" + BEGUN + "four, five"
    assert join(seam, *(rest[at : at + size] for at in range(0, len(rest), size))) == "four, five"
    assert seam.has_repeated


def test_a_rest_that_begins_like_the_beginning_by_chance_is_shown_whole() -> None:
    assert join(Seam(BEGUN, 4, b"{}"), "One, ", "two", " more") == "One, two more"
    again = "ha ha ha ha ha ha "
    assert len(again) > MIN_REPEATED_CHARS
    assert join(Seam(again, 6, b"{}"), again, "!") == again + "!", "it repeats itself all the time"
    assert join(Seam("Yes. ", 1, b"{}"), "Yes.") == "Yes."


def test_judges_read_the_beginning_with_the_answer_and_not_with_the_question() -> None:
    rest = make_continuation(ask(), write("One, ", "two"))
    assert rest is not None
    assert read_question(rest.body) == read_question(ask().body) == "Count."
    answer = make_chunk("m", ", three") + DONE
    assert read_continued(rest.body, answer) == "One, two, three"
    assert read_continued(ask().body, answer) == ", three"
    assert read_continued(rest.body, make_chunk("m", "One, two, three") + DONE) == "One, two, three", "some repeat it"
