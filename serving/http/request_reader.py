"""Reads the requests that come over one connection (RFC 9112), one after the other. Pure.

The parser is llhttp, the one of Node.js, through :mod:`httptools`: it is strict, and takes a tenth of the time of h11.
Requests come from strangers. So the parser gets a bounded slice at a time, and the next one only when all that it found
was taken. Heads, trailers and everything else outside of bodies have bounds.

It reads every request that it accepts as h11 does, and accepts nothing that h11 refuses; a test tries this on thousands
of broken requests. There are two exceptions in the first line: needless blanks in and before it, and RTSP or ICE in
place of HTTP.
"""

from __future__ import annotations

import re
from collections import deque

import httptools
import msgspec

from serving.http.messages import Headers

SLICE_BYTES = 8192
"""Most bytes that the parser gets at a time."""
MAX_SILENT_BYTES = 4096
"""Most bytes between two pieces of a chunked body: the size of a chunk with its extensions, or a line of a trailer."""
FIELD_BYTES = 32
"""Bytes that each header counts beside its name and value, for its overhead in memory (as in RFC 7541, section 4.1)."""
_TARGET = re.compile(rb"[\x21-\x7e]+")
_LENGTH = re.compile(rb"[0-9]{1,20}")


class MalformedRequest(Exception):
    """The bytes are no request of HTTP/1.1, or one that is not supported. ``status`` is that of the response."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


class ReadHead(msgspec.Struct, frozen=True, gc=False):
    """The head of a request. ``knows_chunks``: the client speaks HTTP/1.1. ``wants_continue``: it asks before sending
    the body.
    """

    method: str
    target: str
    headers: Headers
    knows_chunks: bool
    wants_continue: bool


class RequestReader:
    """Reads requests whose heads have at most ``max_head_bytes``. For each, call :meth:`read_head`, then
    :meth:`read_piece` until the body is over.
    """

    def __init__(self, max_head_bytes: int) -> None:
        self._kept = bytearray()
        """What has come and was not parsed yet."""
        self._found = _Found(max_head_bytes)

    @property
    def has_data(self) -> bool:
        """Whether something of the next request has come."""
        return bool(self._kept or self._found.queue or self._found.is_within)

    def close(self) -> None:
        """Stop reading. Without this call, the cycle of reader and parser stays in memory until the next garbage
        collection."""
        self._found.close()

    def feed(self, data: bytes | bytearray) -> None:
        """More has come."""
        self._kept += data

    def read_head(self) -> ReadHead | None:
        """The head of the next request; None: more must come.

        Raises:
            MalformedRequest: it is none, or too long.
        """
        found = self._take()
        assert found is None or isinstance(found, ReadHead)
        return found

    def read_piece(self) -> bytes | None:
        """The next piece of the body; ``b""`` once it is over, None: more must come.

        Raises:
            MalformedRequest: its framing is malformed.
        """
        found = self._take()
        assert not isinstance(found, ReadHead)
        return found

    def _take(self) -> ReadHead | bytes | None:
        queue = self._found.queue
        while not queue and self._kept:
            data = bytes(self._kept[:SLICE_BYTES])
            del self._kept[:SLICE_BYTES]
            self._kept[:0] = self._found.parse(data)
        if not queue:
            return None
        found = queue[0]
        if isinstance(found, MalformedRequest):
            raise MalformedRequest(str(found), found.status)  # one that is kept would keep the frames it is raised in
        queue.popleft()
        return found


class _Found:
    """The output of a parser, in order: a head, pieces of the body, an empty piece at its end, then the head of the
    next request. An error is the last.
    """

    def __init__(self, max_head_bytes: int) -> None:
        self.queue = deque[ReadHead | bytes | MalformedRequest]()
        self.is_within = False
        """Whether a request has begun and not ended."""
        self._max_head_bytes = max_head_bytes
        self._parser = httptools.HttpRequestParser(self)
        self._target, self._headers = b"", list[tuple[bytes, bytes]]()
        self._is_in_head = True
        self._is_head_known = False
        """Whether the parser is shown a head again."""
        self._size = 0
        """Bytes of the head or the trailers that were found."""
        self._silent = 0
        """Bytes of the slices since the last progress: the end of a request, or, within a body, any bytes of it."""
        self._goes_on = False
        """Whether this slice makes progress."""

    def close(self) -> None:
        """Let go of the parser, which refers to this."""
        del self._parser

    def parse(self, data: bytes) -> bytes:
        """Look into what has come. Returns what is left of it."""
        rest, self._goes_on = b"", False
        try:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                rest = data[upgrade.args[0] :]
                self._go_on_with_body()
        except httptools.HttpParserError as error:
            self._fail(str(error).lower())
        self._silent = 0 if self._goes_on else self._silent + len(data)
        if self._is_in_head and self._silent > self._max_head_bytes:
            self._fail(f"the head has more than {self._max_head_bytes} bytes", 431)
        elif not self._is_in_head and self._silent > MAX_SILENT_BYTES:
            self._fail("a line within the body is too long")
        return rest

    def _go_on_with_body(self) -> None:
        """Read the body of a request that asks for another protocol, and ignore that wish (RFC 9110, section 7.8).

        For the parser such a request ends with its head. Java's client asks for HTTP/2 with every request, even one
        that has a body.
        """
        self._parser = httptools.HttpRequestParser(self)
        framing = [each for each in self._headers if each[0] in (b"content-length", b"transfer-encoding")]
        if framing:
            self.queue.pop()  # the end of the body, which has not come
            self._is_head_known = True
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(b"%b: %b\r\n" % each for each in framing))
            self._is_head_known = False

    def _fail(self, reason: str, status: int = 400) -> None:
        if not self.queue or not isinstance(self.queue[-1], MalformedRequest):
            self.queue.append(MalformedRequest(reason, status))

    def _count(self, size: int) -> None:
        """Add to the size of the head, or of the trailers, and refuse one that is too large."""
        self._size += size
        if self._size > self._max_head_bytes:
            self._fail(f"the head or the trailers have more than {self._max_head_bytes} bytes", 431)

    def _check_head(self) -> ReadHead:
        """The head that was found (RFC 9112, section 6.3).

        Raises:
            MalformedRequest: it is none that is understood.
        """
        is_current = self._parser.get_http_version() == "1.1"
        lengths, encodings, expected, hosts = [], [], list[bytes](), 0
        for name, value in self._headers:
            if name == b"content-length":
                lengths.append(value)
            elif name == b"transfer-encoding":
                encodings.append(value.lower())
            elif name == b"expect":
                expected += [each.strip() for each in value.lower().split(b",")]
            elif name == b"host":
                hosts += 1
        if not is_current and self._parser.get_http_version() != "1.0":
            raise MalformedRequest("the request is none of HTTP/1.1")
        if _TARGET.fullmatch(self._target) is None:
            raise MalformedRequest("the target has what must be encoded")
        if hosts > 1 or (is_current and not hosts):
            raise MalformedRequest("there must be one header Host")
        if not all(map(_LENGTH.fullmatch, lengths)):
            raise MalformedRequest("the length of the body must be one number")
        if encodings not in ([], [b"chunked"]):
            raise MalformedRequest("no encoding of the body is known but chunked", 501)
        if encodings and not is_current:
            raise MalformedRequest("HTTP/1.0 has no chunks")
        method, target = self._parser.get_method().decode("ascii"), self._target.decode("ascii")
        return ReadHead(method, target, self._headers, is_current, is_current and b"100-continue" in expected)

    # --- what the parser calls ---

    def on_message_begin(self) -> None:
        self.is_within = True
        if not self._is_head_known:
            self._target, self._headers, self._size, self._is_in_head = b"", [], 0, True

    def on_url(self, part: bytes) -> None:
        if not self._is_head_known:
            self._target += part
            self._count(len(part))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_head_known:
            return
        self._count(len(name) + len(value) + FIELD_BYTES)
        if self._is_in_head:
            self._headers.append((name.lower(), value.rstrip(b" \t")))
        else:  # a trailer
            self._goes_on = True

    def on_headers_complete(self) -> None:
        self._is_in_head, self._size, self._goes_on = False, 0, True
        if not self._is_head_known:
            try:
                self.queue.append(self._check_head())
            except MalformedRequest as error:
                self._fail(str(error), error.status)

    def on_chunk_header(self) -> None:
        self._goes_on = True

    def on_body(self, piece: bytes) -> None:
        self._goes_on = True
        self.queue.append(piece)

    def on_message_complete(self) -> None:
        self.is_within, self._is_in_head, self._goes_on = False, True, True
        self.queue.append(b"")
