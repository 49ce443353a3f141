"""Strangers ask a node about its ledger, and look at its page, to make it work: what they cause is bounded.

An explorer that is open to all answers from the node that also votes. So nothing that an address can say is an error of
the node, and no question or visit takes more of its time than a fixed share.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from starlette.exceptions import HTTPException
from starlette.requests import Request
from structlog.testing import capture_logs

from chain.explorer.accounts import list_operations
from chain.explorer.blocks import show_block
from chain.store.kv import MemoryStore
from chain.store.writer import ChainStore
from serving.admin.ledger import PUBLIC_BURST_S, PUBLIC_SHARE, Answer, Ledger
from serving.admin.levels import Level
from serving.dashboard import events
from serving.dashboard.events import TICK_S, EventHub, EventStream, Section, TooManyViewers
from tests.serving.admin.client import run_admin
from tests.support.chain_builder import Chain
from tests.support.chains.chain_store import fill_store
from tests.support.solo_node import KEY
from tests.support.waiting import PATIENCE

HUGE = ("9" * 5_000, str(2**64), str(10**40), "1" + "0" * 18)
"""Numbers that are no height of any chain, or even too long to be read."""


def test_no_address_is_an_error_of_the_node(tmp_path: Path) -> None:
    account = f"/chain/accounts/{KEY.address}"
    checkpoint = f"?checkpoint={{}}:{'00' * 32}"
    templates = (
        *("/chain/epochs/{}", "/chain/blocks/{}", "/chain/blocks?before={}", "/chain/blocks?limit={}"),
        *("/chain/flows?since={}", "/chain/flows?before={}", "/chain/search?q={}", "/chain/operations/{}"),
        *(f"{account}/operations?before={{0}}.{{0}}", f"{account}/movements?before=1.{{}}"),
        *(f"/chain/proof/accounts/{KEY.address}{checkpoint}", f"/chain/proof/operations/{'00' * 32}{checkpoint}"),
    )

    async def main() -> None:
        async with run_admin(tmp_path) as (_, client):
            del client.headers["Authorization"]
            for template in templates:
                for number in HUGE:
                    response = await client.get(template.format(number))
                    assert response.status_code < 500, (template, number[:40])

    with capture_logs() as entries:
        trio.run(main)
    assert not [entry for entry in entries if entry["log_level"] in ("error", "critical")]


def test_answers_for_strangers_take_a_share_of_the_time() -> None:
    clock = trio.testing.MockClock()

    async def main() -> None:
        token = trio.lowlevel.current_trio_token()
        answered = refused = 0

        def query(chain: ChainStore, request: Request) -> Answer:
            trio.from_thread.run_sync(clock.jump, 2.0, trio_token=token)
            return {}

        ledger = Ledger(ChainStore(MemoryStore(), Chain(4).genesis), PUBLIC_SHARE)
        for number in range(1_000):  # each asks for something new, half a second apart
            clock.jump(0.5)
            scope = {"type": "http", "raw_path": b"/chain/x", "query_string": str(number).encode(), "headers": []}
            try:
                await ledger.answer(query, Request(scope))
                answered += 1
            except HTTPException as error:
                assert error.status_code == 503
                assert int((error.headers or {})["retry-after"]) >= 1
                refused += 1
        spent_s = 2.0 * answered
        assert spent_s <= PUBLIC_SHARE * trio.current_time() + PUBLIC_BURST_S + 2.0
        assert answered >= 0.9 * PUBLIC_SHARE * trio.current_time() / 2.0, "the share is there for them"
        assert refused

    trio.run(main, clock=clock)


def test_a_full_block_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why its operations failed is one record, as long as the block: read for each, the work is quadratic."""
    chain, reads = Chain(4), 0
    first, second = chain.users
    nonce = chain.account(first).nonce
    chain.append([*(chain.transfer(first, second, 1, nonce=nonce + number) for number in range(20))])
    store = fill_store(MemoryStore(), chain, {1: chain.finality(chain.blocks[0])})
    store.index_accounts = True
    while store.extend_index():
        pass
    read_failures = ChainStore.failures

    def count_reads(self: ChainStore, height: int) -> list[str | None]:
        nonlocal reads
        reads += 1
        return read_failures(self, height)

    monkeypatch.setattr(ChainStore, "failures", count_reads)
    assert len(show_block(store, 1)["operations"]) == 20
    assert reads == 1
    assert len(list_operations(store, first.public_key)["operations"]) == 20
    assert reads == 2


