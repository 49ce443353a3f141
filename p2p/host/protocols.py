"""The protocols of a host: who handles the streams of each, and how many bytes it moved."""

from __future__ import annotations

import logging
from collections import defaultdict

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.network.stream.net_stream import NetStream

from chain.crypto import format_address
from p2p.closing import root_cause
from p2p.host.lifetime import Lifetime
from p2p.host.stream import Libp2pStream, drain
from p2p.host.workarounds.host import GuardedHost
from p2p.host.workarounds.yamux import keep_window
from p2p.nat.relay_client import HOP, STOP
from p2p.network import ByteCount, NetworkError, StreamHandler, is_network_error
from p2p.peer_id import peer_id_of, public_key_of

logger = logging.getLogger(__name__)

STREAM_OPEN_TIMEOUT_S = 10.0
"""Time to open a stream and agree on its protocol."""


class Protocols:
    """Opens streams, and runs a handler for each that a peer opens."""

    def __init__(self, lifetime: Lifetime) -> None:
        self._lifetime = lifetime
        self._scopes: set[trio.CancelScope] = set()  # of the handlers that run
        self.handlers: dict[str, StreamHandler] = {}
        self.byte_counts: defaultdict[str, ByteCount] = defaultdict(ByteCount)

    def handle(self, protocol: str, handler: StreamHandler) -> None:
        """See :meth:`p2p.network.Network.handle`."""
        self.handlers[protocol] = handler
        if self._lifetime.running is not None:
            self._attach(self._lifetime.running.host, protocol)

    def attach(self, host: GuardedHost) -> None:
        """Have a host that is about to run serve all protocols."""
        for protocol in self.handlers:
            self._attach(host, protocol)

    def cancel(self) -> None:
        """Cancel every handler that runs."""
        for scope in list(self._scopes):
            scope.cancel()

    async def open(self, peer: bytes, protocol: str) -> Libp2pStream:
        """A stream to a connected peer.

        Raises:
            NetworkError: the peer does not open it.
        """
        try:
            with trio.fail_after(STREAM_OPEN_TIMEOUT_S):
                host = self._lifetime.get_running().host
                stream = await host.new_stream(peer_id_of(peer), [TProtocol(protocol)])
        except trio.TooSlowError:
            raise NetworkError(
                f"{format_address(peer)} did not open a stream within {STREAM_OPEN_TIMEOUT_S:g} s"
            ) from None
        except Exception as error:
            raise NetworkError(f"{format_address(peer)} opens no stream of {protocol}: {root_cause(error)}") from error
        assert isinstance(stream, NetStream)
        if protocol == STOP:
            keep_window(stream)
        return self._wrap(stream, peer, protocol)

    def _attach(self, host: GuardedHost, protocol: str) -> None:
        async def serve(stream: INetStream) -> None:
            assert isinstance(stream, NetStream)
            await self._serve(protocol, stream)

        host.set_stream_handler(TProtocol(protocol), serve)

    async def _serve(self, protocol: str, stream: NetStream) -> None:
        """Run the handler of one inbound stream, and see the stream to its end."""
        peer = public_key_of(stream.muxed_conn.peer_id)
        if peer is None or self._lifetime.running is None:
            await stream.reset()
            return
        if protocol == HOP:
            keep_window(stream)
        ours = self._wrap(stream, peer, protocol)
        scope = trio.CancelScope()
        self._scopes.add(scope)
        try:
            with scope:
                await self.handlers[protocol](ours)
                await ours.close()
                return
        except Exception as error:
            if not is_network_error(error):
                logger.error("the handler of %s failed", protocol, exc_info=error)
        finally:
            self._scopes.discard(scope)
        await ours.reset()

    def _wrap(self, stream: NetStream, peer: bytes, protocol: str) -> Libp2pStream:
        return Libp2pStream(stream, peer, self.byte_counts[protocol], self._drain_soon)

    def _drain_soon(self, stream: NetStream) -> None:
        self._lifetime.start_soon(drain, stream)
