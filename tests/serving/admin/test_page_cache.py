"""Pages of the ledger are made once until the chain changes, and no more of them are kept than is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from chain.exceptions import NotFound
from chain.store.kv import MemoryStore
from chain.store.writer import ChainStore
from chain.transition.block import apply_block
from serving.admin import page_cache
from serving.admin.ledger import MAX_READS, Answer, Ledger
from serving.admin.page_cache import OVERHEAD_BYTES, Page, PageCache
from tests.support.chain_builder import Chain


class Asked:
    """A ledger of which one thing is asked, and how often the answer was made."""

    def __init__(self) -> None:
        self.built = Chain(4)
        self.chain = ChainStore(MemoryStore(), self.built.genesis, index_accounts=True)
        self.ledger = Ledger(self.chain)
        self.made = 0

    def query(self, chain: ChainStore, request: Request) -> Answer:
        self.made += 1
        if request.url.query == "missing":
            raise NotFound("nothing")
        return {"height": chain.height, "indexed_height": chain.indexed_height, "query": request.url.query}

    async def ask(self, query: str = "", etag: str | None = None) -> Response:
        headers = [] if etag is None else [(b"if-none-match", etag.encode())]
        scope = {"type": "http", "raw_path": b"/chain/x", "path": "/chain/x", "headers": headers}
        return await self.ledger.answer(self.query, Request({**scope, "query_string": query.encode()}))

    def add_block(self) -> None:
        head, state = self.built.head, self.built.state
        block = self.built.append([])
        transition = apply_block(self.built.genesis, head, state, block)
        self.chain.append([(block, transition)], self.built.finality(block))


def read(response: Response) -> Any:
    return json.loads(bytes(response.body))


def test_an_answer_is_made_once_until_the_chain_or_its_index_changes() -> None:
    async def main() -> None:
        asked = Asked()
        for height in range(1, 4):
            asked.add_block()
            for _ in range(3):
                assert read(await asked.ask())["height"] == height
            assert asked.made == 2 * height - 1
            asked.chain.extend_index()
            for _ in range(3):
                assert read(await asked.ask())["indexed_height"] == height
            assert asked.made == 2 * height
        assert read(await asked.ask("y"))["query"] == "y"

    trio.run(main)


def test_who_has_the_answer_is_told_so_and_gets_another_when_it_changes() -> None:
    async def main() -> None:
        asked = Asked()
        first = await asked.ask()
        etag = first.headers["etag"]
        again = await asked.ask(etag=etag)
        assert (again.status_code, bytes(again.body), again.headers["etag"]) == (304, b"", etag)
        assert again.headers["cache-control"] == "no-cache"
        asked.add_block()
        changed = await asked.ask(etag=etag)
        assert (changed.status_code, read(changed)["height"]) == (200, 1)
        assert changed.headers["etag"] != etag

    trio.run(main)


def test_many_who_ask_at_once_have_it_made_for_them_together() -> None:
    async def main() -> None:
        asked = Asked()
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(asked.ask)
        assert 1 <= asked.made <= MAX_READS

    trio.run(main)


def test_a_refusal_is_not_kept() -> None:
    async def main() -> None:
        asked = Asked()
        for _ in range(2):
            with pytest.raises(HTTPException):
                await asked.ask("missing")
        assert asked.made == 2

    trio.run(main)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3_000), st.integers(0, 3))))
def test_what_is_kept_is_bounded_and_never_old(asked: Sequence[tuple[int, int, int]]) -> None:
    limit = 8_000
    cache = PageCache(limit)
    latest: dict[bytes, Page] = {}
    for number, size, revision in asked:
        key = b"/%d" % number
        cache.put(key, Page(bytes(size), str(size), revision))
        latest[key] = Page(bytes(size), str(size), revision)
        kept = [found for each, page in latest.items() if (found := cache.find(each, page.revision))]
        assert sum(len(page.body) + OVERHEAD_BYTES for page in kept) <= limit
        assert cache.find(key, revision) == latest[key]
        assert cache.find(key, revision + 1) is None


def test_a_very_large_page_drives_out_no_other() -> None:
    cache = PageCache()
    cache.put(b"small", Page(b"1", "", 1))
    cache.put(b"large", Page(bytes(page_cache.MAX_KEPT_BYTES), "", 1))
    assert cache.find(b"large", 1) is None and cache.find(b"small", 1) is not None