class Page:
    """A page with a section of each level, which counts how often they are computed."""

    def __init__(self) -> None:
        self.computed = {Level.PUBLIC: 0, Level.READING: 0}
        sections = {level.name: Section(level, lambda level=level: self._compute(level)) for level in self.computed}
        self.hub = EventHub(sections, {}, lambda: 0)

    def _compute(self, level: Level) -> int:
        self.computed[level] += 1
        return self.computed[level]


def test_viewers_that_come_and_go_cost_no_more_than_one_that_stays() -> None:
    async def main() -> None:
        page = Page()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(page.hub.run)
            for _ in range(100):
                with page.hub.viewer(Level.PUBLIC):
                    await trio.sleep(TICK_S / 10)
            assert page.computed[Level.PUBLIC] <= 2 * 10 + 1, "at most twice in a tick, for 100 that came in ten"
            assert page.computed[Level.READING] == 0, "nobody could see it"
            with page.hub.viewer(Level.READING):
                assert page.computed[Level.READING] == 1
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_of_viewers_that_come_at_once_those_too_many_are_refused_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "MAX_VIEWERS", {Level.PUBLIC: 3, Level.READING: 1})

    async def main() -> None:
        hub, begun, refused = Page().hub, 0, 0

        async def look() -> None:
            nonlocal refused

            async def send(message: object) -> None:
                nonlocal begun
                begun += 1
                await trio.sleep_forever()  # a client that does not read

            try:
                await EventStream(hub, lambda: Level.PUBLIC)({}, trio.sleep_forever, send)
            except TooManyViewers as error:
                assert error.status_code == 503
                refused += 1

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(look)
            await trio.testing.wait_all_tasks_blocked()
            assert (begun, refused) == (3, 7)
            nursery.cancel_scope.cancel()
        assert hub.viewers == 0

    trio.run(main)


def test_a_question_for_the_head_of_the_live_data_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with run_admin(tmp_path) as (_, client):
            with trio.fail_after(PATIENCE):
                response = await client.head("/dashboard/events")
                assert response.headers["content-type"].startswith("text/event-stream")
                assert (await client.get("/healthz")).status_code == 200

    trio.run(main)


def test_one_network_does_not_take_the_places_of_all_viewers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_VIEWERS", {Level.PUBLIC: 4, Level.READING: 1})

    async def main() -> None:
        hub, looking = Page().hub, set[str]()

        async def look(name: str, origin: bytes) -> None:
            with hub.viewer(Level.PUBLIC, origin):
                looking.add(name)
                try:
                    await trio.sleep_forever()
                finally:
                    looking.remove(name)

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(look, f"greedy {number}", b"greedy")
                await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(TooManyViewers), hub.viewer(Level.PUBLIC, b"greedy"):
                pass
            for name in ("one", "two"):
                nursery.start_soon(look, name, name.encode())
                await trio.testing.wait_all_tasks_blocked()
            assert looking == {"greedy 2", "greedy 3", "one", "two"}, "the oldest of the network that has most"
            nursery.start_soon(look, "three", b"three")
            await trio.testing.wait_all_tasks_blocked()
            assert looking == {"greedy 3", "one", "two", "three"}
            for origin in (b"greedy", b"four"):
                with pytest.raises(TooManyViewers), hub.viewer(Level.PUBLIC, origin):
                    pass
            with hub.viewer(Level.READING):
                assert hub.viewers == 5, "the owner's places are the owner's"
            nursery.cancel_scope.cancel()
        assert hub.viewers == 0

    trio.run(main)
