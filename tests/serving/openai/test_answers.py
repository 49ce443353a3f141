"""The inspector on an answer, over answers of real servers (``pages/README.md``), however their bytes are cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.openai.answers import (
    FREE_EVENTS,
    LEAST_EVENT_BYTES,
    MAX_EVENT_BYTES,
    AnswerInspector,
)
from serving.openai.content import MAX_UNSTREAMED_BYTES
from serving.openai.errors import bad_gateway

PAGES = Path(__file__).parents[1] / "pages"
DONE = b"data: [DONE]\n\n"
TOKENS = 6  # what every recorded answer was limited to

SERVERS = ("vllm", "llamacpp")
STREAMS = [f"{server}_{kind}" for server in SERVERS for kind in ("stream", "stream_usage")]

Reading = tuple[int, bool, str, str | None, bool]


def recorded(name: str) -> bytes:
    return (PAGES / name).read_bytes()


def stream(name: str) -> bytes:
    return recorded(f"{name}.sse")


def events(body: bytes) -> list[bytes]:
    return [event + b"\n\n" for event in body.removesuffix(b"\n\n").split(b"\n\n")]


def read(*chunks: bytes, streamed: bool = True, withhold: bool = False) -> tuple[bytes, Reading]:
    """What a inspector passes on of these chunks, and what it says at the end."""
    inspector = AnswerInspector(streamed, withhold_usage=withhold)
    passed = b"".join([inspector.feed(chunk) for chunk in chunks]) + inspector.finish()
    return passed, (
        inspector.completion_tokens,
        inspector.is_estimated,
        inspector.finish_reason,
        inspector.error,
        inspector.is_complete,
    )


def every_cut(body: bytes) -> list[tuple[bytes, ...]]:
    """The body cut in two at each byte, cut into single bytes, and whole."""
    pairs = [(body[:cut], body[cut:]) for cut in range(len(body) + 1)]
    return [*pairs, tuple(body[i : i + 1] for i in range(len(body))), (body,)]


# --- streams of real servers ---


@pytest.mark.parametrize("name", STREAMS)
def test_a_recorded_stream_is_read_the_same_however_it_is_cut(name: str) -> None:
    body = stream(name)
    expected = (TOKENS, not name.endswith("_usage"), "length", None, True)
    for chunks in every_cut(body):
        assert read(*chunks) == (body, expected)


@pytest.mark.parametrize("server", SERVERS)
def test_only_the_usage_event_is_withheld(server: str) -> None:
    body = stream(f"{server}_stream_usage")
    *before, usage, done = events(body)
    assert json.loads(usage[6:])["usage"]["completion_tokens"] == TOKENS
    assert done == DONE
    for chunks in every_cut(body):
        assert read(*chunks, withhold=True) == (b"".join(before) + DONE, (TOKENS, False, "length", None, True))


@pytest.mark.parametrize("name", STREAMS)
def test_nothing_is_withheld_where_there_is_no_usage_event_of_its_own(name: str) -> None:
    body = stream(name)
    first, *rest = events(body)
    attached = json.loads(first[6:]) | {"usage": {"completion_tokens": 1}}  # beside choices, as in continuous reports
    body = b"data: " + json.dumps(attached).encode() + b"\n\n" + b"".join(rest[:-2])
    assert read(body, withhold=True)[0] == body


@pytest.mark.parametrize("name", STREAMS)
def test_line_ends_of_either_kind(name: str) -> None:
    body = stream(name).replace(b"\n", b"\r\n")
    expected = (TOKENS, not name.endswith("_usage"), "length", None, True)
    for chunks in every_cut(body):
        assert read(*chunks) == (body, expected)


@pytest.mark.parametrize("name", STREAMS)
def test_a_space_after_the_colon_is_optional(name: str) -> None:
    body = stream(name).replace(b"data: ", b"data:")
    assert read(body) == (body, (TOKENS, not name.endswith("_usage"), "length", None, True))


@pytest.mark.parametrize("name", STREAMS)
def test_of_a_truncated_stream_the_whole_events_are_passed_on(name: str) -> None:
    body = stream(name)
    ends = [len(b"".join(events(body)[:count])) for count in range(len(events(body)) + 1)]
    tokens_before = 0
    for length in range(len(body)):
        passed, (tokens, estimated, finish_reason, error, complete) = read(body[:length])
        # An event that lacks nothing but the blank line behind it is passed on with one.
        assert passed == body[: max(end for end in ends if end <= length + 2)]
        assert complete == (b'"finish_reason":"length"' in passed)
        assert finish_reason == ("length" if complete else "")
        assert estimated == (b'"usage":{' not in passed)
        assert tokens_before <= tokens <= TOKENS
        assert error is None
        tokens_before = tokens


def test_the_stream_of_an_engine_that_died_is_an_error() -> None:
    body = stream("vllm_stream_died")
    died = next(event for event in events(body) if b'"error"' in event)
    message = json.loads(died[6:])["error"]["message"]
    for chunks in every_cut(body):
        passed, (tokens, estimated, finish_reason, error, complete) = read(*chunks)
        assert passed == body
        assert (estimated, finish_reason, error, complete) == (True, "", message, False)
        assert tokens == sum(b'"content":"' in event and b'"content":""' not in event for event in events(body))


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("head", [b"", b"event: error"])
def test_an_error_event_in_the_middle(name: str, end: bytes, head: bytes) -> None:
    cut = b"".join(events(stream(name))[:4])
    event = (head + b"\n" if head else b"") + bad_gateway("it broke off").event()
    body = (cut + event).replace(b"\n", end)
    for chunks in every_cut(body):
        passed, (_, estimated, finish_reason, error, complete) = read(*chunks)
        assert passed == body
        assert (estimated, finish_reason, error, complete) == (True, "", "it broke off", False)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (b'data: {"error":"plain"}\n\n', "plain"),
        (b'data: {"error":{"code":3}}\n\n', "{'code': 3}"),
        (b'data: {"error":{"message":"h\\u00e4lfte"}}\n\n', "hälfte"),
        (b'data: {"error":{"message":"half a character: \\ud83d"}}\n\n', "an error event that is not JSON"),
        (b'data: {"error":\n\n', "an error event that is not JSON"),
    ],
)
def test_errors_of_every_shape_are_text(event: bytes, message: str) -> None:
    _, (_, _, _, error, complete) = read(event)
    assert (error, complete) == (message, False)


def test_an_error_field_that_is_null_is_none() -> None:
    body = stream("vllm_stream").replace(b"data: {", b'data: {"error": null, ')
    assert read(body) == (body, (TOKENS, True, "length", None, True))


def test_an_error_after_the_end_is_still_an_error() -> None:
    body = stream("vllm_stream").removesuffix(DONE) + bad_gateway("late").event() + DONE
    assert read(body)[1][3:] == ("late", False)


def test_comments_and_empty_events_count_for_nothing() -> None:
    body = stream("vllm_stream")
    noisy = b": keep-alive\n\n" + body.replace(b"\n\ndata: {", b"\n\n: keep-alive\n\n\ndata: {")
    assert read(noisy) == (noisy, read(body)[1])


@pytest.mark.parametrize("end", [b"", b"\n\n"])
def test_an_event_that_is_far_too_long_ends_the_answer_with_an_error(end: bytes) -> None:
    first = events(stream("vllm_stream"))[1]
    body = first + b"data: " + b"x" * MAX_EVENT_BYTES + end + DONE
    for size in (len(body), 1 << 16, 999):
        passed, (tokens, _, _, error, complete) = read(*(body[at : at + size] for at in range(0, len(body), size)))
        assert passed.startswith(first + b"data: ") and len(passed) < len(first) + 300
        assert json.loads(passed[len(first) + 6 :])["error"]["type"] == "server_error"
        assert (tokens, complete) == (1, False)
        assert error is not None and str(MAX_EVENT_BYTES) in error


def make_long_event(size: int) -> bytes:
    """An event with one byte of content, and log probabilities."""
    frame = b'data: {"id":"i","choices":[{"delta":{"content":"a"}}],"x":"%s"}\n\n'
    return frame % (b"x" * (size - len(frame) + 2))


@pytest.mark.parametrize("cut_long", [True, False])
def test_an_event_of_the_largest_size_counts_and_a_longer_one_is_not_passed_on(cut_long: bool) -> None:
    *_, end = events(stream("vllm_stream"))
    event = make_long_event(MAX_EVENT_BYTES)
    inspector = AnswerInspector(stream=True, cut_long=cut_long)
    assert inspector.feed(event) == event and inspector.completion_bytes == 1
    passed = inspector.feed(make_long_event(MAX_EVENT_BYTES + 1) + end)
    assert inspector.is_too_long and inspector.completion_bytes == 1 and inspector.feed(event) == b""
    if cut_long:
        assert json.loads(passed.split(b"\n\n")[0][6:])["choices"][0]["finish_reason"] == "length"
        assert passed.endswith(DONE) and inspector.error is None and inspector.finish_reason == "length"
    else:
        assert b'"error"' in passed and len(passed) < 300 and inspector.error is not None
    assert inspector.is_complete == cut_long


def test_an_answer_without_content_is_not_cut_but_an_error() -> None:
    inspector = AnswerInspector(stream=True, cut_long=True)
    assert b'"error"' in inspector.feed(make_long_event(MAX_EVENT_BYTES + 1))
    assert not inspector.is_complete


@pytest.mark.parametrize("size", [7, 1 << 16])
@pytest.mark.parametrize("event", [b"\n\n", b":\n\n", b"data: 1\n\n"])
def test_far_too_many_events_for_their_bytes_end_the_answer_with_an_error(event: bytes, size: int) -> None:
    body = b":" + b"x" * 2000 + b"\n\n" + event * 5000
    passed, (_, _, _, error, complete) = read(*(body[at : at + size] for at in range(0, len(body), size)))
    assert (error, complete) == (
        f"the answer has more than {FREE_EVENTS} events, and of less than {LEAST_EVENT_BYTES} bytes each",
        False,
    )
    events_passed = (len(passed) - 2004) // len(event)
    assert FREE_EVENTS < events_passed < FREE_EVENTS + 2 * len(passed) // LEAST_EVENT_BYTES


def test_short_events_pass_beside_long_ones_and_after_the_end() -> None:
    *start, end = events(stream("vllm_stream"))
    body = b"".join(event + b"\n\n" * 10 for event in start) + b"\n\n" * FREE_EVENTS + end + b"\n\n" * 5000
    passed, (tokens, _, _, error, complete) = read(body)
    assert (passed, tokens, error, complete) == (body, TOKENS, None, True)


# --- answers in one piece ---


@pytest.mark.parametrize("server", SERVERS)
def test_a_recorded_answer_is_read_the_same_however_it_is_cut(server: str) -> None:
    body = recorded(f"{server}_answer.json")
    for chunks in every_cut(body):
        assert read(*chunks, streamed=False) == (body, (TOKENS, False, "length", None, True))


@pytest.mark.parametrize("server", SERVERS)
def test_a_truncated_answer_is_not_complete(server: str) -> None:
    body = recorded(f"{server}_answer.json")
    for length in range(len(body)):
        assert read(body[:length], streamed=False) == (body[:length], (0, True, "", None, False))


def test_an_answer_that_is_too_long_is_an_error() -> None:
    body = recorded("vllm_answer.json").removesuffix(b"}")
    body += b" " * (MAX_UNSTREAMED_BYTES - len(body) - 1)
    assert read(body + b"}", streamed=False) == (body + b"}", (TOKENS, False, "length", None, True))
    for chunks in ((body, b" }"), (body + b" }",), (b"", body[:9], body[9:] + b" }")):
        passed, (tokens, _, _, error, complete) = read(*chunks, streamed=False)
        assert (passed, tokens, complete) == (b"", 0, False)
        assert error is not None and str(MAX_UNSTREAMED_BYTES) in error


def test_an_answer_in_one_piece_is_passed_on_as_a_whole() -> None:
    body = recorded("vllm_answer.json")
    inspector = AnswerInspector(stream=False)
    assert inspector.feed(body[:99]) + inspector.feed(body[99:]) == b""
    assert inspector.finish() == body


def test_a_refusal_is_no_answer() -> None:
    body = recorded("vllm_unknown_model.json")
    assert json.loads(body)["error"]["code"] == 404
    assert read(body, streamed=False) == (body, (0, True, "", None, False))


# --- anything at all ---

words = st.sampled_from(
    [
        *(b"data: ", b"data:", b"event: e\n", b"\n", b"\r\n", b"\r", b"[DONE]", b"}", b"\xff", b"\x00"),
        *(b'{"error":', b'"finish_reason":"stop"', b'"content":"a"', b'"usage":{'),
        b'{"choices":[],"usage":{"completion_tokens":7}}',
    ]
)
soup = st.lists(words | st.binary(max_size=6), max_size=30).map(b"".join)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["message", "finish_reason"]), inner),
    max_leaves=6,
)
answers = st.dictionaries(
    st.sampled_from(["choices", "usage", "error", "object"]),
    json_values | st.fixed_dictionaries({"completion_tokens": json_values}),
).map(lambda answer: json.dumps(answer).encode())


@given(soup | answers.map(lambda answer: b"data: " + answer + b"\n\n"), st.booleans(), st.data())
def test_no_bytes_of_a_stream_raise_and_cuts_never_matter(body: bytes, withhold: bool, data: st.DataObject) -> None:
    whole = read(body, withhold=withhold)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    chunks = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert read(*chunks, withhold=withhold) == whole
    passed, (tokens, _, finish_reason, error, _) = whole
    assert tokens >= 0
    assert f"{finish_reason}{error}".encode()  # both can be sent on
    if not withhold:
        assert passed.removesuffix(b"\n\n") in body or body.startswith(passed.rstrip(b"\r\n"))


@given(soup | answers, st.data())
def test_no_bytes_of_a_whole_answer_raise(body: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(body)))
    passed, (tokens, _, finish_reason, _, _) = read(body[:cut], body[cut:], streamed=False)
    assert passed == body
    assert tokens >= 0
    assert finish_reason.encode() is not None
