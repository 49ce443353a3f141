"""Pages of the ledger that were made already, as they are sent: each good until the chain changes (pure)."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from typing import Any, NamedTuple

MAX_CACHE_BYTES = 8 * 1024 * 1024
"""Bytes of all pages that are kept."""
MAX_KEPT_BYTES = MAX_CACHE_BYTES // 8
"""Largest page that is kept."""
OVERHEAD_BYTES = 512
"""What an entry takes beside its key and its body."""


class Page(NamedTuple):
    """An answer: its JSON, a name of this content (RFC 9110, section 8.8.3), and the revision of the chain it is of."""

    body: bytes
    etag: str
    revision: int


def make_page(content: dict[str, Any], revision: int) -> Page:
    """The page with ``content``, which was read from the chain at ``revision``."""
    body = json.dumps(content).encode()
    return Page(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"', revision)


class PageCache:
    """The pages that were asked for last, by path and query."""

    def __init__(self, limit: int = MAX_CACHE_BYTES) -> None:
        self._limit = limit
        self._pages: OrderedDict[bytes, Page] = OrderedDict()
        self._bytes = 0

    def find(self, key: bytes, revision: int) -> Page | None:
        """The page of ``key``, if it was made from the chain as it stands at ``revision``."""
        page = self._pages.get(key)
        if page is None or page.revision != revision:
            return None
        self._pages.move_to_end(key)
        return page

    def put(self, key: bytes, page: Page) -> None:
        """Keep a page in place of the one before it, and drop those that nobody asked for the longest."""
        before = self._pages.pop(key, None)
        if before is not None:
            self._bytes -= _measure(key, before)
        if _measure(key, page) > min(self._limit, MAX_KEPT_BYTES):
            return
        self._pages[key] = page
        self._bytes += _measure(key, page)
        while self._bytes > self._limit:
            self._bytes -= _measure(*self._pages.popitem(last=False))


def _measure(key: bytes, page: Page) -> int:
    return len(key) + len(page.body) + OVERHEAD_BYTES
