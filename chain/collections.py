"""Two containers that stay small: a dict of bounded size, and a counter without zeros."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class BoundedDict(OrderedDict[Key, Value]):
    """A dict of at most ``limit`` entries: setting one more drops the entry that was set longest ago.

    Setting a key again makes it the latest; reading does not.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def __setitem__(self, key: Key, value: Value) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self.limit:
            self.popitem(last=False)


class SparseCounter(Counter[Key]):
    """A counter whose keys disappear at zero, so that it is as long as what is counted now."""

    def __setitem__(self, key: Key, count: int) -> None:
        if count:
            super().__setitem__(key, count)
        else:
            self.pop(key, None)
