"""Reads the responses that come over one connection (RFC 9112), one after the other. Pure.

It reads from the servers that a node asks. They are no strangers, and may end lines with a line feed alone, which
llhttp (:mod:`serving.http.request_reader`) refuses. h11 takes three to four times as long. This reader accepts nothing
that h11 refuses, and reads what it accepts as h11 does; a test tries this on thousands of broken responses. It knows no
body of a response to HEAD, no change of the protocol, and no continued header lines.
"""

from __future__ import annotations

import re
from enum import Enum, auto

import msgspec

from serving.http.messages import TOKEN, Headers, keeps_open

MAX_HEAD_BYTES = 64 * 1024
"""Longest head of a response, of all informational heads before it, and of the trailers after its body."""
MAX_SIZE_LINE_BYTES = 4096
"""Longest line with the size of a chunk, its extensions included."""

_HEAD_END = re.compile(rb"\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([0-9]{3})(?: [\t\x20-\x7e\x80-\xff]*)?")
_FIELD = re.compile(rb"(" + TOKEN + rb"):[ \t]*((?:[\x21-\x7e\x80-\xff]+(?:[ \t]+[\x21-\x7e\x80-\xff]+)*)?)[ \t]*")
_LENGTH = re.compile(rb"[0-9]{1,20}")
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e\x80-\xff]*)?[ \t]*")


class MalformedResponse(Exception):
    """The bytes are no response, or one that is not understood."""


class ResponseHead(msgspec.Struct, frozen=True, gc=False):
    """What comes before the body of a response."""

    status: int
    headers: Headers


class _Reading(Enum):
    """What comes next."""

    HEAD = auto()
    LENGTH = auto()
    """More of a body of known length."""
    REST = auto()
    """More of a body that ends with the connection."""
    SIZE = auto()
    CHUNK = auto()
    CHUNK_END = auto()
    TRAILERS = auto()
    OVER = auto()


