"""The key-value cache of a serving engine: blocks of tokens, shared between requests that begin alike.

A block is free, in use, or cached: full, named by a hash of all tokens up to its end, and used by nobody. A request
that begins with the tokens of named blocks takes them over and need not compute them again. When a block is needed and
none is free, the cached one that was used longest ago is given up. The rules are vLLM's (automatic prefix caching).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class BlockCache:
    """The blocks of one engine. Who holds blocks keeps the names of shared ones and the count of the others."""

    def __init__(self, blocks: int) -> None:
        """``blocks``: all there are."""
        self.blocks = blocks
        self._free = blocks
        self._users: dict[int, int] = {}  # of a named block in use
        self._cached: OrderedDict[int, None] = OrderedDict()  # named and unused; the least recently used first

    @property
    def available(self) -> int:
        """Blocks that can be taken: free or cached."""
        return self._free + len(self._cached)

    @property
    def usage(self) -> float:
        """The fraction of all blocks that requests use."""
        return 1 - self.available / self.blocks

    def count_hits(self, names: Sequence[int]) -> tuple[int, int]:
        """How many of the first blocks called ``names`` are there, and how many of these are unused."""
        hits = unused = 0
        for name in names:
            if name in self._cached:
                unused += 1
            elif name not in self._users:
                break
            hits += 1
        return hits, unused

    def take_named(self, names: Sequence[int]) -> None:
        """Use blocks that are there."""
        for name in names:
            self._cached.pop(name, None)
            self._users[name] = self._users.get(name, 0) + 1

    def take(self, count: int) -> None:
        """Take ``count`` blocks without a name; at most those that are available."""
        self._free -= count
        while self._free < 0:
            self._cached.popitem(last=False)
            self._free += 1

    def name(self, name: int) -> bool:
        """Name a block that its holder has filled. False: there is one of that name; the holder's stays nameless."""
        if name in self._users or name in self._cached:
            return False
        self._users[name] = 1
        return True

    def release(self, names: Sequence[int], count: int) -> None:
        """Give back named blocks, in the order of the text, and ``count`` without a name.

        The end of a text is given up before its beginning, which more requests may share.
        """
        self._free += count
        for name in reversed(names):
            users = self._users[name] - 1
            if users:
                self._users[name] = users
            else:
                del self._users[name]
                self._cached[name] = None
