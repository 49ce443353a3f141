"""Finds the account with the most bytes per credit that it owns, in constant time.

Room in a mempool is shared in proportion to credit, so that nothing is gained by splitting credit among many accounts.
Accounts are kept in classes of bytes per credit, each twice the one before.
"""

from __future__ import annotations


class EvictionIndex:
    """Accounts by bytes per credit, in powers of two, so that one of the greediest is found at once."""

    CLASSES = 128

    def __init__(self) -> None:
        self._classes: list[dict[bytes, None]] = [{} for _ in range(self.CLASSES)]
        self._places: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    def update(self, signer: bytes, size: int, owned: int) -> None:
        """Note that ``signer`` has ``size`` bytes; 0 forgets it."""
        before, after = self._places.get(signer), self.compute_class(size, owned)
        if not size:
            if before is not None:
                del self._classes[before][signer], self._places[signer]
        elif before != after:
            if before is not None:
                del self._classes[before][signer]
            self._classes[after][signer] = None
            self._places[signer] = after

    def compute_class(self, size: int, owned: int) -> int:
        return size.bit_length() - owned.bit_length() + self.CLASSES // 2

    def has_above(self, place: int) -> bool:
        """Whether some account is of a clearly higher class."""
        return any(self._classes[place + 2 :])

    def largest(self) -> bytes:
        """An account of the highest class."""
        return next(iter(next(accounts for accounts in reversed(self._classes) if accounts)))
