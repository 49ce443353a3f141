"""A lean HTTP load generator: closed loop over keep-alive connections, as little Python per request as possible."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import urlsplit

import trio

from benchmarks.report import get_percentile

LOCAL = b"x-wwwserve-executor: local"
RECONNECT_S = 0.05
"""Seconds before a connection that was lost is made again."""


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
        """Latency in ms."""
        return 1000 * get_percentile(self.latencies, percent)


async def run_load(
    url: str,
    body: dict[str, object],
    connections: int,
    seconds: float,
    offloaded: bool = False,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> LoadResult:
    """POST ``body`` to ``url`` over ``connections`` connections for ``seconds``, each waiting for its answer."""
    parts = urlsplit(url)
    payload = json.dumps(body).encode()
    lines = (
        f"POST {parts.path} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Content-Type: application/json",
        f"Content-Length: {len(payload)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    )
    head = "\r\n".join((*lines, "", ""))
    result = LoadResult(seconds)
    deadline = trio.current_time() + seconds
    async with trio.open_nursery() as nursery:
        for _ in range(connections):
            address = parts.hostname or "127.0.0.1", parts.port or 80
            nursery.start_soon(_connection, address, head.encode() + payload, deadline, result, offloaded)
    return result


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
    missing = int(lengths[0]) - len(body)
    while missing > 0:
        chunk = await stream.receive_some(65536)
        if not chunk:
            raise ConnectionError("the server closed the connection")
        missing -= len(chunk)
    return head
