"""The connection pool against well-behaved, slow, broken and dying servers."""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair

from serving.http.client import (
    BaseUrl,
    HttpClientError,
    HttpPool,
    HttpTimeouts,
    _Connection,
)
from serving.http.idle_connections import IdleConnections
from serving.http.transport import Transport
from tests.serving.certificate import write_certificate
from tests.support.patience import make_patient_pool
from tests.support.waiting import PATIENCE, undisturbed

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
SHORT = HttpTimeouts(connect_s=2.0, first_byte_s=0.2, stall_s=0.2)

Script = Callable[[int, trio.abc.Stream], Awaitable[None]]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a kept connection be found dead however long that takes."""
    monkeypatch.setattr("serving.http.client.RESEND_WITHIN_S", PATIENCE)


async def read_request(stream: trio.abc.Stream) -> bytes:
    """One request; ``b""`` if the client closes instead."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = await stream.receive_some()
        if not piece:
            return b""
        data += bytes(piece)
    return data


@asynccontextmanager
async def scripted(script: Script, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server that runs ``script`` with the number of the connection and its stream; gives its URL."""
    count = 0

    async def handle(tcp: trio.SocketStream) -> None:
        nonlocal count
        count += 1
        stream: trio.abc.Stream = tcp
        if context is not None:
            stream = trio.SSLStream(tcp, context, server_side=True, https_compatible=True)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await script(count, stream)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield f"{'https' if context else 'http'}://127.0.0.1:{port}"
        nursery.cancel_scope.cancel()


async def fetch(pool: HttpPool, body: bytes = b"{}") -> bytes:
    async with pool.request("POST", "/v1/x", body) as response:
        return await response.read()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8000", BaseUrl(False, "localhost", 8000, "")),
        ("http://localhost:8000/v1/", BaseUrl(False, "localhost", 8000, "")),
        ("https://api.example.com/v1", BaseUrl(True, "api.example.com", 443, "")),
        ("https://example.com/deep/v1", BaseUrl(True, "example.com", 443, "/deep")),
        ("http://[::1]:80", BaseUrl(False, "::1", 80, "")),
    ],
)
def test_base_urls(url: str, expected: BaseUrl) -> None:
    assert BaseUrl.parse(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://x",
        "http://",
        "http://x/?q=1",
        "http://x:port",
        "http://ü.de",
        "http://x/a b",
        "http://x/ä",
    ],
)
def test_not_base_urls(url: str) -> None:
    with pytest.raises(ValueError):
        BaseUrl.parse(url)


def test_a_key_cannot_begin_another_header() -> None:
    with pytest.raises(ValueError):
        HttpPool("http://x", api_key="a\r\nx: b")


class Kept:
    """An idle connection that can be told to die."""

    def __init__(self) -> None:
        self.usable = True

    def is_usable(self) -> bool:
        return self.usable


@given(st.lists(st.tuples(st.sampled_from(["put", "take", "kill"]), st.integers(0, 3)), max_size=60))
def test_idle_connections_are_few_young_alive_and_each_in_one_place(steps: list[tuple[str, int]]) -> None:
    idle: IdleConnections[Kept] = IdleConnections(max_idle=3, max_age=5)
    now = 0
    since: dict[Kept, int] = {}  # the model: what is kept, oldest first
    for action, seconds in steps:
        now += seconds
        if action == "put":
            since[connection := Kept()] = now
            dropped = idle.put(connection, now)
        elif action == "take":
            taken, dropped = idle.take(now)
            if taken is not None:
                assert taken.usable and now - since.pop(taken) <= 5
        elif since:
            next(iter(since)).usable = False
            continue
        else:
            continue
        assert len(dropped) == len(set(dropped))
        for connection in dropped:
            assert connection in since
            del since[connection]
        assert len(idle) == len(since) <= 3


def test_one_connection_serves_one_request_after_another() -> None:
    async def main() -> None:
        connections = 0

        async def script(number: int, stream: trio.abc.Stream) -> None:
            nonlocal connections
            connections = number
            while await read_request(stream):
                await stream.send_all(OK)

        async with scripted(script) as url:
            pool = make_patient_pool(url)
            assert [await fetch(pool) for _ in range(5)] == [b"ok"] * 5
            assert connections == 1
            await pool.aclose()
            assert await fetch(pool) == b"ok"
            assert connections == 2

    trio.run(main)


def test_a_kept_connection_that_dies_unanswered_is_retried_once_on_a_fresh_one() -> None:
    async def main() -> None:
        seen: list[int] = []

        async def script(number: int, stream: trio.abc.Stream) -> None:
            while await read_request(stream):
                seen.append(number)
                if len(seen) == 2:
                    return  # the second request finds the first connection closed under it
                await stream.send_all(OK)

        async with scripted(script) as url:
            pool = make_patient_pool(url)
            assert [await fetch(pool), await fetch(pool)] == [b"ok", b"ok"]
            assert seen == [1, 1, 2]

    trio.run(main)


def test_a_kept_connection_that_dies_after_a_while_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.http.client.RESEND_WITHIN_S", 0.0)

    async def main() -> None:
        seen: list[int] = []

        async def script(number: int, stream: trio.abc.Stream) -> None:
            while await read_request(stream):
                seen.append(number)
                if len(seen) == 2:
                    return
                await stream.send_all(OK)

        async with scripted(script) as url:
            pool = make_patient_pool(url)
            await fetch(pool)
            with pytest.raises(HttpClientError, match="without an answer"):
                await fetch(pool)
            assert seen == [1, 1], "the server may have worked on it"

    trio.run(main)


def test_a_connection_the_server_has_closed_is_not_reused() -> None:
    async def main() -> None:
        closed = trio.Event()
        seen: list[int] = []

        async def script(number: int, stream: trio.abc.Stream) -> None:
            if await read_request(stream):
                seen.append(number)
                await stream.send_all(OK)
                await stream.aclose()
                closed.set()

        async with scripted(script) as url:
            pool = make_patient_pool(url)
            assert await fetch(pool) == b"ok"
            await closed.wait()
            assert await fetch(pool) == b"ok"
            assert seen == [1, 2]

    trio.run(main)


def test_a_fresh_connection_that_dies_is_not_retried() -> None:
    async def main() -> None:
        requests = 0

        async def script(number: int, stream: trio.abc.Stream) -> None:
            nonlocal requests
            await read_request(stream)
            requests += 1

        async with scripted(script) as url:
            with pytest.raises(HttpClientError, match="without an answer"):
                await fetch(make_patient_pool(url))
            assert requests == 1

    trio.run(main)


def test_a_kept_connection_that_dies_after_the_first_byte_is_not_retried() -> None:
    async def main() -> None:
        requests = 0

        async def script(number: int, stream: trio.abc.Stream) -> None:
            nonlocal requests
            while await read_request(stream):
                requests += 1
                if requests == 2:
                    await stream.send_all(b"HTTP/1.1 2")
                    return
                await stream.send_all(OK)

        async with scripted(script) as url:
            pool = make_patient_pool(url)
            await fetch(pool)
            with pytest.raises(HttpClientError):
                await fetch(pool)
            assert requests == 2

    trio.run(main)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "did not answer in time"),
        (CHUNKED, "in the middle of its answer"),
        (CHUNKED + b"2\r\nhi\r\n", "in the middle of its answer"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "does not speak HTTP"),
    ],
)
def test_a_silent_or_foreign_server_is_given_up(answer: bytes, message: str) -> None:
    async def main() -> None:
        async def script(number: int, stream: trio.abc.Stream) -> None:
            await read_request(stream)
            await stream.send_all(answer)
            await trio.sleep_forever()

        async with scripted(script) as url:
            with pytest.raises(HttpClientError, match=message):
                await fetch(HttpPool(url, timeouts=SHORT))

    trio.run(undisturbed, main, 0.1)


@pytest.mark.parametrize("answer", [CHUNKED + b"2\r\nhi\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi"])
def test_a_body_cut_short_is_an_error_and_not_an_end(answer: bytes) -> None:
    async def main() -> None:
        async def script(number: int, stream: trio.abc.Stream) -> None:
            await read_request(stream)
            await stream.send_all(answer)

        async with scripted(script) as url, make_patient_pool(url).request("POST", "/", b"{}") as response:
            assert await response.__anext__() == b"hi"
            with pytest.raises(HttpClientError, match="broke off"):
                await response.__anext__()

    trio.run(main)


def test_a_slow_reader_is_not_taken_for_a_stalled_server() -> None:
    async def main() -> None:
        async def script(number: int, stream: trio.abc.Stream) -> None:
            await read_request(stream)
            for piece in (b"2\r\nhi\r\n", b"2\r\nho\r\n", b"0\r\n\r\n"):
                await stream.send_all(CHUNKED * (piece.endswith(b"hi\r\n")) + piece)
                await trio.sleep(0.02)
            await trio.sleep_forever()

        async with scripted(script) as url, HttpPool(url, timeouts=SHORT).request("POST", "/", b"{}") as response:
            received = []
            async for piece in response:
                received.append(piece)
                await trio.sleep(2 * SHORT.first_byte_s)
            assert b"".join(received) == b"hiho"

    trio.run(undisturbed, main, 0.1)


def test_leaving_early_closes_the_connection() -> None:
    async def main() -> None:
        gone = trio.Event()

        async def script(number: int, stream: trio.abc.Stream) -> None:
            await read_request(stream)
            await stream.send_all(CHUNKED + b"2\r\nhi\r\n")
            try:
                assert await stream.receive_some() == b""
            finally:
                gone.set()

        async with scripted(script) as url:
            pool = make_patient_pool(url)
            async with pool.request("POST", "/", b"{}") as response:
                assert await response.__anext__() == b"hi"
            with trio.fail_after(PATIENCE):
                await gone.wait()

    trio.run(main)


def test_an_answer_before_the_whole_request_was_read_is_received() -> None:
    async def main() -> None:
        async def script(number: int, stream: trio.abc.Stream) -> None:
            await stream.receive_some(100)
            await stream.send_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            await trio.sleep_forever()

        async with scripted(script) as url, trio.open_nursery() as nursery:
            with trio.fail_after(PATIENCE):
                async with make_patient_pool(url).request("POST", "/", bytes(100_000)) as response:
                    assert response.status == 413
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_requests_beyond_the_bound_wait_for_a_connection() -> None:
    async def main() -> None:
        most = active = 0

        async def script(number: int, stream: trio.abc.Stream) -> None:
            nonlocal most, active
            while await read_request(stream):
                active += 1
                most = max(most, active)
                await trio.sleep(0.01)
                active -= 1
                await stream.send_all(OK)

        async with scripted(script) as url, trio.open_nursery() as nursery:
            pool = make_patient_pool(url, max_connections=2)
            for _ in range(10):
                nursery.start_soon(fetch, pool)
            with trio.fail_after(PATIENCE):
                while nursery.child_tasks:
                    await trio.sleep(0.01)
            assert most == 2

    trio.run(main)


def test_no_server_listens() -> None:
    async def main() -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        await listeners[0].aclose()
        with pytest.raises(HttpClientError, match=f"^cannot connect to 127.0.0.1:{port}: Connection refused$"):
            await fetch(make_patient_pool(f"http://127.0.0.1:{port}"))

    trio.run(main)


def test_https_checks_the_certificate(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(certificate, key)

    async def main() -> None:
        async def script(number: int, stream: trio.abc.Stream) -> None:
            while await read_request(stream):
                await stream.send_all(OK)

        async with scripted(script, server_context) as url:
            trusting = ssl.create_default_context(cafile=certificate)
            pool = make_patient_pool(url, ssl_context=trusting)
            assert [await fetch(pool), await fetch(pool)] == [b"ok", b"ok"]
            with pytest.raises(HttpClientError, match=r"(?i)certificate"):
                await fetch(make_patient_pool(url))

    trio.run(main)


class MemoryTransport:
    """A connection in memory, for a clock that jumps."""

    is_secured = True  # nothing can be received without waiting

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def receive(self, most: int) -> bytes:
        return bytes(await self._stream.receive_some(most))

    async def send(self, data: bytes, deadline: float = math.inf) -> None:
        await self._stream.send_all(data)


class TimedTransport:
    """A connection on which pieces come at given times, for a clock that jumps."""

    is_secured = False

    def __init__(self, pieces: list[tuple[float, bytes]]) -> None:
        self._pieces = pieces
        self.waits = 0

    async def receive(self, most: int) -> bytes:
        self.waits += 1
        await trio.sleep_until(self._pieces[0][0])
        return self.receive_nowait(most)

    def receive_nowait(self, most: int) -> bytes:
        due = [piece for at, piece in self._pieces if at <= trio.current_time()]
        if not due:
            raise trio.WouldBlock
        del self._pieces[: len(due)]
        return b"".join(due)

    async def send(self, data: bytes, deadline: float = math.inf) -> None:
        pass


@pytest.mark.parametrize(
    ("between", "waits", "sizes"),
    [
        (0.01, 2, [1, 2, *[3] * 6]),  # fast: nothing is waited for but the head and the first piece
        (0.05, 22, [1] * 21),  # slow: each goes as it comes
    ],
)
def test_what_is_gathered_is_there_without_waiting(
    between: float, waits: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        pieces = [(0.005 + between * number, b"1\r\nx\r\n") for number in range(21)]
        transport = TimedTransport([(0.0, CHUNKED), *pieces, (pieces[-1][0], b"0\r\n\r\n")])
        pool, found, late = HttpPool("http://backend"), list[int](), list[float]()

        async def connect(timeouts: HttpTimeouts) -> _Connection:
            return _Connection(cast(Transport, transport))

        monkeypatch.setattr(pool, "_connect", connect)
        async with pool.request("POST", "/v1/x", b"{}") as response:
            async for piece in response:
                found.append(len(piece))
                late.append(trio.current_time() - pieces[sum(found) - 1][0])
                response.gather(0.03)
        assert (found, transport.waits) == (sizes, waits)
        assert max(late) <= (0.03 if between < 0.03 else 0.0) + 1e-9

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_body_that_is_gathered_comes_in_one_piece_for_each_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine chunks, 10 ms apart, of which the first goes at once, and one long after them."""

    async def serve(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await stream.send_all(CHUNKED)
        for number in range(9):
            await stream.send_all(b"1\r\n%d\r\n" % number)
            await trio.sleep(0.01)
        await trio.sleep(0.115)
        await stream.send_all(b"1\r\nz\r\n0\r\n\r\n")

    async def main() -> None:
        await trio.sleep(0.005)
        ours, theirs = memory_stream_pair()
        pool, found = HttpPool("http://backend"), list[tuple[float, bytes]]()

        async def connect(timeouts: HttpTimeouts) -> _Connection:
            return _Connection(cast(Transport, MemoryTransport(ours)))

        monkeypatch.setattr(pool, "_connect", connect)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, theirs)
            async with pool.request("POST", "/v1/x", b"{}") as response:
                async for piece in response:
                    found.append((round(trio.current_time(), 3), piece))
                    assert response.gather(0.03)
        assert found == [(0.005, b"0"), (0.03, b"12"), (0.06, b"345"), (0.09, b"678"), (0.21, b"z")]

    trio.run(main, clock=MockClock(autojump_threshold=0))
