"""The executor lottery: who is drawn to serve a request.

For each request of a payer the accounts that serve the model stand in one random order, drawn by stake without
replacement; ``attempt`` is a position in it. Everything the order depends on (stakes, beacon, payer, sequence number)
is fixed before the request exists, so that every node computes the same order and the ledger refuses any other payee.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from chain import crypto
from chain.codec import Amount, ModelName, PublicKey, Record
from chain.validators import compute_draw


@dataclass(frozen=True, slots=True)
class ServingEntry(Record):
    """One account in the draw: its stake and the models that it serves."""

    public_key: PublicKey
    stake: Amount
    models: tuple[ModelName, ...]


@dataclass(frozen=True)
class ServingTable(Record):
    """All accounts in the draw of an epoch, ordered by key."""

    entries: tuple[ServingEntry, ...]

    @cached_property
    def _lotteries(self) -> dict[str, Lottery]:
        # All models in one pass: a refused hold pays no fee, so that asking for an unknown model must cost nothing.
        servers: dict[str, list[ServingEntry]] = {}
        for entry in self.entries:
            for model in entry.models:
                servers.setdefault(model, []).append(entry)
        return {model: Lottery(entries) for model, entries in servers.items()}

    def lottery(self, model: str) -> Lottery:
        """The draw among those who serve ``model``."""
        return self._lotteries.get(model, _NOBODY)


class Lottery:
    """Stake-weighted permutations without replacement of one model's servers."""

    __slots__ = ("_bounds", "_entries", "_positions")

    def __init__(self, entries: Iterable[ServingEntry]) -> None:
        self._entries = [entry for entry in entries if entry.stake > 0]
        self._bounds = list(accumulate(entry.stake for entry in self._entries))
        self._positions = {entry.public_key: position for position, entry in enumerate(self._entries)}

    def order(self, seed: bytes, excluded: bytes) -> Iterator[bytes]:
        """The public keys in drawn order, without ``excluded`` (the payer itself). Each costs O(log n + drawn)."""
        taken = [self._positions[excluded]] if excluded in self._positions else []
        remaining = (self._bounds[-1] if self._bounds else 0) - sum(self._entries[p].stake for p in taken)
        draw = 0
        while remaining > 0:
            ticket = compute_draw(crypto.hash_bytes("executor", seed, draw.to_bytes(4, "big")), remaining)
            for position in taken:  # in ascending order: step over the tickets of those already out
                if ticket >= self._bounds[position] - self._entries[position].stake:
                    ticket += self._entries[position].stake
            position = bisect_right(self._bounds, ticket)
            yield self._entries[position].public_key
            taken.insert(bisect_right(taken, position), position)
            remaining -= self._entries[position].stake
            draw += 1

    def get_executor(self, seed: bytes, excluded: bytes, attempt: int) -> bytes | None:
        """The key at position ``attempt`` of the order, or None if the order is shorter."""
        for position, key in enumerate(self.order(seed, excluded)):
            if position == attempt:
                return key
        return None


_NOBODY = Lottery(())


def compute_lottery_seed(beacon: bytes, payer: bytes, seq: int) -> bytes:
    """Seed of the order for request ``seq`` of ``payer`` in the epoch that draws from ``beacon``."""
    return crypto.hash_bytes("lottery", beacon, payer, seq.to_bytes(8, "big"))
