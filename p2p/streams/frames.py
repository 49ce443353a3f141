"""Frames of an exchange, and one side's account of credit and ends. No I/O.

A stream carries one *exchange* after another: a request and any number of frames both ways. On the wire a frame is

    length of payload (4 bytes, big endian) | kind (1 byte) | exchange number (4 bytes) | payload (at most 1 MiB)

The opener of the stream numbers its exchanges upwards from 1, so that a late frame of an earlier one is recognised and
dropped.

    DATA    a frame of the application
    END     this side sends no more DATA
    CREDIT  the payload is a 4-byte number: that much more may be sent
    RESET   the exchange is over; the payload is a reason in UTF-8. From a side that has sent END it only means that
            this side reads no more, so what it sent before stays valid

Each direction of an exchange starts with :data:`WINDOW` of credit. A frame costs its length plus :data:`OVERHEAD` and
may be sent while any credit is left, so a receiver buffers at most a window and one frame, however slowly it reads, and
a slow reader stalls its own exchange rather than the link.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from enum import IntEnum

MAX_FRAME = 1 << 20
"""Largest payload in bytes."""
WINDOW = 256 * 1024
"""Credit at the start of an exchange, per direction."""
OVERHEAD = 64
"""What a frame costs beside its payload, so that empty frames are not free."""
MAX_REASON = 256
"""Longest reason of a RESET, in bytes."""

_HEADER = struct.Struct(">IBI")
_CREDIT = struct.Struct(">I")


class FrameError(Exception):
    """The other end broke the rules of this page: the stream is of no more use."""


class Kind(IntEnum):
    DATA = 0
    END = 1
    CREDIT = 2
    RESET = 3


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; see the table above."""

    kind: Kind
    exchange: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """The bytes on the wire.

        Raises:
            ValueError: the payload is longer than MAX_FRAME.
        """
        if len(self.payload) > MAX_FRAME:
            raise ValueError(f"a frame of {len(self.payload)} bytes is longer than {MAX_FRAME}")
        return _HEADER.pack(len(self.payload), self.kind, self.exchange) + self.payload


class FrameReader:
    """Cuts a stream of bytes into frames."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def unfinished(self) -> int:
        """Bytes of a frame whose end has not come yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames completed by ``data``.

        Raises:
            FrameError: oversize or of no known kind.
        """
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        start = 0
        while len(buffer) - start >= _HEADER.size:
            length, kind, exchange = _HEADER.unpack_from(buffer, start)
            if length > (MAX_FRAME if kind == Kind.DATA else MAX_REASON):
                raise FrameError(f"a frame of {length} bytes")
            if kind > Kind.RESET:
                raise FrameError(f"a frame of unknown kind {kind}")
            end = start + _HEADER.size + length
            if len(buffer) < end:
                break
            frames.append(Frame(Kind(kind), exchange, bytes(buffer[start + _HEADER.size : end])))
            start = end
        if start:
            del buffer[:start]
        return frames


def cost(payload: bytes) -> int:
    """Credit that a DATA frame uses up."""
    return len(payload) + OVERHEAD


class ExchangeState:
    """One side of one exchange: what may be sent, what has arrived, and how it ended."""

    __slots__ = (
        "_consumed",
        "_granted",
        "_inbox",
        "credit",
        "ended",
        "failure",
        "number",
        "peer_ended",
        "stopped",
        "unread",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.credit = WINDOW
        """What this side may still send; the last frame may take it below zero."""
        self.ended = False
        """This side has sent END or RESET."""
        self.peer_ended = False
        """The peer has sent END or RESET."""
        self.failure: str | None = None
        """Why nothing more will arrive although the peer has not ended, if so."""
        self.stopped: str | None = None
        """Why the peer reads no more, if so. What it sent before it ended is valid all the same."""
        self.unread = 0
        """Bytes that have arrived and were not taken."""
        self._inbox: deque[bytes] = deque()
        self._granted = WINDOW
        self._consumed = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes or goes: both sides have ended, or it was aborted or lost."""
        return self.failure is not None or (self.ended and self.peer_ended)

    def data(self, payload: bytes) -> Frame:
        """The DATA frame of ``payload``, paid from the credit (which the caller has waited for)."""
        frame = Frame(Kind.DATA, self.number, payload)
        self.credit -= cost(payload)
        return frame

    def end(self) -> Frame:
        """The END frame of this side."""
        self.ended = True
        return Frame(Kind.END, self.number)

    def reset(self, reason: str) -> Frame:
        """The RESET frame of this side, for which the exchange is over."""
        self.ended = True
        self.failure = self.failure or reason or "aborted"
        return Frame(Kind.RESET, self.number, reason.encode(errors="replace")[:MAX_REASON])

    def lose(self, reason: str) -> None:
        """The peer is gone, or has sent RESET."""
        self.stopped = self.stopped or reason
        if not self.peer_ended:
            self.failure = self.failure or reason

    def accept(self, frame: Frame) -> None:
        """Take in a frame of the peer.

        Raises:
            FrameError: DATA without credit or after END, or a malformed CREDIT.
        """
        match frame.kind:
            case Kind.DATA:
                if self.peer_ended or self._granted <= 0:
                    raise FrameError("data after the end" if self.peer_ended else "more data than credit")
                self._granted -= cost(frame.payload)
                self._inbox.append(frame.payload)
                self.unread += cost(frame.payload)
            case Kind.END:
                self.peer_ended = True
            case Kind.CREDIT:
                if len(frame.payload) != _CREDIT.size:
                    raise FrameError("malformed credit")
                self.credit += _CREDIT.unpack(frame.payload)[0]
                if self.credit > WINDOW:
                    raise FrameError("more credit than was ever used")
            case Kind.RESET:
                self.lose(frame.payload.decode(errors="replace") or "aborted by the peer")
                self.peer_ended = True

    def take(self) -> bytes | None:
        """The next payload that has arrived, or None if there is none (yet)."""
        if not self._inbox:
            return None
        payload = self._inbox.popleft()
        self.unread -= cost(payload)
        self._consumed += cost(payload)
        return payload

    def refund(self) -> Frame | None:
        """A CREDIT frame for what was taken, once that is worth a frame and the peer can still use it."""
        if self._consumed < WINDOW // 2 or self.peer_ended or self.failure is not None:
            return None
        consumed, self._consumed = self._consumed, 0
        self._granted += consumed
        return Frame(Kind.CREDIT, self.number, _CREDIT.pack(consumed))
