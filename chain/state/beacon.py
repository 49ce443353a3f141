"""The beacon: a random value that every block extends and no proposer can choose.

Each validator commits to a *hash chain*, ``commitment = H(H(… H(secret)))``. A proposer reveals the preimage of its
commitment, which becomes its next commitment; the beacon absorbs it: ``beacon_h = H(beacon_{h−1} ‖ reveal)``. A
reveal has one valid value, fixed with the commitment, so that a proposer cannot try several. What it can do is not to
propose, which leaves the beacon to the next leader: one bit of choice for each view that it gives up, at the price of
the missed-lead fee. (Ed25519 signatures would not do, since a signer can make many for one message, nor block hashes,
which a proposer changes at will.)

The leaders of an epoch are drawn from the beacon at the end of the epoch before; who may lead was frozen an epoch
earlier still. Executors are drawn likewise, by rounds (:mod:`chain.transition.rounds`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from chain.codec import Hash, Natural, Record
from chain.crypto import KeyPair, hash_bytes

NO_COMMITMENT = bytes(32)
"""Commitment of an account that cannot reveal anything."""

HASHES_PER_HEIGHT = 4
"""Length of a hash chain for each height of an epoch: several epochs of a validator that leads every view."""
MIN_HASHES = 4096
"""Least length of a hash chain."""


@dataclass(frozen=True, slots=True)
class Beacon(Record):
    """The running value, and those at the end of the last two epochs.

    ``epoch`` is that of the next block; its draws come from ``previous``, those of the epoch before from ``earlier``.
    """

    epoch: Natural
    value: Hash
    previous: Hash
    earlier: Hash

    def absorb(self, reveal: bytes) -> Beacon:
        """The beacon after a block that reveals ``reveal``."""
        return Beacon(self.epoch, hash_bytes("beacon", self.value, reveal), self.previous, self.earlier)

    def end_epoch(self) -> Beacon:
        """The beacon after the last block of an epoch was absorbed."""
        return Beacon(self.epoch + 1, self.value, self.value, self.previous)

    def get_epoch_seed(self, epoch: int) -> bytes | None:
        """The source from which the leaders of ``epoch`` are drawn; None unless it is this epoch or the one before."""
        return {self.epoch: self.previous, self.epoch - 1: self.earlier}.get(epoch)


def compute_commitment(reveal: bytes) -> bytes:
    """The commitment that ``reveal`` opens: its hash. The domain keeps its first name, since it is hashed."""
    return hash_bytes("onion", reveal)


class HashChain:
    """All values of one hash chain, last hash first."""

    __slots__ = ("_layers",)

    def __init__(self, secret: bytes, length: int) -> None:
        layers = [secret]
        for _ in range(length):
            layers.append(compute_commitment(layers[-1]))
        self._layers = b"".join(reversed(layers))

    @property
    def commitment(self) -> bytes:
        """The last hash, which is announced first."""
        return self._layers[:32]

    def find_reveal(self, commitment: bytes) -> bytes | None:
        """The preimage that opens ``commitment``; None if that is not in this chain, or is the secret itself."""
        start = self._layers.find(commitment)
        reveal = self._layers[start + 32 : start + 64] if start >= 0 and start % 32 == 0 else b""
        return reveal or None

    def count_reveals(self, commitment: bytes) -> int:
        """How many reveals are left from ``commitment`` on."""
        start = self._layers.find(commitment)
        return (len(self._layers) - start) // 32 - 1 if start >= 0 and start % 32 == 0 else 0


def make_hash_chain(key: KeyPair, salt: bytes, number: int, epoch_heights: int) -> HashChain:
    """Hash chain ``number`` of a key: derived from the key and the genesis beacon ``salt``, so never lost."""
    secret = hash_bytes("onion secret", key.seed, salt, number.to_bytes(8, "big"))
    return _build_hash_chain(secret, max(MIN_HASHES, HASHES_PER_HEIGHT * epoch_heights))


@lru_cache(maxsize=64)
def _build_hash_chain(secret: bytes, length: int) -> HashChain:
    return HashChain(secret, length)
