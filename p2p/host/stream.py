"""One stream of libp2p as :class:`p2p.network.RawStream`: see ``p2p.host.workarounds`` for what is put right."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio
from libp2p.connection_types import ConnectionType
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.network.stream.net_stream import NetStream

from chain.crypto import format_address
from p2p.closing import CLOSE_TIMEOUT_S, root_cause, shielded
from p2p.host.workarounds.swarm import is_superseded
from p2p.host.workarounds.yamux import ease, has_room, read_stream, wait_for_window, was_reset, write_stream
from p2p.network import ByteCount, NetworkError

logger = logging.getLogger(__name__)

LINGER_S = 10.0
"""Time that a peer has to close its side of a stream that we have closed; then the stream is reset."""
MAX_WRITE_BYTES = 63 << 10
"""Largest payload of a frame: with its header it fits in one Noise message."""
MAX_CIRCUIT_WRITE_BYTES = 60 << 10
"""Largest payload on a circuit: its frames fit inside a frame of the connection to the relay."""


class Libp2pStream:
    """See :class:`p2p.network.RawStream`. ``count`` is that of its protocol."""

    __slots__ = ("_closed", "_count", "_drain_soon", "_max_write", "_peer", "_stream")

    def __init__(
        self, stream: NetStream, peer: bytes, count: ByteCount, drain_soon: Callable[[NetStream], None]
    ) -> None:
        self._stream = stream
        self._peer = peer
        self._count = count
        self._drain_soon = drain_soon
        circuit = stream.muxed_conn.get_connection_type() == ConnectionType.RELAYED
        self._max_write = MAX_CIRCUIT_WRITE_BYTES if circuit else MAX_WRITE_BYTES
        self._closed = False
        ease(stream)

    @property
    def peer(self) -> bytes:
        return self._peer

    @property
    def is_superseded(self) -> bool:
        return is_superseded(self._stream)

    def has_room(self, size: int) -> bool:
        return not self._closed and size <= self._max_write and has_room(self._stream, size)

    async def send(self, data: bytes) -> None:
        self._check_open()
        sent = 0
        try:
            while sent < len(data):
                window = min(await wait_for_window(self._stream), self._max_write)
                part = data[sent : sent + window]
                await write_stream(self._stream, part)
                self._count.sent += len(part)
                sent += window
        except Exception as error:
            raise NetworkError(f"the stream to {format_address(self._peer)} broke: {root_cause(error)}") from error

    async def receive(self, max_bytes: int = 65536) -> bytes:
        self._check_open()
        try:
            data = await read_stream(self._stream, max_bytes)
        except StreamEOF:
            if was_reset(self._stream):
                raise NetworkError(f"{format_address(self._peer)} reset the stream, or is gone") from None
            await trio.lowlevel.checkpoint()  # the end comes without a wait: who asks again and again would hold up all
            return b""
        except Exception as error:
            raise NetworkError(f"the stream to {format_address(self._peer)} broke: {root_cause(error)}") from error
        self._count.received += len(data)
        return data

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with shielded(CLOSE_TIMEOUT_S):
            try:
                await self._stream.close()
            except Exception as error:
                logger.debug("closing a stream: %r", error)
                return
        self._drain_soon(self._stream)

    async def reset(self) -> None:
        self._closed = True
        await reset(self._stream)

    def _check_open(self) -> None:
        if self._closed:
            raise NetworkError("the stream is closed")


async def drain(stream: NetStream) -> None:
    """Take what the peer still sends until it closes too; a half-closed stream would stay for ever."""
    with trio.move_on_after(LINGER_S):
        try:
            while await stream.read(65536):
                pass
        except Exception:
            return
    await reset(stream)


async def reset(stream: NetStream) -> None:
    with shielded(CLOSE_TIMEOUT_S):
        try:
            await stream.reset()
        except Exception as error:
            logger.debug("resetting a stream: %r", error)
