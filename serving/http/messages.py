"""HTTP requests as the server hands them on: the head of one, and the whole. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import parsedate_to_datetime

import msgspec

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case, and values."""

TOKEN = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
"""Regular expression of the name of a header (RFC 9110, section 5.6.2)."""
MAX_RETRY_AFTER_S = 3600.0
"""Longest time of a Retry-After that is passed on."""


def find_header(headers: Headers, name: bytes) -> bytes | None:
    """Value of the first header called ``name`` (lower case), or None."""
    for key, value in headers:
        if key == name:
            return value
    return None


def read_retry_after(headers: Headers) -> float:
    """Seconds until a server wants to be asked again, as its response says (RFC 9110, section 10.2.3); 0: it does not.

    A date is taken relative to the response's own: the two clocks may differ.
    """
    value = find_header(headers, b"retry-after")
    if value is None:
        return 0.0
    try:
        if value.strip().isdigit():
            seconds = float(value)
        else:
            date = find_header(headers, b"date")
            then = parsedate_to_datetime(value.decode("latin-1"))
            seconds = 0.0 if date is None else (then - parsedate_to_datetime(date.decode("latin-1"))).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(0.0, seconds), MAX_RETRY_AFTER_S)


class RequestHead(msgspec.Struct, frozen=True, gc=False):
    """What comes before the body of a request. ``client`` is the client's IP address."""

    method: str
    target: str
    headers: Headers
    client: str

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    def header(self, name: bytes) -> bytes | None:
        """Value of the first header called ``name`` (lower case), or None."""
        return find_header(self.headers, name)


class HttpRequest(RequestHead, frozen=True, gc=False):
    """One request, read whole."""

    body: bytes


def is_json(headers: Headers) -> bool:
    """Whether the body is said to be JSON, which no web page can send to another host without being allowed to."""
    media_type, _, _ = (find_header(headers, b"content-type") or b"").partition(b";")
    return media_type.strip().lower() == b"application/json"


def keeps_open(headers: Headers) -> bool:
    """Whether the sender of a message of HTTP/1.1 keeps its connection open after it (RFC 9112, section 9.3)."""
    return not any(
        name == b"connection" and option.strip().lower() == b"close"
        for name, value in headers
        for option in value.split(b",")
    )
