"""The inbox of the loop: order within a source, turns between sources, bounds, cancellation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
import trio.testing

from consensus.network.fair_queue import FairQueue

ONE, TWO = b"one", b"two"


def play(script: Callable[[], Awaitable[None]]) -> None:
    trio.run(script, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_noisy_source_delays_no_other() -> None:
    async def script() -> None:
        inbox: FairQueue[str] = FairQueue(8)

        async def shout(name: str) -> None:
            for number in range(100):
                await inbox.put(ONE, f"{name}{number}")

        taken: list[str] = []
        async with trio.open_nursery() as nursery:
            for name in "abc":  # several streams of one source
                nursery.start_soon(shout, name)
            await trio.sleep(1.0)
            with trio.fail_after(0.001):
                await inbox.put(TWO, "vote")
                await inbox.put(TWO, "vote")
            while len(taken) < 302:
                taken.append(await inbox.get())
        assert [number for number, item in enumerate(taken) if item == "vote"] == [1, 3]
        for name in "abc":
            assert [item for item in taken if item[0] == name] == [f"{name}{number}" for number in range(100)]

    play(script)


def test_bytes_of_a_source_are_bounded_and_a_large_item_passes_alone() -> None:
    async def script() -> None:
        inbox: FairQueue[int] = FairQueue(8, 1_000)
        await inbox.put(ONE, 1, 5_000)
        with trio.move_on_after(1.0) as scope:
            await inbox.put(ONE, 2, 1)
        assert scope.cancelled_caught
        await inbox.put(TWO, 3, 999)
        await inbox.put(TWO, 4, 1)
        assert [await inbox.get() for _ in range(3)] == [1, 3, 4]
        await inbox.put(ONE, 2, 1)
        assert await inbox.get() == 2

    play(script)


def test_what_has_no_room_is_not_put_when_it_may_not_wait() -> None:
    async def script() -> None:
        inbox: FairQueue[int] = FairQueue(2)
        assert [inbox.put_nowait(ONE, number) for number in range(4)] == [True, True, False, False]
        assert inbox.put_nowait(TWO, 9)
        assert [await inbox.get() for _ in range(3)] == [0, 9, 1]

    play(script)


def test_a_cancelled_reader_loses_nothing() -> None:
    async def script() -> None:
        inbox: FairQueue[int] = FairQueue(8)
        for number in range(5):
            with trio.move_on_after(0.1):
                await inbox.get()
                raise AssertionError("nothing was there")
            with trio.CancelScope() as scope:
                scope.cancel()
                await inbox.put(ONE, -1)
            await inbox.put(ONE, number)
            with trio.CancelScope() as scope:
                scope.cancel()
                await inbox.get()
            assert await inbox.get() == number

    play(script)
