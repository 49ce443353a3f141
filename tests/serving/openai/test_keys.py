"""API keys and their rates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.openai.errors import ApiError
from serving.openai.keys import ApiKey, ApiKeys


def check(keys: ApiKeys, authorization: bytes | None, now: float = 0.0) -> int:
    """Status of one request: 200 if it is let in."""
    try:
        keys.admit(authorization, now)
    except ApiError as error:
        return error.status
    return 200


def test_without_keys_everybody_is_let_in() -> None:
    keys = ApiKeys([])
    assert check(keys, None) == check(keys, b"Bearer anything") == 200


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (b"Bearer right", 200),
        (b"Bearer other", 200),
        (b"bearer right", 200),
        (b"Bearer  right ", 200),
        (None, 401),
        (b"", 401),
        (b"Bearer", 401),
        (b"Bearer ", 401),
        (b"Bearer wrong", 401),
        (b"Bearer RIGHT", 401),
        (b"Bearer righ", 401),
        (b"Bearer rightt", 401),
        (b"Basic right", 401),
        (b"right", 401),
        (b"Bearer \xff\xfe", 401),
    ],
)
def test_a_key_is_needed_where_there_are_any(authorization: bytes | None, status: int) -> None:
    assert check(ApiKeys([ApiKey("right"), ApiKey("other")]), authorization) == status


def test_a_rate_is_a_burst_and_then_a_trickle() -> None:
    keys = ApiKeys([ApiKey("k", 6), ApiKey("free")])
    assert [check(keys, b"Bearer k", 100.0) for _ in range(8)] == [200] * 6 + [429] * 2
    assert check(keys, b"Bearer free", 100.0) == 200
    assert check(keys, b"Bearer k", 109.0) == 429  # one in ten seconds
    assert check(keys, b"Bearer k", 110.1) == 200
    assert check(keys, b"Bearer k", 110.2) == 429
    # A refusal costs nothing, and nothing is saved up beyond a minute's worth.
    assert [check(keys, b"Bearer k", 10_000.0) for _ in range(8)] == [200] * 6 + [429] * 2


@given(
    st.integers(1, 30),
    st.lists(st.floats(0, 30, allow_nan=False), max_size=200),
)
def test_no_stretch_of_time_lets_in_more_than_a_burst_and_its_share(limit: int, pauses: list[float]) -> None:
    keys, now = ApiKeys([ApiKey("k", limit)]), 0.0
    admitted: list[float] = []
    for pause in pauses:
        now += pause
        if check(keys, b"Bearer k", now) == 200:
            admitted.append(now)
    for index, start in enumerate(admitted):
        for count, end in enumerate(admitted[index:], 1):
            assert count <= limit + (end - start) * limit / 60 + 1e-6
