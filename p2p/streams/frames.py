"""Frames of an exchange, and the flow control of one side. No I/O.

A stream carries one *exchange* after another: a request and any number of frames both ways. On the wire a frame is

    length of payload (4 bytes, big endian) | kind (1 byte) | exchange number (4 bytes) | payload (at most 1 MiB)

The opener of the stream numbers its exchanges upwards from 1, so that a late frame of an earlier one is recognised and
dropped.

    DATA           a frame of the application
    END            this side sends no more DATA
    WINDOW_UPDATE  the payload is a 4-byte number: the receiver may be sent that many bytes more
    RESET          the exchange is over; the payload is a reason in UTF-8. From a side that has sent END it means only
                   that this side reads no more, so what it sent before stays valid

Each direction of an exchange starts with a send window of :data:`WINDOW_BYTES`. A DATA frame costs its length plus
:data:`FRAME_OVERHEAD_BYTES` and may be sent while the window is above 0. So a receiver buffers at most one window and
one frame, and a slow reader stalls its own exchange rather than the connection.
"""

from __future__ import annotations

import struct
from collections import deque
from enum import IntEnum
from typing import NamedTuple

MAX_FRAME_BYTES = 1 << 20
"""Largest payload in bytes."""
WINDOW_BYTES = 256 * 1024
"""Send window at the start of an exchange, per direction."""
FRAME_OVERHEAD_BYTES = 64
"""What a frame costs beside its payload, so that empty frames are not free."""
MAX_RESET_REASON_BYTES = 256
"""Longest reason of a RESET, in bytes."""

_HEADER = struct.Struct(">IBI")
_UINT32 = struct.Struct(">I")


class FrameError(Exception):
    """The other end broke the rules of this page: the stream is of no more use."""


class Kind(IntEnum):
    DATA = 0
    END = 1
    WINDOW_UPDATE = 2
    RESET = 3


_KINDS = tuple(Kind)


class Frame(NamedTuple):
    """One frame; see the table above."""

    kind: Kind
    exchange: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """The bytes on the wire.

        Raises:
            ValueError: the payload is longer than MAX_FRAME_BYTES.
        """
        if len(self.payload) > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {len(self.payload)} bytes is longer than {MAX_FRAME_BYTES}")
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
            if length > (MAX_FRAME_BYTES if kind == Kind.DATA else MAX_RESET_REASON_BYTES):
                raise FrameError(f"a frame of {length} bytes")
            if kind >= len(_KINDS):
                raise FrameError(f"a frame of unknown kind {kind}")
            end = start + _HEADER.size + length
            if len(buffer) < end:
                break
            frames.append(Frame(_KINDS[kind], exchange, bytes(buffer[start + _HEADER.size : end])))
            start = end
        if start:
            del buffer[:start]
        return frames


def cost(payload: bytes) -> int:
    """Bytes of the window that a DATA frame uses up."""
    return len(payload) + FRAME_OVERHEAD_BYTES


class ExchangeState:
    """One side of one exchange: what may be sent, what has arrived, and how it ended."""

    __slots__ = (
        "_consumed",
        "_inbox",
        "_receive_window",
        "ended",
        "failure",
        "number",
        "peer_ended",
        "send_window",
        "stopped",
        "unread",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.send_window = WINDOW_BYTES
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
        self._receive_window = WINDOW_BYTES
        self._consumed = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes or goes: both sides have ended, or it was aborted or lost."""
        return self.failure is not None or (self.ended and self.peer_ended)

    def data(self, payload: bytes) -> Frame:
        """The DATA frame of ``payload``, charged to the send window (the caller has waited until it is above 0)."""
        frame = Frame(Kind.DATA, self.number, payload)
        self.send_window -= cost(payload)
        return frame

    def end(self) -> Frame:
        """The END frame of this side."""
        self.ended = True
        return Frame(Kind.END, self.number)

    def reset(self, reason: str) -> Frame:
        """The RESET frame of this side, for which the exchange is over."""
        self.ended = True
        self.failure = self.failure or reason or "aborted"
        return Frame(Kind.RESET, self.number, reason.encode(errors="replace")[:MAX_RESET_REASON_BYTES])

    def lose(self, reason: str) -> None:
        """The peer is gone, or has sent RESET."""
        self.stopped = self.stopped or reason
        if not self.peer_ended:
            self.failure = self.failure or reason

    def accept(self, frame: Frame) -> None:
        """Take in a frame of the peer.

        Raises:
            FrameError: DATA without a window, DATA or END after END, or a malformed WINDOW_UPDATE.
        """
        match frame.kind:
            case Kind.DATA:
                if self.peer_ended or self._receive_window <= 0:
                    raise FrameError("data after the end" if self.peer_ended else "more data than the window")
                self._receive_window -= cost(frame.payload)
                self._inbox.append(frame.payload)
                self.unread += cost(frame.payload)
            case Kind.END:
                if self.peer_ended:
                    raise FrameError("a second end")
                self.peer_ended = True
            case Kind.WINDOW_UPDATE:
                if len(frame.payload) != _UINT32.size or not any(frame.payload):
                    raise FrameError("malformed window update")
                self.send_window += _UINT32.unpack(frame.payload)[0]
                if self.send_window > WINDOW_BYTES:
                    raise FrameError("a window beyond its size")
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

    def window_update(self) -> Frame | None:
        """A WINDOW_UPDATE frame for what was taken, once that is worth a frame and the peer can still use it."""
        if self._consumed < WINDOW_BYTES // 2 or self.peer_ended or self.failure is not None:
            return None
        consumed, self._consumed = self._consumed, 0
        self._receive_window += consumed
        return Frame(Kind.WINDOW_UPDATE, self.number, _UINT32.pack(consumed))
