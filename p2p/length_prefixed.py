"""Messages on a stream of bytes, each behind its length: one reader for all protocols, and the forms of the prefix.

libp2p's own protocols send a varint and a protobuf (:class:`MessageStream`), small protocols of this node two bytes and
a record (:func:`send_record`). The frames of ``p2p.streams.frames`` have a reader of their own, because their header
carries more than the length and they are cut without I/O.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import trio
from google.protobuf.message import DecodeError, Message

from chain.codec import Record
from p2p.network import NetworkError, RawStream

MAX_PROTOBUF_BYTES = 4096
"""Largest protobuf that is accepted unless a protocol says otherwise."""
MAX_PREFIXED_RECORD_BYTES = 512
"""Largest record that is accepted."""
READ_CHUNK_BYTES = 64 << 10
"""Most bytes that are taken off a stream at once."""
MAX_VARINT_BYTES = 5
"""Length of the longest varint that is accepted."""

Kind = TypeVar("Kind", bound=Message)


class MalformedMessage(NetworkError):
    """What came is no message, or one that is longer than allowed or does not come to its end in time."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """How a length is written.

    ``decode`` gives the number at the beginning of some bytes and where it ends, or None if it does not end yet. It
    raises MalformedMessage.
    """

    encode: Callable[[int], bytes]
    decode: Callable[[bytes | bytearray], tuple[int, int] | None]


def encode_varint(value: int) -> bytes:
    """A number in groups of 7 bits, the lowest first; all but the last byte have their highest bit set."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def decode_varint(data: bytes | bytearray, start: int = 0) -> tuple[int, int] | None:
    """The varint at ``start`` and where it ends; None if it does not end yet.

    Raises:
        MalformedMessage: it is longer than :data:`MAX_VARINT_BYTES`.
    """
    value = 0
    for position in range(start, start + MAX_VARINT_BYTES):
        if position >= len(data):
            return None
        value |= (data[position] & 127) << 7 * (position - start)
        if data[position] < 128:
            return value, position + 1
    raise MalformedMessage("a number without an end")


def _decode_uint16(data: bytes | bytearray) -> tuple[int, int] | None:
    return None if len(data) < 2 else (int.from_bytes(data[:2], "big"), 2)


VARINT = Prefix(encode_varint, decode_varint)
"""The prefix of libp2p's protocols."""
UINT16 = Prefix(lambda size: size.to_bytes(2, "big"), _decode_uint16)
"""Two bytes, big endian."""


class LengthPrefixedReader:
    """Reads messages of up to ``limit`` bytes off a stream, and what comes after them as bytes.

    ``read(max_bytes)`` gives some bytes, none at the end of the stream. ``timeout_s`` is the longest time from the
    first byte of a message to its last. ``on_buffered(change)`` is called with the change of the number of bytes in the
    buffer.
    """

    def __init__(
        self,
        read: Callable[[int], Awaitable[bytes]],
        prefix: Prefix,
        limit: int,
        timeout_s: float = math.inf,
        on_buffered: Callable[[int], None] = lambda change: None,
    ) -> None:
        self._read = read
        self._prefix = prefix
        self._limit = limit
        self._timeout_s = timeout_s
        self._on_buffered = on_buffered
        self._chunk = min(limit, READ_CHUNK_BYTES)
        self._buffer = bytearray()
        self._reported = 0

    @property
    def buffered(self) -> int:
        """Bytes that came behind the last message."""
        return len(self._buffer)

    async def receive(self) -> bytes | None:
        """The next message; None at the end of the stream, even within a message.

        Raises:
            MalformedMessage: it is too long, or does not come to its end in time.
        """
        deadline = trio.current_time() + self._timeout_s if self._buffer else math.inf
        while (message := self._cut()) is None:
            self._report()
            with trio.CancelScope(deadline=deadline) as waiting:
                data = await self._read(self._chunk)
            if waiting.cancelled_caught:
                raise MalformedMessage(f"a message did not come to its end within {self._timeout_s:g} s")
            if not data:
                return None
            if not self._buffer:
                deadline = trio.current_time() + self._timeout_s
            self._buffer += data
        self._report()
        return message

    async def receive_bytes(self, max_bytes: int) -> bytes:
        """Some bytes behind the messages, none at the end of the stream."""
        if not self._buffer:
            return await self._read(max_bytes)
        data = bytes(self._buffer[:max_bytes])
        del self._buffer[:max_bytes]
        return data

    async def is_at_end(self) -> bool:
        """Whether the stream ends behind a whole message; waits until that is known."""
        if not self._buffer:
            self._buffer += await self._read(self._chunk)
        return not self._buffer

    def close(self) -> None:
        """Drop what is left."""
        self._buffer.clear()
        self._report()

    def _cut(self) -> bytes | None:
        found = self._prefix.decode(self._buffer)
        if found is None:
            return None
        size, start = found
        if size > self._limit:
            raise MalformedMessage(f"a message of {size} bytes is longer than allowed")
        if len(self._buffer) < start + size:
            return None
        message = bytes(self._buffer[start : start + size])
        del self._buffer[: start + size]
        return message

    def _report(self) -> None:
        change, self._reported = len(self._buffer) - self._reported, len(self._buffer)
        if change:
            self._on_buffered(change)


class MessageStream:
    """Protobuf messages on a stream, each behind a varint, and what comes after them as bytes.

    ``limit`` is the largest message accepted, in bytes.
    """

    def __init__(self, stream: RawStream, limit: int = MAX_PROTOBUF_BYTES) -> None:
        self.stream = stream
        self._reader = LengthPrefixedReader(stream.receive, VARINT, limit)

    @property
    def peer(self) -> bytes:
        return self.stream.peer

    async def receive_message(self, kind: type[Kind]) -> Kind:
        """
        Raises:
            MalformedMessage: what came is no such message.
            NetworkError: the stream ended, or broke.
        """
        data = await self._reader.receive()
        if data is None:
            raise NetworkError("the stream ended within a message")
        try:
            return kind.FromString(data)
        except DecodeError:
            raise MalformedMessage("a message cannot be decoded") from None

    async def send_message(self, message: Message) -> None:
        """
        Raises:
            NetworkError: the stream broke.
        """
        data = message.SerializeToString()
        await self.stream.send(encode_varint(len(data)) + data)

    async def is_at_end(self) -> bool:
        """Whether the peer has ended the stream behind a whole message; waits until that is known."""
        return await self._reader.is_at_end()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """As :meth:`p2p.network.RawStream.receive`, behind the messages."""
        return await self._reader.receive_bytes(max_bytes)


async def send_record(stream: RawStream, record: Record) -> None:
    """Send one record behind its length."""
    data = record.encode()
    await stream.send(UINT16.encode(len(data)) + data)


async def receive_record(stream: RawStream) -> bytes:
    """The encoded record of one message. Nothing may come behind it before it is answered.

    Raises:
        MalformedMessage: it is too long, or something comes behind it.
        NetworkError: the stream ended.
    """
    reader = LengthPrefixedReader(stream.receive, UINT16, MAX_PREFIXED_RECORD_BYTES)
    data = await reader.receive()
    if data is None:
        raise NetworkError("the stream ended within a message")
    if reader.buffered:
        raise MalformedMessage("more came than one message")
    return data
