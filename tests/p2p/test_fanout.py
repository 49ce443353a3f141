"""Broadcast: every reader has a queue of its own, bounded by items and by bytes, which sheds the oldest."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p.fanout import Fanout


def drain(channel: trio.MemoryReceiveChannel[bytes]) -> list[bytes]:
    items = []
    while True:
        try:
            items.append(channel.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return items


def run(script: object) -> None:
    async def main() -> None:
        assert callable(script)
        await trio.lowlevel.checkpoint()
        script()

    trio.run(main)


def test_a_queue_holds_no_more_bytes_than_it_may() -> None:
    def script() -> None:
        fanout: Fanout[bytes] = Fanout(100, 1_000, len)
        slow, quick = fanout.subscribe(), fanout.subscribe()
        for number in range(8):
            fanout.publish(bytes([number]) * 300)
            assert drain(quick) == [bytes([number]) * 300]
        assert [item[0] for item in drain(slow)] == [5, 6, 7]
        assert fanout.shed == 5
        fanout.publish(bytes(5_000))  # alone, it may
        assert drain(slow) == [bytes(5_000)]
        fanout.publish(b"a" * 900)
        fanout.publish(bytes(5_000))
        assert drain(slow) == [bytes(5_000)]

    run(script)


def test_what_was_read_counts_no_more() -> None:
    def script() -> None:
        fanout: Fanout[bytes] = Fanout(100, 1_000, len)
        channel = fanout.subscribe()
        for number in range(50):
            fanout.publish(bytes([number]) * 400)
            fanout.publish(bytes([number]) * 400)
            assert channel.receive_nowait() == channel.receive_nowait()
        assert fanout.shed == 0

    run(script)


def test_a_closed_subscription_is_forgotten() -> None:
    def script() -> None:
        fanout: Fanout[bytes] = Fanout(2, 100, len)
        gone, stays = fanout.subscribe(), fanout.subscribe()
        fanout.publish(b"a")
        fanout.publish(b"b")
        gone.close()
        fanout.publish(b"c")
        assert drain(stays) == [b"b", b"c"] and fanout.shed == 1
        fanout.close()
        with pytest.raises(trio.EndOfChannel):
            stays.receive_nowait()

    run(script)


@given(st.lists(st.integers(0, 500) | st.none(), max_size=60))
def test_the_newest_items_are_kept_in_order(steps: list[int | None]) -> None:
    def script() -> None:
        fanout: Fanout[bytes] = Fanout(8, 1_000, len)
        channel = fanout.subscribe()
        expected: list[bytes] = []
        for number, size in enumerate(steps):
            if size is None:
                if expected:
                    assert channel.receive_nowait() == expected.pop(0)
                continue
            item = bytes([number]) * size
            while expected and (len(expected) >= 8 or sum(map(len, expected)) + size > 1_000):
                expected.pop(0)
            expected.append(item)
            fanout.publish(item)
        assert drain(channel) == expected

    run(script)
