"""API keys: who is let in, and how fast."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.store.kv import MemoryStore
from p2p.runtime import RealRuntime
from serving.keys.keyring import Keyring
from serving.keys.rates import KeyRates
from serving.keys.records import ConfiguredKey, KeyLimits
from serving.openai.errors import ApiError


def make_keyring(*secrets: str, required: bool = False) -> Keyring:
    return Keyring(MemoryStore(), RealRuntime(), map(ConfiguredKey, secrets), required=required)


def get_status(attempt: Callable[[], object]) -> int:
    """Status of one request: 200 if it is let in."""
    try:
        attempt()
    except ApiError as error:
        return error.status
    return 200


def check(keys: Keyring, authorization: bytes | None) -> int:
    headers = [] if authorization is None else [(b"authorization", authorization)]
    return get_status(lambda: keys.admit(headers))


def test_without_keys_everybody_is_let_in_unless_keys_are_required() -> None:
    assert check(make_keyring(), None) == check(make_keyring(), b"Bearer anything") == 200
    assert check(make_keyring(required=True), None) == check(make_keyring(required=True), b"Bearer anything") == 401


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
    assert check(make_keyring("right", "other"), authorization) == status


def test_a_key_may_come_as_anthropics_clients_send_it() -> None:
    keys = make_keyring("right")
    assert get_status(lambda: keys.admit([(b"x-api-key", b"right")])) == 200
    assert get_status(lambda: keys.admit([(b"x-api-key", b"wrong")])) == 401


def test_a_rate_is_a_burst_and_then_a_trickle() -> None:
    rates = KeyRates(KeyLimits(requests_per_minute=6), 0.0)

    def admit(now: float) -> int:
        return get_status(lambda: rates.admit(now))

    assert [admit(100.0) for _ in range(8)] == [200] * 6 + [429] * 2
    assert admit(109.0) == 429  # one in ten seconds
    with pytest.raises(ApiError) as caught:
        rates.admit(109.0)
    assert caught.value.headers() == [(b"retry-after", b"1")]
    assert admit(110.1) == 200
    assert admit(110.2) == 429
    # A refusal costs nothing, and nothing is saved up beyond a minute's worth.
    assert [admit(10_000.0) for _ in range(8)] == [200] * 6 + [429] * 2


@given(st.integers(1, 30), st.lists(st.floats(0, 30, allow_nan=False), max_size=200))
def test_no_stretch_of_time_lets_in_more_than_a_burst_and_its_share(limit: int, pauses: list[float]) -> None:
    rates, now = KeyRates(KeyLimits(requests_per_minute=limit), 0.0), 0.0
    admitted: list[float] = []
    for pause in pauses:
        now += pause
        if get_status(lambda now=now: rates.admit(now)) == 200:  # type: ignore[misc]
            admitted.append(now)
    for index, start in enumerate(admitted):
        for count, end in enumerate(admitted[index:], 1):
            assert count <= limit + (end - start) * limit / 60 + 1e-6


def test_tokens_are_reserved_and_what_was_not_used_comes_back() -> None:
    rates = KeyRates(KeyLimits(tokens_per_minute=600), 0.0)
    rates.begin(700, 0.0)  # more than a minute's worth, which passes once
    with pytest.raises(ApiError) as caught:
        rates.begin(1, 0.0)
    assert (caught.value.status, caught.value.code, caught.value.retry_after_s) == (429, "rate_limit_exceeded", 1.0)
    rates.end(700, 500)
    rates.begin(200, 0.0)
    rates.end(200, 200)
    with pytest.raises(ApiError) as caught:
        rates.begin(1, 1.0)
    assert caught.value.retry_after_s == pytest.approx(9.1)  # 91 tokens at ten a second
    rates.begin(1, 10.2)


def test_so_many_requests_at_a_time() -> None:
    rates = KeyRates(KeyLimits(concurrency=2), 0.0)
    rates.begin(1, 0.0)
    rates.begin(1, 0.0)
    assert get_status(lambda: rates.begin(1, 0.0)) == 429
    rates.end(1, 1)
    assert get_status(lambda: rates.begin(1, 0.0)) == 200
