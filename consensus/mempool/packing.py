"""Choosing operations for a block, one by one, while there is room. A rejected operation gives its room back.

Pending operations stand in *queues*. A queue keeps its order. Queues are served in turns of equal bytes (an
operation's rank is the bytes before it in its queue), ties by arrival: a flood fills only its own queue, and nothing is
gained by cutting an operation in two.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterable, Iterator
from typing import Protocol

from chain.types.operations import NoncedOperation, SignedOperation
from consensus.mempool.entries import count_work

REJECTED_WORK_BUDGET = 2_048
"""Work on operations that cannot be included, in signature checks. Nobody pays for it: beyond it, a block gets no
further operations."""
LINE_REJECTED_WORK_BUDGET = 64
"""The part of that work that one line may cause before it is closed: about one capture with the most holds it may
name."""


class PackableOperation(Protocol):
    """An operation that waits for a block; ``arrival`` numbers are distinct."""

    operation: SignedOperation
    arrival: int
    size: int
    ready: bool


class BlockPacker(Iterator[SignedOperation]):
    """Draws ready operations for a block of at most ``max_bytes`` of them, without those ``excluded`` by id.

    It copies the lines that it is given, so another thread may draw from it.
    """

    def __init__(
        self, lines: Iterable[Iterable[PackableOperation]], max_bytes: int, excluded: Container[bytes] = ()
    ) -> None:
        self._room = max_bytes
        self._rejected_work = 0
        self._rejected_work_of: dict[int, int] = {}  # by line
        self._heads: list[tuple[int, int, int]] = []  # rank, arrival and number of the line
        self._lines: list[Iterator[PackableOperation]] = []
        self._first: list[PackableOperation] = []  # of each line
        self._last: tuple[int, PackableOperation] | None = None
        self._closed: set[int] = set()
        for line in lines:
            chosen = (entry for entry in line if entry.ready and entry.operation.id not in excluded)
            head = next(chosen, None)
            if head is not None:
                self._heads.append((0, head.arrival, len(self._lines)))
                self._lines.append(chosen)
                self._first.append(head)
        heapq.heapify(self._heads)

    def __next__(self) -> SignedOperation:
        while self._heads and self._room > 0 and self._rejected_work < REJECTED_WORK_BUDGET:
            rank, _, number = self._heads[0]
            entry = self._first[number]
            if number in self._closed or entry.size > self._room:
                heapq.heappop(self._heads)  # and nothing after it in its line: nonces keep their order
                continue
            self._room -= entry.size
            self._last = number, entry
            following = next(self._lines[number], None)
            if following is None:
                heapq.heappop(self._heads)
            else:
                self._first[number] = following
                heapq.heapreplace(self._heads, (rank + entry.size, following.arrival, number))
            return entry.operation
        raise StopIteration

    def reject(self, operation: SignedOperation) -> None:
        """The operation drawn last cannot be included. If it has a nonce, neither can any after it in its line."""
        work = count_work(operation.operation)
        assert self._last is not None and self._last[1].operation is operation
        number, entry = self._last
        self._room += entry.size
        self._rejected_work += work
        of_line = self._rejected_work_of[number] = self._rejected_work_of.get(number, 0) + work
        if isinstance(operation.operation, NoncedOperation) or of_line >= LINE_REJECTED_WORK_BUDGET:
            self._closed.add(number)
