"""The HTTP front against good, bad and vanishing clients, over real sockets."""

from __future__ import annotations

import gc
import json
import os
import weakref
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.runtime import RealRuntime
from serving.http.connection import PIECES_PER_CHARGE, PIECES_PER_TURN, ClientConnection
from serving.http.limits import MAX_REFUSALS_PER_ADDRESS, HttpLimits
from serving.http.messages import HttpRequest, RequestHead
from serving.http.request_reader import RequestReader, _Found
from serving.http.responder import Responder
from serving.http.server import HttpServer, ListenError
from serving.openai.errors import bad_request, model_not_found, unauthorized, unavailable
from tests.support.http_front import connect, exchange, receive_all, receive_until, run_front
from tests.support.waiting import PATIENCE, eventually, undisturbed

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
        case "/injected":
            await respond.reply(200, b"", headers=[(b"x-first", b"a\r\nx-second: b")])
        case "/twice":
            await respond.reply(200, b"once")
            await respond.send(b"HTTP/1.1 200 \r\n\r\n")
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
        async with run_front(echo) as server:
            answer = await exchange(server, b"GET /later HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 503 ") and b"\r\nretry-after: 2\r\n" in answer.lower()

    trio.run(main)


def test_a_handler_cannot_break_the_framing_of_its_response() -> None:
    async def main() -> None:
        async with run_front(echo) as server:
            injected = await exchange(server, b"GET /injected HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert error_of(injected)[0] == 500 and b"x-second" not in injected
            twice = await exchange(server, b"GET /twice HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert twice.endswith(b"\r\n\r\nonce") and twice.count(b"HTTP/1.1") == 1

    trio.run(main)


def test_requests_follow_each_other_on_one_connection() -> None:
    async def main() -> None:
        async with run_front(echo) as server, await connect(server) as stream:
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
        async with run_front(echo) as server, await connect(server) as stream:
            await stream.send_all(POST % 1 + b"a" + POST % 1 + b"b" + POST % 1 + b"c")
            data = await receive_until(stream, b"echo c")
            assert [piece[:1] for piece in data.split(b"/v1/echo ")[1:]] == [b"a", b"b", b"c"]

    trio.run(main)


def test_a_large_body_arrives_whole() -> None:
    async def main() -> None:
        async with run_front(echo) as server, await connect(server) as stream:
            body = bytes(range(256)) * 8192 + b"end"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, POST % len(body) + body)
                response = await receive_until(stream, b"end")
            assert split(response) == (200, b"POST /v1/echo " + body)

    trio.run(main)


def test_streams_are_chunked_and_an_empty_piece_does_not_end_them() -> None:
    async def main() -> None:
        async with run_front(echo) as server, await connect(server) as stream:
            await stream.send_all(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await receive_until(stream, b"0\r\n\r\n")).endswith(b"4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n")

    trio.run(main)


def test_old_and_bodyless_requests() -> None:
    async def main() -> None:
        async with run_front(echo) as server:
            assert split(await exchange(server, b"GET /a HTTP/1.0\r\n\r\n")) == (200, b"GET /a ")
            assert split(await exchange(server, b"GET /stream HTTP/1.0\r\n\r\n")) == (200, b"one two")
            head = await exchange(server, b"HEAD /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert split(head) == (200, b"")
            assert b"content-length: 8" in head.lower()

    trio.run(main)


def test_an_offer_to_upgrade_is_passed_over() -> None:
    async def main() -> None:
        async with run_front(echo) as server, await connect(server) as stream:
            upgrade = b"\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
            for body in (b"one", b"two"):
                await stream.send_all((POST % 3).replace(b"\r\n\r\n", upgrade) + body)
                assert split(await receive_until(stream, body)) == (200, b"POST /v1/echo " + body)

    trio.run(main)


def test_expect_100_continue() -> None:
    async def main() -> None:
        async with run_front(echo) as server, await connect(server) as stream:
            await stream.send_all((POST % 2).replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n"))
            assert await receive_until(stream, b"\r\n\r\n") == b"HTTP/1.1 100 \r\n\r\n"
            await stream.send_all(b"ok")
            assert split(await receive_until(stream, b"ok")) == (200, b"POST /v1/echo ok")

    trio.run(main)


def test_a_client_is_told_to_go_on_only_with_what_it_asked_for() -> None:
    async def main() -> None:
        async with run_front(echo) as server, await connect(server) as stream:
            first = (POST % 0).replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n")
            await stream.send_all(first + b"GET /next HTTP/1.1\r\n")
            response = await receive_until(stream, b"POST /v1/echo ")
            await stream.send_all(b"host: x\r\n\r\n")
            response += await receive_until(stream, b"GET /next ")
            assert b" 100 " not in response

    trio.run(main)


ENDINGS = (
    b"",
    b"GET / HTTP/1.1\r\nhost",
    b"GET\r\n\r\n",
    POST % 2 + b"hi",
    POST % 5 + b"hi",
    b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\nzz",
)


def test_nothing_of_a_connection_stays_however_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the collector of cyclic garbage: a connection holds a body, and headers take twenty times their bytes."""
    made: list[weakref.ref[Any]] = []

    def watch(kind: type[Any]) -> None:
        construct = kind.__init__

        def note(self: object, *args: Any, **named: Any) -> None:
            made.append(weakref.ref(self))
            construct(self, *args, **named)

        monkeypatch.setattr(kind, "__init__", note)

    async def main() -> None:
        async with run_front(echo) as server:
            for data in ENDINGS:
                async with await connect(server) as stream:
                    await stream.send_all(data)
                    await stream.send_eof()
                    await receive_all(stream)
            await eventually(lambda: all(each() is None for each in made))

    watch(ClientConnection)
    watch(_Found)
    gc.disable()
    try:
        trio.run(main)
    finally:
        gc.enable()
    assert len(made) == 2 * len(ENDINGS)


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
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\nhello", 400),
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
def test_bad_requests_are_refused_in_openai_shape_and_harm_no_other(
    data: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.http.connection.REFUSAL_READ_TIMEOUT_S", PATIENCE)

    async def main() -> None:
        async with run_front(echo, limits=SMALL) as server:
            refused, error = error_of(await exchange(server, data))
            assert refused == status
            assert "fault of the handler" not in error["message"]
            await assert_serving(server)

    trio.run(main)


@pytest.mark.parametrize("path", [b"/late-error", b"/unfinished"])
def test_a_response_that_failed_after_its_start_is_never_complete(path: bytes) -> None:
    async def main() -> None:
        async with run_front(echo) as server:
            response = await exchange(server, b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % path)
            assert response.startswith(b"HTTP/1.1 200 ")
            assert b"0\r\n\r\n" not in response
            await assert_serving(server)

    trio.run(main)


@pytest.mark.parametrize("data", [b"GET / HT", POST % 10 + b"slow"])
def test_who_does_not_finish_a_request_is_told_so(data: bytes) -> None:
    async def main() -> None:
        async with run_front(echo, limits=HASTY) as server:
            assert error_of(await exchange(server, data))[0] == 408

    trio.run(undisturbed, main, 0.1)


def test_silent_connections_are_closed() -> None:
    async def main() -> None:
        async with run_front(echo, limits=HASTY) as server:
            assert await exchange(server, b"") == b""
            async with await connect(server) as stream:  # idle after a request
                await stream.send_all(POST % 2 + b"hi")
                assert (await receive_all(stream)).endswith(b"hi")

    trio.run(undisturbed, main, 0.1)


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

        async with run_front(wait) as server:
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

        async with run_front(flood, HttpLimits(write_timeout_s=0.2)) as server, await connect(server) as stream:
            await stream.send_all(POST % 0)
            with trio.fail_after(PATIENCE):
                await gone.wait()

    trio.run(main)


def test_endless_pipelining_during_a_response_is_cut() -> None:
    async def main() -> None:
        async def wait(request: HttpRequest, respond: Responder) -> None:
            await trio.sleep_forever()

        async with run_front(wait) as server, await connect(server) as stream:
            await stream.send_all(POST % 0)
            with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
                while True:
                    await stream.send_all(bytes(65536))

    trio.run(main)


def test_connections_over_the_limit_are_told_so() -> None:
    async def main() -> None:
        begun, ended = trio.Event(), trio.Event()

        async def wait(request: HttpRequest, respond: Responder) -> None:
            begun.set()
            await ended.wait()
            await respond.reply(200, b"done")

        async with run_front(wait, limits=HttpLimits(connections=1)) as server, await connect(server) as first:
            await first.send_all(POST % 2 + b"hi")
            await begun.wait()
            assert error_of(await exchange(server, POST % 2 + b"hi"))[0] == 503
            ended.set()
            assert (await receive_until(first, b"done")).startswith(b"HTTP/1.1 200 ")

    trio.run(main)


@pytest.mark.parametrize("part", [b"", POST[:9], POST % 2 + b"h", POST % 2 + b"hi"])
def test_the_connection_that_waits_longest_for_a_request_gives_way(part: bytes) -> None:
    async def main() -> None:
        async with run_front(echo, limits=HttpLimits(connections=2)) as server, await connect(server) as first:
            await first.send_all(part)
            if part.endswith(b"hi"):
                await receive_until(first, b"hi")  # it is served, and waits for its next request
            await eventually(lambda: len(server.waiting) == 1)
            async with await connect(server) as second:
                await eventually(lambda: len(server.waiting) == 2)
                async with await connect(server) as third:
                    await third.send_all(POST % 2 + b"hi")
                    assert (await receive_until(third, b"hi")).startswith(b"HTTP/1.1 200 ")
                assert await receive_all(first) == b""
                await second.send_all(POST % 2 + b"ok")
                assert (await receive_until(second, b"ok")).startswith(b"HTTP/1.1 200 ")

    trio.run(main)


def test_a_port_in_use_is_one_clear_error() -> None:
    async def main() -> None:
        async with run_front(echo) as server:
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
        async with run_front(echo, limits=SMALL) as server:
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


# The head decides


def admit_secret(head: RequestHead, respond: Responder) -> None:
    """Admits what carries the key, and marks the response."""
    respond.common_headers.append((b"x-marked", b"yes"))
    if head.header(b"authorization") != b"Bearer secret":
        raise unauthorized()


class Reader:
    """Notes what the server decides by heads (True, False) and the pieces of bodies that it parses (their sizes)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[bool | int] = []
        self.longest_turn = 0
        """Most pieces that were parsed one after the other while no other task could run."""
        self._turn = 0
        self._parse, self._pause = RequestReader.read_piece, trio.lowlevel.checkpoint
        monkeypatch.setattr(RequestReader, "read_piece", lambda reader: self._read_piece(reader))
        monkeypatch.setattr(trio.lowlevel, "checkpoint", self._checkpoint)

    @property
    def pieces(self) -> list[int]:
        return [size for size in self.seen if not isinstance(size, bool)]

    def admit(self, head: RequestHead, respond: Responder) -> None:
        self.seen.append(False)
        admit_secret(head, respond)
        self.seen[-1] = True

    def _read_piece(self, reader: RequestReader) -> bytes | None:
        piece = self._parse(reader)
        if piece:
            self.seen.append(len(piece))
            self._turn += 1
            self.longest_turn = max(self.longest_turn, self._turn)
        return piece

    async def _checkpoint(self) -> None:
        self._turn = 0
        await self._pause()


SECRET_POST = POST.replace(b"host", b"authorization: Bearer secret\r\nhost")
CHUNKED_POST = b"POST / HTTP/1.1\r\nauthorization: Bearer secret\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("framing", [b"content-length: 4194304", b"transfer-encoding: chunked"])
def test_the_head_is_refused_before_the_body_is_sent(framing: bytes) -> None:
    async def main() -> None:
        async with run_front(echo, admit=admit_secret) as server:
            response = await exchange(server, b"POST / HTTP/1.1\r\nhost: x\r\n%s\r\n\r\n" % framing)
            assert error_of(response)[0] == 401
            assert b"\r\nx-marked: yes\r\n" in response and b"\r\nconnection: close\r\n" in response.lower()
            expects = b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n%s\r\n\r\n" % framing
            assert b" 100 " not in await exchange(server, expects)
            async with await connect(server) as stream:
                await stream.send_all(SECRET_POST % 2 + b"hi")
                response = await receive_until(stream, b"hi")
                assert response.startswith(b"HTTP/1.1 200 ") and b"\r\nx-marked: yes\r\n" in response

    trio.run(main)


KEYS = (b"", b"authorization: Bearer wrong\r\n", b"authorization: Bearer secret\r\n")
BODIES = (b"", b"x", b"y" * 5000, b"5\r\nhello\r\n0\r\n\r\n", b"1\r\na\r\n" * 50, POST % 3 + b"abc", b"\r\n\r\n")
FRAMINGS = (b"content-length: %d\r\n", b"transfer-encoding: chunked\r\n", b"expect: 100-continue\r\n")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"POST", b"GET", b"OPTIONS"]),
            st.sampled_from(KEYS),
            st.sets(st.sampled_from(FRAMINGS)),
            st.sampled_from(BODIES),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_no_byte_of_a_body_is_read_for_a_head_that_is_refused(
    requests: list[tuple[bytes, bytes, set[bytes], bytes]],
) -> None:
    data = b""
    for method, key, framings, body in requests:
        framing = b"".join(line % len(body) if b"%d" in line else line for line in sorted(framings))
        data += method + b" / HTTP/1.1\r\nhost: x\r\n" + key + framing + b"\r\n" + body

    async def main() -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            reader = Reader(monkeypatch)
            async with run_front(echo, admit=reader.admit) as server, await connect(server) as stream:
                await stream.send_all(data)
                await stream.send_eof()
                with trio.fail_after(PATIENCE):
                    await receive_all(stream)
        decided: bool | None = None
        for seen in reader.seen:
            assert decided is not False, "a refusal is the last that is seen of a connection"
            assert decided or isinstance(seen, bool), "a piece of a body before a decision"
            decided = seen if isinstance(seen, bool) else decided

    trio.run(main)


def test_a_length_beside_chunks_ends_the_connection() -> None:
    """What a proxy that goes by the length takes for a body is not taken for another request."""
    handled: list[bytes] = []

    async def note(request: HttpRequest, respond: Responder) -> None:
        handled.append(request.body)
        await respond.reply(200, b"{}")

    async def main() -> None:
        tail = b"0\r\n\r\n" + POST % 5 + b"EVIL!"
        both = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\ntransfer-encoding: chunked\r\n\r\n" % len(tail)
        async with run_front(note) as server:
            response = await exchange(server, both + tail)
            assert response.startswith(b"HTTP/1.1 400 ") and response.count(b"HTTP/1.1") == 1
            assert handled == []

    trio.run(main)


@pytest.mark.parametrize("size", [1, 15])
def test_a_body_in_crumbs_is_refused_soon(size: int) -> None:
    async def main() -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            reader = Reader(monkeypatch)
            async with run_front(echo) as server, await connect(server) as stream, trio.open_nursery() as nursery:
                chunk = b"%x\r\n%s\r\n" % (size, b"a" * size)
                nursery.start_soon(send_quietly, stream, CHUNKED_POST + chunk * 20_000)
                with trio.fail_after(PATIENCE):
                    status, error = error_of(await receive_all(stream))
                nursery.cancel_scope.cancel()
            assert status == 400 and "too small pieces" in error["message"]
            limits = HttpLimits()
            most = limits.small_pieces + sum(reader.pieces) // limits.least_piece_bytes
            assert len(reader.pieces) <= most + PIECES_PER_TURN
            assert reader.longest_turn <= PIECES_PER_TURN

    trio.run(main)


async def send_quietly(stream: trio.SocketStream, data: bytes) -> None:
    with suppress(trio.BrokenResourceError):
        await stream.send_all(data)


@pytest.mark.parametrize(("size", "count"), [(16, 5_000), (1, 200)])
def test_a_body_in_pieces_that_are_large_enough_or_few_is_taken(size: int, count: int) -> None:
    async def main() -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            reader = Reader(monkeypatch)
            async with run_front(echo) as server, await connect(server) as stream, trio.open_nursery() as nursery:
                chunks = b"%x\r\n%s\r\n" % (size, b"a" * size) * count
                nursery.start_soon(stream.send_all, CHUNKED_POST + chunks + b"3\r\nend\r\n0\r\n\r\n")
                response = await receive_until(stream, b"end")
                assert split(response) == (200, b"POST / " + b"a" * size * count + b"end")
            assert reader.longest_turn <= PIECES_PER_TURN

    trio.run(main)


def test_the_body_that_began_first_is_given_up_when_all_are_too_large() -> None:
    async def main() -> None:
        limits = HttpLimits(body_bytes=1000, unfinished_bytes=2500)
        async with run_front(echo, limits=limits) as server:
            streams = []
            for number in range(5):
                stream = await connect(server)
                await stream.send_all(POST % 1000 + b"x" * 900)
                streams.append(stream)
                with trio.fail_after(PATIENCE):
                    while server.bodies.size != 900 * min(number + 1, 2):
                        await trio.sleep(0.01)
            for stream in streams[:3]:
                with trio.fail_after(PATIENCE):
                    response = await receive_all(stream)
                assert error_of(response)[0] == 503 and b"\r\nretry-after: 1\r\n" in response.lower()
            await assert_serving(server)
            for stream in streams[3:]:
                await stream.send_all(b"x" * 99 + b"!")
                assert (await receive_until(stream, b"!")).startswith(b"HTTP/1.1 200 ")
            assert server.bodies.size == 0
            for stream in streams:
                await stream.aclose()

    trio.run(main)


def test_a_client_that_leaves_in_the_middle_of_a_body_holds_nothing() -> None:
    async def main() -> None:
        async with run_front(echo) as server:
            async with await connect(server) as stream:
                await stream.send_all(POST % 1000 + b"x" * 900)
                with trio.fail_after(PATIENCE):
                    while server.bodies.size != 900:
                        await trio.sleep(0.01)
            with trio.fail_after(PATIENCE):
                while server.connections or server.bodies.size:
                    await trio.sleep(0.01)

    trio.run(main)


def test_an_address_without_a_request_that_is_let_in_is_closed_out_and_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.http.server._get_peer_name", lambda stream: client)

    def admit(head: RequestHead, respond: Responder) -> None:
        if head.header(b"authorization") is None:
            raise unauthorized()

    async def main() -> None:
        nonlocal client
        limits = HttpLimits(useless_per_s=1e-9, useless_burst_s=4e9)  # four connections
        async with run_front(echo, limits=limits, admit=admit) as server:
            answers = []
            for _ in range(20):
                async with await connect(server) as stream:
                    await send_quietly(stream, POST % 2 + b"hi")
                    answers.append(await receive_all(stream))
                while server.connections:
                    await trio.sleep(0.001)
            refused = [answer for answer in answers if answer.startswith(b"HTTP/1.1 401 ")]
            assert answers[0] == refused[0] and answers[-1] == b"" and len(refused) < 20
            client = "192.0.2.2"
            async with await connect(server) as stream:
                await stream.send_all(POST.replace(b"host", b"authorization: x\r\nhost") % 2 + b"hi")
                assert (await receive_until(stream, b"hi")).startswith(b"HTTP/1.1 200 ")

    client = "192.0.2.1"
    trio.run(main)


def test_small_pieces_of_bodies_are_charged_until_a_body_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.http.server._get_peer_name", lambda stream: "192.0.2.1")

    async def send(server: HttpServer, pieces: int) -> bytes:
        async with await connect(server) as stream:
            await send_quietly(stream, CHUNKED_POST + b"1\r\na\r\n" * pieces + b"0\r\n\r\n")
            with trio.fail_after(PATIENCE):
                return await receive_until(stream, b"a" * 20 if pieces < 256 else b"}}")

    async def main() -> None:
        reader = Reader(monkeypatch)
        limits = HttpLimits(useless_per_s=1e-9, useless_burst_s=2.5e9)  # three charges
        async with run_front(echo, limits=limits) as server:
            for _ in range(10):
                assert (await send(server, 200)).startswith(b"HTTP/1.1 200 ")
            reader.seen.clear()
            assert error_of(await send(server, 1000))[0] == 400
            assert len(reader.pieces) <= 3 * PIECES_PER_CHARGE + 2 * PIECES_PER_TURN < limits.small_pieces
            async with await connect(server) as stream:
                assert await receive_all(stream) == b""

    trio.run(main)


def test_connections_that_have_carried_nothing_yet_take_turns() -> None:
    turn, turns = 0, list[int]()

    def note_turn(head: RequestHead, respond: Responder) -> None:
        turns.append(turn)

    async def take_turns() -> None:
        nonlocal turn
        while True:
            await trio.lowlevel.checkpoint()
            turn += 1

    async def main() -> None:
        async with run_front(echo, admit=note_turn) as server, trio.open_nursery() as nursery:
            streams = [await connect(server) for _ in range(20)]
            while server.connections < 20:
                await trio.sleep(0.001)
            nursery.start_soon(take_turns)
            for stream in streams:  # all at once
                os.write(stream.socket.fileno(), POST % 2 + b"hi")
            for stream in streams:
                with trio.fail_after(PATIENCE):
                    assert (await receive_until(stream, b"hi")).startswith(b"HTTP/1.1 200 ")
                await stream.aclose()
            nursery.cancel_scope.cancel()
        assert len(turns) == len(set(turns)) == 20

    trio.run(main)


def test_connections_of_one_address_leave_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = iter([*20 * ["192.0.2.1"], "192.0.2.2"])
    monkeypatch.setattr("serving.http.server._get_peer_name", lambda stream: next(clients))

    async def main() -> None:
        async with run_front(echo, limits=HttpLimits(connections=12, connections_per_address=2)) as server:
            streams = [await connect(server) for _ in range(20)]
            for stream in streams:
                await send_quietly(stream, POST % 2 + b"hi")
            statuses = []
            for number, stream in enumerate(streams):
                with trio.fail_after(PATIENCE), suppress(trio.BrokenResourceError):
                    data = await (receive_until(stream, b"hi") if number < 2 else receive_all(stream))
                    statuses += [split(data)[0]] if data else []
            assert statuses == 2 * [200] + MAX_REFUSALS_PER_ADDRESS * [503]
            await assert_serving(server)
            for stream in streams:
                await stream.aclose()

    trio.run(main)
