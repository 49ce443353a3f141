"""The most that may be captured from each hold of a payer without a receipt, kept across restarts.

A payer that forgot this would have to accept every capture, or dispute what it did receive. A hold of which nothing was
received is not on the disk, so that nothing has to be written before a payment is sent; after a restart its maximum is
0. Changes are written in the background, for all holds in one batch (:meth:`MaxCaptures.take_changes`).
"""

from __future__ import annotations

from chain.store.kv import Changes, Store
from chain.store.layout import MAX_CAPTURE_PREFIX, encode_number


class MaxCaptures:
    """Amounts in micro-credits by hold, with the changes that are still to be written."""

    def __init__(self, store: Store) -> None:
        self._amounts: dict[bytes, int] = {}
        self._deadlines: dict[bytes, int] = {}
        for key, value in store.items(MAX_CAPTURE_PREFIX):
            hold_id = key[len(MAX_CAPTURE_PREFIX) :]
            self._amounts[hold_id], self._deadlines[hold_id] = (
                int.from_bytes(value[:8], "big"),
                int.from_bytes(value[8:], "big"),
            )
        self._written = dict(self._amounts)
        """The amount of each hold at the last write."""
        self._changed: set[bytes] = set()

    def get(self, hold_id: bytes) -> int:
        """The most that may be captured from a hold; 0 if it is not known."""
        return self._amounts.get(hold_id, 0)

    def put(self, hold_id: bytes, amount: int, deadline: int) -> None:
        """Set the most that may be captured from a hold, which is good until ``deadline`` (chain time in ms)."""
        self._amounts[hold_id], self._deadlines[hold_id] = amount, deadline
        self._changed.add(hold_id)

    def drop(self, hold_id: bytes) -> None:
        """The hold is settled, or will never be made."""
        if self._amounts.pop(hold_id, None) is not None:
            del self._deadlines[hold_id]
            self._changed.add(hold_id)

    def find_expired(self, now: int) -> list[bytes]:
        """The holds whose deadline has passed at chain time ``now``."""
        return [hold_id for hold_id, deadline in self._deadlines.items() if now >= deadline]

    def take_changes(self) -> Changes:
        """The changes to write.

        An amount that has grown since the last write is written with that growth added once more, because as much may
        be received before the next write.
        """
        changes: dict[bytes, bytes | None] = {}
        for hold_id in self._changed:
            amount = self._amounts.get(hold_id)
            key = MAX_CAPTURE_PREFIX + hold_id
            if amount is None:
                self._written.pop(hold_id, None)
                changes[key] = None
            else:
                ahead = max(0, amount - self._written.get(hold_id, amount))
                self._written[hold_id] = amount
                changes[key] = encode_number(amount + ahead) + encode_number(self._deadlines[hold_id])
        self._changed.clear()
        return changes
