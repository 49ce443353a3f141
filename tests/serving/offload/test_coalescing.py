"""Coalescing: the first piece at once, later ones together, and every byte before the failure."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p.simulation.runtime import run_simulation
from serving.backends.backend import BackendError
from serving.offload.coalescing import coalesce


async def join(pieces: list[tuple[float, bytes]], size: int = 100) -> list[tuple[float, bytes]]:
    async def source() -> AsyncIterator[bytes]:
        for pause, piece in pieces:
            await trio.sleep(pause)
            yield piece

    start = trio.current_time()
    async with coalesce(source(), 0.03, size) as chunks:
        return [(round(trio.current_time() - start, 3), chunk) async for chunk in chunks]


def test_the_first_token_goes_at_once_and_later_ones_in_company() -> None:
    async def main() -> None:
        assert await join([(0.5, b"a"), (0.001, b"b"), (0.001, b"c"), (0.1, b"d")]) == [
            (0.5, b"a"),
            (0.531, b"bc"),
            (0.602, b"d"),
        ]
        assert await join([]) == []
        # A full chunk does not wait.
        assert await join([(0.0, b"a"), (0.0, b"b" * 60), (0.0, b"c" * 60), (0.0, b"d")]) == [
            (0.0, b"a"),
            (0.0, b"b" * 60 + b"c" * 60),
            (0.0, b"d"),
        ]

    run_simulation(1, main)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.01, 0.05]), st.binary(min_size=1, max_size=60)), max_size=40))
def test_no_byte_is_lost_or_moved(pieces: list[tuple[float, bytes]]) -> None:
    async def main() -> None:
        chunks = await join(pieces)
        assert b"".join(chunk for _, chunk in chunks) == b"".join(piece for _, piece in pieces)

    run_simulation(1, main)


def test_a_failing_source_is_heard_of_after_what_it_gave() -> None:
    async def main() -> None:
        async def source() -> AsyncIterator[bytes]:
            yield b"a"
            yield b"b"
            raise BackendError("broken")

        got = b""
        with pytest.raises(ExceptionGroup) as caught:
            async with coalesce(source(), 0.03, 100) as chunks:
                async for chunk in chunks:
                    got += chunk
        assert caught.group_contains(BackendError, match="broken") and got == b"ab"

    run_simulation(1, main)
