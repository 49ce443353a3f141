"""What the dashboard shows of the last blocks is what the ledger's own pages say of them."""

from __future__ import annotations

import json
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from chain.explorer.flows import FLOWS_MS, add_up, list_flows, list_holds
from chain.store.kv import MemoryStore
from chain.types.blocks import Block
from serving.dashboard import block_log
from serving.dashboard.block_log import BlockLog
from tests.support.chains.busy_chain import make_busy_chain
from tests.support.chains.chain_store import fill_store

LENGTH = 12


def test_who_pays_whom_is_the_same_as_under_chain_flows() -> None:
    busy, finals = make_busy_chain(LENGTH)
    chain = fill_store(MemoryStore(), busy, finals)
    engine: Any = SimpleNamespace(chain=chain)
    log = BlockLog(engine, lambda: chain.header.timestamp)
    for block in busy.blocks[: chain.height]:
        log._add(block)
    page = list_flows(chain)
    assert log.find_flows(chain.header.timestamp) == page["flows"] != []
    assert page["next"] is None


@pytest.mark.parametrize("later_ms", [0, FLOWS_MS - 6_500, 2 * FLOWS_MS])
def test_after_a_start_the_flows_are_those_of_a_minute_and_no_older_block_is_read(
    later_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_log, "INITIAL_BLOCKS", 2)
    busy, finals = make_busy_chain(LENGTH)
    chain = fill_store(MemoryStore(), busy, finals)
    now = chain.header.timestamp + later_ms
    recent = [block for block in busy.blocks[: chain.height] if block.header.timestamp >= now - FLOWS_MS]
    read: list[int] = []

    get_block = chain.block

    def watch(height: int) -> Block | None:
        read.append(height)
        return get_block(height)

    monkeypatch.setattr(chain, "block", watch)

    async def main() -> None:
        _, events = trio.open_memory_channel[Any](1)
        engine: Any = SimpleNamespace(chain=chain, header=chain.header, subscribe_final=lambda: nullcontext(events))
        log = BlockLog(engine, lambda: now)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert log.find_flows(now) == add_up(hold for block in recent for hold in list_holds(block))
        assert [json.loads(text)["height"] for text in log.get_since(0)[1]] == [chain.height - 1, chain.height]

    trio.run(main)
    oldest = min([chain.height - 1, *(block.height for block in recent)])
    assert min(read) == max(1, oldest - 1)  # the first that is too old
