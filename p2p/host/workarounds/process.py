"""Settings of the library for the whole process. :func:`install` applies them all."""

from __future__ import annotations

import logging
import os
from functools import cache

import trio
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection import swarm_connection
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import YamuxStream
from libp2p.transport.tcp import tcp

from p2p.host.workarounds.yamux import MAX_WINDOW_BYTES

STOCK_RELEASE = YamuxStream._auto_tune_and_send_window_update
"""The library's own method, which :func:`install` replaces."""


@cache
def install() -> None:
    """Apply the settings. Once; further calls do nothing."""
    cheap_window_updates()
    quiet_logging()
    exclusive_ports()
    bounded_windows()
    ipv6_remote_addresses()


def cheap_window_updates() -> None:
    """Yamux answers every read with a window update, so it sends as many frames as it receives. Its setting against
    that has no effect on reads of less than half a window. And the window doubles with every few bytes that are read,
    so that it has grown before the protocol of the stream is agreed on.

    Here the window is updated, and grows, when half of it has been read, as in go-yamux. Delete when the library does
    so.
    """

    async def release(stream: YamuxStream, *, bytes_read: int = 0) -> None:
        buffered = len(stream.conn.stream_buffers.get(stream.stream_id, b""))
        increment = stream.target_recv_window - stream.recv_window - buffered
        if 2 * increment >= stream.target_recv_window:
            stream.recv_window += increment
            await stream.send_window_update(increment + stream._apply_autotune_epoch(buffered))

    setattr(YamuxStream, STOCK_RELEASE.__name__, release)


def quiet_logging() -> None:
    """The library logs mistakes of peers as warnings and errors, in one module through the root logger.

    ``logging.debug`` on the root logger also installs a handler there, and then every program log goes to stderr
    twice. ``LIBP2P_DEBUG`` (the library's own switch) leaves all of it alone. Delete the second line when
    ``swarm_connection`` has a logger of its own; the first is our choice.
    """
    if "LIBP2P_DEBUG" not in os.environ:
        library = logging.getLogger("libp2p")
        library.setLevel(logging.CRITICAL + 1)
        vars(swarm_connection)["logging"] = logging.getLogger("libp2p.network.connection")


def exclusive_ports() -> None:
    """Listening sockets share their port (SO_REUSEPORT), so that a second node on it starts without an error and the
    two get connections at random.

    Delete when listening on a port in use fails. Hole punching shares the port of a connection, where nothing listens,
    and sets its own options (``p2p.host.transport.tcp``).
    """

    def reuse_only_after_close(sock: trio.socket.SocketType) -> None:
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)

    vars(tcp)["_set_reuse_flags"] = reuse_only_after_close


def bounded_windows() -> None:
    """The receive window of each stream grows to 16 MiB: a relay between a fast and a slow peer would hold gigabytes.

    Delete when the limit is an argument.
    """
    vars(yamux)["MAX_WINDOW_SIZE"] = MAX_WINDOW_BYTES


def ipv6_remote_addresses() -> None:
    """The other end of an IPv6 connection has no address: a socket name of four parts is taken for an error.

    Delete when ``get_remote_address`` answers for IPv6.
    """

    def get_remote_address(stream: TrioTCPStream) -> tuple[str, int] | None:
        try:
            host, port = stream.stream.socket.getpeername()[:2]
        except OSError:  # closed
            return None
        return str(host), int(port)

    setattr(TrioTCPStream, get_remote_address.__name__, get_remote_address)
