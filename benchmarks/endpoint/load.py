"""A lean HTTP load generator: closed loop over keep-alive connections, as little Python per request as possible."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import urlsplit

import trio

from benchmarks.report import get_percentile

LOCAL = b"x-wwwserve-executor: local"
EVENT = b"data: {"
"""How an event of a stream begins."""
LAST_CHUNK = b"0\r\n\r\n"
"""How the body of a response in chunks ends (RFC 9112, section 7.1)."""
RECONNECT_S = 0.05
"""Seconds before a connection that was lost is made again."""
PATIENCE_S = 60.0
"""Most seconds for which a load goes on beyond its time."""


@dataclass(slots=True)
class LoadResult:
    """Latencies in seconds of the requests that were answered with 200 as wanted.

    ``failures`` had another status, or none; ``local`` were served by the node itself although they should have been
    offloaded.
    """

    seconds: float
    latencies: list[float] = field(default_factory=list)
    failures: int = 0
    local: int = 0

    def add(self, other: LoadResult) -> None:
        """Take another load, run after this one, as more of it."""
        self.seconds += other.seconds
        self.latencies += other.latencies
        self.failures += other.failures
        self.local += other.local

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.seconds

    def get_percentile(self, percent: float) -> float:
        """Latency in ms; not a number if there is none."""
        return 1000 * get_percentile(self.latencies, percent) if self.latencies else math.nan


@dataclass(slots=True)
class StreamResult(LoadResult):
    """The same of streams: a latency is the time to the first event, and ``events`` are all that came."""

    events: int = 0

    @property
    def event_rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds


async def run_load(
    url: str,
    body: dict[str, object],
    connections: int,
    seconds: float,
    offloaded: bool = False,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> LoadResult:
    """POST ``body`` to ``url`` over ``connections`` connections for ``seconds``, each waiting for its answer.

    Where nothing was answered as wanted by then, it goes on for as long again, and again.
    """
    result, request = LoadResult(0.0), _write_request(url, body, headers)
    with trio.move_on_after(seconds + PATIENCE_S):
        while not result.latencies:
            result.seconds += seconds
            deadline = trio.current_time() + seconds
            async with trio.open_nursery() as nursery:
                for _ in range(connections):
                    nursery.start_soon(_connection, _get_address(url), request, deadline, result, offloaded)
    return result


async def run_streams(
    url: str, body: dict[str, object], connections: int, seconds: float, offloaded: bool = False
) -> StreamResult:
    """Read one stream after another over each of ``connections`` connections, for ``seconds``.

    The last of each is cut: what counts is what came in the time. Where nothing did, it goes on until something does.
    """
    result, request = StreamResult(seconds), _write_request(url, {**body, "stream": True}, {})
    began = trio.current_time()
    with trio.move_on_after(seconds + PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for _ in range(connections):
                nursery.start_soon(_read_streams, _get_address(url), request, result, offloaded)
            await trio.sleep(seconds)
            while not result.latencies:
                await trio.sleep(RECONNECT_S)
                result.seconds = trio.current_time() - began
            nursery.cancel_scope.cancel()
    return result


def _get_address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 80


def _write_request(url: str, body: dict[str, object], headers: Mapping[str, str]) -> bytes:
    parts = urlsplit(url)
    payload = json.dumps(body).encode()
    lines = (
        f"POST {parts.path} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Content-Type: application/json",
        f"Content-Length: {len(payload)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    )
    return "\r\n".join((*lines, "", "")).encode() + payload


async def _connection(
    address: tuple[str, int], request: bytes, deadline: float, result: LoadResult, offloaded: bool
) -> None:
    while trio.current_time() < deadline:
        try:
            async with await trio.open_tcp_stream(*address) as stream:
                while trio.current_time() < deadline:
                    started = trio.current_time()
                    await stream.send_all(request)
                    head = await _read_response(stream)
                    if b" 200 " not in head[:20]:
                        result.failures += 1
                    elif offloaded and LOCAL in head:
                        result.local += 1
                    else:
                        result.latencies.append(trio.current_time() - started)
        except (OSError, trio.BrokenResourceError):
            result.failures += 1
            await trio.sleep(RECONNECT_S)


async def _read_response(stream: trio.SocketStream) -> bytes:
    """Read one response with a declared length; returns its head in lower case."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = await stream.receive_some(65536)
        if not chunk:
            raise ConnectionError("the server closed the connection")
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    head = head.lower()
    lengths = [line.partition(b":")[2] for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
    if not lengths:
        raise ConnectionError("the response has no declared length")
    missing = int(lengths[0]) - len(body)
    while missing > 0:
        chunk = await stream.receive_some(65536)
        if not chunk:
            raise ConnectionError("the server closed the connection")
        missing -= len(chunk)
    return head


async def _read_streams(address: tuple[str, int], request: bytes, result: StreamResult, offloaded: bool) -> None:
    while True:
        try:
            async with await trio.open_tcp_stream(*address) as stream:
                while await _read_stream(stream, request, result, offloaded):
                    pass
        except (OSError, trio.BrokenResourceError):
            result.failures += 1
            await trio.sleep(RECONNECT_S)


async def _read_stream(stream: trio.SocketStream, request: bytes, result: StreamResult, offloaded: bool) -> bool:
    """Read one answer in chunks to its end; returns whether the connection is of further use.

    An event is counted by the mark at its beginning. A mark in two pieces is found in the second, by the end of the
    first.
    """
    started = trio.current_time()
    await stream.send_all(request)
    seen, is_first, tail = b"", True, b""
    while not seen.endswith(LAST_CHUNK):
        piece = await stream.receive_some(65536)
        if not piece:
            raise ConnectionError("the server closed the connection")
        seen = tail + piece
        if is_first:
            if b"\r\n\r\n" not in seen:
                tail = seen
                continue
            head = seen.partition(b"\r\n\r\n")[0].lower()
            if b" 200 " not in head[:20]:
                result.failures += 1
                return False
            if offloaded and LOCAL in head:
                result.local += 1
                return False
        count = seen.count(EVENT)
        if count and is_first:
            result.latencies.append(trio.current_time() - started)
            is_first = False
        elif is_first:
            tail = seen
            continue
        result.events += count
        tail = seen[1 - len(EVENT) :]  # too short for a whole mark, which would be counted twice
    return True
