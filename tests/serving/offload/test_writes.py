"""What an offload costs on the wire: each write takes both nodes a third of a millisecond, whatever is in it."""

from __future__ import annotations

from collections import Counter

import pytest

from p2p.streams.pooled_stream import PooledStream
from serving.offload.protocol import OFFLOAD_PROTOCOL
from tests.support.market_world import World, ask, make_request, simulate


def test_an_offload_takes_five_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offer and body, payment, receipt and end; acceptance, then head, answer, delivery and end."""
    writes: Counter[bytes] = Counter()
    write = PooledStream.write

    async def count(self: PooledStream, data: bytes) -> None:
        writes[self.raw.peer] += self.protocol == OFFLOAD_PROTOCOL
        await write(self, data)

    monkeypatch.setattr(PooledStream, "write", count)

    async def play(world: World) -> None:
        world.introduce(paid=10**9)
        result = await ask(world.gateway, make_request(stream=False))
        assert result.status == 200 and result.executor is not None
        await world.settle()
        assert +writes == {result.executor: 3, world.gateway.key.public_key: 2}

    simulate(play)
