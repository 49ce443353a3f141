"""Responses are read as h11 reads them, in whatever pieces they come; what h11 refuses is refused."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import NamedTuple

import h11
import pytest

from serving.http.response_reader import MAX_HEAD_BYTES, MAX_SIZE_LINE_BYTES, MalformedResponse, ResponseReader
from tests.serving.http.broken_messages import BROKEN_BODIES, TEXT_FIELDS, add_noise


class Seen(NamedTuple):
    """What was read of a response. ``is_whole``: it ended before the connection did."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    is_whole: bool
    can_follow: bool
    """Whether the connection can carry another."""


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def read(data: bytes, cuts: list[int]) -> Seen | None:
    """What the reader makes of ``data`` in pieces, after which the connection ends; None if it refuses it."""
    reader, body = ResponseReader(), b""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    try:
        for start, end in pairwise(edges):
            body += reader.feed(data[start:end]) if end > start else b""
        is_whole = reader.is_over
        if not is_whole:
            reader.end()
    except MalformedResponse:
        return None
    assert reader.head is not None
    return Seen(reader.head.status, list(reader.head.headers), body, is_whole, reader.restart())


def read_by_h11(data: bytes) -> Seen | None:
    """The same by h11."""
    connection, body, head = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES), b"", None
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    has_ended = False
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA and not has_ended:
                has_ended = True
                connection.receive_data(b"")
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            elif not isinstance(event, h11.InformationalResponse):
                return None
    except h11.RemoteProtocolError:
        return None
    assert head is not None
    can_follow = connection.their_state is h11.DONE and not connection.trailing_data[0]
    return Seen(head.status_code, list(head.headers), body, not has_ended, can_follow)


STATUS_LINES = (
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 200",
    b"HTTP/1.0 200 OK",
    b"HTTP/1.1 204 ",
    b"HTTP/1.1 304 x",
    b"HTTP/1.1 500 \xe4\t!",
    b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 200 ",
    b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 404 ",
    b"HTTP/1.1 101 Switch",
    b"HTTP/1.1 20 OK",
    b"HTTP/2 200",
    b"HTTP/1.1  200 OK",
    b" HTTP/1.1 200 OK",
    b"http/1.1 200 OK",
    b"HTTP/1.1 200 \x01",
)
FIELDS = (
    b"content-length: 5",
    b"Content-Length: 5, 5",
    b"content-length: 6",
    b"content-length: -1",
    b"content-length: 5x",
    b"content-length:",
    b"Transfer-Encoding: chunked",
    b"transfer-encoding: Chunked ",
    b"transfer-encoding: gzip",
    b"transfer-encoding: gzip, chunked",
    b"connection: close",
    b"Connection: a, Close",
    b"connection: closed",
    *TEXT_FIELDS,
)
BODIES = (
    b"",
    b"hello",
    b"hello!",
    b"hell",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"2;a=b\r\nhe\r\n3 \r\nllo\r\n0\r\nt: x\r\n\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"5\nhello\n0\n\n",
    b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    *BROKEN_BODIES,
)
CASES = 2000


def make_response(chance: random.Random) -> bytes:
    """A response with one or two faults, or none."""
    end = chance.choice([b"\r\n", b"\r\n", b"\n"])
    fields = chance.choices(FIELDS, k=chance.randrange(4))
    data = end.join([chance.choice(STATUS_LINES), *fields, b"", b""]) + chance.choice(BODIES)
    return add_noise(data, chance.randrange(3), chance)


def test_responses_are_read_as_h11_reads_them() -> None:
    chance = random.Random(7)
    accepted = 0
    for _ in range(CASES):
        data = make_response(chance)
        found, expected = read(data, [chance.randrange(200) for _ in range(chance.randrange(5))]), read_by_h11(data)
        assert found == read(data, []), f"the pieces in which it comes matter: {data!r}"
        if found is not None:
            assert expected is not None, f"h11 refuses {data!r}"
            assert compare(found) == compare(expected), data
            assert expected.can_follow or not found.can_follow, f"h11 would not use the connection after {data!r}"
            accepted += 1
    assert accepted > CASES // 10


def compare(seen: Seen) -> tuple[object, ...]:
    """What both must agree on. Values of the headers that say how the body ends are changed by h11."""
    framing = (b"content-length", b"transfer-encoding")
    return seen.status, [field for field in seen.headers if field[0] not in framing], seen.body, seen.is_whole


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
@pytest.mark.parametrize(
    "fields", [(b"Content-Length: 5",), (b"transfer-encoding: Chunked", b"x: \xff"), (b"x: a \t b ",)]
)
def test_what_servers_send_is_accepted(fields: tuple[bytes, ...], end: bytes) -> None:
    body = b"2;a=b\r\nhe\r\n3 \r\nllo\r\n0\r\nt: x\r\n\r\n" if len(fields) == 2 else b"hello"
    data = end.join([b"HTTP/1.1 200 OK", *fields, b"", b""]) + body
    found = read(data, list(range(len(data))))
    assert found is not None and found.body == b"hello"
    by_h11 = read_by_h11(data)
    assert by_h11 is not None and compare(found) == compare(by_h11)


def test_a_length_beside_chunks_is_the_last_of_a_connection() -> None:
    found = read(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", [])
    assert found is not None and found.is_whole and not found.can_follow


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 200 OK\r\nx: ", CHUNKED + b"0\r\nx: ", CHUNKED + b"0\r\n" + b"x: y\r\n" * 5]
)
def test_a_head_without_end_is_given_up(start: bytes) -> None:
    reader = ResponseReader()
    reader.feed(start)
    with pytest.raises(MalformedResponse):
        for _ in range(MAX_HEAD_BYTES // 1000 + 1):
            reader.feed(b"y" * 1000)


def test_informational_heads_without_end_are_given_up() -> None:
    reader = ResponseReader()
    with pytest.raises(MalformedResponse):
        for _ in range(MAX_HEAD_BYTES // 10):
            reader.feed(b"HTTP/1.1 100 \r\n\r\n")


def test_a_line_with_a_size_without_end_is_given_up() -> None:
    reader = ResponseReader()
    reader.feed(CHUNKED)
    with pytest.raises(MalformedResponse):
        for _ in range(MAX_SIZE_LINE_BYTES // 100 + 2):
            reader.feed(b"5;" + b"e" * 98)


def test_one_response_follows_another() -> None:
    reader = ResponseReader()
    for body in (b"one", b"two"):
        assert reader.feed(CHUNKED + b"3\r\n%s\r\n0\r\n" % body) == body
        assert not reader.restart()
        assert reader.feed(b"\r\n") == b"" and reader.is_over
        assert reader.restart() and reader.head is None
    reader.feed(b"HTTP/1.1 204 \r\n\r\nmore")
    assert reader.is_over and not reader.restart()