class ResponseReader:
    """Reads the response to a GET or POST; :meth:`restart` makes it ready for the next."""

    def __init__(self) -> None:
        self.head: ResponseHead | None = None
        """That of the response, once it has come."""
        self._reading = _Reading.HEAD
        self._left = 0
        """Bytes of the body or the chunk that are yet to come."""
        self._kept = b""
        """What has come of a head or a line that is not whole, or after the response."""
        self._size = 0
        """Bytes of heads or trailers so far."""
        self._keeps_open = True

    @property
    def is_over(self) -> bool:
        """Whether the whole response has come."""
        return self._reading is _Reading.OVER

    def restart(self) -> bool:
        """Make ready for another response. False if the connection can carry none after this one."""
        if not self.is_over or not self._keeps_open or self._kept:
            return False
        self.head, self._reading, self._size = None, _Reading.HEAD, 0
        return True

    def feed(self, data: bytes) -> bytes:
        """Parse the next bytes. Returns those of the body.

        Raises:
            MalformedResponse: it is no response, or too much of one at once.
        """
        if self._reading is _Reading.LENGTH:
            piece, self._kept = data[: self._left], data[self._left :]
            self._take(len(piece), _Reading.OVER)
            return piece
        if self._reading is _Reading.REST:
            return data
        if self._kept:
            data, self._kept = self._kept + data, b""
        if self._reading is _Reading.HEAD:
            rest = self._read_head(data)
            return self.feed(rest) if rest and not self.is_over else b""
        if self._reading is _Reading.OVER:
            self._kept = data
            return b""
        return self._read_chunks(data)

    def end(self) -> None:
        """The connection has ended.

        Raises:
            MalformedResponse: the response has not.
        """
        if self._reading is _Reading.REST:
            self._reading = _Reading.OVER
        if not self.is_over:
            raise MalformedResponse("the connection was closed in the middle of the response")

    def _take(self, size: int, then: _Reading) -> None:
        self._left -= size
        if not self._left:
            self._reading = then

    # --- heads ---

    def _read_head(self, data: bytes) -> bytes:
        """Read a head; returns what comes after it."""
        while (end := _HEAD_END.search(data)) is not None:
            self._count(end.end())
            head, keeps_open = _parse_head(data[: end.start()])
            data = data[end.end() :]
            if head.status >= 200:
                self.head, self._keeps_open = head, keeps_open
                self._frame(head)
                if self.is_over:
                    self._kept = data
                return data
        if self._size + len(data) > MAX_HEAD_BYTES:
            self._count(len(data))
        self._kept = data
        return b""

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > MAX_HEAD_BYTES:
            raise MalformedResponse(f"the head or the trailers have more than {MAX_HEAD_BYTES} bytes")

    def _frame(self, head: ResponseHead) -> None:
        """Find out how the body ends (RFC 9112, section 6.3)."""
        encodings = [value.strip().lower() for name, value in head.headers if name == b"transfer-encoding"]
        lengths = {
            length.strip() for name, value in head.headers if name == b"content-length" for length in value.split(b",")
        }
        if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
            raise MalformedResponse("the length of the body is no number")
        if encodings not in ([], [b"chunked"]):
            raise MalformedResponse("the body has an encoding that is not known")
        if head.status in (204, 304):
            self._reading = _Reading.OVER
        elif encodings:
            self._reading, self._size = _Reading.SIZE, 0
            self._keeps_open = self._keeps_open and not lengths  # the chunks count; what the other says is wrong
        elif lengths:
            self._left = int(lengths.pop())
            self._reading = _Reading.LENGTH if self._left else _Reading.OVER
        else:
            self._reading, self._keeps_open = _Reading.REST, False

    # --- bodies in chunks ---

    def _read_chunks(self, data: bytes) -> bytes:
        """Read as much of a body in chunks as there is (RFC 9112, section 7.1)."""
        pieces = []
        at, size = 0, len(data)
        while at < size:
            if self._reading is _Reading.CHUNK:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._take(len(piece), _Reading.CHUNK_END)
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            if self._reading is _Reading.CHUNK_END:
                if end != at:
                    raise MalformedResponse("a chunk of the body is longer than its size")
                self._reading = _Reading.SIZE
            elif self._reading is _Reading.SIZE:
                self._left = _parse_size(data[at:end])
                self._reading = _Reading.CHUNK if self._left else _Reading.TRAILERS
            elif self._reading is _Reading.TRAILERS:
                self._count(end + 2 - at)
                if end == at:
                    self._reading = _Reading.OVER
                else:
                    _parse_field(data[at:end])
            else:
                break
            at = end + 2
        self._keep(data[at:])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _keep(self, rest: bytes) -> None:
        """Keep what is not a whole line."""
        if rest:
            if self._reading is _Reading.CHUNK_END and rest != b"\r":
                raise MalformedResponse("a chunk of the body is longer than its size")
            if self._reading is _Reading.SIZE and len(rest) > MAX_SIZE_LINE_BYTES:
                raise MalformedResponse("the size of a chunk is too long")
            if self._reading is _Reading.TRAILERS and self._size + len(rest) > MAX_HEAD_BYTES:
                self._count(len(rest))
        self._kept = rest


def _parse_head(raw: bytes) -> tuple[ResponseHead, bool]:
    """A head without its blank line, and whether the server keeps the connection open after it."""
    first, *lines = [line.removesuffix(b"\r") for line in raw.split(b"\n")]
    match = _STATUS_LINE.fullmatch(first)
    if match is None:
        raise MalformedResponse("the server does not speak HTTP/1.1")
    minor, code = match.groups()
    status = int(code)
    if status < 100 or status == 101:
        raise MalformedResponse(f"the status {status} is not understood")
    head = ResponseHead(status, [_parse_field(line) for line in lines])
    return head, minor == b"1" and keeps_open(head.headers)


def _parse_field(line: bytes) -> tuple[bytes, bytes]:
    match = _FIELD.fullmatch(line)
    if match is None:
        raise MalformedResponse("a header is malformed")
    name, value = match.groups()
    return name.lower(), value


def _parse_size(line: bytes) -> int:
    """The size of a chunk."""
    match = _SIZE_LINE.fullmatch(line)
    if match is None:
        raise MalformedResponse("the size of a chunk is no number")
    return int(match[1], 16)
