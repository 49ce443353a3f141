"""Whether a web page may use an HTTP listener, as the head of a request says (pure).

A browser lets any page send requests to this machine, in two ways. It sends some requests to other hosts without
asking (cross-site request forgery); they name the page in ``Origin``. And the page's own name may stand for this
machine's address when it is looked up again (DNS rebinding); such requests have that name as ``Host``. So hosts and
origins that the owner has not allowed are refused. What the owner allows gets the headers of the CORS protocol (Fetch
standard, section 3.2).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache

from serving.http.messages import Headers, RequestHead, find_header
from serving.openai.errors import forbidden

EXPOSED_HEADERS = (
    b"retry-after, x-request-id, x-wwwserve-executor, x-wwwserve-quantization, x-wwwserve-activation-quantization, "
    b"x-wwwserve-kv-cache-quantization"
)
"""Headers of a response that a page may read, beside those that any page may read."""
PREFLIGHT_AGE_S = 600
"""How long a browser may remember what a preflight allowed, in seconds."""
_AUTHORITY = re.compile(r"(?P<name>\[[^\]]*\]|[^:\[\]]*)(:[0-9]*)?")


@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine and nothing else."""
    with suppress(ValueError):
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    return False


class AccessRules:
    """The hosts and origins from which a listener takes requests.

    ``listen_host`` is the name or address that it listens on. On a loopback address it answers as any loopback name or
    address, and as one of ``hosts``; on another address as one of ``hosts``, or as anything if there are none. It
    answers no page but those of ``origins``, such as ``https://chat.example.org``, and with ``serves_pages`` its own.
    """

    def __init__(
        self, listen_host: str, hosts: Iterable[str] = (), origins: Iterable[str] = (), *, serves_pages: bool = False
    ) -> None:
        self._is_loopback = is_loopback(listen_host)
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origin.lower().encode() for origin in origins)
        self._serves_pages = serves_pages

    def admit(self, headers: Headers) -> bytes | None:
        """Admit a request. Returns the origin of the foreign page that sends it; None if no such page does.

        Raises:
            ApiError: 403, for a host or an origin that is not allowed.
        """
        origins = []
        own = b""
        for name, value in headers:
            if name == b"host":
                self._check_host(value)
                own = b"http://" + value.strip().lower()
            elif name == b"origin":
                origins.append(value)
        foreign = [origin for origin in origins if not (self._serves_pages and origin.lower() == own)]
        for origin in foreign:
            if origin.lower() not in self._origins:
                shown = origin.decode("latin-1")
                raise forbidden(f"Web pages of {shown} may not use this listener.", "origin_not_allowed")
        return foreign[-1] if foreign else None

    def _check_host(self, value: bytes) -> None:
        host = value.decode("latin-1").strip().lower()
        match = _AUTHORITY.fullmatch(host)
        if match is None or not self._is_allowed(match["name"].strip("[]").removesuffix(".")):
            raise forbidden(f"This listener does not answer as {host!r}.", "host_not_allowed")

    def _is_allowed(self, name: str) -> bool:
        if name in self._hosts:
            return True
        if self._is_loopback:
            # No server of names outside this machine is asked for names under "localhost" (RFC 6761, section 6.3).
            return is_loopback(name) or name.endswith(".localhost")
        return not self._hosts


def is_preflight(head: RequestHead) -> bool:
    """Whether a browser asks by this request what a page may send."""
    return head.method == "OPTIONS" and head.header(b"access-control-request-method") is not None


def describe_response(origin: bytes) -> Headers:
    """Headers of each response to a page of ``origin``, which is allowed: the page may read it."""
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", EXPOSED_HEADERS),
        (b"vary", b"origin"),
    ]


def describe_preflight(head: RequestHead) -> Headers:
    """More headers of the response to a preflight of an allowed origin: the page may send the request that it asks
    about."""
    headers = [
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-max-age", b"%d" % PREFLIGHT_AGE_S),
    ]
    asked = find_header(head.headers, b"access-control-request-headers")
    if asked is not None:
        headers.append((b"access-control-allow-headers", asked))
    if find_header(head.headers, b"access-control-request-private-network") == b"true":
        headers.append((b"access-control-allow-private-network", b"true"))
    return headers
