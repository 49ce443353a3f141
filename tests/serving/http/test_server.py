"""The HTTP front against good, bad and vanishing clients, over real sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.runtime import RealRuntime
from serving.http.server import Handler, HttpLimits, HttpRequest, HttpServer, ListenError, Responder
from serving.openai.errors import bad_request, model_not_found, unavailable
from tests.support.waiting import PATIENCE

POST = b"POST /v1/echo HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"


async def echo(request: HttpRequest, respond: Responder) -> None:
    """Answers with what it was asked; some paths misbehave."""
    match request.path:
        case "/error":
            raise RuntimeError("a fault of the handler")
        case "/late-error":
            await respond.start(200, [])
            await respond.send(b"part")
            raise RuntimeError("a fault after the start")
        case "/later":
            raise unavailable("try again", retry_after_s=1.2)
        case "/unfinished":
            await respond.start(200, [])
        case "/grouped":
            async with trio.open_nursery():
                raise bad_request("from within a nursery")
        case "/stream":
            await respond.start(200, [(b"content-type", b"text/event-stream")])
            for piece in (b"one ", b"", b"two"):
                await respond.send(piece)
            await respond.end()
        case _:
            await respond.reply(200, request.method.encode() + b" " + request.path.encode() + b" " + request.body)


@asynccontextmanager
async def serving(handler: Handler = echo, limits: HttpLimits | None = None) -> AsyncIterator[HttpServer]:
    server = await HttpServer.open(handler, "127.0.0.1", 0, RealRuntime(), limits)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        yield server
        nursery.cancel_scope.cancel()


async def connect(server: HttpServer) -> trio.SocketStream:
    return await trio.open_tcp_stream(*server.address)


async def receive_until(stream: trio.SocketStream, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        piece = await stream.receive_some()
        assert piece, f"closed after {data!r}"
        data += piece
    return data


async def receive_all(stream: trio.SocketStream) -> bytes:
    data = b""
    async for piece in stream:
        data += piece
    return data


async def exchange(server: HttpServer, data: bytes) -> bytes:
    """Send ``data`` and return everything until the server closes."""
    async with await connect(server) as stream:
        await stream.send_all(data)
        return await receive_all(stream)


def split(response: bytes) -> tuple[int, bytes]:
    head, _, body = response.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def error_of(response: bytes) -> tuple[int, dict[str, Any]]:
    """Status and error object of a response that must have OpenAI's shape."""
    status, body = split(response)
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return status, error


async def assert_serving(server: HttpServer) -> None:
    async with await connect(server) as stream:
        await stream.send_all(POST % 2 + b"hi")
        assert (await receive_until(stream, b"hi")).startswith(b"HTTP/1.1 200 ")


def test_an_error_says_when_to_try_again() -> None:
    async def main() -> None:
        async with serving() as server:
            answer = await exchange(server, b"GET /later HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 503 ") and b"\r\nretry-after: 2\r\n" in answer.lower()

    trio.run(main)


def test_requests_follow_each_other_on_one_connection() -> None:
    async def main() -> None:
        async with serving() as server, await connect(server) as stream:
            for number in range(3):
                body = b"n%d" % number
                await stream.send_all(POST % len(body) + body)
                response = await receive_until(stream, body)
                assert split(response) == (200, b"POST /v1/echo " + body)
                assert b"date: " in response
            assert server.connections == 1

    trio.run(main)


def test_pipelined_requests_are_answered_in_order() -> None:
    async def main() -> None:
        async with serving() as server, await connect(server) as stream:
            await stream.send_all(POST % 1 + b"a" + POST % 1 + b"b" + POST % 1 + b"c")
            data = await receive_until(stream, b"echo c")
            assert [piece[:1] for piece in data.split(b"/v1/echo ")[1:]] == [b"a", b"b", b"c"]

    trio.run(main)


def test_a_large_body_arrives_whole() -> None:
    async def main() -> None:
        async with serving() as server, await connect(server) as stream:
            body = bytes(range(256)) * 8192 + b"end"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, POST % len(body) + body)
                response = await receive_until(stream, b"end")
            assert split(response) == (200, b"POST /v1/echo " + body)

    trio.run(main)


def test_streams_are_chunked_and_an_empty_piece_does_not_end_them() -> None:
    async def main() -> None:
        async with serving() as server, await connect(server) as stream:
            await stream.send_all(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await receive_until(stream, b"0\r\n\r\n")).endswith(b"4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n")

    trio.run(main)


