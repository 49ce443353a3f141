"""Blocks: a signed header that commits to everything, and the body it commits to.

The id of a block is the hash of its header. The header names the parent, the proposer, the state after the block, the
validators of this and the next epoch, and every earlier header; the body carries the operations and the agreement's
own evidence (why the parent counts as notarized, and why no view in between does).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Self

from chain import crypto
from chain.codec import MAX_RECORD_BYTES, Bounds, Hash, Natural, PublicKey, Record, Signature, pack
from chain.merkle.list import compute_merkle_root
from chain.types.operations import SignedOperation
from chain.types.validators import LATE_VOTE_BLOCKS, MAX_COMMITTEE
from chain.types.votes import Certificate, Vote

VERSION = 4
"""Version of the header."""
MAX_BLOCK_BYTES = 512 * 1024
"""Largest encoded block in bytes."""

NO_REVEAL = bytes(32)
"""Beacon reveal of genesis."""

MAX_NULLIFICATIONS = 32
"""Skipped views that a block proves: those right before its own. Any number would not fit after a long halt."""

MAX_LATE_VOTES = LATE_VOTE_BLOCKS * MAX_COMMITTEE
"""Late votes in a body: as many as the blocks they may be for have votes."""


@dataclass(frozen=True)
class Header(Record):
    """What the block id covers.

    ``timestamp`` is the proposer's wall clock, ``chain_time`` the clock of deadlines (both ms). Roots are 32-byte
    hashes: of the body, of the state after the block, and of all earlier headers.
    """

    version: Natural
    chain_id: Hash
    epoch: Natural
    height: Natural
    view: Natural
    parent_id: Hash
    timestamp: Natural
    chain_time: Natural
    proposer: PublicKey
    body_root: Hash
    state_root: Hash
    history_root: Hash
    validators_hash: Hash
    next_validators_hash: Hash
    beacon_reveal: Hash

    @cached_property
    def id(self) -> bytes:
        """The block id: hash of the header."""
        return crypto.hash_bytes("header", self.encode())


@dataclass(frozen=True)
class Body(Record):
    """Operations in order of execution, and the evidence of agreement.

    ``parent_certificate`` is the notarization of the parent (its finalization for the first block of an epoch, None on
    genesis); ``nullifications`` certify the last ``MAX_NULLIFICATIONS`` of the views between the parent's and this
    block's; ``late_votes`` are notarize votes for the ``LATE_VOTE_BLOCKS`` blocks up to the parent that came too late
    for their certificates: who took part is counted from these. ``removed`` are the validators that a restart strikes
    off (:mod:`chain.transition.restart`); every other block has none.
    """

    operations: tuple[SignedOperation, ...]
    parent_certificate: Certificate | None
    nullifications: tuple[Certificate, ...]
    late_votes: Annotated[tuple[Vote, ...], Bounds(0, MAX_LATE_VOTES)]
    removed: Annotated[tuple[PublicKey, ...], Bounds(0, MAX_COMMITTEE)] = ()

    @cached_property
    def root(self) -> bytes:
        """Commitment to the body: the Merkle root of the operations, hashed with :meth:`compute_justification_hash`."""
        operations = compute_merkle_root([operation.encoded for operation in self.operations])
        return compute_body_root(operations, self.compute_justification_hash())

    def compute_justification_hash(self) -> bytes:
        """Commitment to everything but the operations."""
        evidence = pack(
            [
                None if self.parent_certificate is None else self.parent_certificate.encode(),
                [certificate.encode() for certificate in self.nullifications],
                [vote.encode() for vote in self.late_votes],
                list(self.removed),
            ]
        )
        return crypto.hash_bytes("evidence", evidence)


def compute_body_root(operations_root: bytes, justification_hash: bytes) -> bytes:
    """Commitment to a body by those to its two parts."""
    return crypto.hash_bytes("body root", operations_root, justification_hash)


@dataclass(frozen=True)
class Block(Record):
    """A header, its proposer's signature (domain ``header``), and the body."""

    header: Header
    signature: Signature
    body: Body

    @classmethod
    def decode(cls, raw: bytes, max_size: int = MAX_RECORD_BYTES) -> Self:
        """See :meth:`chain.codec.Record.decode`."""
        block = super().decode(raw, max_size)
        block.__dict__["encoded"] = bytes(raw)  # only the canonical encoding decodes
        return block

    @cached_property
    def encoded(self) -> bytes:
        """Canonical bytes, computed once."""
        return self.encode()

    @property
    def id(self) -> bytes:
        """Hash of the header."""
        return self.header.id

    @property
    def height(self) -> int:
        return self.header.height

    def signature_check(self) -> crypto.SignatureCheck:
        """The check of the proposer's signature."""
        header = self.header
        return crypto.SignatureCheck(header.proposer, "header", header.chain_id, header.encode(), self.signature)


@dataclass(frozen=True, slots=True)
class Proposal(Record):
    """A leader's signed proposal of a block for a view (domain ``proposal``).

    It is a message of its own because the last block of an epoch is proposed again, by later leaders, until it is
    final.
    """

    epoch: Natural
    view: Natural
    block_id: Hash
    leader: PublicKey
    signature: Signature

    def signature_check(self, chain_id: bytes) -> crypto.SignatureCheck:
        """The check of the leader's signature."""
        message = pack([self.epoch, self.view, self.block_id])
        return crypto.SignatureCheck(self.leader, "proposal", chain_id, message, self.signature)


def sign_block(key: crypto.KeyPair, header: Header, body: Body) -> Block:
    """Sign a header as its proposer."""
    return Block(header, key.sign("header", header.chain_id, header.encode()), body)


def sign_proposal(key: crypto.KeyPair, chain_id: bytes, epoch: int, view: int, block_id: bytes) -> Proposal:
    """Sign a proposal as the leader of ``view``."""
    signature = key.sign("proposal", chain_id, pack([epoch, view, block_id]))
    return Proposal(epoch, view, block_id, key.public_key, signature)
