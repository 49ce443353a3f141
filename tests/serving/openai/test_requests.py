"""Reading a user's request: what is refused, what passes untouched, what billing adds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.openai.errors import ApiError
from serving.openai.prefixes import hash_prefixes
from serving.openai.requests import (
    _JSON_ITEM,
    CHAT_COMPLETIONS,
    LIMITS,
    MAX_CHOICES,
    MAX_JSON_ITEMS,
    MAX_REQUEST_TOKENS,
    parse_request,
    read_request,
)

CAP = 1000


def parse(**fields: Any) -> tuple[Any, dict[str, Any]]:
    request = parse_request(CHAT_COMPLETIONS, json.dumps({"model": "m", **fields}).encode(), CAP)
    return request, json.loads(request.body)


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (b"", None, "JSON"),
        (b"{", None, "JSON"),
        (b"\xff\xfe", None, "JSON"),
        (b'{"model": "m"', None, "JSON"),
        (b"[" * 100_000, None, "JSON"),
        (b'{"model": ' + b"1" * 5000 + b"}", None, "JSON"),
        (b"[]", None, "object"),
        (b"null", None, "object"),
        (b'"model"', None, "object"),
        (b"{}", "model", "model"),
        (b'{"model": null}', "model", "model"),
        (b'{"model": ""}', "model", "model"),
        (b'{"model": 3}', "model", "model"),
        (b'{"model": ["m"]}', "model", "model"),
        (b'{"model": "m", "stream": "yes"}', "stream", "true or false"),
        (b'{"model": "m", "stream": 1}', "stream", "true or false"),
        *((b'{"model": "m", "stream": %s}' % value, "stream", "true or false") for value in (b"0", b'""', b"[]")),
        (b'{"model": "m", "stream_options": {"include_usage": 1}}', "stream_options.include_usage", "true or false"),
        (b'{"model": "m", "stream_options": true}', "stream_options", "object"),
        (b'{"model": "m", "stream_options": []}', "stream_options", "object"),
        (b'{"model": "m", "tools": {}}', "tools", "list of objects"),
        (b'{"model": "m", "functions": [[]]}', "functions", "list of objects"),
        (b'{"model": "m", "max_tokens": 0}', "max_tokens", "positive"),
        (b'{"model": "m", "max_tokens": -1}', "max_tokens", "positive"),
        (b'{"model": "m", "max_tokens": "9"}', "max_tokens", "positive"),
        (b'{"model": "m", "max_tokens": 1.5}', "max_tokens", "positive"),
        (b'{"model": "m", "max_tokens": true}', "max_tokens", "positive"),
        (b'{"model": "m", "max_tokens": 99999999999999999999}', "max_tokens", "positive"),
        (b'{"model": "m", "max_completion_tokens": 0}', "max_completion_tokens", "positive"),
        (b'{"model": "m", "max_tokens": 7, "n_predict": -1}', "n_predict", "positive"),
        (b'{"model": "m", "max_tokens": 7, "MAX_TOKENS": 9}', "max_tokens", "small letters"),
        (b'{"model": "m", "max_to\xe2\x84\xaaens": 9}', "max_tokens", "small letters"),
        (b'{"model": "m", "Model": "dear"}', "model", "small letters"),
        (b'{"model": "m", "\xc5\xbftream": true}', "stream", "small letters"),
        (b'{"model": "m", "max_tokens": 7, "max_tokens": 8}', None, "twice"),
        (b'{"model": "m", "messages": [{"role": "user", "role": "system"}]}', None, "twice"),
        (b'{"model": "m", "n": 0}', "n", "positive"),
        (b'{"model": "m", "n": "2"}', "n", "positive"),
        (b'{"model": "m", "n": 17}', "n", "at most"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_refused_and_why(body: bytes, param: str | None, message: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_request(CHAT_COMPLETIONS, body, CAP)
    error = caught.value
    assert (error.status, error.type, error.param) == (400, "invalid_request_error", param)
    assert message in error.message
    assert set(json.loads(error.body())["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","max_tokens":5}',
        b'  {"max_tokens" : 1000,\n\t"model":"m", "unknown": [1.0, 1e3, null, {"\\u00e9": "\xc3\xa9"}]}  ',
        b'{"model":"m","stream":false,"max_completion_tokens":7}',
        b'{"model":"m","stream":null,"max_tokens":7,"n":null,"stream_options":null}',
        b'{"model":"m","stream":true,"max_tokens":7,"stream_options":{"include_usage":true}}',
        b'{"model":"m","max_tokens":7,"max_completion_tokens":8,"Temperature":1}',
        b'{"model":"m","max_tokens":7.0,"n":1e0}',
    ],
)
def test_a_body_that_needs_nothing_is_passed_on_byte_for_byte(body: bytes) -> None:
    assert parse_request(CHAT_COMPLETIONS, body, CAP).body == body


def test_a_limit_is_added_where_there_is_none() -> None:
    request, body = parse(temperature=0.5)
    assert body == {"model": "m", "temperature": 0.5, "max_tokens": CAP} and request.max_tokens == CAP


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_above_the_cap_is_lowered_under_its_own_name(name: str) -> None:
    request, body = parse(**{name: CAP + 1})
    assert body == {"model": "m", name: CAP} and request.max_tokens == CAP


def test_of_several_limits_none_stays_above_the_cap_and_the_largest_counts() -> None:
    request, body = parse(max_completion_tokens=10, max_tokens=10**6)
    assert body == {"model": "m", "max_completion_tokens": 10, "max_tokens": CAP} and request.max_tokens == CAP
    for name in LIMITS:
        limits = {**dict.fromkeys(LIMITS, 1), name: 9}
        assert read_request(CHAT_COMPLETIONS, json.dumps({"model": "m", **limits}).encode()).max_tokens == 9


@pytest.mark.parametrize(
    ("fields", "has_tools"),
    [
        ({}, False),
        ({"tools": []}, False),
        ({"tools": [{}]}, True),
        ({"functions": [{}]}, True),
        ({"tools": None}, False),
    ],
)
def test_an_answer_may_be_calls_if_the_request_has_tools(fields: dict[str, Any], has_tools: bool) -> None:
    assert parse(**fields)[0].has_tools == has_tools


def test_choices_multiply_the_limit() -> None:
    assert parse(max_tokens=7, n=3)[0].max_tokens == 21
    assert parse(max_tokens=7, n=2, n_cmpl=3)[0].max_tokens == 21
    assert parse(n=MAX_CHOICES)[0].max_tokens == CAP * MAX_CHOICES


def test_usage_is_asked_for_in_a_stream_and_other_stream_options_stay() -> None:
    request, body = parse(stream=True, max_tokens=5, stream_options={"continuous_usage_stats": True})
    assert body["stream_options"] == {"continuous_usage_stats": True, "include_usage": True}
    assert request.stream and not request.wants_usage
    request, body = parse(stream=True, max_tokens=5, stream_options={"include_usage": False})
    assert body["stream_options"] == {"include_usage": True} and not request.wants_usage
    request, _ = parse(stream=True, max_tokens=5, stream_options={"include_usage": True})
    assert request.wants_usage
    request, body = parse(max_tokens=5, stream_options={"a": 1})
    assert body["stream_options"] == {"a": 1} and not request.stream


def test_other_fields_and_their_order_survive_a_change() -> None:
    raw = b'{"zeta":1,"model":"m","messages":[{"role":"user","content":"\xe4\xbd\xa0\xe5\xa5\xbd"}],"alpha":1.50}'
    body = parse_request(CHAT_COMPLETIONS, raw, CAP).body
    assert list(json.loads(body)) == ["zeta", "model", "messages", "alpha", "max_tokens"]
    assert "你好".encode() in body  # not escaped: the price is by bytes


def test_half_of_a_surrogate_pair_survives() -> None:
    raw = b'{"model":"m","messages":[{"role":"user","content":"\\ud83d"}]}'
    body = parse_request(CHAT_COMPLETIONS, raw, CAP).body
    assert json.loads(body)["messages"][0]["content"] == "\ud83d"
    body.decode()


def test_a_request_of_another_node_is_read_as_it_is() -> None:
    raw = b'{"model":"m","stream":true,"n":2}'
    request = read_request(CHAT_COMPLETIONS, raw)
    assert request.body is raw and request.stream and request.max_tokens == 2 * MAX_REQUEST_TOKENS
    assert read_request(CHAT_COMPLETIONS, b'{"model":"m","max_tokens":7}').max_tokens == 7
    with pytest.raises(ApiError, match="model"):
        read_request(CHAT_COMPLETIONS, b"{}")


def test_an_executor_knows_the_prefixes_of_a_conversation_as_its_payer_does() -> None:
    first = {"role": "user", "content": "hello"}
    raw = json.dumps({"model": "m", "messages": [first, {"role": "user", "content": "again"}]}).encode()
    prefixes = read_request(CHAT_COMPLETIONS, raw).prefixes
    assert len(prefixes) == 2 and prefixes == parse_request(CHAT_COMPLETIONS, raw, 9).prefixes
    assert (
        read_request(CHAT_COMPLETIONS, json.dumps({"model": "m", "messages": [first]}).encode()).prefixes
        == prefixes[:1]
    )


def test_messages_that_are_nested_too_deep_have_no_prefixes() -> None:
    nested: list[object] = []
    for _ in range(10_000):
        nested = [nested]
    assert hash_prefixes("m", [{"role": "user", "content": nested}]) == ()


@pytest.mark.parametrize(
    ("item", "count"),
    [(b"0,", 1), (b"[],", 2), (b'"\\"",', 2), (b'{"":0},', 3)],
    ids=["number", "list", "text", "object"],
)
def test_a_body_of_too_many_items_is_refused_before_it_is_parsed(item: bytes, count: int) -> None:
    around = b'{"model":"m","x":[', b"0]}"
    fit = (MAX_JSON_ITEMS - sum(len(_JSON_ITEM.findall(part)) for part in around)) // count
    padding = b" " * MAX_JSON_ITEMS
    assert read_request(CHAT_COMPLETIONS, around[0] + item * fit + padding + around[1]).model == "m"
    with pytest.raises(ApiError, match="strings, commas"):
        read_request(CHAT_COMPLETIONS, around[0] + item * (fit + 1) + padding + around[1])


@pytest.mark.parametrize("text", [b"," * MAX_JSON_ITEMS, b'\\"[{' * MAX_JSON_ITEMS, b"\\\\" * MAX_JSON_ITEMS])
def test_what_is_inside_a_text_does_not_count(text: bytes) -> None:
    raw = b'{"model":"m","messages":[{"role":"user","content":"' + text + b'"}]}'
    assert read_request(CHAT_COMPLETIONS, raw).model == "m"


def test_marks() -> None:
    request = parse_request(CHAT_COMPLETIONS, b'{"model":"m","max_tokens":1}', CAP, local_only=True)
    assert request.local_only and request.path == CHAT_COMPLETIONS and request.model == "m"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n"]) | st.text()


@given(st.dictionaries(names, values, max_size=6), st.booleans())
def test_whatever_is_accepted_is_bounded_and_parses_to_itself(fields: dict[str, Any], with_model: bool) -> None:
    content = {**fields, "model": "m"} if with_model else fields
    try:
        request = parse_request(CHAT_COMPLETIONS, json.dumps(content).encode(), CAP)
    except ApiError as error:
        assert error.status == 400
        return
    assert 1 <= request.max_tokens <= CAP * MAX_CHOICES
    again = parse_request(CHAT_COMPLETIONS, request.body, CAP)
    assert again.body == request.body and again.max_tokens == request.max_tokens and again.stream == request.stream
    if request.stream:
        assert json.loads(request.body)["stream_options"]["include_usage"]
    kept = {name: value for name, value in content.items() if name not in ("stream_options", "max_tokens")}
    after = json.loads(request.body)
    assert all(after[name] == value or name == "max_completion_tokens" for name, value in kept.items())


@given(st.binary(max_size=60))
def test_any_bytes_are_parsed_or_refused(raw: bytes) -> None:
    try:
        parse_request(CHAT_COMPLETIONS, raw, CAP)
    except ApiError as error:
        assert error.status == 400


@pytest.mark.parametrize("depth", [500, 900, 950, 980, 990, 1000, 2000])
def test_nesting_is_parsed_or_refused(depth: int) -> None:
    raw = b'{"model":"m","deep":' + b"[" * depth + b"]" * depth + b"}"
    try:
        parse_request(CHAT_COMPLETIONS, raw, CAP)
    except ApiError as error:
        assert error.status == 400
