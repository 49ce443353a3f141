"""Requests are read as h11 reads them, in whatever pieces they come; but for blanks, what h11 refuses is refused."""

from __future__ import annotations

import random
import re
from itertools import pairwise
from typing import NamedTuple

import h11
import pytest

from serving.http.messages import Headers
from serving.http.request_reader import MAX_SILENT_BYTES, SLICE_BYTES, MalformedRequest, RequestReader
from tests.serving.http.broken_messages import BROKEN_BODIES, TEXT_FIELDS, add_noise

MAX_HEAD_BYTES = 16_384
NEEDLESS_BLANKS = re.compile(rb"\A[\r\n]*([^\s]+) +([^\s]+) +HTTP")
"""Ends of lines before a request, and spaces after the first of its first line (RFC 9112, sections 2.2 and 3)."""


class Seen(NamedTuple):
    """What was read of one request. ``wants_continue``: its client asks before it sends the body."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    is_current: bool
    wants_continue: bool
    body: bytes


class _Requests(NamedTuple):
    """The requests that came whole, and why the rest was not read."""

    seen: list[Seen]
    is_refused: bool


def _normalize(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Headers as h11 gives them: it writes the encoding in small letters."""
    return [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in headers]


def read(data: bytes, cuts: list[int]) -> _Requests:
    """What the reader makes of ``data`` that comes in pieces."""
    reader, seen, body = RequestReader(MAX_HEAD_BYTES), list[Seen](), b""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    head = None
    try:
        for start, end in pairwise(edges):
            reader.feed(data[start:end])
            while True:
                if head is None and (head := reader.read_head()) is None:
                    break
                piece = reader.read_piece()
                if piece is None:
                    break
                body += piece
                if not piece:
                    method, target, headers = head.method.encode(), head.target.encode(), _normalize(head.headers)
                    seen.append(Seen(method, target, headers, head.knows_chunks, head.wants_continue, body))
                    head, body = None, b""
    except MalformedRequest:
        return _Requests(seen, is_refused=True)
    return _Requests(seen, is_refused=False)


def read_by_h11(data: bytes) -> _Requests:
    """The same by h11, a new one for each request, without the blanks that RFC 9112 lets a server pass over."""
    seen = list[Seen]()
    while True:
        connection, body, head = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES), b"", None
        connection.receive_data(NEEDLESS_BLANKS.sub(rb"\1 \2 HTTP", data))
        wants_continue = False
        try:
            while True:
                event = connection.next_event()
                if isinstance(event, h11.Request):
                    head, wants_continue = event, connection.they_are_waiting_for_100_continue
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    break
                else:
                    return _Requests(seen, is_refused=False)
        except h11.RemoteProtocolError:
            return _Requests(seen, is_refused=True)
        assert head is not None
        is_current = head.http_version == b"1.1"
        seen.append(Seen(head.method, head.target, list(head.headers), is_current, wants_continue, body))
        data, _ = connection.trailing_data
        if not data:
            return _Requests(seen, is_refused=False)


FIRST_LINES = (
    b"POST /v1/chat/completions HTTP/1.1",
    b"GET / HTTP/1.0",
    b"OPTIONS * HTTP/1.1",
    b"M-SEARCH http://x/?a=b#c HTTP/1.1",
    b"GET /\xe4 HTTP/1.1",
    b"GET  / HTTP/1.1",
    b"GET / HTTP/1.1 ",
    b" GET / HTTP/1.1",
    b"GET /",
    b"GET / HTTP/2",
    b"GET / http/1.1",
    b"G(T / HTTP/1.1",
    b"",
    b"\x16\x03\x01\x02\x00",
)
GOOD_FIELDS = (b"content-length: 5", b"Transfer-Encoding: Chunked ", b"Expect: a, 100-Continue", b"x: \xff", b"x:")
FIELDS = (
    b"host: x",
    b"Host: y",
    b"content-length: 5",
    b"Content-Length: 5, 5",
    b"content-length: 6",
    b"content-length: -1",
    b"content-length: +5",
    b"content-length: 5x",
    b"content-length:",
    b"Transfer-Encoding: chunked",
    b"transfer-encoding: Chunked ",
    b"transfer-encoding: gzip",
    b"transfer-encoding: gzip, chunked",
    b"transfer-encoding: \x0bchunked",
    b"expect: 100-continue",
    b"Expect: a, 100-Continue",
    b"connection: close",
    *TEXT_FIELDS,
)
BODIES = (
    b"",
    b"hello",
    b"hello!",
    b"helloGET / HTTP/1.1\r\nhost: x\r\n\r\n",
    b"hell",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\nGET /next HTTP/1.1\r\nhost: x\r\n\r\n",
    b"2;a=b\r\nhe\r\n3 \r\nllo\r\n0\r\nt: x\r\n\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"5\nhello\n0\n\n",
    b"0\r\n\r\n",
    *BROKEN_BODIES,
)
CASES = 3000


