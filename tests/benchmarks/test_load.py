"""The load generator: a load in which nothing is answered, since the machine is slow, goes on until something is."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio

from benchmarks.endpoint import load
from benchmarks.endpoint.load import LoadResult, run_load, run_streams

REFUSED = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"
ANSWERED = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
UNBOUNDED = b"HTTP/1.1 200 OK\r\n\r\n"
STREAMED = b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nb\r\ndata: {"a"}\r\n0\r\n\r\n'
SECONDS = 0.02


def run_against(answers: list[bytes], run: Callable[[str], Awaitable[LoadResult]]) -> LoadResult:
    """Run a load against a server that gives one answer after another, the last to all requests from then on.

    It never answers where an answer is empty.
    """

    async def main() -> LoadResult:
        left = iter(answers[:-1])

        async def handle(stream: trio.SocketStream) -> None:
            with suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    answer = next(left, answers[-1])
                    if not answer:
                        await trio.sleep_forever()
                    await stream.send_all(answer)
                    if answer == UNBOUNDED:
                        return

        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, handle, listeners)
            result = await run("http://127.0.0.1:{1}/v1".format(*listeners[0].socket.getsockname()))
            nursery.cancel_scope.cancel()
        return result

    return trio.run(main)


def test_a_load_goes_on_until_a_request_is_answered_as_wanted() -> None:
    answers = [*[REFUSED] * 5, UNBOUNDED, ANSWERED]
    result = run_against(answers, lambda url: run_load(url, {}, 1, SECONDS))
    assert (result.failures, bool(result.latencies)) == (6, True)
    assert result.seconds >= SECONDS and result.get_percentile(99) > 0


def test_streams_go_on_until_an_event_comes() -> None:
    result = run_against([*[REFUSED] * 3, STREAMED], lambda url: run_streams(url, {}, 1, SECONDS))
    assert result.failures >= 3 and result.latencies and result.seconds >= SECONDS


@pytest.mark.parametrize("run", [run_load, run_streams])
def test_a_load_that_is_never_answered_ends_without_a_latency(
    run: Callable[..., Awaitable[LoadResult]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "PATIENCE_S", 0.1)
    result = run_against([b""], lambda url: run(url, {}, 1, SECONDS))
    assert result.latencies == [] and math.isnan(result.get_percentile(50))
