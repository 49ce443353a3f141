"""Votes and certificates: who said what about a view, and the proof that enough stake said it.

The three kinds of vote are those of Simplex (Chan & Pass 2023): ``notarize`` a block, ``nullify`` a view, ``finalize``
a notarized block. A certificate gathers votes of one kind on one (epoch, view, block) from more than 2/3 of the stake.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

from chain import crypto
from chain.codec import Bounds, Hash, Natural, PublicKey, Record, Signature, pack
from chain.exceptions import InvalidCertificate
from chain.types.validators import MAX_COMMITTEE, ValidatorSet

NO_BLOCK = bytes(32)
"""Block id in a vote to nullify."""


class VoteKind(IntEnum):
    """What a vote says."""

    NOTARIZE = 1
    NULLIFY = 2
    FINALIZE = 3

    @property
    def domain(self) -> str:
        return self.name.lower()


KindNumber = Annotated[int, Bounds(1, 3)]


def vote_message(epoch: int, view: int, block_id: bytes) -> bytes:
    """What a vote's signature covers, besides its kind (the domain) and the chain id."""
    return pack([epoch, view, block_id])


@dataclass(frozen=True, slots=True)
class Vote(Record):
    """One validator's signed statement about a view; ``block_id`` is ``NO_BLOCK`` for nullify."""

    kind: KindNumber
    epoch: Natural
    view: Natural
    block_id: Hash
    signer: PublicKey
    signature: Signature

    def signature_check(self, chain_id: bytes) -> crypto.SignatureCheck:
        """The signature check this vote stands on."""
        message = vote_message(self.epoch, self.view, self.block_id)
        return crypto.SignatureCheck(self.signer, VoteKind(self.kind).domain, chain_id, message, self.signature)

    def is_valid(self, chain_id: bytes, verify: crypto.Verify = crypto.verify_all) -> bool:
        """Whether the signature holds (``verify`` checks it) and a nullify names no block."""
        if (self.kind == VoteKind.NULLIFY) != (self.block_id == NO_BLOCK):
            return False
        return verify([self.signature_check(chain_id)])


EXCLUSIVE_KINDS = {
    VoteKind.NOTARIZE: (VoteKind.NOTARIZE,),
    VoteKind.NULLIFY: (VoteKind.NULLIFY, VoteKind.FINALIZE),
    VoteKind.FINALIZE: (VoteKind.FINALIZE, VoteKind.NULLIFY),
}
"""For each kind of vote, the kinds that exclude it: an honest validator signs one vote of these in a view."""


def is_same_vote(first: Vote, second: Vote) -> bool:
    """Whether two votes of one signer in one view say the same."""
    return (first.kind, first.block_id) == (second.kind, second.block_id)


def is_slashable(first: Vote, second: Vote) -> bool:
    """Whether no honest validator signs both: two different votes of exclusive kinds, in one view.

    The signatures are the caller's to check.
    """
    if (first.signer, first.epoch, first.view) != (second.signer, second.epoch, second.view):
        return False
    return second.kind in EXCLUSIVE_KINDS[VoteKind(first.kind)] and not is_same_vote(first, second)


def sign_vote(key: crypto.KeyPair, chain_id: bytes, kind: VoteKind, epoch: int, view: int, block_id: bytes) -> Vote:
    """Sign a vote."""
    signature = key.sign(kind.domain, chain_id, vote_message(epoch, view, block_id))
    return Vote(int(kind), epoch, view, block_id, key.public_key, signature)


@dataclass(frozen=True, slots=True)
class Certificate(Record):
    """Votes of one kind on one (epoch, view, block) by a quorum.

    ``signers`` are strictly increasing positions in that epoch's validator set; ``signatures`` stand in the same order.
    """

    kind: KindNumber
    epoch: Natural
    view: Natural
    block_id: Hash
    signers: Annotated[tuple[Natural, ...], Bounds(0, MAX_COMMITTEE)]
    signatures: Annotated[tuple[Signature, ...], Bounds(0, MAX_COMMITTEE)]

    def signature_checks(self, chain_id: bytes, validators: ValidatorSet) -> list[crypto.SignatureCheck]:
        """The signature checks this certificate stands on, after its form and its quorum were checked.

        Raises:
            InvalidCertificate: malformed, a signer outside the set or named twice, or not more than 2/3 of the stake.
        """
        if (self.kind == VoteKind.NULLIFY) != (self.block_id == NO_BLOCK):
            raise InvalidCertificate("only a nullification names no block")
        if len(self.signers) != len(self.signatures):
            raise InvalidCertificate(f"{len(self.signers)} signers but {len(self.signatures)} signatures")
        if any(later <= earlier for earlier, later in zip(self.signers, self.signers[1:], strict=False)):
            raise InvalidCertificate("signers are not strictly increasing")
        if self.signers and self.signers[-1] >= len(validators):
            raise InvalidCertificate(f"signer {self.signers[-1]} is outside a set of {len(validators)}")
        keys = [validators.keys[position] for position in self.signers]
        if not validators.is_quorum(keys):
            raise InvalidCertificate(
                f"{validators.get_stake(keys)} of {validators.total_stake} stake is not more than 2/3"
            )
        domain, message = VoteKind(self.kind).domain, vote_message(self.epoch, self.view, self.block_id)
        return [
            crypto.SignatureCheck(key, domain, chain_id, message, signature)
            for key, signature in zip(keys, self.signatures, strict=True)
        ]

    def verify(self, chain_id: bytes, validators: ValidatorSet) -> None:
        """Check form, quorum and every signature.

        Raises:
            InvalidCertificate: any of them fails.
        """
        for claim in self.signature_checks(chain_id, validators):
            if not crypto.verify_all([claim]):
                raise InvalidCertificate(f"bad signature of {crypto.format_address(claim.public_key)}")

    def votes(self, validators: ValidatorSet) -> Iterator[Vote]:
        """The votes inside, each as it was sent."""
        for position, signature in zip(self.signers, self.signatures, strict=True):
            yield Vote(self.kind, self.epoch, self.view, self.block_id, validators.keys[position], signature)


def make_certificate(votes: Iterable[Vote], validators: ValidatorSet) -> Certificate:
    """Gather valid votes of one kind on one (epoch, view, block) into a certificate."""
    ordered = sorted(votes, key=lambda vote: validators.get_position(vote.signer))
    first = ordered[0]
    if len({(vote.kind, vote.epoch, vote.view, vote.block_id) for vote in ordered}) != 1:
        raise ValueError("a certificate gathers votes on one thing")
    positions = tuple(validators.get_position(vote.signer) for vote in ordered)
    return Certificate(
        first.kind, first.epoch, first.view, first.block_id, positions, tuple(vote.signature for vote in ordered)
    )
