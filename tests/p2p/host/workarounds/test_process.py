"""The settings of the library for the whole process, on and off."""

from __future__ import annotations

import logging
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from libp2p.io.trio import TrioTCPStream
from libp2p.stream_muxer.yamux import yamux
from libp2p.transport.tcp import tcp

import p2p.host.workarounds.process
from p2p.network import NetworkError, RawStream
from tests.support.hosts import (
    ECHO,
    guard,
    muxer,
    network,
    pair,
    running,
)
from tests.support.waiting import PATIENCE

STOCK_REMOTE_ADDRESS = TrioTCPStream.get_remote_address
STOCK_REUSE_FLAGS = tcp._set_reuse_flags  # before any host is made, which replaces it
QUIET = """
import logging, sys, trio
from tests.support.hosts import network, running
async def main():
    one, other = network(1), network(2)
    async with running(one, other):
        await other.connect(one.me, one.listen_addresses)
        client = await trio.open_tcp_stream("127.0.0.1", int(one.listen_addresses[0].rsplit("/", 1)[1]))
        await client.send_all(b"GET / HTTP/1.0\\r\\n\\r\\n")
        await client.aclose()
        await trio.sleep(0.3)
trio.run(main)
print(logging.getLogger().handlers)
"""


@guard
@pytest.mark.trio
async def test_a_reader_that_does_not_read_holds_up_little(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    p2p.host.workarounds.process.install()
    if not on:
        monkeypatch.setattr(yamux, "MAX_WINDOW_SIZE", 16 << 20)
    monkeypatch.setattr(yamux.YamuxStream, "_effective_rtt", lambda stream: 1.0)  # the window grows on slow links only
    unread, limit = 0, 2 << 20
    wake = trio.Event()

    async def read_eagerly_then_stop(stream: RawStream) -> None:
        read = 0
        while read < 8 << 20:  # the window grows with what is read
            read += len(await stream.receive())
        await wake.wait()

    async with pair() as (one, other):
        one.handle("/test/slow/1", read_eagerly_then_stop)
        stream = await other.open_stream(one.me, "/test/slow/1")
        await stream.send(bytes(8 << 20))
        with trio.move_on_after(1.0):
            while unread <= limit:
                await stream.send(bytes(64 << 10))
                unread += 64 << 10
        wake.set()
    assert (unread <= limit) is on


@guard
@pytest.mark.trio
async def test_a_window_opens_and_grows_when_half_of_it_is_read(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    p2p.host.workarounds.process.install()
    if not on:
        name = "_auto_tune_and_send_window_update"
        monkeypatch.setattr(yamux.YamuxStream, name, p2p.host.workarounds.process.STOCK_RELEASE)
    async with pair() as (one, other):
        stream = await other.open_stream(one.me, ECHO)
        connection, updates = muxer(one, other), 0
        write_frame, number = connection._write_frame, stream._stream.muxed_stream.stream_id  # type: ignore[attr-defined]

        async def count(frame: bytes) -> None:
            nonlocal updates
            _, kind, _, stream_id, _ = struct.unpack_from(yamux.YAMUX_HEADER_FORMAT, frame)
            updates += kind == yamux.TYPE_WINDOW_UPDATE and stream_id == number  # streams of gossip open with one too
            await write_frame(frame)

        async def send_and_receive(size: int) -> None:
            await stream.send(bytes(size))
            while size:
                size -= len(await stream.receive(size))

        vars(connection)["_write_frame"] = count
        for _ in range(50):
            await send_and_receive(1000)
        assert (updates == 0) is on
        largest = max(stream.target_recv_window for stream in connection.streams.values())
        assert (largest == yamux.DEFAULT_WINDOW_SIZE) is on
        for _ in range(250):
            await send_and_receive(1000)
        assert (0 < updates < 10) is on


@guard
@pytest.mark.trio
async def test_the_other_end_of_an_ipv6_connection_has_an_address(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    p2p.host.workarounds.process.install()
    if not on:
        monkeypatch.setattr(TrioTCPStream, "get_remote_address", STOCK_REMOTE_ADDRESS)
    one, other = network(1, listen=["/ip6/::1/tcp/0"]), network(2, listen=())
    async with running(one, other):
        await other.connect(one.me, one.listen_addresses)
        assert (muxer(other, one).get_remote_address() is not None) is on


@guard
@pytest.mark.trio
async def test_a_port_in_use_is_an_error(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    p2p.host.workarounds.process.install()
    if not on:
        monkeypatch.setattr(tcp, "_set_reuse_flags", STOCK_REUSE_FLAGS)
    one = network(1)
    async with running(one):
        second = network(2, listen=one.listen_addresses)
        try:
            with trio.move_on_after(PATIENCE if on else 1) as scope:
                await second.run()
        except NetworkError as error:
            assert on and "in use" in str(error)
        else:
            assert scope.cancelled_caught and not on


def test_the_library_is_quiet_and_leaves_the_root_logger_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", QUIET], capture_output=True, text=True, cwd=Path(__file__).parents[4], check=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_installing_is_idempotent_and_sets_what_it_says() -> None:
    p2p.host.workarounds.process.install()
    replaced = tcp._set_reuse_flags
    p2p.host.workarounds.process.install()
    assert tcp._set_reuse_flags is replaced
    assert not logging.getLogger("libp2p.network.swarm").isEnabledFor(logging.CRITICAL)