def make_requests(chance: random.Random) -> bytes:
    """A request or two with one or two faults, or none."""
    end = b"\r\n" if chance.random() < 0.95 else b"\n"
    fields = chance.choices(GOOD_FIELDS if chance.random() < 0.7 else FIELDS, k=chance.randrange(3))
    host = [b"host: x"] if chance.random() < 0.9 else []
    first = chance.choice(FIRST_LINES[:4] if chance.random() < 0.8 else FIRST_LINES)
    data = end.join([first, *host, *fields, b"", b""]) + chance.choice(BODIES)
    data += b"GET /next HTTP/1.1\r\nhost: x\r\n\r\n" * (chance.random() < 0.2)
    return add_noise(data, chance.choice([0, 0, 1, 2]), chance)


def test_requests_are_read_as_h11_reads_them() -> None:
    chance = random.Random(7)
    whole = several = refused = 0
    for _ in range(CASES):
        data = make_requests(chance)
        found, expected = read(data, [chance.randrange(200) for _ in range(chance.randrange(5))]), read_by_h11(data)
        if not found.is_refused:
            assert found.seen == expected.seen, f"h11 reads something else in {data!r}"
        else:
            assert found.seen == expected.seen[: len(found.seen)], f"h11 reads something else in {data!r}"
        whole += len(found.seen) > 0
        several += len(found.seen) > 1
        refused += found.is_refused
    assert whole > CASES / 5 and several > CASES / 100 and refused > CASES / 5, (whole, several, refused)


def test_it_makes_no_difference_in_which_pieces_a_request_comes() -> None:
    chance = random.Random(11)
    for _ in range(300):
        data = make_requests(chance)
        assert read(data, list(range(len(data)))) == read(data, [])


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\nfolded: a\r\n b\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1, 1\r\n\r\na",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na",
        b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/2.0\r\nhost: x\r\n\r\n",
    ],
    ids=[
        "a continued line",
        "a length twice",
        "two lengths",
        "chunks under 1.0",
        "a length, then chunks",
        "chunks, then a length",
        "version 2",
    ],
)
def test_what_servers_read_differently_is_refused_though_h11_reads_it(data: bytes) -> None:
    assert read(data, []) == ([], True)
    assert len(read_by_h11(data).seen) == 1


@pytest.mark.parametrize("first", [b"GET / RTSP/1.0", b"POST / RTSP/1.1", b"SOURCE / ICE/1.0"])
def test_what_llhttp_takes_for_http_is_read_as_that(first: bytes) -> None:
    data = first + b"\r\nhost: x\r\ncontent-length: 1\r\n\r\na"
    assert read(data, []) == read(data.replace(b"RTSP", b"HTTP").replace(b"ICE", b"HTTP"), [])
    assert read_by_h11(data) == ([], True)


@pytest.mark.parametrize(
    "framing",
    [b"content-length: 5\r\n\r\nhello", b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"\r\n"],
)
def test_a_client_that_asks_for_another_protocol_is_served_by_this_one(framing: bytes) -> None:
    data = b"POST / HTTP/1.1\r\nhost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n" + framing
    data += b"GET /next HTTP/1.1\r\nhost: x\r\n\r\n"
    for cuts in ([], list(range(len(data)))):
        first, second = read(data, cuts).seen
        assert (first.target, first.body, second.target) == (b"/", b"hello"[: len(framing) - 2], b"/next")
        assert (b"upgrade", b"h2c") in first.headers


@pytest.mark.parametrize(
    "framing", [b"transfer-encoding: gzip, chunked", b"transfer-encoding: gzip", b"content-length: 1"]
)
def test_what_is_malformed_stays_so_where_another_protocol_is_asked_for(framing: bytes) -> None:
    data = b"POST / HTTP/1.0\r\nHost: a\r\nhost: b\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + framing + b"\r\n\r\na"
    assert read(data, []) == read(data, list(range(len(data)))) == ([], True)


@pytest.mark.parametrize("size", [10, 1, 4096])
def test_heads_lines_and_trailers_are_bounded_in_whatever_pieces_they_come(size: int) -> None:
    chunked = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    floods = (
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 2 * MAX_HEAD_BYTES, 431),
        (b"GET / HTTP/1.1\r\n" + b"x: a\r\n" * MAX_HEAD_BYTES, 431),
        (b"GET / HTTP/1.1\r\nhost: x\r\n" + b"x:\r\n" * (MAX_HEAD_BYTES // 32) + b"\r\n", 431),
        (chunked + b"1;" + b"a" * (2 * SLICE_BYTES + MAX_SILENT_BYTES), 400),
        (chunked + b"0\r\n" + b"x: a\r\n" * MAX_HEAD_BYTES, 431),
        (chunked + b"0\r\nx: " + b"a" * 2 * MAX_HEAD_BYTES, 400),
    )
    for flood, status in floods:
        reader, taken, is_body = RequestReader(MAX_HEAD_BYTES), 0, False
        with pytest.raises(MalformedRequest) as refused:
            for start in range(0, len(flood), size):
                reader.feed(flood[start : start + size])
                taken = start + size
                is_body = is_body or reader.read_head() is not None
                if is_body:
                    assert not reader.read_piece()
        assert refused.value.status == status and taken <= len(chunked) + MAX_HEAD_BYTES + SLICE_BYTES + size
