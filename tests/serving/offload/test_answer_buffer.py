"""The buffer of an answer: the first piece at once, later ones together, every byte before the failure, and a bound."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p.simulation.runtime import run_simulation
from serving.backends.backend import BackendError
from serving.offload.executor.answer_buffer import AnswerBuffer, BufferFull
from serving.openai.answers import Answer


async def join(
    pieces: list[tuple[float, bytes]], size: int = 100, limit: int = 1000, failure: str | None = None
) -> list[tuple[float, bytes]]:
    """What comes out, and when, if ``pieces`` are put in after their pauses and then the buffer is closed."""
    buffer = AnswerBuffer(limit, 0.03, size)
    joined: list[tuple[float, bytes]] = []

    async def write() -> None:
        for pause, piece in pieces:
            await trio.sleep(pause)
            await buffer.put(piece)
        buffer.close(failure)

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        try:
            while piece := await buffer.get():
                joined.append((round(trio.current_time() - start, 3), piece))
        except BackendError as raised:
            assert str(raised) == failure
        else:
            assert failure is None
    return joined


def test_the_first_token_goes_at_once_and_later_ones_in_company() -> None:
    async def main() -> None:
        assert await join([(0.5, b"a"), (0.001, b"b"), (0.001, b"c"), (0.1, b"d")]) == [
            (0.5, b"a"),
            (0.51, b"bc"),
            (0.602, b"d"),
        ]
        assert await join([]) == []
        # Enough for a message does not wait.
        assert await join([(0.0, b"a"), (0.01, b"b" * 60), (0.01, b"c" * 60), (0.01, b"d")]) == [
            (0.0, b"a"),
            (0.02, b"b" * 60 + b"c" * 60),
            (0.03, b"d"),
        ]

    run_simulation(1, main)


def test_answers_give_out_at_the_same_moments_whenever_they_began() -> None:
    async def main() -> None:
        times = []

        async def read_one(delay: float) -> None:
            await trio.sleep(delay)
            joined = await join([(0.0, b"a"), *[(0.01, b"b")] * 12])
            times.append({round(delay + at, 3) for at, _ in joined[1:-1]})

        async with trio.open_nursery() as nursery:
            for delay in (0.001, 0.008, 0.017):
                nursery.start_soon(read_one, delay)
        assert set.intersection(*times) >= {0.03, 0.06, 0.09, 0.12}

    run_simulation(1, main)


def test_what_was_gathered_goes_at_once_unless_the_node_is_late() -> None:
    async def main() -> None:
        buffer = AnswerBuffer(1000, 0.03, 100)
        buffer.is_gathered = True
        start, times = trio.current_time(), []

        async def write() -> None:
            for at in (0.001, 0.03, 0.064, 0.1, 0.121):
                await trio.sleep_until(start + at)
                await buffer.put(b"x")
            buffer.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            while await buffer.get():
                times.append(round(trio.current_time() - start, 3))
        assert times == [0.001, 0.03, 0.064, 0.12, 0.121]

    run_simulation(1, main)


@pytest.mark.parametrize("limit", [1, 70, 1000])
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.01, 0.05]), st.binary(min_size=1, max_size=60)), max_size=40))
def test_no_byte_is_lost_or_moved(limit: int, pieces: list[tuple[float, bytes]]) -> None:
    async def main() -> None:
        joined = await join(pieces, limit=limit)
        assert b"".join(piece for _, piece in joined) == b"".join(piece for _, piece in pieces)

    run_simulation(1, main)


def test_a_failing_backend_is_heard_of_after_what_it_wrote() -> None:
    async def main() -> None:
        joined = await join([(0.0, b"a"), (0.0, b"b")], failure="broken")
        assert b"".join(piece for _, piece in joined) == b"ab"

    run_simulation(1, main)


def test_the_head_comes_first_and_a_backend_that_never_began_has_none() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            buffer, head = AnswerBuffer(10, 0.03, 10), Answer(200, "application/json", never())

            async def begin() -> None:
                await trio.sleep(1.0)
                buffer.begin(head)

            nursery.start_soon(begin)
            assert await buffer.get_head() is head
        failed = AnswerBuffer(10, 0.03, 10)
        failed.close("refused")
        with pytest.raises(BackendError, match="refused"):
            await failed.get_head()

    run_simulation(1, main)


async def never() -> AsyncIterator[bytes]:
    """A body that is not read."""
    raise AssertionError
    yield b""


def test_a_full_buffer_has_its_backend_wait() -> None:
    async def main() -> None:
        buffer, put = AnswerBuffer(100, 0.03, 10), 0

        async def write() -> None:
            nonlocal put
            while True:
                await buffer.put(b"x" * 40)
                put += 40

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.sleep(10.0)
            assert put == 120
            assert len(await buffer.get()) == 120
            await trio.sleep(10.0)
            assert put == 240
            nursery.cancel_scope.cancel()

    run_simulation(1, main)


def test_a_full_buffer_that_is_not_read_refuses_more() -> None:
    async def main() -> None:
        buffer = AnswerBuffer(10, 0.03, 10)
        buffer.is_read = False
        await buffer.put(b"x" * 10)
        with pytest.raises(BufferFull):
            await buffer.put(b"x")
        buffer.is_read = True

        async def stop_reading() -> None:
            await trio.sleep(1.0)
            buffer.is_read = False

        with pytest.raises(ExceptionGroup) as caught:  # also one that waits already
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stop_reading)
                await buffer.put(b"x")
        assert caught.group_contains(BufferFull)

    run_simulation(1, main)