def test_old_and_bodyless_requests() -> None:
    async def main() -> None:
        async with serving() as server:
            assert split(await exchange(server, b"GET /a HTTP/1.0\r\n\r\n")) == (200, b"GET /a ")
            assert split(await exchange(server, b"GET /stream HTTP/1.0\r\n\r\n")) == (200, b"one two")
            head = await exchange(server, b"HEAD /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert split(head) == (200, b"")
            assert b"content-length: 8" in head.lower()

    trio.run(main)


def test_an_offer_to_upgrade_is_passed_over() -> None:
    async def main() -> None:
        async with serving() as server, await connect(server) as stream:
            upgrade = b"\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
            for body in (b"one", b"two"):
                await stream.send_all((POST % 3).replace(b"\r\n\r\n", upgrade) + body)
                assert split(await receive_until(stream, body)) == (200, b"POST /v1/echo " + body)

    trio.run(main)


def test_expect_100_continue() -> None:
    async def main() -> None:
        async with serving() as server, await connect(server) as stream:
            await stream.send_all((POST % 2).replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n"))
            assert await receive_until(stream, b"\r\n\r\n") == b"HTTP/1.1 100 \r\n\r\n"
            await stream.send_all(b"ok")
            assert split(await receive_until(stream, b"ok")) == (200, b"POST /v1/echo ok")

    trio.run(main)


SMALL = HttpLimits(header_bytes=1000, body_bytes=1000)
HASTY = replace(SMALL, headers_timeout_s=0.2, body_timeout_s=0.2, idle_timeout_s=0.2)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # a TLS hello
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no host
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: minus\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nnot a size\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nhost: x\r\nbig: " + b"x" * 2000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nhost: x\r\nbig: " + b"x" * 2000, 431),
        (POST % 1001, 413),
        (POST % 10**15 + b"x" * 100, 413),
        (POST % 10**7 + b"x" * 10**7, 413),  # sends it all before it reads the refusal
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n7d0\r\n" + b"x" * 2000 + b"\r\n", 413),
        (b"GET /error HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 500),
        (b"GET /grouped HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 400),
    ],
)
def test_bad_requests_are_refused_in_openai_shape_and_harm_no_other(data: bytes, status: int) -> None:
    async def main() -> None:
        async with serving(limits=SMALL) as server:
            refused, error = error_of(await exchange(server, data))
            assert refused == status
            assert "fault of the handler" not in error["message"]
            await assert_serving(server)

    trio.run(main)


@pytest.mark.parametrize("path", [b"/late-error", b"/unfinished"])
def test_a_response_that_failed_after_its_start_is_never_complete(path: bytes) -> None:
    async def main() -> None:
        async with serving() as server:
            response = await exchange(server, b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % path)
            assert response.startswith(b"HTTP/1.1 200 ")
            assert b"0\r\n\r\n" not in response
            await assert_serving(server)

    trio.run(main)


@pytest.mark.parametrize("data", [b"GET / HT", POST % 10 + b"slow"])
def test_who_does_not_finish_a_request_is_told_so(data: bytes) -> None:
    async def main() -> None:
        async with serving(limits=HASTY) as server:
            assert error_of(await exchange(server, data))[0] == 408

    trio.run(main)


def test_silent_connections_are_closed() -> None:
    async def main() -> None:
        async with serving(limits=HASTY) as server:
            assert await exchange(server, b"") == b""
            async with await connect(server) as stream:  # idle after a request
                await stream.send_all(POST % 2 + b"hi")
                assert (await receive_all(stream)).endswith(b"hi")

    trio.run(main)


def test_a_client_that_disconnects_cancels_the_handler_that_is_not_writing() -> None:
    async def main() -> None:
        started, cancelled = trio.Event(), trio.Event()

        async def wait(request: HttpRequest, respond: Responder) -> None:
            started.set()
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                cancelled.set()
                raise

        async with serving(wait) as server:
            stream = await connect(server)
            await stream.send_all(POST % 0)
            await started.wait()
            await stream.aclose()
            with trio.fail_after(PATIENCE):
                await cancelled.wait()
                while server.connections:
                    await trio.sleep(0.01)

    trio.run(main)


def test_a_client_that_does_not_read_is_given_up() -> None:
    async def main() -> None:
        gone = trio.Event()

        async def flood(request: HttpRequest, respond: Responder) -> None:
            await respond.start(200, [])
            try:
                while True:
                    await respond.send(bytes(65536))
            finally:
                gone.set()

        async with serving(flood, HttpLimits(write_timeout_s=0.2)) as server, await connect(server) as stream:
            await stream.send_all(POST % 0)
            with trio.fail_after(PATIENCE):
                await gone.wait()

    trio.run(main)


def test_endless_pipelining_during_a_response_is_cut() -> None:
    async def main() -> None:
        async def wait(request: HttpRequest, respond: Responder) -> None:
            await trio.sleep_forever()

        async with serving(wait) as server, await connect(server) as stream:
            await stream.send_all(POST % 0)
            with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
                while True:
                    await stream.send_all(bytes(65536))

    trio.run(main)


def test_connections_over_the_limit_are_told_so() -> None:
    async def main() -> None:
        async with serving(limits=HttpLimits(connections=1)) as server, await connect(server) as first:
            await first.send_all(POST % 2 + b"hi")
            await receive_until(first, b"hi")
            assert error_of(await exchange(server, POST % 2 + b"hi"))[0] == 503
            await first.send_all(POST % 2 + b"ok")
            assert (await receive_until(first, b"ok")).startswith(b"HTTP/1.1 200 ")

    trio.run(main)


def test_a_port_in_use_is_one_clear_error() -> None:
    async def main() -> None:
        async with serving() as server:
            host, port = server.address
            with pytest.raises(ListenError, match=rf"cannot listen on 127.0.0.1:{port}: Address already in use"):
                await HttpServer.open(echo, host, port, RealRuntime())

    trio.run(main)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from([b"POST ", b"/ ", b"HTTP/1.1", b"\r\n", b"host: x", b":", b"0", b"\xff", b"\x00", b"  "]))
)
def test_no_bytes_stop_the_server(pieces: list[bytes]) -> None:
    async def main() -> None:
        async with serving(limits=SMALL) as server:
            async with await connect(server) as stream:
                await stream.send_all(b"".join(pieces) or b"\r\n")
                await stream.send_eof()
                with trio.fail_after(PATIENCE):
                    await receive_all(stream)
            await assert_serving(server)

    trio.run(main)


def test_errors_carry_the_fields_that_clients_read() -> None:
    error = model_not_found("gpt-9")
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert json.loads(error.body())["error"]["message"] == error.message
    assert error.event() == b"data: " + error.body() + b"\n\n"
