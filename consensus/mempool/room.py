"""Who has how much pending, and who makes room when the pool is full. Pure.

Room is shared in proportion to credit. The account with the most bytes *per credit that it owns* makes room: the same
credit gets the same room, however many accounts it is split among. A share is left to accounts with little pending, so
that the wealthy do not shut newcomers out.
"""

from __future__ import annotations

from chain.types.operations import MAX_OPERATION_BYTES
from consensus.mempool.entries import AccountQueue
from consensus.mempool.eviction import EvictionIndex

MAX_POOL_BYTES = 32 << 20
"""Pending bytes in all."""
MAX_POOL_OPERATIONS = 100_000
"""Pending operations in all."""
SMALL_ACCOUNT_BYTES = MAX_OPERATION_BYTES
"""Most pending bytes of an account that has *little pending*. Its room comes out of the share for such accounts."""
SMALL_ACCOUNTS_DIVISOR = 8
"""Every eighth byte of the pool is left to accounts with little pending."""


class Room:
    """The room of one pool, in bytes and in operations."""

    def __init__(self, max_bytes: int = MAX_POOL_BYTES, max_operations: int = MAX_POOL_OPERATIONS) -> None:
        self.size = 0
        """Pending bytes."""
        self._operations = 0
        self._max_bytes = max_bytes
        self._max_operations = max_operations
        self._all, self._large, self._waiting = EvictionIndex(), EvictionIndex(), EvictionIndex()
        """By bytes per credit: all accounts, those with more than little pending, and all by what waits."""
        self._small_size = 0
        """Pending bytes of the accounts with little pending."""

    def is_full(self, size: int) -> bool:
        """Whether there is no room for one more operation of ``size`` bytes."""
        return self.size + size > self._max_bytes or self._operations >= self._max_operations

    def can_be_made(self, size: int, owned: int) -> bool:
        """Whether others make room for an account with ``owned`` credit that would have ``size`` bytes pending."""
        crowd = self._get_crowd()
        is_in_share = size <= SMALL_ACCOUNT_BYTES and crowd is self._large
        return is_in_share or crowd.has_above(crowd.compute_class(size, owned))

    def find_greediest(self) -> bytes:
        """The account that makes room."""
        return self._get_crowd().largest()

    def find_greediest_waiting(self) -> bytes:
        """The account that makes room if too much waits."""
        return self._waiting.largest()

    def _get_crowd(self) -> EvictionIndex:
        """The accounts among which room is made.

        Accounts with little pending are spared while all of them together stay within their share of the pool.
        """
        has_share = self._small_size <= self._max_bytes // SMALL_ACCOUNTS_DIVISOR
        return self._large if has_share and self._large else self._all

    def resize(self, signer: bytes, pending: AccountQueue, difference: int) -> None:
        """An account has one more operation, of ``difference`` bytes, or one less if ``difference`` is negative."""
        before = pending.size
        pending.size += difference
        self.size += difference
        self._operations += 1 if difference > 0 else -1
        self._small_size += _count_small(pending.size) - _count_small(before)
        self.note(signer, pending)

    def note(self, signer: bytes, pending: AccountQueue) -> None:
        """Take into account what an account has pending and owns."""
        self._all.update(signer, pending.size, pending.owned)
        self._large.update(signer, pending.size - _count_small(pending.size), pending.owned)

    def note_waiting(self, signer: bytes, pending: AccountQueue) -> None:
        """Note how many of an account's pending bytes are not ready."""
        self._waiting.update(signer, pending.waiting_size, pending.owned)


def _count_small(size: int) -> int:
    """The bytes of an account that count against the share of those with little pending."""
    return size if size <= SMALL_ACCOUNT_BYTES else 0
