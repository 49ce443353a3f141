"""Hosts and origins: what a browser sends for a page of another site is refused, what owners allow is let in."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.http.access import AccessRules, describe_preflight, describe_response, is_preflight
from serving.http.messages import RequestHead, is_json
from serving.openai.errors import ApiError

LOOPBACK = AccessRules("127.0.0.1")
PROXIED = AccessRules("127.0.0.1", ("api.example.org",), ("https://chat.example.org", "chrome-extension://abc"))
PUBLIC = AccessRules("0.0.0.0")
NAMED = AccessRules("192.0.2.1", ("API.example.org", "192.0.2.1"))


def admit(rules: AccessRules, host: str | None, origin: str | None = None) -> bytes | None:
    headers = [(b"accept", b"*/*")]
    headers += [] if host is None else [(b"host", host.encode("latin-1"))]
    headers += [] if origin is None else [(b"origin", origin.encode("latin-1"))]
    return rules.admit(headers)


@pytest.mark.parametrize("rules", [LOOPBACK, PROXIED, AccessRules("localhost"), AccessRules("::1")])
@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost:8000", "localhost.", "node.localhost:1", "127.0.0.1:8000", "127.8.9.10", "[::1]:8000"],
)
def test_a_loopback_listener_answers_as_any_loopback_name(rules: AccessRules, host: str) -> None:
    assert admit(rules, host) is None


REBOUND = [
    *("evil.example", "evil.example:8000", "localhost.evil.example", "evil-localhost", "xlocalhost", "0.0.0.0:8000"),
    *("192.168.1.10", "[::]:8000", "[::ffff:192.0.2.1]", "", ":8000", "127.0.0.1.evil.example", "127.0.0.1@evil"),
    *("localhost:8000:evil", "[::1", "::1", "localhost/", "localhost,evil.example", "2130706433", "127.1"),
]


@pytest.mark.parametrize("host", REBOUND)
def test_a_loopback_listener_answers_as_nothing_else(host: str) -> None:
    with pytest.raises(ApiError, match="does not answer as") as caught:
        admit(LOOPBACK, host)
    assert (caught.value.status, caught.value.code) == (403, "host_not_allowed")


def test_other_names_are_those_that_the_owner_allows() -> None:
    assert admit(PROXIED, "api.example.org:443") is None
    assert admit(NAMED, "API.EXAMPLE.ORG") is None
    assert admit(NAMED, "192.0.2.1:8000") is None
    for rules, host in ((PROXIED, "example.org"), (NAMED, "localhost"), (NAMED, "evil.example")):
        with pytest.raises(ApiError):
            admit(rules, host)
    assert admit(PUBLIC, "any.example") is None
    assert admit(LOOPBACK, None) is None, "HTTP/1.0 has no Host, and no browser speaks it"


@pytest.mark.parametrize("rules", [LOOPBACK, PROXIED, PUBLIC])
@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "", "http://localhost:8000", "https://chat.example.org.evil", "file://"],
)
def test_pages_of_other_origins_are_refused(rules: AccessRules, origin: str) -> None:
    with pytest.raises(ApiError) as caught:
        admit(rules, "api.example.org" if rules is PUBLIC else "localhost", origin)
    assert (caught.value.status, caught.value.code) == (403, "origin_not_allowed")


def test_of_two_origins_both_count() -> None:
    allowed, evil = (b"origin", b"https://chat.example.org"), (b"origin", b"https://evil.example")
    for headers in ([allowed, evil], [evil, allowed]):
        with pytest.raises(ApiError):
            PROXIED.admit(headers)


@pytest.mark.parametrize("origin", ["https://chat.example.org", "HTTPS://Chat.Example.org", "chrome-extension://abc"])
def test_an_allowed_page_may_read_the_response(origin: str) -> None:
    admitted = admit(PROXIED, "localhost:8000", origin)
    assert admitted == origin.encode()
    headers = dict(describe_response(admitted))
    assert headers[b"access-control-allow-origin"] == admitted
    assert headers[b"vary"] == b"origin"
    assert b"x-request-id" in headers[b"access-control-expose-headers"]


def test_a_preflight_allows_what_it_asks_for() -> None:
    asked = [(b"access-control-request-method", b"POST"), (b"access-control-request-headers", b"authorization,x-a")]
    head = RequestHead("OPTIONS", "/v1/models", asked, "127.0.0.1")
    assert is_preflight(head)
    assert not is_preflight(RequestHead("OPTIONS", "/v1/models", [], "127.0.0.1"))
    assert not is_preflight(RequestHead("POST", "/v1/models", asked, "127.0.0.1"))
    headers = dict(describe_preflight(head))
    assert headers[b"access-control-allow-headers"] == b"authorization,x-a"
    assert headers[b"access-control-allow-methods"] == b"GET, POST"
    assert b"access-control-allow-private-network" not in headers
    local = RequestHead("OPTIONS", "/", [*asked, (b"access-control-request-private-network", b"true")], "127.0.0.1")
    assert dict(describe_preflight(local))[b"access-control-allow-private-network"] == b"true"


@given(st.text(string.ascii_letters + string.digits + ".:[]-@/ ", max_size=30))
def test_a_host_is_admitted_only_if_it_is_a_loopback_one(host: str) -> None:
    try:
        admit(LOOPBACK, host)
    except ApiError as error:
        assert error.status == 403
        return
    name = host.strip().lower()
    name = name[1 : name.index("]")] if name.startswith("[") else name.split(":")[0]
    name = name.removesuffix(".")
    assert name == "localhost" or name.endswith(".localhost") or name.startswith("127.") or set(name) <= set("0:1")


@pytest.mark.parametrize("value", [b"application/json", b"Application/JSON; charset=utf-8", b"application/json;"])
def test_what_is_json(value: bytes) -> None:
    assert is_json([(b"content-type", value)])


def test_what_is_not_json() -> None:
    assert not is_json([])
    for value in (b"", b"text/plain", b"application/x-www-form-urlencoded", b"application/jsonx", b"multipart/json"):
        assert not is_json([(b"content-type", value)])


def test_a_listener_with_pages_answers_them_and_no_others() -> None:
    rules = AccessRules("127.0.0.1", serves_pages=True)
    assert admit(rules, "localhost:8001", "http://localhost:8001") is None
    for host, origin in (
        ("localhost:8001", "http://localhost:8002"),
        ("localhost:8001", "http://127.0.0.1:8001"),
        ("localhost:8001", "https://localhost:8001"),
        ("localhost:8001", "null"),
        ("evil.example", "http://evil.example"),
    ):
        with pytest.raises(ApiError):
            admit(rules, host, origin)
    with pytest.raises(ApiError):
        admit(LOOPBACK, "localhost:8001", "http://localhost:8001")
