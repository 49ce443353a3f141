"""The tap on an answer: what it collects, and that the user gets what an answer without log-probabilities has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.openai.answers import AnswerInspector
from serving.quality.same_model.logprob_tap import (
    ASKED_FIELDS,
    MAX_TAPPED_BODY_BYTES,
    MAX_TAPPED_EVENT_BYTES,
    LogprobTap,
    ask_for_logprobs,
)
from serving.quality.same_model.transcript import MAX_TOKENS
from tests.support.openai_answers import DONE, make_event

PAGES = Path(__file__).parents[2] / "pages"
WORDS = ("Hé", ' "quoted"', " \\ 猫", "\n")


def list_token(token: int, text: str, *, named: str = "llamacpp") -> dict[str, Any]:
    """One entry of ``logprobs.content``, as llama.cpp or vLLM names tokens."""

    def name(number: int) -> dict[str, Any]:
        entry = {"token": text if named != "vllm" else f"token_id:{number}", "bytes": [1], "logprob": -number / 10}
        return {"id": number, **entry} if named == "llamacpp" else entry

    return {**name(token), "top_logprobs": [name(number) for number in range(6)]}


def make_stream(*, logprobs: bool, named: str = "llamacpp") -> bytes:
    """A streamed answer of four tokens, with and without what the tap takes out."""
    events = []
    for number, word in enumerate(WORDS):
        choice: dict[str, Any] = {"index": 0, "delta": {"content": word}, "finish_reason": None}
        if logprobs:
            choice["logprobs"] = {"content": [list_token(number, word, named=named)]}
        events.append(make_event({"id": "x", "choices": [choice]}))
    events.append(make_event({"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
    events.append(make_event({"id": "x", "choices": [], "usage": {"completion_tokens": 4}}))
    return b"".join([*events, DONE])


def make_whole(*, logprobs: bool, named: str = "llamacpp", tokens: int = 4) -> bytes:
    choice: dict[str, Any] = {"index": 0, "message": {"content": "".join(WORDS)}, "finish_reason": "stop"}
    if logprobs:
        listed = [list_token(number, word, named=named) for number, word in enumerate(WORDS)]
        choice["logprobs"] = {"content": listed}
    content = {"id": "x", "choices": [choice], "usage": {"completion_tokens": tokens}}
    return json.dumps(content, separators=(",", ":")).encode()


def cut(body: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(body) + 1) for place in places})
    return [body[a:b] for a, b in zip([0, *ends], [*ends, len(body)], strict=True)]


def pass_through(tap: LogprobTap, chunks: list[bytes]) -> bytes:
    return b"".join([tap.feed(chunk) for chunk in chunks]) + tap.finish()


PLACES = st.lists(st.integers(0, 1 << 16), max_size=12)


@pytest.mark.parametrize("named", ["llamacpp", "vllm"])
@given(PLACES)
def test_a_stream_passes_without_them_however_it_is_cut(named: str, places: list[int]) -> None:
    tap = LogprobTap(stream=True)
    passed = pass_through(tap, cut(make_stream(logprobs=True, named=named), places))
    assert passed == make_stream(logprobs=False)
    transcript = tap.get_transcript()
    assert transcript is not None and transcript.ids == (0, 1, 2, 3)
    assert [each.surprisal for each in transcript.tokens[0].top] == [0, 100_000, 200_000, 300_000, 400_000]


@given(PLACES)
def test_a_whole_answer_passes_without_them_however_it_is_cut(places: list[int]) -> None:
    tap = LogprobTap(stream=False)
    assert pass_through(tap, cut(make_whole(logprobs=True), places)) == make_whole(logprobs=False)
    transcript = tap.get_transcript()
    assert transcript is not None and transcript.ids == (0, 1, 2, 3)


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_is_billed_as_one_without_them(stream: bool) -> None:
    counts = []
    for logprobs in (True, False):
        body = make_stream(logprobs=logprobs) if stream else make_whole(logprobs=logprobs)
        tap, inspector = LogprobTap(stream=stream), AnswerInspector(stream)
        inspector.feed(tap.feed(body))
        inspector.feed(tap.finish())
        inspector.finish()
        assert inspector.is_complete
        counts.append((inspector.completion_bytes, inspector.completion_tokens, inspector.finish_reason))
    assert counts[0] == counts[1]
    assert counts[0][:2] == (len("".join(WORDS).encode()), 4)


@pytest.mark.parametrize(
    "name",
    ["vllm_stream.sse", "vllm_stream_usage.sse", "llamacpp_stream.sse", "vllm_answer.json", "vllm_stream_died.sse"],
)
def test_recorded_answers_without_log_probabilities_keep_their_text(name: str) -> None:
    body, stream = (PAGES / name).read_bytes(), name.endswith(".sse")
    tap = LogprobTap(stream=stream)
    passed = pass_through(tap, [body])
    readings = []
    for each in (body, passed):
        inspector = AnswerInspector(stream)
        inspector.feed(each)
        inspector.finish()
        readings.append((inspector.completion_bytes, inspector.completion_tokens, inspector.error))
    assert readings[0] == readings[1]
    assert tap.get_transcript() is None and "no log-probabilities" in tap.fault


def test_values_that_are_not_taken_out_pass_byte_for_byte() -> None:
    body = b'{"a":1.50,"choices":[{"index":0,"x":"\\u00e9\\/","logprobs":null,"y":1e2}],"b":[ 1 ]}'
    tap = LogprobTap(stream=False)
    assert pass_through(tap, [body]) == b'{"a":1.50,"choices":[{"index":0,"x":"\\u00e9\\/","y":1e2}],"b":[ 1 ]}'


def test_an_event_with_other_fields_keeps_them() -> None:
    event = b"event: message\r\nid: 7\r\n" + make_stream(logprobs=True).split(b"\n\n")[0] + b"\r\n\r\n"
    passed = LogprobTap(stream=True).feed(event)
    assert passed.startswith(b"event: message\nid: 7\ndata: {") and b"logprobs" not in passed


def test_a_text_that_mentions_them_is_no_list_of_them() -> None:
    event = make_event({"choices": [{"index": 0, "delta": {"content": '"logprobs"'}}]})
    assert LogprobTap(stream=True).feed(event) == event


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"usage": {"completion_tokens": 5}}, "no token of the answer"),
        ({"usage": {"completion_tokens": 5}, "ascii": True}, "lists 4 of 5 tokens"),
        ({"choices": []}, "no log-probabilities"),
        ({"second": True}, "several choices"),
        ({"text": True}, "by their text"),
        ({"few": True}, "3 of the likeliest"),
        ({"bad": True}, "cannot be read"),
        ({"id": -1}, "-1 is not the id of a token"),
        ({"id": 2**70}, "cannot be read"),
    ],
)
def test_an_answer_that_cannot_be_checked_says_why(change: dict[str, Any], fault: str) -> None:
    content = json.loads(make_whole(logprobs=True, named="text" if "text" in change else "llamacpp"))
    if "second" in change:
        content["choices"].append({"index": 1, "message": {"content": "b"}})
    for token in content["choices"][0]["logprobs"]["content"]:
        if "ascii" in change:
            token["token"] = "a"
        if "id" in change:
            token["id"] = change["id"]
        if "few" in change:
            token["top_logprobs"] = token["top_logprobs"][:3]
        if "bad" in change:
            token["top_logprobs"][1]["logprob"] = "low"
    content |= {name: value for name, value in change.items() if name in ("usage", "choices")}
    tap = LogprobTap(stream=False)
    passed = pass_through(tap, [json.dumps(content).encode()])
    assert tap.get_transcript() is None and fault in tap.fault
    assert b'"logprobs"' not in passed


def test_of_an_answer_that_was_cut_off_it_has_what_was_passed_on() -> None:
    tap = LogprobTap(stream=True)
    events = [event + b"\n\n" for event in make_stream(logprobs=True, named="vllm").split(b"\n\n")]
    first = tap.feed(events[0]) + tap.feed(events[1])
    for event in events[2:3]:
        tap.feed(event)
    transcript = tap.get_transcript(len(first))
    assert transcript is not None and transcript.ids == (0, 1)
    transcript = tap.get_transcript(len(first) - 1)
    assert transcript is not None and transcript.ids == (0,)
    assert tap.get_transcript(0) is None


WRITTEN = ("It", " is", " \N{GRINNING FACE}", " fun")


@pytest.mark.parametrize("reported", [6, None], ids=["a token is not listed", "cut off"])
@pytest.mark.parametrize("named", ["llamacpp", "vllm"])
def test_where_tokens_may_be_missing_it_ends_before_the_first_character_that_may_have_several(
    named: str, reported: int | None
) -> None:
    listed = [list_token(number, word, named=named) for number, word in enumerate(WRITTEN)]
    choice = {"index": 0, "message": {"content": "".join(WRITTEN)}, "logprobs": {"content": listed}}
    tap = LogprobTap(stream=False)
    usage = {} if reported is None else {"usage": {"completion_tokens": reported}}
    pass_through(tap, [json.dumps({"choices": [choice], **usage}).encode()])
    transcript = tap.get_transcript()
    if named == "llamacpp":
        assert transcript is not None and transcript.ids == (0, 1)
    elif reported is None:
        assert transcript is not None and transcript.ids == (0, 1, 2, 3), "all tokens have ids of their own"
    else:
        assert transcript is None and "lists 4 of 6 tokens" in tap.fault


@pytest.mark.parametrize(("stream", "reported", "is_whole"), [(True, 3, True), (True, 4, False), (False, 3, False)])
def test_of_a_stream_the_token_that_ends_it_may_be_missing(stream: bool, reported: int, is_whole: bool) -> None:
    usage = {"completion_tokens": reported}
    choices = [
        {"index": 0, "delta" if stream else "message": {"content": text}, "logprobs": {"content": listed}}
        for text, listed in (
            [("It", [list_token(0, "It")]), (" is", [list_token(1, " is")])]
            if stream
            else [("It is", [list_token(0, "It"), list_token(1, " is")])]
        )
    ]
    events = [make_event({"choices": [choice]}) for choice in choices] + [make_event({"choices": [], "usage": usage})]
    tap = LogprobTap(stream)
    pass_through(tap, [*events, DONE] if stream else [json.dumps({"choices": choices, "usage": usage}).encode()])
    transcript = tap.get_transcript()
    assert (transcript is not None) == is_whole and (transcript is None or transcript.ids == (0, 1))


def test_of_a_long_answer_the_transcript_has_the_beginning() -> None:
    content = json.loads(make_whole(logprobs=True, tokens=MAX_TOKENS + 4))
    content["choices"][0]["logprobs"]["content"] *= MAX_TOKENS // 4 + 1
    tap = LogprobTap(stream=False)
    pass_through(tap, [json.dumps(content).encode()])
    transcript = tap.get_transcript()
    assert transcript is not None and len(transcript.tokens) == MAX_TOKENS


def test_what_is_too_long_passes_as_it_is() -> None:
    event = b"data: " + b"x" * MAX_TAPPED_EVENT_BYTES
    tap = LogprobTap(stream=True)
    assert tap.feed(event) == event and tap.feed(b"more\n\n") == b"more\n\n" and tap.finish() == b""
    assert tap.get_transcript() is None and "too long" in tap.fault
    tap = LogprobTap(stream=False)
    piece = b"y" * (MAX_TAPPED_BODY_BYTES // 2 + 1)
    passed = tap.feed(piece) + tap.feed(piece) + tap.feed(b"z") + tap.finish()
    assert passed == piece * 2 + b"z"
    assert tap.get_transcript() is None


def test_a_request_asks_for_them_beside_all_that_it_has() -> None:
    body = b'{"model":"m","messages":[],"stream":true,"seed":3} '
    asked = ask_for_logprobs(body)
    assert json.loads(asked) == {**json.loads(body), **ASKED_FIELDS}


def test_what_a_request_has_is_sent_on_as_it_was_written() -> None:
    asked = ask_for_logprobs(b'{"model":"m","temperature":1.50,"text":"\\ud83d","most":1e999}')
    assert asked.startswith(b'{"model":"m","temperature":1.50,"text":"\\ud83d","most":1e999,')
    with pytest.raises(ValueError, match="object"):
        ask_for_logprobs(b"[]")
