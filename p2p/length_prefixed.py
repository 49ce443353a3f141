"""Messages of libp2p's own protocols on a stream: a varint with the length, then the protobuf."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from p2p.network import NetworkError, RawStream

MAX_MESSAGE_BYTES = 4096
"""Largest message accepted unless a protocol says otherwise, in bytes."""

Kind = TypeVar("Kind", bound=Message)


class MalformedMessage(NetworkError):
    """What came is no message, or one that is longer than allowed."""


class MessageStream:
    """Reads length-prefixed messages off a stream, and gives what comes after them as bytes.

    ``limit`` is the largest message accepted, in bytes.
    """

    def __init__(self, stream: RawStream, limit: int = MAX_MESSAGE_BYTES) -> None:
        self.stream = stream
        self._limit = limit
        self._buffer = b""

    @property
    def peer(self) -> bytes:
        return self.stream.peer

    async def receive_message(self, kind: type[Kind]) -> Kind:
        """
        Raises:
            MalformedMessage: what came is no such message.
            NetworkError: the stream ended, or broke.
        """
        size = shift = 0
        while True:
            (byte,) = await self._take(1)
            size |= (byte & 127) << shift
            shift += 7
            if not byte & 128:
                break
            if shift > 14:
                raise MalformedMessage("a message is longer than allowed")
        if size > self._limit:
            raise MalformedMessage(f"a message of {size} bytes is longer than allowed")
        try:
            return kind.FromString(await self._take(size))
        except DecodeError:
            raise MalformedMessage("a message cannot be decoded") from None

    async def send_message(self, message: Message) -> None:
        """
        Raises:
            NetworkError: the stream broke.
        """
        data = message.SerializeToString()
        prefix, size = bytearray(), len(data)
        while size > 127:
            prefix.append(size & 127 | 128)
            size >>= 7
        await self.stream.send(bytes([*prefix, size]) + data)

    async def is_at_end(self) -> bool:
        """Whether the peer has ended the stream behind a whole message; waits until that is known."""
        if not self._buffer:
            self._buffer = await self.stream.receive(self._limit)
        return not self._buffer

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """As :meth:`p2p.network.RawStream.receive`, behind the messages."""
        if not self._buffer:
            return await self.stream.receive(max_bytes)
        data, self._buffer = self._buffer[:max_bytes], self._buffer[max_bytes:]
        return data

    async def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = await self.stream.receive(self._limit)
            if not data:
                raise NetworkError("the stream ended within a message")
            self._buffer += data
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data
