"""Validator sets: who votes in an epoch, with how much stake, what a quorum is, and who leads a view."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Annotated

from chain import crypto
from chain.codec import Amount, Bounds, PublicKey, Record

MAX_COMMITTEE = 64
"""Most voters of an epoch: votes are quadratic, and the nullifications of many views must fit into one block."""

LATE_VOTE_BLOCKS = 8
"""For how many blocks back votes still count as taking part."""


@dataclass(frozen=True, slots=True)
class Validator(Record):
    """One voter and its weight in micro-credits."""

    public_key: PublicKey
    stake: Amount


@dataclass(frozen=True)
class ValidatorSet(Record):
    """The committee of one epoch, largest stake first (ties by key); stakes are frozen for the epoch."""

    validators: Annotated[tuple[Validator, ...], Bounds(1, MAX_COMMITTEE)]

    def __post_init__(self) -> None:
        ranked = sorted(self.validators, key=lambda validator: (-validator.stake, validator.public_key))
        if list(self.validators) != ranked or len(self.positions) != len(ranked):
            raise ValueError("validators must be distinct and ordered by stake, then key")

    @classmethod
    def of(cls, stakes: Iterable[tuple[bytes, int]]) -> ValidatorSet:
        """The set of the given (public key, stake) pairs, in any order."""
        ranked = sorted(stakes, key=lambda pair: (-pair[1], pair[0]))
        return cls(tuple(Validator(key, stake) for key, stake in ranked))

    def __len__(self) -> int:
        return len(self.validators)

    def __iter__(self) -> Iterator[Validator]:
        return iter(self.validators)

    def __getitem__(self, position: int) -> Validator:
        return self.validators[position]

    def __contains__(self, key: object) -> bool:
        return key in self.positions

    @cached_property
    def keys(self) -> tuple[bytes, ...]:
        """The public key at each position."""
        return tuple(validator.public_key for validator in self.validators)

    @cached_property
    def positions(self) -> dict[bytes, int]:
        """Position of each public key."""
        return {validator.public_key: position for position, validator in enumerate(self.validators)}

    @cached_property
    def _stakes(self) -> dict[bytes, int]:
        return {validator.public_key: validator.stake for validator in self.validators}

    @cached_property
    def total_stake(self) -> int:
        return sum(validator.stake for validator in self.validators)

    @cached_property
    def hash(self) -> bytes:
        """Commitment to the set, as it stands in block headers."""
        return crypto.hash_bytes("validators", self.encode())

    @cached_property
    def _bounds(self) -> list[int]:
        return list(accumulate(validator.stake for validator in self.validators))

    def get_position(self, key: bytes) -> int:
        """Position of a member.

        Raises:
            KeyError: not a member.
        """
        return self.positions[key]

    def get_stake(self, signers: Iterable[bytes]) -> int:
        """Stake of the distinct members among ``signers``."""
        return sum(self._stakes.get(signer, 0) for signer in set(signers))

    def is_quorum(self, signers: Iterable[bytes]) -> bool:
        """Whether the distinct members among ``signers`` hold more than 2/3 of the stake, in integers."""
        return 3 * self.get_stake(signers) > 2 * self.total_stake

    def compute_leader(self, beacon: bytes, view: int) -> bytes:
        """Public key of the leader of ``view``: drawn by stake from ``H(beacon ‖ view)``."""
        draw = compute_draw(crypto.hash_bytes("leader", beacon, view.to_bytes(8, "big")), self.total_stake)
        return self.validators[bisect_right(self._bounds, draw)].public_key


def compute_draw(seed: bytes, total: int) -> int:
    """A number in [0, total) from a 32-byte hash; the bias of the remainder is below ``total / 2**256``."""
    return int.from_bytes(seed, "big") % total


def compute_smallest_blocking_group(stakes: Sequence[int]) -> int:
    """How many of the largest holders together have at least a third of the stake, enough to stop finality."""
    total, held = sum(stakes), 0
    for count, stake in enumerate(sorted(stakes, reverse=True), start=1):
        held += stake
        if 3 * held >= total:
            return count
    return len(stakes)
